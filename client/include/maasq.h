/* maasq: the C client library. Submit jobs to a maasq system and get their results.
 *
 *     maasq_error err;
 *     maasq_client *client = maasq_client_new(NULL, &err);      // MAASQ_BROKER or the local system
 *     maasq_spec spec = {.size = sizeof spec, .kind = "echo", .body = "hi", .body_bytes = 2};
 *     maasq_job *job = maasq_submit(client, &spec, NULL, NULL, &err);
 *     maasq_view view;
 *     if (job != NULL && maasq_wait(job, 10000, &err) == 0 && maasq_result(job, &view, &err) == 0)
 * { fwrite(view.data, 1, view.bytes, stdout);             // "hi"
 *     }
 *     maasq_job_release(&job);
 *     maasq_client_free(&client);
 *
 * Link: cc prog.c $(pkg-config --cflags --libs libmaasq)
 *
 * WHAT IS PROMISED
 *   - A job has an id (a ULID, made here unless given). Submitting the same id again, after a crash
 *     or a lost answer, is safe: the broker runs it once. The library itself resends what was not
 *     answered: after 1 s, then twice as long each time with jitter, at most every 30 s, to the
 *     same broker and, after three silent intervals, to the next one in the list.
 *   - A durable job that was accepted is on the broker's disk. A transient job (kind "infer" unless
 *     told otherwise) lives in memory only: when its broker is lost it is sent again with the same
 *     id until its time to live is over, then it ends with MAASQ_E_TIMEOUT.
 *   - What was not accepted yet is in this process's memory only, never on its disk: a program that
 *     must not lose a submit when it dies keeps the id and the request itself, and submits both
 *     again; or it waits until maasq_flush or maasq_state says that the job was accepted.
 *   - Callback contract: `done` runs exactly once for each successful maasq_submit, never for a
 *     failed one.
 *   - Nothing waits for ever: each call that blocks takes a limit in milliseconds.
 *
 * THREADS. A client and its jobs may be used from any thread. Callbacks run on the client's own
 * I/O thread and must not block; calling maasq_wait, maasq_query or maasq_client_free in one gives
 * MAASQ_E_ARG. With options.own_loop there is no thread: put maasq_fd() into your own poll loop and
 * call maasq_dispatch(); callbacks then run inside maasq_dispatch, and the client belongs to one
 * thread.
 *
 * MEMORY. Words used below: "borrows" = the library does not keep it after the call; "owned" = free
 * it with the function named; "borrowed until X" = do not use it after X.
 *
 * ERRORS. Functions return 0 (or a pointer) for success and a negative MAASQ_E_* (or NULL) for
 * failure, and fill the caller's maasq_error, which may be NULL, with the same code and a sentence
 * that names the field, the limit and what to do. There is no errno and no global state.
 *
 * Structs that may grow begin with `size`: set it to sizeof, and zero the rest (designated
 * initializers do both). Zero in a field means its default. */
#ifndef MAASQ_H
#define MAASQ_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MAASQ_API __attribute__((visibility("default")))
#else
#define MAASQ_API
#endif

