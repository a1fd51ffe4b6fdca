/* A client process of the chaos test: submits jobs and writes into its journal what it knows of
 * each. It may be killed at any moment: started again, it reads the journal, submits again what had
 * no answer and opens by id what was acknowledged. A journal's lines, each one write:
 *
 *     s ID NUMBER      about to be submitted          a ID        acknowledged
 *     e ID STATE good  ended, as seen by the client ("bad": another result than the job's own);
 *                      then code, reason and error
 *
 * SIGTERM: no new jobs; exit 0 once all have ended. */
#ifndef MQ_TESTS_E2E_CHAOS_CLIENT_H
#define MQ_TESTS_E2E_CHAOS_CLIENT_H

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/include/maasq.h"
#include "shared/base/clock.h"
#include "shared/base/ulid.h"

enum {
    CHAOS_OPEN_MAX = 64,       /* jobs of one client that have not ended */
    CHAOS_POISON_EVERY = 1500, /* kill the slot that runs them, every time */
    CHAOS_SLEEP_EVERY = 4,     /* take 5 to 60 ms, so that kills hit running ones */
    CHAOS_LONG_EVERY = 60,     /* take 1.5 to 2.5 s */
    CHAOS_BODY_MAX = 64,
    CHAOS_PACE_MS = 15,
    CHAOS_DRAIN_MS = 240000,
};

typedef struct chaos_job {
    maasq_job *job; /* NULL = unused */
    char id[MQ_ULID_SIZE];
    unsigned number;
    bool is_acked;
    atomic_int callbacks; /* must end at 1 */
} chaos_job;

static volatile sig_atomic_t chaos_must_stop;

static void chaos_on_term(int signal_number)
{
    (void)signal_number;
    chaos_must_stop = 1;
}

static inline bool chaos_is_poison(unsigned number)
{
    return number % CHAOS_POISON_EVERY == CHAOS_POISON_EVERY / 10;
}

/* Kind and body follow from the number, so that a job can be submitted again. */
static inline const char *chaos_body(unsigned number, char body[CHAOS_BODY_MAX])
{
    if (chaos_is_poison(number)) {
        snprintf(body, CHAOS_BODY_MAX, "{\"signal\":9}");
        return "crash";
    }
    if (number % CHAOS_SLEEP_EVERY == 0) {
        bool is_long = number % CHAOS_LONG_EVERY == 0; /* a holder that stops meanwhile is late */
        snprintf(body, CHAOS_BODY_MAX, "{\"ms\":%u}",
                 is_long ? 1500 + number % 977 : 5 + number % 56);
        return "sleep";
    }
    snprintf(body, CHAOS_BODY_MAX, "job number %u", number);
    return "echo";
}

static inline void chaos_path(char *out, size_t size, const char *dir, int client)
{
    snprintf(out, size, "%s/client%d.journal", dir, client);
}

__attribute__((format(printf, 2, 3))) static inline void chaos_write(int fd, const char *fmt, ...)
{
    char line[240];
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (len < 0 || write(fd, line, (size_t)len) != len) {
        perror("journal");
        _exit(4);
    }
}

static void chaos_on_done(maasq_job *job, void *arg)
{
    (void)job;
    atomic_fetch_add(&((chaos_job *)arg)->callbacks, 1);
}

static void chaos_offer(maasq_client *client, chaos_job *slot, bool must_open)
{
    char body[CHAOS_BODY_MAX];
    maasq_error err = {0};
    maasq_spec spec = {.size = sizeof spec, .id = slot->id, .body = body};
    spec.kind = chaos_body(slot->number, body);
    spec.body_bytes = strlen(body);
    spec.crashes_max = chaos_is_poison(slot->number) ? 3 : 100; /* slots are killed at random */
    slot->is_acked = must_open;
    atomic_store(&slot->callbacks, 0);
    slot->job = must_open ? maasq_open(client, slot->id, chaos_on_done, slot, &err)
                          : maasq_submit(client, &spec, chaos_on_done, slot, &err);
    if (slot->job == NULL) {
        fprintf(stderr, "job %s: %s\n", slot->id, err.text);
        _exit(4);
    }
}

