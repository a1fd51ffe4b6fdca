/* The pin thread; see pin.h. Knows the blob store, nothing of jobs. The lock guards every field of
 * mq_pins below it. */
#include "broker/io/pin.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/blob/blob.h"

enum { RETRY_MS = 100 };

/* One request; becomes its own answer. */
typedef struct request {
    struct request *next;
    mq_pin_op op;
    uint64_t ticket;
    int64_t deadline_ms; /* monotonic */
    mq_code code;
    mq_error err;
    uint32_t count, missing_count;
    char (*missing)[MQ_SHA256_HEX]; /* points behind hashes */
    char hashes[][MQ_SHA256_HEX];
} request;

typedef struct list {
    request *head, **tail;
} list;

struct mq_pins {
    mq_blobs *blobs; /* the thread's own */
    pthread_t thread;
    int event_fd;
    request *read; /* the loop's own: the answer handed out last */

    pthread_mutex_t lock;
    pthread_cond_t wake;
    list todo, done;
    uint32_t count; /* in todo, in work and in done */
    bool is_stopping;
};

static void push(list *l, request *r)
{
    r->next = NULL;
    *l->tail = r;
    l->tail = &r->next;
}

static request *pop(list *l)
{
    request *r = l->head;
    if (r != NULL) {
        l->head = r->next;
        l->tail = l->head == NULL ? &l->head : l->tail;
    }
    return r;
}

static void free_list(list *l)
{
    for (request *r = pop(l); r != NULL; r = pop(l)) {
        free(r);
    }
}

static bool is_stopping(mq_pins *pins)
{
    pthread_mutex_lock(&pins->lock);
    bool yes = pins->is_stopping;
    pthread_mutex_unlock(&pins->lock);
    return yes;
}

/* One pass over the request's blobs. MQ_E_IO: worth another try. */
static mq_code attempt(mq_pins *pins, request *r)
{
    r->missing_count = 0;
    for (uint32_t i = 0; i < r->count; i++) {
        mq_code code = r->op == MQ_PIN ? mq_blobs_pin(pins->blobs, r->hashes[i], &r->err)
                                       : mq_blobs_unpin(pins->blobs, r->hashes[i], &r->err);
        if (code == MQ_E_NOT_FOUND || code == MQ_E_MISSING) {
            memcpy(r->missing[r->missing_count++], r->hashes[i], MQ_SHA256_HEX);
        } else if (code != MQ_OK) {
            return MQ_E_IO;
        }
    }
    if (r->missing_count == 0) {
        return MQ_OK;
    }
    return mq_fail(&r->err, MQ_E_MISSING, "%u of %u blobs are not in the store", r->missing_count,
                   r->count);
}

static void work_on(mq_pins *pins, request *r)
{
    do {
        r->code = attempt(pins, r);
        if (r->code != MQ_E_IO) {
            return;
        }
        mq_clock_sleep_ms(RETRY_MS);
    } while (mq_clock_mono_ms() < r->deadline_ms && !is_stopping(pins));
}

static void *run(void *arg)
{
    mq_pins *pins = arg;
    pthread_mutex_lock(&pins->lock);
    while (!pins->is_stopping) {
        request *r = pop(&pins->todo);
        if (r == NULL) {
            pthread_cond_wait(&pins->wake, &pins->lock);
            continue;
        }
        pthread_mutex_unlock(&pins->lock);
        work_on(pins, r);
        pthread_mutex_lock(&pins->lock);
        push(&pins->done, r);
        uint64_t one = 1;
        ssize_t written = write(pins->event_fd, &one, sizeof one);
        MQ_ASSERT(written == (ssize_t)sizeof one);
    }
    pthread_mutex_unlock(&pins->lock);
    return NULL;
}

