/* maasq_worker: job kinds of one's own, as a shared object.
 *
 *     #include <maasq_worker.h>
 *     static int upper(maasq_task *task, void *state)
 *     {
 *         ... return maasq_task_result(task, out, task->input_bytes) == 0
 *                    ? MAASQ_SUCCEEDED : maasq_task_fail(task, MAASQ_RETRY, "no memory");
 *     }
 *     static const maasq_handler_kind kinds[] = {
 *         {.name = "text.upper", .max_run_ms = 60000, .attempts_max = 3, .run = upper},
 *     };
 *     MAASQ_HANDLERS(kinds)
 *
 *     cc -shared -fPIC -fvisibility=hidden $(pkg-config --cflags maasq-worker) -o text.so text.c
 *     maasq-worker --broker ... --handlers ./text.so
 *     maasq job submit text.upper --input hello.txt --wait
 *
 * Nothing is linked: the functions below call through a table that comes with each task.
 *
 * WHERE IT RUNS. Every slot process of the worker loads the file; the supervisor, which holds keys
 * and connections, never does. A slot has no network given to it, one job at a time, one thread
 * that calls `run`. A crash (signal, abort, exit) costs one attempt of one job and counts towards
 * its poison limit; the slot comes back.
 *
 * PROMISES. A job may run more than once (a lost worker, a failure that is retried): what `run`
 * does outside of its result must bear that. Its result and the jobs that it spawns are committed
 * together, at most once.
 *
 * STOPPING. Cancel, max_run_ms and drain make maasq_task_is_cancelled true; return MAASQ_STOPPED
 * soon. A slot that goes on is killed after 5 s, when the job's lease is gone (hard cancel) 1 s.
 *
 * MEMORY. "Borrowed until X" = do not use it after X. Every function copies what it is given.
 *
 * VERSIONS. MAASQ_WORKER_ABI changes when old files would no longer work; a worker refuses a file
 * of another one at its start. Within one number, structs only grow at their ends, and their sizes
 * are told on both sides. */
#ifndef MAASQ_WORKER_H
#define MAASQ_WORKER_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MAASQ_WORKER_ABI 1

#if defined(__GNUC__)
#define MAASQ_HANDLER_EXPORT       __attribute__((visibility("default")))
#define MAASQ_TASK_PRINTF(at, arg) __attribute__((format(printf, at, arg), unused))
#define MAASQ_TASK_INLINE          static inline __attribute__((unused))
#else
#define MAASQ_HANDLER_EXPORT
#define MAASQ_TASK_PRINTF(at, arg)
#define MAASQ_TASK_INLINE static inline
#endif

/* What `run` returns. */
enum {
    MAASQ_SUCCEEDED = 0, /* result and children are committed */
    MAASQ_RETRY = 1,     /* may go better next time: another attempt, after a backoff */
    MAASQ_PERMANENT = 2, /* will never succeed: a dead letter at once */
    MAASQ_STOPPED = 3,   /* because of maasq_task_is_cancelled */
};

#define MAASQ_TASK_HASH_SIZE 65 /* 64 hex digits of a SHA-256 and the NUL */

typedef struct maasq_task maasq_task;

/* A blob, mapped read-only; its hash was checked. Give it back with maasq_task_blob_close. */
typedef struct maasq_task_blob {
    const void *data;
    size_t bytes;
} maasq_task_blob;

/* The worker's side, called through the functions below. Those that can fail return 0 or a
 * negative MAASQ_E_* of maasq.h; maasq_task_error has the sentence. */
typedef struct maasq_task_calls {
    size_t size;
    int (*result)(maasq_task *, const void *data, size_t bytes);
    int (*progress)(maasq_task *, const char *json);
    void (*log)(maasq_task *, const char *text);
    int (*is_cancelled)(maasq_task *);
    int (*fail)(maasq_task *, int end, const char *text);
    int (*spawn)(maasq_task *, const char *kind, const char *model, const void *body, size_t bytes);
    int (*blob_put)(maasq_task *, const void *data, size_t bytes, char hash[MAASQ_TASK_HASH_SIZE]);
    int (*blob_open)(maasq_task *, const char *hash, maasq_task_blob *out);
    void (*blob_close)(maasq_task *, maasq_task_blob *blob);
    const char *(*error)(const maasq_task *);
} maasq_task_calls;

/* One attempt of one job. All is borrowed until `run` returns. */
struct maasq_task {
    const maasq_task_calls *calls;
    const char *job_id; /* 26 letters */
    const char *kind;
    const char *model;      /* "name@version" of the job's model, or "" */
    const char *model_blob; /* its ONNX file, or "" */
    const void *input;      /* the job's body */
    size_t input_bytes;
    uint32_t attempt; /* 1 = the first */
};

