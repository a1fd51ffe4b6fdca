/* The client's life: options, the I/O thread, waiting, closing; and the error codes. Must not know
 * what is in a message. */
#include "client/src/client.h"

#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"

#define DEFAULT_BROKERS "tcp://127.0.0.1:7700"

enum {
    WINDOW_DEFAULT = 1000,
    WINDOW_MAX = 100000,
    JOBS_DEFAULT = 65536,
    JOBS_MAX = 1000000,
    BYTES_DEFAULT = 256 << 20,
    SUBMIT_MS_DEFAULT = 3600000,
    TURNS_MAX = 64, /* of one dispatch */
};

/* The public numbers are the wire's, negated. */
_Static_assert(MAASQ_E_ARG == -MQ_E_ARG, "codes");
_Static_assert(MAASQ_E_NOT_FOUND == -MQ_E_NOT_FOUND, "codes");
_Static_assert(MAASQ_E_BUSY == -MQ_E_BUSY, "codes");
_Static_assert(MAASQ_E_TIMEOUT == -MQ_E_TIMEOUT, "codes");
_Static_assert(MAASQ_E_CANCELLED == -MQ_E_CANCELLED, "codes");
_Static_assert(MAASQ_E_INTERNAL == -MQ_E_INTERNAL, "codes");
_Static_assert(MAASQ_E_FAILED == -MQ_E_FAILED, "codes");
_Static_assert((int)MAASQ_ERROR_TEXT_MAX == (int)MQ_ERROR_TEXT_MAX, "error texts");
_Static_assert((int)MAASQ_HASH_SIZE == (int)MQ_SHA256_HEX, "hashes");

const char *maasq_version(void)
{
    return MQ_VERSION;
}

const char *maasq_code_name(int code)
{
    return mq_code_name(code <= 0 && -code < MQ_CODE_COUNT ? (mq_code)-code : MQ_E_INTERNAL);
}

void maasq_free(void *memory)
{
    free(memory);
}

int mq_client_fail(maasq_error *err, mq_code code, const char *fmt, ...)
{
    if (err != NULL) {
        va_list args;
        va_start(args, fmt);
        err->code = -(int)code;
        (void)vsnprintf(err->text, sizeof err->text, fmt, args);
        va_end(args);
    }
    return -(int)code;
}

int mq_client_error(maasq_error *err, const mq_error *from)
{
    return mq_client_fail(err, from->code, "%s", from->text);
}

int64_t mq_client_deadline(int64_t timeout_ms, maasq_error *err)
{
    if (timeout_ms < 0 || timeout_ms > MQ_CLIENT_WAIT_MS_MAX) {
        (void)mq_client_fail(err, MQ_E_ARG, "timeout_ms: %lld is outside 0..%lld",
                             (long long)timeout_ms, (long long)MQ_CLIENT_WAIT_MS_MAX);
        return -1;
    }
    return mq_clock_mono_ms() + timeout_ms;
}

void mq_client_wake(maasq_client *client)
{
    if (!client->is_woken && !client->is_closing) {
        client->is_woken = true;
        uint64_t one = 1;
        ssize_t n = write(client->io.event_fd, &one, sizeof one);
        MQ_ASSERT(n == (ssize_t)sizeof one);
    }
}

/* Splits the list of brokers; each must look like an endpoint of ZeroMQ. */
static mq_code read_brokers(maasq_client *client, const char *list, mq_error *err)
{
    while (*list != '\0') {
        size_t len = strcspn(list, ",");
        if (client->broker_count == MQ_CLIENT_BROKERS_MAX) {
            return mq_fail(err, MQ_E_ARG, "brokers: more than %d", MQ_CLIENT_BROKERS_MAX);
        }
        bool is_known = strncmp(list, "tcp://", 6) == 0 || strncmp(list, "ipc://", 6) == 0;
        if (!is_known || len >= MQ_CLIENT_URL_MAX) {
            return mq_fail(err, MQ_E_ARG,
                           "brokers: '%.*s' is not tcp://HOST:PORT or ipc://PATH of at most %d "
                           "bytes; several are separated by commas",
                           (int)mq_min_size(len, 80), list, MQ_CLIENT_URL_MAX - 1);
        }
        (void)mq_span_copy(mq_span_of(list, len), client->brokers[client->broker_count++],
                           MQ_CLIENT_URL_MAX);
        list += len + (list[len] == ',');
    }
    if (client->broker_count == 0) {
        return mq_fail(err, MQ_E_ARG, "brokers: empty; give tcp://HOST:PORT or set MAASQ_BROKER");
    }
    return MQ_OK;
}