mq_code mq_pins_new(mq_pins **out, const char *url, mq_error *err)
{
    *out = NULL;
    mq_pins *pins = calloc(1, sizeof *pins);
    if (pins == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for the pin thread");
    }
    pins->todo.tail = &pins->todo.head;
    pins->done.tail = &pins->done.head;
    pins->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    mq_code code = pins->event_fd < 0 ? mq_fail(err, MQ_E_IO, "eventfd: %s", strerror(errno))
                                      : mq_blobs_new(&pins->blobs, url, err);
    if (code == MQ_OK) {
        pthread_mutex_init(&pins->lock, NULL);
        pthread_cond_init(&pins->wake, NULL);
        if (pthread_create(&pins->thread, NULL, run, pins) != 0) {
            mq_blobs_free(pins->blobs);
            code = mq_fail(err, MQ_E_LIMIT, "no thread for pinning blobs");
        }
    }
    if (code != MQ_OK) {
        if (pins->event_fd >= 0) {
            close(pins->event_fd);
        }
        free(pins);
        return code;
    }
    *out = pins;
    return MQ_OK;
}

void mq_pins_free(mq_pins *pins)
{
    if (pins == NULL) {
        return;
    }
    pthread_mutex_lock(&pins->lock);
    pins->is_stopping = true;
    pthread_cond_signal(&pins->wake);
    pthread_mutex_unlock(&pins->lock);
    pthread_join(pins->thread, NULL);
    free_list(&pins->todo);
    free_list(&pins->done);
    free(pins->read);
    pthread_mutex_destroy(&pins->lock);
    pthread_cond_destroy(&pins->wake);
    mq_blobs_free(pins->blobs);
    close(pins->event_fd);
    free(pins);
}

mq_code mq_pins_ask(mq_pins *pins, mq_pin_op op, uint64_t ticket, const mq_span *hashes,
                    uint32_t count, mq_error *err)
{
    if (count > MQ_PIN_BLOBS_MAX) {
        return mq_fail(err, MQ_E_ARG, "blobs: %u are named; at most %d", count, MQ_PIN_BLOBS_MAX);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!mq_sha256_is_hex(hashes[i])) {
            return mq_fail(err, MQ_E_ARG, "blobs: entry %u is not 64 lower-case hex digits", i);
        }
    }
    request *r = calloc(1, sizeof *r + 2 * (size_t)count * MQ_SHA256_HEX);
    if (r == NULL) {
        return mq_fail(err, MQ_E_BUSY, "no memory for a pin of %u blobs", count);
    }
    *r = (request){.op = op,
                   .ticket = ticket,
                   .count = count,
                   .deadline_ms = mq_clock_mono_ms() + MQ_PIN_DEADLINE_MS};
    r->missing = r->hashes + count;
    for (uint32_t i = 0; i < count; i++) {
        memcpy(r->hashes[i], hashes[i].data, hashes[i].len);
    }
    pthread_mutex_lock(&pins->lock);
    bool is_full = pins->count >= MQ_PIN_REQUESTS_MAX;
    if (!is_full) {
        pins->count++;
        push(&pins->todo, r);
        pthread_cond_signal(&pins->wake);
    }
    pthread_mutex_unlock(&pins->lock);
    if (is_full) {
        free(r);
        return mq_fail(err, MQ_E_BUSY, "%d pins are under way already", MQ_PIN_REQUESTS_MAX);
    }
    return MQ_OK;
}

int mq_pins_fd(const mq_pins *pins)
{
    return pins->event_fd;
}

bool mq_pins_next(mq_pins *pins, mq_pin_answer *out)
{
    free(pins->read);
    pthread_mutex_lock(&pins->lock);
    pins->read = pop(&pins->done);
    if (pins->read != NULL) {
        pins->count--;
    } else {
        uint64_t drained; /* under the lock, so that no answer can slip in between */
        ssize_t got = read(pins->event_fd, &drained, sizeof drained);
        (void)got; /* nothing to read is as good */
    }
    pthread_mutex_unlock(&pins->lock);
    request *r = pins->read;
    if (r == NULL) {
        return false;
    }
    *out = (mq_pin_answer){.ticket = r->ticket,
                           .code = r->code,
                           .missing = r->missing,
                           .missing_count = r->missing_count,
                           .err = r->err};
    return true;
}
