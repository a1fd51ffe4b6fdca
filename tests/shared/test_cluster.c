/* The table of brokers and shards (shared/store/cluster.h) with a real Redis. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>

#include "shared/store/cluster.h"
#include "shared/store/store.h"
#include "tests/support/redis.h"

enum { WAIT_MS = 60000, TTL_MS = 600000 };

static mq_test_redis redis;

/* One broker's eyes and mouth. */
typedef struct seat {
    mq_cluster *cluster;
    mq_cluster_view view;
    mq_code code;
    mq_error err;
    int views, sets;
} seat;

static void on_view(void *arg, mq_code code, const mq_cluster_view *view, const mq_error *err)
{
    seat *s = arg;
    s->code = code;
    s->views++;
    if (code == MQ_OK) {
        assert_non_null(view);
        s->view = *view;
    } else {
        assert_null(view);
        s->err = *err;
    }
}

static void on_set(void *arg, mq_code code, const mq_error *err)
{
    seat *s = arg;
    s->code = code;
    s->err = *err;
    s->sets++;
}

static void pump(seat *s)
{
    struct pollfd p = {mq_cluster_fd(s->cluster), mq_cluster_events(s->cluster), 0};
    poll(&p, p.fd >= 0 ? 1 : 0, 5);
    mq_cluster_process(s->cluster, p.fd >= 0 ? p.revents : 0, mq_clock_mono_ms());
}

static void open_seat(seat *s)
{
    mq_error err;
    memset(s, 0, sizeof *s);
    assert_int_equal(mq_cluster_new(&s->cluster, redis.url, on_view, s, &err), MQ_OK);
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (!mq_cluster_is_connected(s->cluster)) {
        assert_true(mq_clock_mono_ms() < until_ms);
        pump(s);
    }
}

static mq_code tell(seat *s, const mq_cluster_self *self)
{
    int views = s->views;
    assert_true(mq_cluster_tell(s->cluster, self));
    assert_false(mq_cluster_tell(s->cluster, self)); /* one at a time */
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (s->views == views) {
        assert_true(mq_clock_mono_ms() < until_ms);
        pump(s);
    }
    return s->code;
}

static void await_set(seat *s, int sets)
{
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (s->sets == sets) {
        assert_true(mq_clock_mono_ms() < until_ms);
        pump(s);
    }
    assert_int_equal(s->code, MQ_OK);
}

static mq_cluster_self self_of(const char *id, uint32_t shards)
{
    mq_cluster_self self = {.ttl_ms = TTL_MS, .shards_wanted = shards, .may_init = true};
    snprintf(self.broker.id, sizeof self.broker.id, "%s", id);
    snprintf(self.broker.name, sizeof self.broker.name, "name of %s", id);
    snprintf(self.broker.front, sizeof self.broker.front, "tcp://%s:1", id);
    snprintf(self.broker.back, sizeof self.broker.back, "tcp://%s:2", id);
    self.broker.since_ms = 77;
    self.broker.load_milli = 88;
    return self;
}

static void owns(mq_cluster_self *self, uint32_t shard, uint64_t epoch, uint64_t sequence)
{
    uint32_t i = self->owned_count++;
    self->owned[i].shard = shard;
    self->owned[i].epoch = epoch;
    self->owned[i].sequence = sequence;
    self->owned[i].jobs = 5;
    self->owned[i].since_ms = 6;
}

static void run(const char *command)
{
    redisContext *c = redisConnectUnix(redis.socket);
    assert_non_null(c);
    redisReply *reply = redisCommand(c, command);
    assert_non_null(reply);
    assert_int_not_equal(reply->type, REDIS_REPLY_ERROR);
    freeReplyObject(reply);
    redisFree(c);
}

static int begin(void **state)
{
    (void)state;
    run("FLUSHALL");
    return 0;
}

static void a_table_is_made_once_and_only_by_who_may(void **state)
{
    (void)state;
    seat a, b;
    open_seat(&a);
    open_seat(&b);
    mq_cluster_self self = self_of("a", 4);
    self.may_init = false;
    assert_int_equal(tell(&a, &self), MQ_E_IO);
    assert_non_null(strstr(a.err.text, "no table of shards"));
    assert_int_equal(tell(&b, NULL), MQ_E_IO); /* who only looks makes none either */
    self.may_init = true;
    assert_int_equal(tell(&a, &self), MQ_OK);
    assert_int_equal(a.view.shard_count, 4);
    mq_cluster_self other = self_of("b", 9);
    assert_int_equal(tell(&b, &other), MQ_OK);
    assert_int_equal(b.view.shard_count, 4); /* fixed from then on */
    run("DEL mq:cluster");
    assert_int_equal(tell(&a, &self), MQ_E_IO); /* who has seen it makes it no more */
    mq_cluster_free(a.cluster);
    mq_cluster_free(b.cluster);
}