/* Stable numbers: they never change their meaning, new ones are added below. */
enum {
    MAASQ_OK = 0,
    MAASQ_E_ARG = -1,          /* a field has a value outside its limits */
    MAASQ_E_FORMAT = -2,       /* bytes that do not follow their format */
    MAASQ_E_LIMIT = -3,        /* a stated limit is reached */
    MAASQ_E_NOT_FOUND = -4,    /* no such thing */
    MAASQ_E_EXISTS = -5,       /* the name is taken */
    MAASQ_E_CONFLICT = -6,     /* same id with other content, or compare-and-set lost */
    MAASQ_E_STALE = -7,        /* fencing token is not the current one */
    MAASQ_E_BUSY = -8,         /* full at the moment, retry later */
    MAASQ_E_TIMEOUT = -9,      /* no answer within the limit */
    MAASQ_E_IO = -10,          /* the operating system or a peer failed */
    MAASQ_E_CORRUPT = -11,     /* stored bytes do not match their hash */
    MAASQ_E_UNSUPPORTED = -12, /* valid, but not supported here */
    MAASQ_E_CANCELLED = -13,   /* cancelled by request, or the client was freed */
    MAASQ_E_MISSING = -14,     /* a blob that is named is not in the store */
    MAASQ_E_VERSION = -15,     /* protocol or format version is not supported */
    MAASQ_E_MOVED = -16,       /* another broker owns this shard */
    MAASQ_E_CLOCK = -17,       /* time in an id is too far from the store's clock */
    MAASQ_E_NUMERIC = -18,     /* a computation gave NaN or infinity */
    MAASQ_E_INTERNAL = -19,    /* a failure that is not the caller's */
    MAASQ_E_FAILED = -20,      /* the job's own program or handler says that it cannot succeed */
};

/* Lower-case name of a code, such as "not_found"; "internal" for an unknown one. Never NULL. */
MAASQ_API const char *maasq_code_name(int code);

/* Version of the library, "0.1.0". */
MAASQ_API const char *maasq_version(void);

#define MAASQ_ERROR_TEXT_MAX 512

typedef struct maasq_error {
    int code;
    char text[MAASQ_ERROR_TEXT_MAX]; /* NUL-terminated */
} maasq_error;

typedef struct maasq_client maasq_client; /* a connection to a system; opaque */
typedef struct maasq_job maasq_job; /* one submitted job, a future; opaque, reference counted */

/* ------------------------------------------------------------------ client */

typedef struct maasq_options {
    size_t size;
    const char *brokers; /* "tcp://a:7700,tcp://b:7700"; NULL: $MAASQ_BROKER, else 127.0.0.1:7700 */
    const char *name;    /* shown to operators; NULL: "client" */
    const char *tenant;  /* whose share of the fleet the jobs count against; NULL: "default" */
    const char *blobs;   /* URL of the blob store; NULL: $MAASQ_BLOBS, else what the broker says */
    uint32_t window;     /* submits under way without an answer; default 1000, at most 100000 */
    uint32_t jobs_max;   /* jobs that have not ended; default 65536, at most 1000000 */
    uint64_t bytes_max;  /* bodies of jobs that have not ended; default 256 MiB */
    int64_t submit_ms;   /* how long to go on offering a durable job; default 3600000 (1 h) */
    int own_loop;        /* not 0: no thread, the caller uses maasq_fd and maasq_dispatch */
} maasq_options;

/* Makes a client and starts connecting; does not wait for a broker. options may be NULL.
 * Returns owned (maasq_client_free). MAASQ_E_ARG names the option; MAASQ_E_LIMIT, MAASQ_E_IO when
 * memory, threads or descriptors are gone. */
MAASQ_API maasq_client *maasq_client_new(const maasq_options *options, maasq_error *err);

/* Ends every open job here with MAASQ_E_CANCELLED (their callbacks run before this returns; the
 * jobs themselves go on in the system), stops the thread, frees the client and sets the pointer
 * NULL. Jobs stay readable until they are released. Waits at most about a second. Call maasq_flush
 * first when submits may still be unanswered. MAASQ_E_ARG inside a callback, and nothing happens.
 */
MAASQ_API int maasq_client_free(maasq_client **client);

/* Waits until a broker has answered, at most timeout_ms (0..604800000). MAASQ_E_TIMEOUT says which
 * brokers were tried; MAASQ_E_VERSION when it speaks another protocol. */
MAASQ_API int maasq_connect(maasq_client *client, int64_t timeout_ms, maasq_error *err);

/* Waits until no submit is unanswered. MAASQ_E_TIMEOUT tells how many still are. */
MAASQ_API int maasq_flush(maasq_client *client, int64_t timeout_ms, maasq_error *err);

