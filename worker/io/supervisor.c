/* The worker's loop; see supervisor.h. */
#include "worker/io/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "shared/base/file.h"
#include "shared/base/log.h"
#include "shared/base/math.h"

enum {
    POLL_MAX = 2 + 2 * MQ_WS_TALKS_MAX + MQ_WS_SLOTS_MAX + MQ_GANG_POLL_MAX,
    BYE_LINGER_MS = 500,
    LONGEST_WAIT_MS = 1000,
    NEWS_MS = 1,
};
_Static_assert((int)POLL_MAX <= (int)MQ_POLL_MAX, "the worker's poll items");

/* --- what the gang plane asks --- */

static void gang_to_slot(void *arg, uint32_t slot, mq_frame_type type, const void *message, int fd)
{
    mq_sv_to_slot(arg, slot, type, message, fd);
}

static mq_slot_page *gang_page(void *arg, uint32_t slot)
{
    mq_supervisor *sv = arg;
    return sv->slots[slot].page;
}

static void gang_lost(void *arg, uint32_t slot, uint64_t gang_epoch, uint32_t seat)
{
    mq_supervisor *sv = arg;
    uint32_t job = sv->session.slots[slot];
    if (job >= MQ_WS_JOBS_MAX) {
        return;
    }
    const mq_ws_job *lease = &sv->session.jobs[job];
    mq_msg_lost m = {.id = mq_str(lease->id),
                     .epoch = lease->epoch,
                     .grant = lease->grant,
                     .gang_epoch = gang_epoch,
                     .seat = seat};
    mq_log(MQ_INFO, "gang member lost", "job=%s gang_epoch=%llu seat=%u", lease->id,
           (unsigned long long)gang_epoch, seat);
    mq_ws_from(&sv->session, lease->talk);
    mq_broker_link_send(mq_sv_link(sv), MQ_CMD_lost, &m, (mq_span){0});
}

/* --- start and end --- */

static mq_code signals_open(mq_supervisor *sv, mq_error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0) {
        return mq_fail(err, MQ_E_IO, "signals: %s", strerror(errno));
    }
    sv->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return sv->signal_fd < 0 ? mq_fail(err, MQ_E_IO, "signalfd: %s", strerror(errno)) : MQ_OK;
}

static void names_fill(mq_supervisor *sv)
{
    const mq_worker_options *o = sv->options;
    char host[48] = "worker";
    mq_worker_uuid(sv->worker);
    if (*o->name != '\0') {
        (void)snprintf(sv->name, sizeof sv->name, "%s", o->name);
    } else {
        (void)gethostname(host, sizeof host - 1);
        (void)snprintf(sv->name, sizeof sv->name, "%s-%d", host, (int)getpid());
    }
    if (*o->host_id != '\0') {
        (void)snprintf(sv->host, sizeof sv->host, "%s", o->host_id);
    } else {
        mq_worker_host_id(sv->host);
    }
}

static mq_code slot_settings_fill(mq_supervisor *sv, mq_error *err)
{
    const mq_worker_options *o = sv->options;
    struct sysinfo info;
    const char *core = o->blas_core;
    core = strcmp(core, "auto") == 0 ? mq_slot_blas_core() : strcmp(core, "none") == 0 ? "" : core;
    sv->envp = mq_slot_environment(core, "");
    for (uint32_t i = 0; i < o->env.count; i++) {
        mq_code code = mq_slot_environment_add(sv->envp, o->env.at[i], err);
        if (code != MQ_OK) {
            return mq_wrap(err, "--env");
        }
    }
    char threads[64];
    (void)snprintf(threads, sizeof threads, "MAASQ_THREADS=%lld", (long long)o->threads);
    mq_code set = mq_slot_environment_add(sv->envp, threads, err);
    if (set != MQ_OK) {
        return set;
    }
    size_t share = (size_t)1 << 30;
    if (sysinfo(&info) == 0) {
        share = (size_t)info.totalram * info.mem_unit / sv->slot_count / 4 * 3;
    }
    size_t limit = (size_t)o->memory_bytes;
    sv->slot_settings = (mq_slot_settings){
        .envp = sv->envp,
        .argv = o->slot_args,
        .address_bytes = limit,
        .memory_bytes = limit > 0 ? mq_min_size(share, limit / 4 * 3) : share,
        .want_fingerprint = true,
    };
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    sv->slot_settings.address_bytes = 0; /* their shadow alone is larger than any limit */
#endif
    return MQ_OK;
}