static const char *or_else(const char *text, const char *fallback)
{
    return text != NULL && text[0] != '\0' ? text : fallback;
}

static mq_code read_texts(maasq_client *client, const maasq_options *o, mq_error *err)
{
    const char *blobs = or_else(o->blobs, or_else(getenv("MAASQ_BLOBS"), ""));
    const struct {
        const char *field, *value;
        char *out;
        size_t size;
    } texts[] = {{"name", or_else(o->name, "client"), client->name, sizeof client->name},
                 {"tenant", or_else(o->tenant, "default"), client->tenant, sizeof client->tenant},
                 {"blobs", blobs, client->blob_url, sizeof client->blob_url}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (!mq_span_copy(mq_str(texts[i].value), texts[i].out, texts[i].size)) {
            return mq_fail(err, MQ_E_ARG, "%s: longer than %zu bytes", texts[i].field,
                           texts[i].size - 1);
        }
    }
    return read_brokers(client,
                        or_else(o->brokers, or_else(getenv("MAASQ_BROKER"), DEFAULT_BROKERS)), err);
}

static mq_code read_options(maasq_client *client, const maasq_options *given, uint32_t *window,
                            mq_error *err)
{
    maasq_options o = {.size = sizeof o};
    if (given != NULL) {
        if (given->size < sizeof given->size || given->size > 4096) {
            return mq_fail(err, MQ_E_ARG, "options.size: set it to sizeof(maasq_options)");
        }
        memcpy(&o, given, mq_min_size(given->size, sizeof o));
    }
    *window = o.window == 0 ? WINDOW_DEFAULT : o.window;
    client->jobs_max = o.jobs_max == 0 ? JOBS_DEFAULT : o.jobs_max;
    client->bytes_max = o.bytes_max == 0 ? BYTES_DEFAULT : o.bytes_max;
    client->submit_ms = o.submit_ms == 0 ? SUBMIT_MS_DEFAULT : o.submit_ms;
    client->is_own_loop = o.own_loop != 0;
    if (*window > WINDOW_MAX || client->jobs_max > JOBS_MAX) {
        return mq_fail(err, MQ_E_ARG, "options: window %u is above %d or jobs_max %u above %d",
                       *window, WINDOW_MAX, client->jobs_max, JOBS_MAX);
    }
    if (client->submit_ms < 0 || client->submit_ms > SUBMIT_MS_DEFAULT * 2) {
        return mq_fail(err, MQ_E_ARG, "options.submit_ms: outside 1..%d", SUBMIT_MS_DEFAULT * 2);
    }
    return read_texts(client, &o, err);
}

/* Turns of one shard's client; true: more waits. */
static bool dispatch_one(maasq_client *client, int *count)
{
    bool is_more = true;
    for (int turn = 0; is_more && turn < TURNS_MAX; turn++) {
        pthread_mutex_lock(&client->lock);
        client->is_dispatching = true;
        is_more = mq_io_turn(client);
        pthread_cond_broadcast(&client->changed);
        pthread_mutex_unlock(&client->lock);
        *count += mq_job_callbacks(client);
    }
    pthread_mutex_lock(&client->lock);
    client->is_dispatching = false;
    if (is_more) {
        mq_client_wake(client);
    }
    pthread_mutex_unlock(&client->lock);
    return is_more;
}

static int dispatch(maasq_client *primary)
{
    maasq_client *all[MQ_ULID_SHARDS_MAX];
    int count = 0;
    uint32_t shards = mq_client_all(primary, all);
    uint64_t version = mq_client_routes_version(primary);
    for (uint32_t i = 0; i < shards; i++) {
        (void)dispatch_one(all[i], &count);
    }
    mq_client_move_held(primary);
    /* One shard's broker said where the others are: those that are elsewhere go there now. */
    for (uint32_t i = 0; i < shards && version != mq_client_routes_version(primary); i++) {
        pthread_mutex_lock(&all[i]->lock);
        mq_client_follow_routes(all[i]);
        mq_client_wake(all[i]); /* its sockets are new ones */
        pthread_mutex_unlock(&all[i]->lock);
    }
    return count;
}