/* For one's own event loop (options.own_loop): a descriptor that becomes readable when
 * maasq_dispatch has something to do, timers included. It belongs to the client: poll it, do not
 * read or close it. -1 without own_loop. */
MAASQ_API int maasq_fd(maasq_client *client);

/* Does what is to be done now and returns without waiting; runs callbacks. Returns the number of
 * jobs that ended, or MAASQ_E_ARG without own_loop.
 *
 *     struct pollfd p = {maasq_fd(client), POLLIN, 0};
 *     while (poll(&p, 1, 1000) >= 0) { maasq_dispatch(client, &err); } */
MAASQ_API int maasq_dispatch(maasq_client *client, maasq_error *err);

/* ------------------------------------------------------------------ jobs */

enum {
    MAASQ_BY_KIND = 0,    /* transient for "infer", else durable */
    MAASQ_TRANSIENT = 1,  /* broker memory only */
    MAASQ_DURABLE = 2,    /* on disk before it is acknowledged */
    MAASQ_REPLICATED = 3, /* and received by a replica of the store, submit and result alike; while
                             none confirms, the submit is told busy and goes on asking until its
                             time is over. The same id may be submitted again: it is one job */
};

enum {
    MAASQ_CANCEL = 0, /* it is cancelled, and so are those that depend on it */
    MAASQ_RUN = 1,    /* it runs once all have ended, however they did */
};

typedef struct maasq_spec {
    size_t size;
    const char *kind;    /* "echo", "infer", "train", ...; at most 64 bytes; required */
    const void *body;    /* request, in the form its kind expects; borrowed, copied */
    size_t body_bytes;   /* at most 1 MiB, less for some kinds; larger inputs go through blobs */
    const char *id;      /* ULID of 26 letters; NULL: a new one */
    const char *model;   /* "m", "m@3", "m@prod"; at most 128 bytes */
    const char *queue;   /* NULL: the kind's default queue; at most 64 bytes */
    const char *tenant;  /* NULL: the client's; at most 64 bytes */
    const char *memo;    /* key of equal work: a finished job with it answers at once */
    const char *trace;   /* W3C traceparent, passed on to logs and workers */
    int durability;      /* MAASQ_BY_KIND ... */
    uint32_t priority;   /* 1..9, 9 first; 0: the default, 5 */
    int64_t run_at_ms;   /* not before this time, ms since 1970; 0: now */
    uint64_t ttl_ms;     /* ends as expired when not started by then; 0: never (transient: 30 s) */
    uint64_t lease_ms;   /* 0: the broker's default */
    uint64_t max_run_ms; /* 0: the kind's default */
    uint32_t attempts_max;   /* clean failures; 0: the kind's default */
    uint32_t crashes_max;    /* deaths of the process that ran it; 0: 3 */
    uint32_t seats_min;      /* gang jobs: members needed to start; 0: 1 */
    uint32_t seats_max;      /* gang jobs: members wanted; 0: 1; at most 64 */
    const char *const *deps; /* ids of jobs that must succeed first; borrowed, copied */
    size_t deps_count;       /* at most 64 */
    int on_failure;          /* what becomes of this job when one of deps does not succeed */
    const char *unique;      /* while a live job of the system has this key (at most 128 bytes), a
                              * second one is not made: it ends with MAASQ_E_EXISTS, info.other
                              * names the live one */
    uint64_t keep_ms;        /* how long its end and result stay readable: 1000 to 365 days;
                              * 0: the deployment's retention */
    uint64_t backoff_ms;     /* wait before attempt n + 1: random in 0..backoff_ms * 2^n; 0: 1 s */
    uint64_t backoff_max_ms; /* at most that; 0: 300 s; both at most 1 day */
    const char *limit_key; /* jobs of one key share its limits (`maasq limit`); at most 64 bytes */
    const char *needs;     /* tags that its worker must have: "avx512,region=eu"; at most 8 */
    uint64_t memory_bytes; /* that its worker must have free for it; 0: any worker */
} maasq_spec;