static mq_code blobs_open(mq_supervisor *sv, mq_error *err)
{
    const mq_worker_options *o = sv->options;
    char dir[512];
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(dir, sizeof dir, "%s/maasq-cache-%u", tmp == NULL ? "/tmp" : tmp,
                   (unsigned)geteuid());
    const char *cache = *o->cache != '\0' ? o->cache : dir;
    (void)snprintf(sv->cache_dir, sizeof sv->cache_dir, "%s", cache);
    mq_code code = mq_blob_thread_new(&sv->blobs, cache, (size_t)o->cache_bytes, err);
    char packs[sizeof sv->cache_dir + 32], bytes[64];
    (void)snprintf(packs, sizeof packs, "MAASQ_PACKS=%s/packs", cache);
    (void)snprintf(bytes, sizeof bytes, "MAASQ_PACKS_BYTES=%lld", (long long)o->packs_bytes);
    if (code == MQ_OK && o->packs_bytes > 0) {
        code = mq_slot_environment_add(sv->envp, packs, err);
        code = code == MQ_OK ? mq_slot_environment_add(sv->envp, bytes, err) : code;
    }
    if (code == MQ_OK && *o->blobs != '\0') {
        mq_blob_thread_store(sv->blobs, o->blobs);
    }
    return code;
}

static mq_code gang_open(mq_supervisor *sv, mq_error *err)
{
    mq_gang_config config = {
        .context = sv->context,
        .worker = sv->worker,
        .host = sv->host,
        .bind = sv->options->gang_bind,
        .address = sv->options->gang_host,
        .broker = sv->options->brokers[0],
        .slot_count = sv->slot_count,
        .arg = sv,
        .to_slot = gang_to_slot,
        .page = gang_page,
        .lost = gang_lost,
    };
    return mq_gang_plane_new(&sv->gang, &config, err);
}

static mq_code supervisor_init(mq_supervisor *sv, const mq_worker_options *options, mq_error *err)
{
    int64_t now_ms = mq_clock_mono_ms();
    sv->options = options;
    sv->slot_count = (uint32_t)options->slots;
    sv->signal_fd = -1;
    names_fill(sv);
    mq_buf_init(&sv->payload, MQ_PAYLOAD_BYTES_MAX);
    mq_ws_config config = {.broker_count = options->broker_count,
                           .slot_count = sv->slot_count,
                           .prefetch = (uint32_t)options->prefetch,
                           .hand = MQ_WS_HAND_MAX,
                           .drain_ms = options->drain_ms};
    MQ_ASSERT(getrandom(&config.seed, sizeof config.seed, 0) == (ssize_t)sizeof config.seed);
    mq_ws_init(&sv->session, &config, now_ms);
    sv->context = zmq_ctx_new();
    MQ_ASSERT(sv->context != NULL);
    mq_broker_link_init(&sv->links[0], sv->context);
    sv->link_count = 1;
    mq_code code = slot_settings_fill(sv, err);
    if (code == MQ_OK) {
        code = signals_open(sv, err);
    }
    for (uint32_t i = 0; code == MQ_OK && i < sv->slot_count; i++) {
        code = mq_slot_process_init(&sv->slots[i], i, err);
        sv->slots[i].start_ms = now_ms;
    }
    if (code == MQ_OK) {
        code = gang_open(sv, err);
    }
    return code == MQ_OK ? blobs_open(sv, err) : code;
}