/* What a life before this one had left open. Returns how many jobs the journal names. */
static unsigned chaos_recover(maasq_client *client, const char *path, chaos_job *slots)
{
    struct {
        char id[MQ_ULID_SIZE];
        unsigned number;
        bool is_acked, is_used;
    } open[CHAOS_OPEN_MAX + 1] = {0};
    unsigned count = 0, number;
    char line[256], id[32];
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        int at = -1, is_new = sscanf(line, "s %26s %u", id, &number) == 2;
        if (!is_new && sscanf(line + 1, " %26s", id) != 1) {
            continue;
        }
        for (int i = 0; i <= CHAOS_OPEN_MAX; i++) {
            if (is_new ? !open[i].is_used && at < 0 : open[i].is_used && !strcmp(open[i].id, id)) {
                at = i;
            }
        }
        if (at < 0) {
            continue; /* a second line about an end */
        }
        if (is_new) {
            memcpy(open[at].id, id, MQ_ULID_SIZE);
            open[at].number = number;
            open[at].is_acked = false;
            count++;
        }
        open[at].is_acked |= line[0] == 'a';
        open[at].is_used = line[0] != 'e';
    }
    if (file != NULL) {
        fclose(file);
    }
    for (int i = 0, k = 0; i <= CHAOS_OPEN_MAX; i++) {
        if (open[i].is_used) {
            memcpy(slots[k].id, open[i].id, MQ_ULID_SIZE);
            slots[k].number = open[i].number;
            chaos_offer(client, &slots[k++], open[i].is_acked);
        }
    }
    return count;
}

static bool chaos_is_right(const chaos_job *slot)
{
    char body[CHAOS_BODY_MAX];
    maasq_view view;
    maasq_error err;
    const char *kind = chaos_body(slot->number, body);
    if (strcmp(maasq_state(slot->job), "succeeded") != 0) {
        return chaos_is_poison(slot->number) && strcmp(maasq_state(slot->job), "dead") == 0;
    }
    return strcmp(kind, "echo") != 0 ||
           (maasq_result(slot->job, &view, &err) == 0 && view.bytes == strlen(body) &&
            memcmp(view.data, body, view.bytes) == 0);
}

/* Notes what has become of the open jobs; returns how many there still are. */
static int chaos_look(chaos_job *slots, int journal)
{
    int open = 0;
    for (int i = 0; i < CHAOS_OPEN_MAX; i++) {
        chaos_job *slot = &slots[i];
        if (slot->job == NULL) {
            continue;
        }
        open++;
        bool is_done = maasq_is_done(slot->job) && atomic_load(&slot->callbacks) > 0;
        const char *state = maasq_state(slot->job);
        if (!slot->is_acked && strcmp(state, "sending") != 0 && strcmp(state, "lost") != 0) {
            slot->is_acked = true;
            chaos_write(journal, "a %s\n", slot->id);
        }
        if (is_done) {
            bool is_right = chaos_is_right(slot) && atomic_load(&slot->callbacks) == 1;
            maasq_info info = {.size = sizeof info};
            maasq_job_info(slot->job, &info);
            chaos_write(journal, "e %s %s %s %d %.20s %.60s\n", slot->id, state,
                        is_right ? "good" : "bad", info.code, info.why, info.error);
            maasq_job_release(&slot->job);
            open--;
        }
    }
    return open;
}

static inline int chaos_client_main(int index, const char *dir, const char *brokers)
{
    static chaos_job slots[CHAOS_OPEN_MAX];
    char path[160];
    maasq_error err;
    struct sigaction action = {.sa_handler = chaos_on_term};
    sigaction(SIGTERM, &action, NULL);
    maasq_options options = {.size = sizeof options, .brokers = brokers};
    maasq_client *client = maasq_client_new(&options, &err);
    chaos_path(path, sizeof path, dir, index);
    int journal = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (client == NULL || journal < 0) {
        fprintf(stderr, "client %d: %s\n", index, client == NULL ? err.text : path);
        return 4;
    }
    unsigned next = chaos_recover(client, path, slots);
    int64_t until_ms = INT64_MAX;
    for (;;) {
        int open = chaos_look(slots, journal);
        if (chaos_must_stop && until_ms == INT64_MAX) {
            until_ms = mq_clock_mono_ms() + CHAOS_DRAIN_MS;
        }
        if ((chaos_must_stop && open == 0) || mq_clock_mono_ms() > until_ms) {
            maasq_client_free(&client);
            return open == 0 ? 0 : 3;
        }
        for (int i = 0; !chaos_must_stop && open < CHAOS_OPEN_MAX && i < CHAOS_OPEN_MAX; i++) {
            if (slots[i].job == NULL) {
                mq_ulid_new(slots[i].id);
                slots[i].number = next++;
                chaos_write(journal, "s %s %u\n", slots[i].id, slots[i].number);
                chaos_offer(client, &slots[i], false);
                break;
            }
        }
        mq_clock_sleep_ms(CHAOS_PACE_MS);
    }
}

#endif