/* Runs when the job has ended, in whatever way; see the callback contract above. `job` is valid for
 * the call even when the caller released it before; releasing it here is allowed. */
typedef void maasq_done_fn(maasq_job *job, void *arg);

/* Queues a job for sending and returns at once. Returns owned (maasq_job_release; it may be
 * released right away: a job with a callback lives until that has run, one without is still
 * delivered). NULL: MAASQ_E_ARG names the field and its limit; MAASQ_E_BUSY when jobs_max or
 * bytes_max is reached (wait for some job, then try again); MAASQ_E_CANCELLED when the client is
 * being freed. What the broker refuses later ends the job with its code. */
MAASQ_API maasq_job *maasq_submit(maasq_client *client, const maasq_spec *spec, maasq_done_fn *done,
                                  void *arg, maasq_error *err);

/* The same for `count` specs. jobs[i] is set for each that was queued. Returns how many were
 * queued, from the front; when less than count, err says why the next one was not, jobs behind are
 * NULL. All specs must have been set up with the same spec.size. */
MAASQ_API size_t maasq_submit_many(maasq_client *client, const maasq_spec *specs, size_t count,
                                   maasq_job **jobs, maasq_done_fn *done, void *arg,
                                   maasq_error *err);

/* A group: `count` jobs (1..4096) and a callback job that runs after all of them. The callback's
 * on_failure says what a member's failure does to it; is_chain: each member also waits for the one
 * before it, by its own on_failure. More than 64 members are gathered by jobs of kind "echo".
 * Members are acknowledged before the callback is sent, so this blocks, at most timeout_ms; what
 * was acknowledged by then runs. jobs, unless NULL, has room for count handles, all set on success;
 * NULLs behind the last one submitted on failure. callback may be NULL (a chain). Returns the
 * callback's handle (the last member's without one), owned, or NULL; errors as maasq_submit, and
 * those of a member that was refused. Not in a callback. */
MAASQ_API maasq_job *maasq_group(maasq_client *client, const maasq_spec *members, size_t count,
                                 int is_chain, const maasq_spec *callback, maasq_job **jobs,
                                 int64_t timeout_ms, maasq_error *err);

/* A future for a job that exists already, by its id (26 letters): to wait for it, watch it, cancel
 * it or read its result from another process. Ends with MAASQ_E_NOT_FOUND when the system does not
 * know it. Returns owned; NULL and errors as for maasq_submit. */
MAASQ_API maasq_job *maasq_open(maasq_client *client, const char *id, maasq_done_fn *done,
                                void *arg, maasq_error *err);

/* Gives the handle back and sets the pointer NULL; NULL is ignored. Does not cancel the job. */
MAASQ_API void maasq_job_release(maasq_job **job);

/* Waits until the job has ended, at most timeout_ms (0..604800000; 0 only looks). 0: it ended, see
 * maasq_result for how; MAASQ_E_TIMEOUT: not yet, it goes on. The callback may run a little after
 * this returns. */
MAASQ_API int maasq_wait(maasq_job *job, int64_t timeout_ms, maasq_error *err);

/* Waits until one of the jobs (all of one client, NULLs are skipped) has ended and writes its
 * index; the first one when several have. MAASQ_E_TIMEOUT; MAASQ_E_ARG when there is none to wait
 * for. */
MAASQ_API int maasq_wait_any(maasq_job *const *jobs, size_t count, int64_t timeout_ms,
                             size_t *index, maasq_error *err);

/* 1 when the job has ended, else 0. */
MAASQ_API int maasq_is_done(const maasq_job *job);

/* Its id. Borrowed until release. */
MAASQ_API const char *maasq_job_id(const maasq_job *job);

/* Last known state: "sending" (not acknowledged yet), "blocked", "scheduled", "queued", "leased",
 * then one of "succeeded", "dead", "cancelled", "expired", or "lost" when only this side gave up
 * (no answer in time, refused, client freed, unknown id). Never NULL, static. */