static void everyone_sees_what_a_broker_says_of_itself(void **state)
{
    (void)state;
    seat a, b;
    open_seat(&a);
    open_seat(&b);
    mq_cluster_self self = self_of("a", 4);
    owns(&self, 0, 3, UINT64_C(12345678901));
    owns(&self, 3, 1, 0);
    run("SET mq:instance the-deployment");
    assert_int_equal(tell(&a, &self), MQ_OK);
    assert_int_equal(tell(&b, NULL), MQ_OK);
    const mq_cluster_broker *seen = mq_cluster_find(&b.view, "a");
    assert_non_null(seen);
    assert_null(mq_cluster_find(&b.view, "b")); /* it only looked */
    assert_true(seen->is_alive);
    assert_false(seen->is_draining);
    assert_string_equal(seen->name, "name of a");
    assert_string_equal(seen->front, "tcp://a:1");
    assert_string_equal(seen->back, "tcp://a:2");
    assert_int_equal(seen->since_ms, 77);
    assert_int_equal(seen->load_milli, 88);
    assert_int_equal(seen->until_ms > b.view.now_ms, true);
    assert_string_equal(b.view.instance, "the-deployment");
    assert_string_equal(b.view.shards[0].owner, "a");
    assert_int_equal(b.view.shards[0].epoch, 3);
    assert_int_equal(b.view.shards[0].jobs, 5);
    assert_int_equal(b.view.shards[0].since_ms, 6);
    assert_true(b.view.shards[0].sequence == UINT64_C(12345678901));
    assert_string_equal(b.view.shards[1].owner, "");
    assert_string_equal(b.view.shards[3].owner, "a");
    mq_cluster_free(a.cluster);
    mq_cluster_free(b.cluster);
}

static void the_version_grows_with_owners_and_with_nothing_else(void **state)
{
    (void)state;
    seat a, b;
    open_seat(&a);
    open_seat(&b);
    mq_cluster_self one = self_of("a", 4), two = self_of("b", 4);
    owns(&one, 0, 1, 10);
    assert_int_equal(tell(&a, &one), MQ_OK);
    uint64_t version = a.view.version;
    one.owned[0].sequence = 11;
    assert_int_equal(tell(&a, &one), MQ_OK);
    assert_int_equal(a.view.version, version);
    assert_int_equal(a.view.shards[0].sequence, 11);
    owns(&two, 0, 2, 12); /* it took the shard over */
    assert_int_equal(tell(&b, &two), MQ_OK);
    assert_true(b.view.version > version);
    version = b.view.version;
    assert_int_equal(tell(&a, &one), MQ_OK); /* what a former owner says counts no more */
    assert_string_equal(a.view.shards[0].owner, "b");
    assert_int_equal(a.view.shards[0].epoch, 2);
    assert_int_equal(a.view.version, version);
    mq_cluster_free(a.cluster);
    mq_cluster_free(b.cluster);
}

static void what_was_seen_of_a_shard_outlives_its_owner(void **state)
{
    (void)state;
    seat a, b;
    open_seat(&a);
    open_seat(&b);
    mq_cluster_self self = self_of("a", 4);
    owns(&self, 2, 4, 99);
    assert_int_equal(tell(&a, &self), MQ_OK);
    self.owned_count = 0; /* given back */
    assert_int_equal(tell(&a, &self), MQ_OK);
    assert_int_equal(tell(&b, NULL), MQ_OK);
    assert_string_equal(b.view.shards[2].owner, "");
    assert_int_equal(b.view.shards[2].epoch, 4);
    assert_int_equal(b.view.shards[2].sequence, 99);
    self.ttl_ms = 0; /* it leaves */
    assert_int_equal(tell(&a, &self), MQ_OK);
    assert_null(mq_cluster_find(&a.view, "a"));
    mq_cluster_free(a.cluster);
    mq_cluster_free(b.cluster);
}

static void a_broker_that_says_nothing_is_dead_when_its_time_is_over(void **state)
{
    (void)state;
    seat a, b;
    open_seat(&a);
    open_seat(&b);
    mq_cluster_self self = self_of("a", 1);
    self.ttl_ms = 1;
    owns(&self, 0, 1, 1);
    assert_int_equal(tell(&a, &self), MQ_OK);
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    bool is_alive = true;
    while (is_alive) {
        assert_true(mq_clock_mono_ms() < until_ms);
        assert_int_equal(tell(&b, NULL), MQ_OK);
        assert_non_null(mq_cluster_find(&b.view, "a"));
        is_alive = mq_cluster_find(&b.view, "a")->is_alive;
    }
    assert_string_equal(b.view.shards[0].owner, "a"); /* still the last one that is known */
    mq_cluster_free(a.cluster);
    mq_cluster_free(b.cluster);
}

