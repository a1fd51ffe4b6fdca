/* Who moves the client's messages: its own thread, or a thread that waits.
 *
 * A thread that waits for a job or an answer leads while it waits: it sleeps on the client's
 * descriptor and takes the turns itself, so that no answer has to be handed from one thread to
 * another. Meanwhile the client's own thread is parked. It goes on when there is a callback to run
 * (those are its alone), and while nobody leads it looks every PARK_MS for some time, since most
 * who have waited wait again soon. Only with one shard; else waiting is on the condition.
 *
 *     is_led, leads, led_ms      under the lock
 *     attend (condition)         the client's own thread waits for its turn
 *
 * Must not know messages. */
#include <poll.h>

#include "client/src/client.h"
#include "shared/base/clock.h"
#include "shared/base/math.h"

enum {
    PARK_MS = 2,          /* at most so long nobody looks at what came */
    LED_MS = 20,          /* after the last leader the thread is parked no longer than this */
    LONG_MS = 1000,       /* of one sleep behind a leader that stays */
    SHORT_SLEEP_MS = 1000 /* of a leader */
};

static void timed_wait(pthread_cond_t *condition, pthread_mutex_t *lock, int64_t ms)
{
    int64_t at_ms = mq_clock_mono_ms() + ms;
    struct timespec until = {.tv_sec = at_ms / 1000, .tv_nsec = (long)(at_ms % 1000) * 1000000};
    (void)pthread_cond_timedwait(condition, lock, &until);
}

bool mq_lead_park(maasq_client *client, uint64_t *leads)
{
    pthread_mutex_lock(&client->lock);
    bool is_recent = client->led_ms != 0 && mq_clock_mono_ms() - client->led_ms < LED_MS;
    bool may_park = client->callbacks == 0 && !client->is_closing;
    bool is_parked = may_park && (client->is_led || is_recent);
    if (is_parked) {
        client->is_parked_long = client->is_led && client->leads == *leads;
        *leads = client->leads;
        timed_wait(&client->attend, &client->lock, client->is_parked_long ? LONG_MS : PARK_MS);
        client->is_parked_long = false;
    }
    pthread_mutex_unlock(&client->lock);
    return is_parked;
}

bool mq_lead_is_taken(maasq_client *client)
{
    pthread_mutex_lock(&client->lock);
    bool is_taken = client->is_led && client->callbacks == 0;
    pthread_mutex_unlock(&client->lock);
    return is_taken;
}

void mq_lead_attend(maasq_client *client)
{
    maasq_client *primary = client->primary == NULL ? client : client->primary;
    (void)pthread_cond_signal(&primary->attend);
}

bool mq_lead_may(const maasq_client *client)
{
    return !client->is_own_loop && client->primary == NULL && client->shard_count <= 1 &&
           client->callbacks == 0 && !client->is_led && !client->is_closing;
}

void mq_lead(maasq_client *client, int64_t deadline_ms)
{
    client->is_led = true;
    client->leads++;
    struct pollfd p = {client->io.epoll_fd, POLLIN, 0};
    pthread_mutex_unlock(&client->lock);
    int64_t left_ms = mq_max_i64(deadline_ms - mq_clock_mono_ms(), 0);
    (void)poll(&p, 1, (int)mq_min_i64(left_ms, SHORT_SLEEP_MS));
    pthread_mutex_lock(&client->lock);
    if (client->callbacks == 0 && !client->is_closing) {
        if (mq_io_turn(client)) {
            mq_client_wake(client);
        }
        mq_job_reap(client);
    }
    client->is_led = false;
    client->led_ms = mq_clock_mono_ms();
    if (client->is_parked_long || client->callbacks > 0) {
        mq_lead_attend(client);
    }
    (void)pthread_cond_broadcast(&client->changed); /* another one may lead now, or is done */
}