MAASQ_API const char *maasq_state(const maasq_job *job);

/* Copies the latest progress, a JSON object, and returns its length (0: none yet). Cut to fit. */
MAASQ_API size_t maasq_progress(const maasq_job *job, char *out, size_t size);

/* Bytes that the library or a job owns. */
typedef struct maasq_view {
    const void *data;
    size_t bytes;
} maasq_view;

/* The result of a job that succeeded: 0 and the bytes (maybe none), borrowed until release. Else
 * the negative code of its failure and its text; MAASQ_E_BUSY when it has not ended yet. */
MAASQ_API int maasq_result(const maasq_job *job, maasq_view *view, maasq_error *err);

typedef struct maasq_info {
    size_t size;
    const char *id;    /* borrowed until release, like the next three */
    const char *state; /* as maasq_state */
    const char *why;   /* short reason of the end, "" when none: "attempts", "poison", ... */
    const char *error; /* text of the failure, "" when none */
    int code;          /* 0 or MAASQ_E_* */
    uint32_t attempts;
    uint64_t queue_us; /* time it waited */
    uint64_t run_us;   /* time it ran */
    uint32_t sends;    /* how often it was submitted over the wire: 1 when nothing was lost */
    const char *other; /* the live job that has the unique key, "" when none; borrowed as above */
} maasq_info;

/* Fills *info (set info->size before). Times and reason are known once the job has ended. */
MAASQ_API void maasq_job_info(const maasq_job *job, maasq_info *info);

typedef struct maasq_event {
    size_t size;
    const char *state;    /* "" when not told */
    const char *progress; /* JSON object or "" */
    const char *log;      /* one line or "" */
} maasq_event;

/* Runs at a job's progress, state changes and log lines; texts are valid for the call. Hints: at
 * most about 10 a second and job, some may be dropped, none comes after `done`. */
typedef void maasq_event_fn(maasq_job *job, const maasq_event *event, void *arg);

/* Asks for events of this job. fn NULL: no more. */
MAASQ_API int maasq_on_progress(maasq_job *job, maasq_event_fn *fn, void *arg, maasq_error *err);

/* Asks the system to cancel the job; returns at once. Soft: a running job stops at its next check;
 * a result that is committed first wins. hard: its lease is taken away now. The job ends as
 * "cancelled" when that worked, else as it did. Nothing happens when it has ended. */
MAASQ_API void maasq_cancel(maasq_job *job, int hard);

/* ------------------------------------------------------------------ questions and commands */

/* Asks the system: what = "status", "workers", "queues", "jobs", "job", "models", "model",
 * "datasets", "dataset", "memo", "dead" or "events"; name, filter: see client/README.md; NULL = "".
 * limit: 0 = the broker's default. Of a deployment of several shards the answer is of all of them;
 * those that did not answer are named in its "missing" (shared/wire/ANSWERS.md). On success *json
 * is the answer, a JSON text, owned (maasq_free).
 * MAASQ_E_NOT_FOUND, MAASQ_E_TIMEOUT, MAASQ_E_ARG. */
MAASQ_API int maasq_query(maasq_client *client, const char *what, const char *name,
                          const char *filter, uint32_t limit, int64_t timeout_ms, char **json,
                          maasq_error *err);

/* An operator's action: verb = "alias" (model, alias, version, expected version or "") | "pause" |
 * "resume" (queue) | "drain" | "undrain" (worker) | "retry" (dead job) | "delete-version" (model,
 * version). args: at most 8 texts of at most 192 bytes. 0 once it is stored, also when it already
 * was so. Resent when no answer came. What all shards obey goes to all of them; an error then names
 * the shards that did not, and giving the command again does no harm. */
MAASQ_API int maasq_command(maasq_client *client, const char *verb, const char *const *args,
                            size_t count, int64_t timeout_ms, maasq_error *err);

