/* A system with raw peers as its clients and workers: what tests do with them again and again. */
#ifndef MQ_TESTS_E2E_WORLD_H
#define MQ_TESTS_E2E_WORLD_H

#include "tests/e2e/peer.h"

#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/support/system.h"

#define MINE   "00000000000000000000000000000001"
#define OTHERS "00000000000000000000000000000002"

static sys system_;
static void *context;

PEER void open_client(peer *p)
{
    peer_open(p, context, system_.front, NULL);
    peer_hello(p);
}

PEER void open_worker(peer *p, const char *uuid, const char *kind)
{
    peer_open(p, context, system_.back, NULL);
    peer_ready(p, uuid, kind);
}

/* Waits until the broker's log has the text more often than `times`. */
PEER void await_log(const char *text, int times)
{
    char command[400];
    (void)snprintf(command, sizeof command, "test $(grep -ac '%s' %s/broker0.log) -gt %d", text,
                   system_.dir, times);
    int64_t until_ms = mq_clock_mono_ms() + PEER_WAIT_MS;
    while (system(command) != 0) {
        if (mq_clock_mono_ms() > until_ms) {
            fail_msg("the broker's log has no \"%s\"", text);
        }
        mq_clock_sleep_ms(50);
    }
}

PEER int log_count(const char *text)
{
    char command[400];
    int count = 0;
    (void)snprintf(command, sizeof command, "grep -ac '%s' %s/broker0.log", text, system_.dir);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_int_equal(fscanf(pipe, "%d", &count), 1);
    (void)pclose(pipe);
    return count;
}

/* Submits and waits for the acknowledgement. */
PEER void submit(peer *client, const char *kind, char id[MQ_ULID_SIZE])
{
    peer_submit(client, kind, mq_str("body"), id);
    peer_await(client, MQ_CMD_submitted);
    assert_int_equal(client->m.submitted.jobs_count, 1);
    SAYS(client->m.submitted.jobs[0].verdict, "ok");
}

/* Offers one free slot until the broker sends a job; gives its token. seen: jobs it was sent
 * before.
 */
PEER mq_msg_held take_job(peer *worker, const char *uuid, uint64_t *seq, uint64_t seen,
                          const char *id)
{
    int64_t until_ms = mq_clock_mono_ms() + PEER_WAIT_MS;
    while (mq_clock_mono_ms() < until_ms) {
        peer_beat(worker, uuid, ++*seq, 1, seen, NULL);
        while (peer_receive(worker, 200)) {
            if (worker->command == MQ_CMD_job) {
                const mq_msg_job_item *item = &worker->m.job.jobs[0];
                assert_memory_equal(item->id.data, id, MQ_ULID_LEN);
                return (mq_msg_held){.id = mq_str(id), .epoch = item->epoch, .grant = item->grant};
            }
        }
    }
    fail_msg("no job came");
    return (mq_msg_held){0};
}

PEER void send_result(peer *worker, const char *uuid, const mq_msg_held *held, const char *class)
{
    mq_msg_result_item item = {
        .id = held->id, .epoch = held->epoch, .grant = held->grant, .class = mq_str(class)};
    peer_result(worker, uuid, &item, mq_str("result"));
}

/* The verdict on a result that has just been sent. */
PEER void await_verdict(peer *worker, const char *verdict)
{
    peer_await(worker, MQ_CMD_verdict);
    mq_span said = worker->m.verdict.verdicts[0].verdict;
    if (!mq_span_is(said, verdict)) {
        fail_msg("verdict %.*s instead of %s", MQ_SPAN_ARG(said), verdict);
    }
}

/* State of a job; waits for its end when it is to be one. */
PEER void check_state(peer *client, const char *id, const char *state)
{
    int64_t until_ms = mq_clock_mono_ms() + PEER_WAIT_MS;
    do {
        peer_get(client, 77, id, 0);
        peer_await(client, MQ_CMD_state);
        if (mq_span_is(client->m.state.state, state)) {
            return;
        }
        mq_clock_sleep_ms(20);
    } while (mq_clock_mono_ms() < until_ms);
    fail_msg("job %s is %.*s instead of %s", id, MQ_SPAN_ARG(client->m.state.state), state);
}

/* The answer to a question as JSON; a failure when it is none. */
PEER json_t *query(peer *client, const char *what)
{
    json_error_t error;
    peer_query(client, what);
    json_t *json = json_loadb((const char *)client->payload.data, client->payload.len, 0, &error);
    if (json == NULL) {
        fail_msg("%s: %s in %.*s", what, error.text, MQ_SPAN_ARG(client->payload));
    }
    return json;
}

#endif