static void *run_thread(void *arg)
{
    maasq_client *client = arg;
    bool is_closing = false;
    uint64_t leads = 0;
    while (!is_closing) {
        if (!mq_lead_park(client, &leads)) {
            struct pollfd p = {client->io.epoll_fd, POLLIN, 0};
            (void)poll(&p, 1, 1000); /* woken or not, a turn is harmless */
        }
        if (!mq_lead_is_taken(client)) {
            (void)dispatch(client);
        }
        pthread_mutex_lock(&client->lock);
        is_closing = client->is_closing;
        pthread_mutex_unlock(&client->lock);
    }
    return NULL;
}

static mq_code start_thread(maasq_client *client, mq_error *err)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's own threads */
    int rc = pthread_create(&client->thread, NULL, run_thread, client);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        return mq_fail(err, MQ_E_LIMIT, "cannot start the I/O thread: %s", strerror(rc));
    }
    return MQ_OK;
}

static void free_client(maasq_client *client)
{
    mq_io_release(&client->io);
    if (client->primary == NULL && client->routes != NULL) {
        pthread_mutex_destroy(&client->routes->lock);
        free(client->routes);
    }
    mq_ccore_release(&client->core);
    free(client->slots);
    mq_blobs_free(client->blobs);
    pthread_cond_destroy(&client->changed);
    pthread_cond_destroy(&client->attend);
    pthread_mutex_destroy(&client->blob_lock);
    pthread_mutex_destroy(&client->lock);
    free(client);
}

void mq_client_unref_unlock(maasq_client *client)
{
    MQ_ASSERT(client->refs > 0);
    bool is_last = --client->refs == 0;
    pthread_mutex_unlock(&client->lock);
    if (is_last) {
        free_client(client);
    }
}

static mq_code start(maasq_client *client, uint32_t window, mq_error *err)
{
    client->window = window;
    mq_ccore_config config = {.capacity = client->jobs_max + MQ_CLIENT_CALLS_MAX,
                              .window = window,
                              .seed = (uint64_t)mq_clock_mono_ns() ^ (uint64_t)getpid() << 40};
    mq_code code = mq_ccore_init(&client->core, &config, err);
    if (code != MQ_OK) {
        return code;
    }
    client->core.is_held = client->primary == NULL;
    client->broker_index = (uint32_t)mq_prng_below(&client->core.prng, client->broker_count);
    client->slots = calloc(config.capacity, sizeof *client->slots);
    if (client->slots == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for %u jobs: lower jobs_max", client->jobs_max);
    }
    code = mq_io_init(client, err);
    if (code == MQ_OK && !client->is_own_loop && client->primary == NULL) {
        code = start_thread(client, err);
    }
    return code;
}

/* An empty client: locks and one reference. */
static maasq_client *new_client(void)
{
    maasq_client *client = calloc(1, sizeof *client);
    if (client == NULL) {
        return NULL;
    }
    client->refs = 1;
    client->io = (mq_io){.epoll_fd = -1, .event_fd = -1, .timer_fd = -1};
    pthread_mutex_init(&client->lock, NULL);
    pthread_mutex_init(&client->blob_lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&client->changed, &attr);
    pthread_cond_init(&client->attend, &attr);
    pthread_condattr_destroy(&attr);
    return client;
}

maasq_client *maasq_client_new(const maasq_options *options, maasq_error *out)
{
    mq_error err = {0};
    maasq_client *client = new_client();
    if (client == NULL) {
        (void)mq_client_fail(out, MQ_E_LIMIT, "no memory for a client");
        return NULL;
    }
    uint32_t window = 0;
    mq_code code = read_options(client, options, &window, &err);
    client->routes = calloc(1, sizeof *client->routes);
    if (client->routes == NULL) {
        code = mq_fail(&err, MQ_E_LIMIT, "no memory for a client");
    } else {
        pthread_mutex_init(&client->routes->lock, NULL);
    }
    if (code == MQ_OK) {
        code = start(client, window, &err);
    }
    if (code != MQ_OK) {
        free_client(client);
        (void)mq_client_error(out, &err);
        return NULL;
    }
    return client;
}

