/* The durable store by itself: jobs/s with three record writes a job (create, put, finish),
 * 100-byte bodies and results, two commits under way, fsync always; against what the same Redis
 * does with bare pipelined HSETs of as many fields. One JSON object a line. */
#include "shared/base/ulid.h"
#include "tests/support/redis.h"
#include "tests/support/store.h"

enum { JOBS = 60000, RECORD = 250, BODY = 100, SMALL_BATCH_JOBS = 4000 };

static char ids[JOBS][MQ_ULID_SIZE];
static uint8_t bytes[RECORD];

typedef struct bench {
    mq_store *store;
    uint32_t under_way;
    uint64_t epoch, sequence;
    uint32_t created, put, finished; /* jobs so far */
    mq_store_create creates[MQ_STORE_JOBS_MAX];
    mq_store_put puts[MQ_STORE_JOBS_MAX];
    mq_store_finish finishes[MQ_STORE_JOBS_MAX];
} bench;

static void must(bool is_ok, const char *text)
{
    if (!is_ok) {
        fprintf(stderr, "bench_store: %s\n", text);
        exit(1);
    }
}

static void on_commit(void *arg, const mq_store_reply *reply)
{
    bench *b = arg;
    b->under_way--;
    must(reply->verdict == MQ_STORE_OK && reply->dup_count + reply->ignored_count == 0,
         reply->err.text);
}

static mq_span id_of(uint32_t i)
{
    return mq_span_of(ids[i], MQ_ULID_LEN);
}

/* Next turn: jobs that are created, and older ones that are leased, and yet older ones that end. */
static void commit(bench *b, uint32_t jobs, uint32_t batch)
{
    mq_store_batch turn = {.epoch = b->epoch,
                           .sequence = ++b->sequence,
                           .creates = b->creates,
                           .puts = b->puts,
                           .finishes = b->finishes,
                           .event = mq_str("turn")};
    uint32_t may_finish = b->put;
    uint32_t may_put = b->created;
    while (turn.create_count < batch && b->created < jobs) {
        uint32_t i = b->created++;
        b->creates[turn.create_count++] =
            (mq_store_create){id_of(i), i, mq_span_of(bytes, RECORD), mq_span_of(bytes, BODY)};
    }
    while (turn.put_count < batch && b->put < may_put) {
        uint32_t i = b->put++;
        b->puts[turn.put_count++] = (mq_store_put){id_of(i), i, mq_span_of(bytes, RECORD)};
    }
    while (turn.finish_count < batch && b->finished < may_finish) {
        uint32_t i = b->finished++;
        b->finishes[turn.finish_count++] = (mq_store_finish){.id = id_of(i),
                                                             .number = i,
                                                             .record = mq_span_of(bytes, RECORD),
                                                             .result = mq_span_of(bytes, BODY),
                                                             .retention_ms = 24 * 3600 * 1000};
    }
    mq_error err;
    must(b->store->ops->commit(b->store, &turn, on_commit, b, &err) == MQ_OK, err.text);
    b->under_way++;
}

static double run_store(const mq_test_redis *redis, uint32_t jobs, uint32_t batch)
{
    static bench b;
    memset(&b, 0, sizeof b);
    must(mq_store_redis_new(&b.store, redis->url, 0, NULL) == MQ_OK, "no store");
    mq_test_store_connect(b.store);
    mq_test_answer got;
    memset(&got, 0, sizeof got);
    mq_test_acquire(b.store, "bench", 3600 * 1000, true, true, &got);
    must(got.code == MQ_OK, got.err.text);
    b.epoch = got.owner.epoch;
    b.sequence = got.owner.sequence;
    int64_t start_ns = mq_clock_mono_ns();
    while (b.finished < jobs || b.under_way > 0) {
        while (b.under_way < MQ_STORE_INFLIGHT_MAX && b.finished < jobs) {
            commit(&b, jobs, batch);
        }
        mq_test_store_turn(b.store);
    }
    double seconds = (double)(mq_clock_mono_ns() - start_ns) / 1e9;
    mq_test_answer_reset(&got);
    b.store->ops->free(b.store);
    return jobs / seconds;
}

/* The same bytes as bare commands: three HSETs of `batch` fields, two turns in flight. */
static double run_bare(const mq_test_redis *redis, uint32_t jobs, uint32_t batch)
{
    struct timeval limit = {.tv_sec = 30};
    redisContext *c = redisConnectUnixWithTimeout(redis->socket, limit);
    must(c != NULL && c->err == 0, "no connection");
    const char *argv[2 + 2 * MQ_STORE_JOBS_MAX];
    size_t lens[2 + 2 * MQ_STORE_JOBS_MAX];
    int64_t start_ns = mq_clock_mono_ns();
    uint32_t under_way = 0;
    for (uint32_t from = 0; from < jobs || under_way > 0; from += batch) {
        for (int write = 0; write < 3 && from < jobs; write++) {
            static const char *const keys[] = {"bare:live", "bare:req", "bare:done"};
            int argc = 2;
            argv[0] = "HSET";
            lens[0] = 4;
            argv[1] = keys[write];
            lens[1] = strlen(keys[write]);
            for (uint32_t i = from; i < from + batch && i < jobs; i++) {
                argv[argc] = ids[i];
                lens[argc++] = MQ_ULID_LEN;
                argv[argc] = (const char *)bytes;
                lens[argc++] = write == 1 ? BODY : RECORD;
            }
            must(redisAppendCommandArgv(c, argc, argv, lens) == REDIS_OK, "no memory");
            under_way++;
        }
        for (uint32_t want = from < jobs ? 3 : 0; under_way > want; under_way--) {
            void *reply = NULL;
            must(redisGetReply(c, &reply) == REDIS_OK, c->errstr);
            freeReplyObject(reply);
        }
    }
    redisFree(c);
    return jobs / ((double)(mq_clock_mono_ns() - start_ns) / 1e9);
}

int main(void)
{
    static const uint32_t batches[] = {1, 32, 128, 170};
    mq_test_redis redis;
    for (size_t n = 0; n < sizeof batches / sizeof batches[0]; n++) {
        uint32_t batch = batches[n];
        uint32_t jobs = batch == 1 ? SMALL_BATCH_JOBS : JOBS;
        int64_t now_ms = mq_clock_wall_ms();
        for (uint32_t i = 0; i < jobs; i++) {
            uint8_t random[10] = {0};
            memcpy(random, &i, sizeof i);
            mq_ulid_make(now_ms + i / 50, random, ids[i]);
        }
        mq_test_redis_init(&redis);
        mq_test_redis_start(&redis, NULL);
        double store = run_store(&redis, jobs, batch);
        double bare = run_bare(&redis, jobs, batch);
        printf("{\"bench\":\"store\",\"case\":\"3-writes-100B-batch-%u\",\"value\":%.0f,\"unit\":"
               "\"jobs/s\","
               "\"ceiling\":\"redis-3-hset\",\"ceiling_value\":%.0f,\"ratio\":%.2f}\n",
               batch, store, bare, store / bare);
        mq_test_redis_release(&redis);
    }
    return 0;
}
