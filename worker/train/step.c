/* Data-parallel training: one step of a member's own shards, and the loop over steps. The bits of a
 * step depend on (state, manifest, step) only: shards are computed one by one on the same shapes
 * whoever holds them, and are added up by the fixed tree. */
#include <stdio.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "worker/train/train.h"

/* What one roster's steps need besides the trainer. */
typedef struct gang {
    mq_trainer *t;
    const mq_roster *roster;
    mq_link *link; /* NULL: alone */
    mq_exchange *exchange;
    mq_piece piece; /* all parameters */
    mq_shard_stats stats[MQ_TREE_SHARDS_MAX];
    mq_tree_view view; /* what the update adds up */
    mq_tree_scratch scratch;
    double *squares;     /* by parameter, for clip_norm */
    int64_t validate_ms; /* what the others may still be at, before the step */
} gang;

mq_code mq_trainer_check(mq_trainer *t, uint64_t epoch, mq_error *err)
{
    mq_code code = t->host->ops->check(t->host, err);
    if (code != MQ_OK || epoch == 0) {
        return code;
    }
    mq_roster now;
    t->host->ops->roster(t->host, &now);
    if (now.epoch != epoch) {
        return mq_fail(err, MQ_E_STALE, "roster %llu is replaced", (unsigned long long)epoch);
    }
    return MQ_OK;
}

mq_code mq_trainer_gather(mq_trainer *t, uint32_t shard, float *x, mq_label *y, mq_error *err)
{
    uint64_t step = t->state.record.step;
    uint32_t epoch = (uint32_t)(step / t->plan.steps_per_epoch);
    if (t->permutation.epoch != epoch) {
        mq_permutation_init(&t->permutation, (uint64_t)t->m.seed, epoch, t->plan.rows);
    }
    uint64_t base = step % t->plan.steps_per_epoch * t->m.batch + (uint64_t)shard * t->shard_rows;
    size_t width = mq_dataset_facts_of(t->data)->x_count;
    bool is_value = mq_loss_of(t->m.recipe.loss.loss)->is_value;
    for (uint32_t i = 0; i < t->shard_rows; i++) {
        uint64_t row = mq_permutation_at(&t->permutation, base + i);
        if (t->plan.held_rows > 0) {
            row = mq_permutation_at(&t->split, t->plan.held_rows + row);
        }
        mq_code code = mq_dataset_row(t->data, row, x == NULL ? t->x : x + i * width,
                                      y == NULL || is_value ? NULL : &y[i].class_number,
                                      y == NULL || !is_value ? NULL : &y[i].value, err);
        if (code != MQ_OK) {
            return code;
        }
        if (x != NULL && mq_augment_is_on(&t->m.augment)) {
            mq_augment_row(&t->m.augment, &mq_dataset_facts_of(t->data)->x_shape,
                           (uint64_t)t->m.seed, row, epoch, x + i * width, t->row);
        }
    }
    return MQ_OK;
}

static mq_code compute_shard(gang *g, uint32_t shard, float *leaf, mq_error *err)
{
    mq_trainer *t = g->t;
    mq_net_stats stats = {0};
    mq_code code = mq_trainer_gather(t, shard, t->x, t->y, err);
    mq_draw draw = {(uint64_t)t->m.seed, t->state.record.step, (uint64_t)shard * t->shard_rows};
    mq_net_draw(t->net, &draw);
    if (code == MQ_OK) {
        code = mq_net_step(t->net, t->state.weights, t->x, t->y, 1.0F / (float)t->m.batch, leaf,
                           &stats, err);
    }
    if (code != MQ_OK) {
        return mq_wrap(err, "step %llu, shard %u", (unsigned long long)t->state.record.step + 1,
                       shard);
    }
    mq_shard_stats sums = {stats.loss_sum, (uint64_t)stats.correct};
    g->exchange->ops->done(g->exchange, t->state.record.step, shard, &sums);
    return MQ_OK;
}