maasq_client *mq_client_new_shard(maasq_client *primary, uint32_t shard, mq_error *err)
{
    maasq_client *client = new_client();
    if (client == NULL) {
        (void)mq_fail(err, MQ_E_LIMIT, "no memory for a client");
        return NULL;
    }
    pthread_mutex_lock(&primary->lock);
    memcpy(client->brokers, primary->brokers, sizeof client->brokers);
    client->broker_count = primary->broker_count;
    client->clock_ahead_ms = primary->clock_ahead_ms;
    client->shard_count = primary->shard_count;
    pthread_mutex_unlock(&primary->lock);
    memcpy(client->name, primary->name, sizeof client->name);
    memcpy(client->tenant, primary->tenant, sizeof client->tenant);
    client->jobs_max = primary->jobs_max;
    client->bytes_max = primary->bytes_max;
    client->submit_ms = primary->submit_ms;
    client->is_own_loop = primary->is_own_loop;
    client->thread = primary->thread;
    client->shard = client->io.shard = shard;
    client->primary = primary;
    client->routes = primary->routes;
    if (start(client, primary->window, err) != MQ_OK) {
        free_client(client);
        return NULL;
    }
    return client;
}

/* Ends what is still open, here only. Under the lock. */
static void end_all(maasq_client *client)
{
    for (uint32_t i = 0; i < client->core.capacity; i++) {
        if (client->slots[i].job != NULL) {
            mq_ccore_drop(&client->core, i);
            mq_job_end(client, i,
                       &(mq_end){.state = "lost",
                                 .code = MQ_E_CANCELLED,
                                 .error = mq_str("the client was freed before the job ended")});
        }
    }
}

static bool in_callback(const maasq_client *client)
{
    if (!client->is_own_loop) {
        return pthread_equal(pthread_self(), client->thread) != 0;
    }
    return client->is_dispatching;
}

/* Ends what one shard's client has open, and gives it up. */
static void close_one(maasq_client *client)
{
    pthread_mutex_lock(&client->lock);
    client->is_closing = true;
    pthread_cond_broadcast(&client->changed);
    end_all(client);
    pthread_mutex_unlock(&client->lock);
    (void)mq_job_callbacks(client);
    mq_io_release(&client->io);
    pthread_mutex_lock(&client->lock);
    mq_client_unref_unlock(client);
}

int maasq_client_free(maasq_client **handle)
{
    if (handle == NULL || *handle == NULL) {
        return MAASQ_OK;
    }
    maasq_client *client = *handle;
    pthread_mutex_lock(&client->lock);
    if (in_callback(client)) {
        pthread_mutex_unlock(&client->lock);
        return MAASQ_E_ARG;
    }
    mq_client_wake(client);
    client->is_closing = true;
    pthread_cond_broadcast(&client->changed);
    mq_lead_attend(client);
    while (client->is_led) { /* woken above */
        (void)pthread_cond_wait(&client->changed, &client->lock);
    }
    pthread_mutex_unlock(&client->lock);
    if (!client->is_own_loop) {
        pthread_join(client->thread, NULL);
    }
    maasq_client *all[MQ_ULID_SHARDS_MAX];
    uint32_t shards = mq_client_all(client, all);
    *handle = NULL;
    while (shards-- > 0) { /* the primary, whose lock guards the list, is the last */
        close_one(all[shards]);
    }
    return MAASQ_OK;
}

/* own_loop: the waiting thread does the work. Under the lock, given up meanwhile. */
static void dispatch_until(maasq_client *client, int64_t deadline_ms)
{
    pthread_mutex_unlock(&client->lock);
    int64_t left_ms = mq_max_i64(deadline_ms - mq_clock_mono_ms(), 0);
    maasq_client *primary = client->primary == NULL ? client : client->primary;
    struct pollfd p = {primary->io.epoll_fd, POLLIN, 0};
    (void)poll(&p, 1, (int)mq_min_i64(left_ms, 1000));
    (void)dispatch(primary);
    pthread_mutex_lock(&client->lock);
}

mq_code mq_client_wait(maasq_client *client, bool (*is_met)(const void *), const void *arg,
                       int64_t deadline_ms)
{
    struct timespec until = {.tv_sec = deadline_ms / 1000,
                             .tv_nsec = (long)(deadline_ms % 1000) * 1000000};
    while (!is_met(arg)) {
        if (client->is_closing || in_callback(client)) {
            return client->is_closing ? MQ_E_TIMEOUT : MQ_E_ARG;
        }
        if (mq_clock_mono_ms() >= deadline_ms) {
            return MQ_E_TIMEOUT;
        }
        if (client->is_own_loop) {
            dispatch_until(client, deadline_ms);
        } else if (mq_lead_may(client)) {
            mq_lead(client, deadline_ms);
        } else {
            (void)pthread_cond_timedwait(&client->changed, &client->lock, &until);
        }
    }
    return MQ_OK;
}

