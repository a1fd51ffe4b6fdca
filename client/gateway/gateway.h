/* The gateway's parts and how they meet. An exchange is one HTTP request with its answer.
 *
 * THREADS
 *   HTTP thread      libmicrohttpd's; runs the handlers. Never blocks: what must wait suspends its
 *                    exchange and goes on in `next` when it is woken.
 *   asker threads    blocking questions and commands, one at a time each, from a bounded queue.
 *   snapshot thread  asks the broker once a second and publishes a frame that all pages share.
 *   client's thread  libmaasq's; its callbacks only wake exchanges.
 * An exchange belongs to the HTTP thread, except between mq_exchange_wait and mq_exchange_wake,
 * when it belongs to whoever will wake it. */
#ifndef MQ_GATEWAY_GATEWAY_H
#define MQ_GATEWAY_GATEWAY_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

#include "client/gateway/route.h"
#include "client/include/maasq.h"
#include "shared/base/buf.h"

struct MHD_Connection;
struct MHD_Daemon;
struct MHD_Response;

enum {
    MQ_GW_CONNECTIONS_MAX = 1024,
    MQ_GW_IDLE_S = 60,            /* a silent connection is closed */
    MQ_GW_BODIES_MAX = 256 << 20, /* request bodies held, all together */
    MQ_GW_ANSWER_MAX = 64 << 20,  /* bytes of one answer */
    MQ_GW_ASKERS = 3,
    MQ_GW_ASKS_MAX = 256, /* questions that wait for an asker */
    MQ_GW_ASK_MS = 5000,  /* for one question */
    MQ_GW_EVENT_CLIENTS_MAX = 256,
    MQ_GW_HEARTBEAT_MS = 10000, /* of an event stream that has nothing to say */
    MQ_GW_RETRY_AFTER_S = 1,
};

typedef struct mq_gateway_config {
    const char *broker; /* endpoints, separated by commas */
    const char *listen; /* ADDRESS:PORT, port 0 = any */
    const char *host;   /* one more name that may stand in a Host header, "" = none */
    const char
        *endpoint_file; /* where http://ADDRESS:PORT is written once it serves, "" = nowhere */
    const char *log_level;
    int64_t body_bytes_max;
    bool is_read_only;
    bool is_log_json;
} mq_gateway_config;

typedef struct mq_gateway mq_gateway;
typedef struct mq_exchange mq_exchange;
typedef void mq_handler(mq_exchange *exchange);

typedef struct mq_snapshot mq_snapshot; /* snapshot.h */
typedef struct mq_events mq_events;     /* events.h */
typedef struct mq_asker mq_asker;       /* asker.h */

struct mq_gateway {
    mq_gateway_config config;
    pthread_mutex_t client_lock; /* guards `client` against its end */
    maasq_client *client;        /* owned; NULL when stopping */
    mq_snapshot *snapshot;
    mq_events *events;
    mq_asker *asker;
    struct MHD_Daemon *daemon;
    bool is_loopback; /* then only names of this host are accepted in Host */
    char url[300];
    atomic_bool is_stopping;
    atomic_uint waiting;      /* suspended exchanges */
    atomic_size_t body_bytes; /* held by exchanges */
    atomic_ullong answers[6]; /* by status / 100, for /metrics */
};

struct mq_exchange {
    mq_gateway *gateway; /* borrowed */
    struct MHD_Connection *connection;
    mq_route route;
    mq_buf body;
    bool is_refused; /* the answer was decided before the body came */
    bool is_waiting;
    atomic_bool is_woken; /* hands what was done meanwhile over to the HTTP thread */
    mq_handler *next;     /* what to do after the wait */
    mq_handler *task;     /* what an asker does meanwhile */
    maasq_job *job;       /* owned */
    void *detail;         /* the handler's own; freed by free_detail at the end */
    void (*free_detail)(void *detail);

    /* the answer */
    unsigned status;
    const char *content_type; /* a literal */
    mq_buf out;
    struct MHD_Response *stream; /* instead of out; given to the server */
    size_t json_bytes;           /* > 0: header Inference-Header-Content-Length */
    char location[64];           /* header Location, "" = none */
    char allow[64];              /* header Allow, "" = none */
};

/* ---- answers (exchange.c) ---- */

/* Ends the answer: what is in exchange->out, with this status and type. */
void mq_answer(mq_exchange *exchange, unsigned status, const char *content_type);

/* {"error": text} in place of whatever out held. */
void mq_answer_error(mq_exchange *exchange, unsigned status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The same, the status following from the code. */
void mq_answer_code(mq_exchange *exchange, mq_code code, const char *text);
void mq_answer_maasq(mq_exchange *exchange, const maasq_error *err);

/* HTTP status of a code: 400, 404, 409, 413, 501, 503, 504 or 500. */
unsigned mq_status_of(mq_code code);

/* Code of a libmaasq error. */
mq_code mq_code_of(int maasq_code);

/* Suspends the exchange; `next` runs on the HTTP thread after mq_exchange_wake, which must come
 * exactly once, from any thread. HTTP thread only. */
void mq_exchange_wait(mq_exchange *exchange, mq_handler *next);
void mq_exchange_wake(mq_exchange *exchange);

/* Has an asker run `task`, then `next` on the HTTP thread (NULL: the task made the answer). Answers
 * 503 when too many wait already. */
void mq_exchange_ask(mq_exchange *exchange, mq_handler *task, mq_handler *next);

/* The client for calls that do not block, from the HTTP thread: NULL when the gateway is stopping;
 * to be returned in either case. Askers use gateway->client, which outlives them. */
maasq_client *mq_client_borrow(mq_gateway *gateway);
void mq_client_return(mq_gateway *gateway);

/* A header or query value, NULL when absent. Borrowed until the end of the exchange; as sent, not
 * decoded. HTTP thread only. */
const char *mq_exchange_header(const mq_exchange *exchange, const char *name);
const char *mq_exchange_query(const mq_exchange *exchange, const char *name);

/* ---- server (server.c) ---- */

MQ_MUST_USE mq_code mq_gateway_start(mq_gateway *gateway, const mq_gateway_config *config,
                                     mq_error *err);

/* Ends every exchange (503 for those that wait), stops the threads, frees everything. Takes at most
 * about MQ_GW_ASK_MS. Also after a failed start. */
void mq_gateway_stop(mq_gateway *gateway);

/* ---- handlers: one for each name in routes.def ---- */

#define MQ_ROUTE(handler, method, path) void mq_gw_##handler(mq_exchange *exchange);
#include "client/gateway/routes.def"
#undef MQ_ROUTE

#endif
