/* What the chaos test asks at the end, of the journals of its clients and of the store itself (not
 * of a broker): every acknowledged job has one terminal state, in its shard, with at most one
 * commit, and the counters of all shards together agree. */
#ifndef MQ_TESTS_E2E_CHAOS_CHECK_H
#define MQ_TESTS_E2E_CHAOS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shared/job/record.h"
#include "tests/e2e/chaos_client.h"
#include "tests/support/store.h"

enum { CHAOS_SHARDS_MAX = 8 };

typedef struct chaos_report {
    long jobs, acked, ended;         /* in the journals */
    long lost, twice, bad, dead;     /* what must be 0, and dead letters */
    long planted;                    /* poison among the acknowledged */
    long succeeded, poison_alive;    /* in the store */
    long counted[4];                 /* submitted, dups, succeeded, dead, as the store counts */
    long in_shard[CHAOS_SHARDS_MAX]; /* of the jobs */
} chaos_report;

/* Lines of one type in all journals. */
static inline long chaos_lines(const char *dir, int clients, char type)
{
    long count = 0;
    for (int i = 0; i < clients; i++) {
        char path[160], line[256];
        chaos_path(path, sizeof path, dir, i);
        FILE *file = fopen(path, "r");
        while (file != NULL && fgets(line, sizeof line, file) != NULL) {
            count += line[0] == type;
        }
        if (file != NULL) {
            fclose(file);
        }
    }
    return count;
}

/* Ended jobs by shard, according to all journals. Returns the fewest of one shard. */
static inline long chaos_ends(const char *dir, int clients, uint32_t shards,
                              long ends[CHAOS_SHARDS_MAX])
{
    memset(ends, 0, CHAOS_SHARDS_MAX * sizeof *ends);
    for (int i = 0; i < clients; i++) {
        char path[160], line[256], id[32];
        chaos_path(path, sizeof path, dir, i);
        FILE *file = fopen(path, "r");
        while (file != NULL && fgets(line, sizeof line, file) != NULL) {
            if (sscanf(line, "e %26s", id) == 1) {
                ends[mq_ulid_shard(mq_str(id), shards)]++;
            }
        }
        if (file != NULL) {
            fclose(file);
        }
    }
    long least = ends[0];
    for (uint32_t s = 1; s < shards; s++) {
        least = ends[s] < least ? ends[s] : least;
    }
    return least;
}

static inline void chaos_wrong(chaos_report *r, const char *id, long *counter, const char *what)
{
    if (++*counter <= 10) {
        fprintf(stderr, "job %s: %s\n", id, what);
    }
    (void)r;
}

/* One job that its client has seen acknowledged or ended. */
static inline void chaos_check_job(chaos_report *r, mq_store *store, const char *id, bool is_poison,
                                   mq_test_answer *a)
{
    static mq_job_record record;
    mq_error err;
    r->planted += is_poison;
    mq_test_job(store, mq_str(id), a);
    if (a->code != MQ_OK || mq_job_record_read(a->record, &record, &err) != MQ_OK) {
        chaos_wrong(r, id, &r->lost, "acknowledged, and the store does not know it");
        return;
    }
    int commits = 0;
    for (uint32_t i = 0; i < record.history_count; i++) {
        commits += mq_transition_unpack(record.history[i]).event == MQ_EVENT_COMPLETE;
    }
    mq_state state = mq_state_parse(record.state);
    if (!mq_state_is_terminal(state)) {
        chaos_wrong(r, id, &r->lost, "acknowledged, and never ended");
    } else if (commits > 1) {
        chaos_wrong(r, id, &r->twice, "committed more than once");
    }
    r->succeeded += state == MQ_STATE_SUCCEEDED;
    r->dead += state == MQ_STATE_DEAD;
    if ((state == MQ_STATE_DEAD) != is_poison ||
        (state == MQ_STATE_SUCCEEDED) != (commits == 1 && !is_poison)) {
        chaos_wrong(r, id, &r->bad, mq_state_name(state));
    }
}

/* The store's counters go with the commits that they count: a job that was committed twice, or
 * forgotten and run again, would show there. */
static inline void chaos_check_counters(chaos_report *r, mq_store *store, mq_test_answer *a)
{
    static const char *const names[] = {"submitted", "dups", "succeeded", "dead"};
    mq_test_scan(store, MQ_PART_COUNTERS, 0, a);
    assert_int_equal(a->code, MQ_OK);
    for (uint32_t i = 0; i < a->pair_count; i++) {
        for (int k = 0; k < 4; k++) {
            if (mq_span_is(a->pairs[i].field, names[k])) {
                char text[24] = "";
                (void)mq_span_copy(a->pairs[i].value, text, sizeof text);
                r->counted[k] += strtol(text, NULL, 10);
            }
        }
    }
}

static inline void chaos_check(chaos_report *r, const char *dir, int clients, uint32_t shards,
                               const char *store_url)
{
    mq_store *stores[CHAOS_SHARDS_MAX] = {0};
    mq_error err;
    mq_test_answer a;
    memset(r, 0, sizeof *r);
    memset(&a, 0, sizeof a);
    for (uint32_t s = 0; s < shards; s++) {
        assert_int_equal(mq_store_redis_new(&stores[s], store_url, s, &err), MQ_OK);
        mq_test_store_connect(stores[s]);
        chaos_check_counters(r, stores[s], &a);
    }
    for (int i = 0; i < clients; i++) {
        char path[160], line[256], id[32], state[20], verdict[8];
        unsigned number;
        chaos_path(path, sizeof path, dir, i);
        FILE *file = fopen(path, "r");
        assert_non_null(file);
        while (fgets(line, sizeof line, file) != NULL) {
            if (sscanf(line, "s %26s %u", id, &number) == 2) {
                uint32_t shard = mq_ulid_shard(mq_str(id), shards);
                r->jobs++;
                r->in_shard[shard]++;
                /* all were drained */
                chaos_check_job(r, stores[shard], id, chaos_is_poison(number), &a);
            } else if (sscanf(line, "e %26s %19s %7s", id, state, verdict) == 3) {
                r->ended++;
                if (strcmp(verdict, "good") != 0) {
                    chaos_wrong(r, id, &r->bad, line);
                }
            }
            r->acked += line[0] == 'a';
        }
        fclose(file);
    }
    mq_test_answer_reset(&a);
    for (uint32_t s = 0; s < shards; s++) {
        stores[s]->ops->free(stores[s]);
    }
}

#endif