static void wishes_are_kept_until_they_are_taken_back(void **state)
{
    (void)state;
    seat a;
    mq_error err;
    open_seat(&a);
    mq_cluster_self self = self_of("a", 4);
    assert_int_equal(tell(&a, &self), MQ_OK);
    assert_int_equal(mq_cluster_pin(a.cluster, 3, "a", on_set, &a, &err), MQ_OK);
    await_set(&a, 0);
    assert_int_equal(mq_cluster_drain(a.cluster, "a", true, on_set, &a, &err), MQ_OK);
    await_set(&a, 1);
    assert_int_equal(tell(&a, &self), MQ_OK);
    assert_string_equal(a.view.shards[3].pin, "a");
    assert_string_equal(a.view.shards[2].pin, "");
    assert_true(mq_cluster_find(&a.view, "a")->is_draining);
    assert_int_equal(mq_cluster_pin(a.cluster, 3, "", on_set, &a, &err), MQ_OK);
    await_set(&a, 2);
    assert_int_equal(mq_cluster_drain(a.cluster, "a", false, on_set, &a, &err), MQ_OK);
    await_set(&a, 3);
    assert_int_equal(tell(&a, &self), MQ_OK);
    assert_string_equal(a.view.shards[3].pin, "");
    assert_false(mq_cluster_find(&a.view, "a")->is_draining);
    mq_cluster_free(a.cluster);
}

static void records_that_are_none_are_passed_over(void **state)
{
    (void)state;
    seat a;
    open_seat(&a);
    mq_cluster_self self = self_of("a", 2);
    assert_int_equal(tell(&a, &self), MQ_OK);
    run("HSET mq:cluster b:x nonsense o:0 b o:99 nobody p:77 a zzz 1 q 2");
    assert_int_equal(tell(&a, NULL), MQ_OK);
    assert_null(mq_cluster_find(&a.view, "x"));
    assert_string_equal(a.view.shards[0].owner, "");
    assert_int_equal(a.view.broker_count, 1);
    run("HSET mq:cluster shards 1000");
    assert_int_equal(tell(&a, NULL), MQ_E_CORRUPT);
    assert_non_null(strstr(a.err.text, "outside 1..64"));
    mq_cluster_free(a.cluster);
}

static void a_lost_connection_is_said_and_nothing_waits_for_it(void **state)
{
    (void)state;
    seat a;
    mq_error err;
    open_seat(&a);
    mq_cluster_self self = self_of("a", 1);
    assert_int_equal(tell(&a, &self), MQ_OK);
    assert_true(mq_cluster_tell(a.cluster, &self));
    int views = a.views;
    mq_test_redis_kill(&redis);
    int64_t until_ms = mq_clock_mono_ms() + WAIT_MS;
    while (a.views == views || mq_cluster_is_connected(a.cluster)) {
        assert_true(mq_clock_mono_ms() < until_ms);
        pump(&a);
    }
    assert_false(mq_cluster_tell(a.cluster, &self));
    assert_int_equal(mq_cluster_drain(a.cluster, "a", true, on_set, &a, &err), MQ_E_BUSY);
    mq_cluster_free(a.cluster);
    mq_test_redis_start(&redis, NULL);
}

static int start(void **state)
{
    (void)state;
    mq_error err;
    mq_test_redis_init(&redis);
    mq_test_redis_start(&redis, NULL);
    assert_int_equal(mq_store_redis_load(redis.url, &err), MQ_OK);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    mq_test_redis_release(&redis);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_table_is_made_once_and_only_by_who_may, begin),
        cmocka_unit_test_setup(everyone_sees_what_a_broker_says_of_itself, begin),
        cmocka_unit_test_setup(the_version_grows_with_owners_and_with_nothing_else, begin),
        cmocka_unit_test_setup(what_was_seen_of_a_shard_outlives_its_owner, begin),
        cmocka_unit_test_setup(a_broker_that_says_nothing_is_dead_when_its_time_is_over, begin),
        cmocka_unit_test_setup(wishes_are_kept_until_they_are_taken_back, begin),
        cmocka_unit_test_setup(records_that_are_none_are_passed_over, begin),
        cmocka_unit_test_setup(a_lost_connection_is_said_and_nothing_waits_for_it, begin),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
