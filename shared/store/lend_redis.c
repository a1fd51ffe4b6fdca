/* Asks for lent permits over the connection of the table of brokers; see lend.h. Knows the words of
 * lua/lend.lua, decides nothing. */
#include <stdio.h>
#include <stdlib.h>

#include "shared/base/assert.h"
#include "shared/store/cluster.h"
#include "shared/store/conn.h"
#include "shared/store/keys.h"
#include "shared/store/lend.h"

enum { HEAD_WORDS = 3, LINE_WORDS = 13, WORD_BYTES = 24, LINE_ANSWERS = 5 };
enum { WORDS_MAX = HEAD_WORDS + 1 + MQ_LEND_ASKS_MAX + 2 + MQ_LEND_ASKS_MAX * LINE_WORDS };

typedef struct call {
    mq_lend_on_grants *on_grants;
    void *arg;
    uint32_t count;
} call;

/* The words of one command; texts are the caller's or in `numbers`. */
typedef struct words {
    const char *argv[WORDS_MAX];
    size_t lens[WORDS_MAX];
    int argc, used;
    char numbers[MQ_LEND_ASKS_MAX * LINE_WORDS + 4][WORD_BYTES];
    char owners[MQ_LEND_ASKS_MAX][MQ_KEY_BYTES];
} words;

static void add(words *w, const char *text)
{
    MQ_ASSERT(w->argc < WORDS_MAX);
    w->argv[w->argc] = text;
    w->lens[w->argc++] = strlen(text);
}

static void add_number(words *w, uint64_t n)
{
    char *text = w->numbers[w->used++];
    snprintf(text, WORD_BYTES, "%llu", (unsigned long long)n);
    add(w, text);
}

static void on_reply(void *arg, const redisReply *reply)
{
    call *c = arg;
    mq_lend_grant grants[MQ_LEND_ASKS_MAX];
    bool is_right = reply != NULL && reply->type == REDIS_REPLY_ARRAY &&
                    reply->elements == (size_t)c->count * LINE_ANSWERS;
    for (size_t i = 0; is_right && i < reply->elements; i++) {
        is_right =
            reply->element[i]->type == REDIS_REPLY_INTEGER && reply->element[i]->integer >= 0;
    }
    for (uint32_t i = 0; is_right && i < c->count; i++) {
        redisReply *const *at = reply->element + (size_t)i * LINE_ANSWERS;
        grants[i] = (mq_lend_grant){.is_good = at[0]->integer == 1,
                                    .held = (uint64_t)at[1]->integer,
                                    .share = (uint64_t)at[2]->integer,
                                    .tokens = (uint64_t)at[3]->integer,
                                    .wait_ms = (uint64_t)at[4]->integer};
    }
    c->on_grants(c->arg, is_right ? grants : NULL, c->count);
    free(c);
}

bool mq_lend_send(mq_cluster *cluster, uint32_t shards, const mq_lend_line *lines, uint32_t count,
                  mq_lend_on_grants *on_grants, void *arg)
{
    static words w; /* one thread */
    MQ_ASSERT(count > 0 && count <= MQ_LEND_ASKS_MAX);
    call *c = malloc(sizeof *c);
    if (c == NULL) {
        return false;
    }
    *c = (call){on_grants, arg, count};
    w.argc = w.used = 0;
    add(&w, "FCALL");
    add(&w, "mq1_lend");
    add_number(&w, count + 1);
    add(&w, MQ_KEY_LEND);
    for (uint32_t i = 0; i < count; i++) {
        mq_keys keys;
        mq_keys_init(&keys, lines[i].ask.shard);
        memcpy(w.owners[i], keys.fixed[MQ_KEY_OWNER], MQ_KEY_BYTES);
        add(&w, w.owners[i]);
    }
    add_number(&w, shards);
    add_number(&w, 0);
    for (uint32_t i = 0; i < count; i++) {
        const mq_lend_ask *a = &lines[i].ask;
        const uint64_t numbers[] = {a->shard, a->epoch,     a->number, a->cap,  a->held, a->need,
                                    a->rate,  a->period_ms, a->burst,  a->have, a->back, a->want};
        add(&w, lines[i].name);
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) {
            add_number(&w, numbers[k]);
        }
    }
    if (!mq_cluster_is_connected(cluster) ||
        !mq_conn_send(mq_cluster_conn(cluster), on_reply, c, w.argc, w.argv, w.lens)) {
        free(c);
        return false;
    }
    return true;
}