static void supervisor_release(mq_supervisor *sv)
{
    for (uint32_t i = 0; i < sv->slot_count; i++) {
        mq_slot_process_release(&sv->slots[i]);
    }
    mq_gang_plane_free(sv->gang);
    for (uint32_t i = 0; i < sv->link_count; i++) {
        mq_broker_link_linger(&sv->links[i], BYE_LINGER_MS);
        mq_broker_link_release(&sv->links[i]);
    }
    mq_blob_thread_free(sv->blobs);
    zmq_ctx_term(sv->context);
    for (uint32_t i = 0; i < MQ_WS_JOBS_MAX; i++) {
        mq_kept_forget(&sv->kept[i]);
    }
    mq_buf_release(&sv->payload);
    mq_slot_environment_free(sv->envp);
    if (sv->signal_fd >= 0) {
        close(sv->signal_fd);
    }
}

static void endpoint_file_write(mq_supervisor *sv)
{
    char text[512];
    mq_error err;
    if (*sv->options->endpoint_file == '\0') {
        return;
    }
    int n = snprintf(text, sizeof text, "worker=%s\npid=%d\nunix=%s\ntcp=%s\n", sv->worker,
                     (int)getpid(), mq_gang_unix(sv->gang), mq_gang_tcp(sv->gang));
    if (mq_file_write(sv->options->endpoint_file, mq_span_of(text, (size_t)n), 0600, &err) !=
        MQ_OK) {
        mq_log(MQ_WARN, "endpoint file not written", "error=\"%s\"", err.text);
    }
}

/* --- the loop --- */

static void on_signals(mq_supervisor *sv, int64_t now_ms)
{
    struct signalfd_siginfo info;
    while (read(sv->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGCHLD) {
            continue; /* all slots are looked at below */
        }
        sv->signals++;
        mq_log(MQ_INFO, sv->signals == 1 ? "drain" : "stop at once", "by=signal number=%u",
               info.ssi_signo);
        if (!sv->is_session_on) {
            sv->is_over = true; /* nothing has begun yet */
        } else if (sv->signals == 1) {
            mq_ws_drain(&sv->session, 0, now_ms);
        } else {
            mq_ws_stop_now(&sv->session, now_ms);
        }
    }
    mq_sv_slots_reap(sv, now_ms);
}

static void on_link_events(mq_supervisor *sv, const mq_poll_item *items, int64_t now_ms)
{
    mq_broker_link_change event;
    for (uint32_t i = 0; i < sv->link_count; i++) {
        sv->links[i].is_ready |= items[2 * i].revents != 0;
        if (items[2 * i + 1].revents == 0) {
            continue;
        }
        mq_ws_from(&sv->session, i);
        while ((event = mq_broker_link_event(&sv->links[i])) != MQ_BROKER_LINK_SAME) {
            if (event == MQ_BROKER_LINK_UP) {
                mq_ws_on_link_up(&sv->session, now_ms);
            } else {
                mq_log(MQ_WARN, "broker connection lost", "shard=%u", i);
                mq_ws_on_link_down(&sv->session, now_ms);
            }
        }
    }
}

/* Fixed items first (signals, blobs, broker, monitor), then slots, then the gang plane's. */
static uint32_t poll_fill(mq_supervisor *sv, mq_poll_item *items, uint32_t *gang_count)
{
    uint32_t n = 0;
    items[n++] = (mq_poll_item){.fd = sv->signal_fd, .events = POLLIN};
    items[n++] = (mq_poll_item){.fd = mq_blob_thread_fd(sv->blobs), .events = POLLIN};
    for (uint32_t i = 0; i < sv->slot_count; i++) {
        const mq_slot_process *p = &sv->slots[i];
        bool is_open = p->state == MQ_SLOT_UP || p->state == MQ_SLOT_STARTING;
        short events = mq_stream_is_waiting(&p->stream) ? POLLIN | POLLOUT : POLLIN;
        items[n++] = (mq_poll_item){.fd = is_open ? p->stream.fd : sv->signal_fd,
                                    .events = is_open ? events : 0};
    }
    n += mq_gang_poll_items(sv->gang, items + n);
    *gang_count = n - 2 - sv->slot_count;
    for (uint32_t i = 0; i < sv->link_count; i++) {
        const mq_broker_link *link = &sv->links[i];
        bool is_open = link->socket != NULL;
        items[n++] = (mq_poll_item){
            .socket = link->socket, .events = is_open ? POLLIN : 0, .is_drained = link->is_drained};
        items[n++] = (mq_poll_item){.socket = link->monitor,
                                    .events = is_open ? POLLIN : 0,
                                    .is_drained = link->is_monitor_drained};
    }
    return n;
}