mq_sums mq_trainer_sums(const mq_trainer *t, const mq_shard_stats *stats)
{
    mq_sums sums = {.rows = t->m.batch};
    for (uint32_t s = 0; s < t->m.shards; s++) {
        sums.loss += stats[s].loss;
        sums.correct += stats[s].correct;
    }
    return sums;
}

static void update(gang *g)
{
    mq_state *state = &g->t->state;
    const mq_recipe *r = &g->t->m.recipe;
    float scale = 1;
    if (r->clip_norm > 0) {
        mq_state_squares(state, r, &g->view, &g->piece, 1, &g->scratch, g->squares);
        scale = mq_state_clip(r, g->squares, state->param_count);
    }
    mq_state_update(state, r, &g->t->plan, &g->view, scale, &g->piece, 1, &g->scratch);
}

/* Own shards, then everybody's sum, then the update. The state moves to the next step or stays. */
static mq_code take_step(gang *g, mq_sums *sums, mq_error *err)
{
    mq_trainer *t = g->t;
    mq_exchange *x = g->exchange;
    uint64_t step = t->state.record.step;
    int64_t begin_ms = mq_clock_mono_ms();
    uint32_t shard;
    float *leaf;
    mq_code code = x->ops->begin(x, step, err);
    while (code == MQ_OK && x->ops->next(x, step, &shard, &leaf)) {
        code = compute_shard(g, shard, leaf, err);
    }
    if (g->link != NULL) {
        /* The others have as much to do as we had: ten times that is a hang or a straggler. */
        int64_t patience_ms = 10 * (mq_clock_mono_ms() - begin_ms + g->validate_ms);
        g->link->patience_ms =
            patience_ms > MQ_LINK_LEASE_MS ? patience_ms : (int64_t)MQ_LINK_LEASE_MS;
    }
    code = code != MQ_OK ? code : x->ops->sum(x, step, g->stats, &g->view, err);
    if (code != MQ_OK) {
        return code;
    }
    update(g);
    *sums = mq_trainer_sums(t, g->stats);
    code = mq_state_count(&t->state, &t->plan, sums, err);
    if (code == MQ_OK && mq_state_is_link(&t->state, &t->plan)) {
        mq_state_link(&t->state);
    }
    begin_ms = mq_clock_mono_ms();
    code = code != MQ_OK ? code : mq_trainer_validate(t, err);
    g->validate_ms = mq_clock_mono_ms() - begin_ms;
    return code;
}

static mq_code run_steps(gang *g, mq_error *err)
{
    mq_trainer *t = g->t;
    bool is_first = g->roster->self == 0;
    mq_code code = MQ_OK;
    while (!mq_state_is_over(&t->state, &t->plan)) {
        mq_sums sums;
        code = mq_trainer_check(t, g->roster->epoch, err);
        code = code != MQ_OK ? code : take_step(g, &sums, err);
        if (code != MQ_OK) {
            return code;
        }
        if (is_first) {
            mq_trainer_report(t, g->roster->count, &sums);
        }
        if (is_first && mq_trainer_is_checkpoint_due(t)) {
            code = mq_trainer_checkpoint(t, g->roster->epoch, err);
        }
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

mq_code mq_trainer_run_gang(mq_trainer *t, const mq_roster *roster, mq_link *link, mq_error *err)
{
    MQ_ASSERT(t->is_whole);
    gang *g = mq_arena_new(&t->roster, gang, 1);
    double *squares = mq_arena_new(&t->roster, double, t->state.param_count);
    if (g == NULL || squares == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "memory: no room for a gang");
    }
    *g = (gang){
        .t = t, .roster = roster, .link = link, .piece = {0, t->state.count}, .squares = squares};
    if (mq_state_is_over(&t->state, &t->plan)) {
        return MQ_OK;
    }
    mq_code code = mq_exchange_open(&g->exchange, link, t->m.transport, t->m.shards, &g->piece,
                                    &t->roster, err);
    if (code == MQ_OK) {
        mq_trainer_report_begin(t);
        code = run_steps(g, err);
    }
    if (g->exchange != NULL) {
        g->exchange->ops->release(g->exchange);
    }
    return code;
}