/* The job's result; at most 32 MiB, the last one counts. Larger: a blob, named in the result. */
MAASQ_TASK_INLINE int maasq_task_result(maasq_task *task, const void *data, size_t bytes)
{
    return task->calls->result(task, data, bytes);
}

/* Progress, a JSON object of at most 4096 bytes. Never waits; of many in 50 ms the last one goes.
 */
MAASQ_TASK_INLINE int maasq_task_progress(maasq_task *task, const char *json)
{
    return task->calls->progress(task, json);
}

/* One line of the job's log, at most 1024 bytes, at most 20 a second. Never waits. */
MAASQ_TASK_PRINTF(2, 3)
static inline void maasq_task_log(maasq_task *task, const char *format, ...)
{
    char text[1025];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    task->calls->log(task, text);
}

/* 1 when the job shall stop. Cheap: ask in every step. */
MAASQ_TASK_INLINE int maasq_task_is_cancelled(maasq_task *task)
{
    return task->calls->is_cancelled(task);
}

/* For `return maasq_task_fail(task, MAASQ_PERMANENT, "width: %d is outside 1..4096", width);`:
 * keeps the reason (at most 511 bytes, name the field, the limit and what to do) and returns `end`,
 * one of MAASQ_RETRY and MAASQ_PERMANENT. */
MAASQ_TASK_PRINTF(3, 4)
static inline int maasq_task_fail(maasq_task *task, int end, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return task->calls->fail(task, end, text);
}

/* A child job, created in the same commit as the result and only when that succeeds. At most 64 a
 * job, bodies of at most 64 KiB, 900 KiB together. model: "" for none. */
MAASQ_TASK_INLINE int maasq_task_spawn(maasq_task *task, const char *kind, const char *model,
                                       const void *body, size_t bytes)
{
    return task->calls->spawn(task, kind, model, body, bytes);
}

/* Stores bytes in the system's blob store and writes their name. Equal bytes are stored once. */
MAASQ_TASK_INLINE int maasq_task_blob_put(maasq_task *task, const void *data, size_t bytes,
                                          char hash[MAASQ_TASK_HASH_SIZE])
{
    return task->calls->blob_put(task, data, bytes, hash);
}

/* Maps a blob. At most 16 at a time. MAASQ_E_NOT_FOUND when the store does not have it. */
MAASQ_TASK_INLINE int maasq_task_blob_open(maasq_task *task, const char *hash, maasq_task_blob *out)
{
    return task->calls->blob_open(task, hash, out);
}

/* Those that are still open when `run` returns are closed then. */
MAASQ_TASK_INLINE void maasq_task_blob_close(maasq_task *task, maasq_task_blob *blob)
{
    task->calls->blob_close(task, blob);
}

/* Why the last call failed; borrowed until the next call. */
MAASQ_TASK_INLINE const char *maasq_task_error(maasq_task *task)
{
    return task->calls->error(task);
}

/* One kind. Zero in a limit means the default. */
typedef struct maasq_handler_kind {
    const char *name;        /* 1..64 letters, digits, '.', '_', '-'; not one of maasq's own */
    uint64_t max_run_ms;     /* of one attempt, unless the submitter says; default 3600000 */
    uint32_t attempts_max;   /* clean failures, unless the submitter says; default 5 */
    uint32_t body_bytes_max; /* a larger body is refused; default and most 1048576 */
    /* Runs one attempt. Required. */
    int (*run)(maasq_task *task, void *state);
    /* Once in every slot process, before its first job; may be NULL. Writes *state. Not 0: the
     * worker does not start, and says `error`. */
    int (*init)(void **state, char *error, size_t error_size);
    /* At the orderly end of a slot process; may be NULL. */
    void (*release)(void *state);
} maasq_handler_kind;

/* What the file exports, under the name maasq_handler. */
typedef struct maasq_handlers {
    uint32_t abi; /* MAASQ_WORKER_ABI */
    uint32_t kind_count;
    size_t kind_size; /* sizeof(maasq_handler_kind) */
    const maasq_handler_kind *kinds;
} maasq_handlers;

extern MAASQ_HANDLER_EXPORT const maasq_handlers maasq_handler;

/* Exports an array of kinds, at most 32. Once in a file. */
#define MAASQ_HANDLERS(array)                                                                      \
    MAASQ_HANDLER_EXPORT const maasq_handlers maasq_handler = {                                    \
        MAASQ_WORKER_ABI, (uint32_t)(sizeof(array) / sizeof((array)[0])),                          \
        sizeof(maasq_handler_kind), array};

#ifdef __cplusplus
}
#endif

#endif
