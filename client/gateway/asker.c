/* The asker threads; see asker.h. Knows exchanges, no HTTP. */
#include <stdlib.h>

#include "client/gateway/asker.h"

struct mq_asker {
    pthread_t threads[MQ_GW_ASKERS];
    int thread_count;
    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t change;
    mq_exchange *queue[MQ_GW_ASKS_MAX]; /* ring */
    uint32_t first, count;
    bool is_stopping;
};

static void *serve(void *arg);

mq_code mq_asker_new(mq_asker **out, mq_error *err)
{
    *out = NULL;
    mq_asker *asker = calloc(1, sizeof *asker);
    if (asker == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for the asker");
    }
    pthread_mutex_init(&asker->lock, NULL);
    pthread_cond_init(&asker->change, NULL);
    for (int i = 0; i < MQ_GW_ASKERS; i++) {
        if (pthread_create(&asker->threads[i], NULL, serve, asker) != 0) {
            mq_asker_free(asker);
            return mq_fail(err, MQ_E_LIMIT, "no thread for the asker");
        }
        asker->thread_count++;
    }
    *out = asker;
    return MQ_OK;
}

bool mq_asker_add(mq_asker *asker, mq_exchange *exchange)
{
    pthread_mutex_lock(&asker->lock);
    bool fits = asker->count < MQ_GW_ASKS_MAX && !asker->is_stopping;
    if (fits) {
        asker->queue[(asker->first + asker->count) % MQ_GW_ASKS_MAX] = exchange;
        asker->count++;
        pthread_cond_signal(&asker->change);
    }
    pthread_mutex_unlock(&asker->lock);
    return fits;
}

void mq_asker_stop(mq_asker *asker)
{
    if (asker == NULL) {
        return;
    }
    pthread_mutex_lock(&asker->lock);
    asker->is_stopping = true;
    pthread_cond_broadcast(&asker->change);
    pthread_mutex_unlock(&asker->lock);
    for (int i = 0; i < asker->thread_count; i++) {
        pthread_join(asker->threads[i], NULL);
    }
    asker->thread_count = 0;
}

void mq_asker_free(mq_asker *asker)
{
    if (asker == NULL) {
        return;
    }
    mq_asker_stop(asker);
    pthread_cond_destroy(&asker->change);
    pthread_mutex_destroy(&asker->lock);
    free(asker);
}

static void *serve(void *arg)
{
    mq_asker *asker = arg;
    pthread_mutex_lock(&asker->lock);
    for (;;) {
        while (asker->count == 0 && !asker->is_stopping) {
            pthread_cond_wait(&asker->change, &asker->lock);
        }
        if (asker->count == 0) {
            break;
        }
        mq_exchange *exchange = asker->queue[asker->first];
        asker->first = (asker->first + 1) % MQ_GW_ASKS_MAX;
        asker->count--;
        bool is_stopping = asker->is_stopping;
        pthread_mutex_unlock(&asker->lock);
        if (is_stopping) {
            exchange->next = NULL;
            mq_answer_code(exchange, MQ_E_CANCELLED, "the gateway is stopping");
        } else {
            exchange->task(exchange);
        }
        mq_exchange_wake(exchange);
        pthread_mutex_lock(&asker->lock);
    }
    pthread_mutex_unlock(&asker->lock);
    return NULL;
}