static void turn(mq_supervisor *sv, const mq_poll_item *items, uint32_t gang_count, bool *has_more)
{
    int64_t now_ms = mq_clock_mono_ms();
    uint32_t gang_at = 2 + sv->slot_count;
    if (items[0].revents != 0) {
        on_signals(sv, now_ms);
    }
    if (items[1].revents != 0) {
        mq_sv_blob_answers(sv, now_ms);
    }
    for (uint32_t i = 0; i < sv->slot_count; i++) {
        if (items[2 + i].revents != 0) {
            mq_sv_slot_read(sv, i, now_ms);
        }
    }
    mq_sv_rings_read(sv, now_ms);
    mq_gang_process(sv->gang, items + gang_at, gang_count, now_ms);
    on_link_events(sv, items + gang_at + gang_count, now_ms);
    *has_more = mq_sv_receive(sv, now_ms);
    mq_sv_act(sv, now_ms);
    mq_sv_slots_start(sv, now_ms);
    if (sv->is_session_on) {
        mq_ws_flush(&sv->session, now_ms, &sv->actions);
        mq_sv_act(sv, now_ms);
    }
    mq_sv_slots_flush(sv);
}

static void loop(mq_supervisor *sv)
{
    mq_poll_item items[POLL_MAX];
    bool has_more = false, was_serving = false;
    mq_sv_slots_start(sv, mq_clock_mono_ms());
    while (!sv->is_over) {
        int64_t now_ms = mq_clock_mono_ms();
        int64_t at_ms = mq_sv_slots_deadline(sv, now_ms + LONGEST_WAIT_MS);
        at_ms = mq_sv_asks_due(sv, now_ms, at_ms);
        if (sv->is_session_on) {
            at_ms = mq_min_i64(at_ms, mq_ws_deadline(&sv->session, now_ms));
        }
        if (sv->session.handed_count > 0) { /* a slot with more to do may keep its news back */
            at_ms = mq_min_i64(at_ms, now_ms + NEWS_MS);
        }
        uint32_t gang_count = 0;
        uint32_t count = poll_fill(sv, items, &gang_count);
        long wait_ms = has_more ? 0 : (long)mq_max_i64(at_ms - now_ms, 0);
        if (!mq_poll(items, (int)count, wait_ms)) {
            mq_log(MQ_ERROR_LEVEL, "poll failed", "error=\"%s\"", strerror(errno));
            sv->exit_status = 1;
            return;
        }
        turn(sv, items, gang_count, &has_more);
        if (!was_serving && sv->session.link == MQ_WS_SERVING) {
            endpoint_file_write(sv);
            was_serving = true;
        }
    }
}

int mq_supervisor_run(const mq_worker_options *options)
{
    mq_error err = {0};
    mq_supervisor *sv = calloc(1, sizeof *sv);
    if (sv == NULL) {
        mq_log(MQ_ERROR_LEVEL, "no memory", "bytes=%zu", sizeof *sv);
        return 1;
    }
    mq_code code = supervisor_init(sv, options, &err);
    if (code == MQ_OK) {
        mq_log(MQ_INFO, "worker starts", "worker=%s name=%s slots=%u host=%.16s tcp=%s", sv->worker,
               sv->name, sv->slot_count, sv->host, mq_gang_tcp(sv->gang));
        loop(sv);
        mq_log(MQ_INFO, "worker ends", "worker=%s status=%d unsent=%llu refused=%llu", sv->worker,
               sv->exit_status, (unsigned long long)sv->links[0].unsent,
               (unsigned long long)sv->links[0].refused);
    } else {
        mq_log(MQ_ERROR_LEVEL, "worker does not start", "error=\"%s\"", err.text);
        sv->exit_status = 1;
    }
    int status = sv->exit_status;
    supervisor_release(sv);
    free(sv);
    return status;
}