/* The same with a body for the verbs that take one (at most 1 MiB; borrowed, copied by the system
 * only), and with the broker's answer: *text, unless text is NULL, is owned (maasq_free), never
 * NULL on success. More verbs: "discard" (dead job), "retry-all" and "purge" (filter over dead
 * jobs; answer {"matched":n,"done":n,"skipped":n,"left":n}). */
MAASQ_API int maasq_act(maasq_client *client, const char *verb, const char *const *args,
                        size_t count, const void *body, size_t body_bytes, int64_t timeout_ms,
                        char **text, maasq_error *err);

/* Frees what this library returned as owned memory. NULL is ignored. */
MAASQ_API void maasq_free(void *memory);

/* ------------------------------------------------------------------ blobs */

#define MAASQ_HASH_SIZE 65 /* 64 hex digits of a SHA-256 and the NUL */

/* Store bytes or a file (at most 1 GiB) in the system's blob store and write their name. Equal
 * bytes are stored once. A blob that no job's commit names within 24 hours is removed. They block,
 * at most about a minute, and may be called from any thread but not in a callback. */
MAASQ_API int maasq_blob_put(maasq_client *client, const void *data, size_t bytes,
                             char hash[MAASQ_HASH_SIZE], maasq_error *err);
MAASQ_API int maasq_blob_put_file(maasq_client *client, const char *path,
                                  char hash[MAASQ_HASH_SIZE], maasq_error *err);

/* Reads a blob whole: owned memory (maasq_free), or written to a file that appears only when it is
 * complete and its hash is right. MAASQ_E_NOT_FOUND, MAASQ_E_CORRUPT, MAASQ_E_IO. */
MAASQ_API int maasq_blob_get(maasq_client *client, const char *hash, void **data, size_t *bytes,
                             maasq_error *err);
MAASQ_API int maasq_blob_get_file(maasq_client *client, const char *hash, const char *path,
                                  maasq_error *err);

/* ------------------------------------------------------------------ inference */

/* Element types; the numbers are those of ONNX. */
enum {
    MAASQ_F32 = 1,
    MAASQ_U8 = 2,
    MAASQ_I8 = 3,
    MAASQ_U16 = 4,
    MAASQ_I16 = 5,
    MAASQ_I32 = 6,
    MAASQ_I64 = 7,
    MAASQ_BOOL = 9,
    MAASQ_F16 = 10,
    MAASQ_F64 = 11,
    MAASQ_U32 = 12,
    MAASQ_U64 = 13,
    MAASQ_BF16 = 16,
};

#define MAASQ_RANK_MAX    8
#define MAASQ_TENSORS_MAX 64
#define MAASQ_NAME_SIZE   128

typedef struct maasq_tensor {
    char name[MAASQ_NAME_SIZE]; /* NUL-terminated, as the model names it; "" stands for "input" */
    int dtype;                  /* MAASQ_F32 ... */
    int rank;                   /* 0..8 */
    int64_t shape[MAASQ_RANK_MAX];
    const void *data; /* row-major, little-endian */
    size_t bytes;     /* elements times the size of one */
} maasq_tensor;

/* Submits one inference request (1..64 inputs; the first dimension of each is the batch); the
 * answer is read with maasq_outputs. Transient, with timeout_ms (1..3600000) as its time to live.
 * Inputs are borrowed and copied. Returns and errors as maasq_submit. */
MAASQ_API maasq_job *maasq_infer(maasq_client *client, const char *model,
                                 const maasq_tensor *inputs, size_t count, int64_t timeout_ms,
                                 maasq_done_fn *done, void *arg, maasq_error *err);

/* Outputs of an infer job that succeeded: at most `max` are written, *count is how many there are;
 * data are borrowed until the job is released. Else as maasq_result. */
MAASQ_API int maasq_outputs(const maasq_job *job, maasq_tensor *outputs, size_t max, size_t *count,
                            maasq_error *err);

#ifdef __cplusplus
}
#endif

#endif