int maasq_fd(maasq_client *client)
{
    return client->is_own_loop ? client->io.epoll_fd : -1;
}

int maasq_dispatch(maasq_client *client, maasq_error *err)
{
    if (!client->is_own_loop || client->is_dispatching) {
        return mq_client_fail(err, MQ_E_ARG,
                              "maasq_dispatch: only with options.own_loop, not in a callback");
    }
    return dispatch(client);
}

static bool has_answered(const void *arg)
{
    const maasq_client *client = arg;
    return client->is_welcome || client->refusal.code == MQ_E_VERSION;
}

static void brokers_text(const maasq_client *client, char *out, size_t size)
{
    size_t len = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < client->broker_count && len + 1 < size; i++) {
        int n = snprintf(out + len, size - len, "%s%s", i == 0 ? "" : ", ", client->brokers[i]);
        len += n > 0 ? (size_t)n : 0;
    }
}

/* Asks for any answer at all: a question keeps the session trying brokers until one speaks. */
int maasq_connect(maasq_client *client, int64_t timeout_ms, maasq_error *err)
{
    int64_t deadline_ms = mq_client_deadline(timeout_ms, err);
    if (deadline_ms < 0) {
        return MAASQ_E_ARG;
    }
    pthread_mutex_lock(&client->lock);
    uint32_t slot = mq_ccore_call(&client->core, mq_clock_mono_ms(), INT64_MAX);
    mq_client_wake(client);
    mq_code code = mq_client_wait(client, has_answered, client, deadline_ms);
    if (slot != MQ_CCORE_NONE) {
        mq_ccore_drop(&client->core, slot);
    }
    bool is_version = !client->is_welcome && client->refusal.code == MQ_E_VERSION;
    bool is_refused = client->refusal.code == MQ_E_BUSY;
    char text[MAASQ_ERROR_TEXT_MAX];
    memcpy(text, client->refusal.text, sizeof text);
    pthread_mutex_unlock(&client->lock);
    if (code == MQ_E_ARG) {
        return mq_client_fail(err, code, "maasq_connect: must not be called in a callback");
    }
    if (is_version) {
        return mq_client_fail(err, MQ_E_VERSION, "%s", text);
    }
    if (code != MQ_OK && is_refused) {
        return mq_client_fail(err, code, "no broker can serve: %.400s", text);
    }
    if (code != MQ_OK) {
        brokers_text(client, text, sizeof text);
        return mq_client_fail(err, code, "no broker answers at %s", text);
    }
    return MAASQ_OK;
}

static bool is_flushed(const void *arg)
{
    const maasq_client *client = arg;
    return client->core.waiting_count + client->core.sent_count == 0;
}

static int flush_one(maasq_client *client, int64_t deadline_ms, int64_t timeout_ms,
                     maasq_error *err)
{
    pthread_mutex_lock(&client->lock);
    mq_code code = mq_client_wait(client, is_flushed, client, deadline_ms);
    uint32_t left = client->core.waiting_count + client->core.sent_count;
    char busy[sizeof client->busy];
    memcpy(busy, client->busy, sizeof busy);
    pthread_mutex_unlock(&client->lock);
    if (code == MQ_E_ARG) {
        return mq_client_fail(err, code, "maasq_flush: must not be called in a callback");
    }
    if (code != MQ_OK) {
        return mq_client_fail(err, code, "%u submits are not taken after %lld ms%s%s", left,
                              (long long)timeout_ms, busy[0] == '\0' ? "" : ": busy, ", busy);
    }
    return MAASQ_OK;
}

int maasq_flush(maasq_client *client, int64_t timeout_ms, maasq_error *err)
{
    maasq_client *all[MQ_ULID_SHARDS_MAX];
    int64_t deadline_ms = mq_client_deadline(timeout_ms, err);
    if (deadline_ms < 0) {
        return MAASQ_E_ARG;
    }
    int code = flush_one(client, deadline_ms, timeout_ms, err); /* it may have jobs of all shards */
    uint32_t shards = mq_client_all(client, all);
    for (uint32_t i = 1; code == MAASQ_OK && i < shards; i++) {
        code = flush_one(all[i], deadline_ms, timeout_ms, err);
    }
    return code;
}
