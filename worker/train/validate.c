/* Scoring the rows held out at the end of an epoch; see validation.h. Knows no other member. */
#include <math.h>

#include "worker/train/train.h"

static mq_code load_row(mq_trainer *t, uint64_t i, float *x, mq_label *y, mq_error *err)
{
    mq_dataset *data = t->held != NULL ? t->held : t->data;
    uint64_t row = t->held != NULL ? i : mq_permutation_at(&t->split, i);
    bool is_value = mq_loss_of(t->m.recipe.loss.loss)->is_value;
    return mq_dataset_row(data, row, x, is_value ? NULL : &y->class_number,
                          is_value ? &y->value : NULL, err);
}

/* Rows first .. end-1, so many at a time as divide their number. */
static mq_code score(mq_trainer *t, uint64_t first, uint64_t end, uint32_t rows, mq_sums *sums,
                     mq_error *err)
{
    mq_net_options options = {.rows = rows,
                              .loss = t->m.recipe.loss,
                              .stage_count = 1,
                              .shards = 1,
                              .freeze = &t->m.freeze,
                              .is_serving = true,
                              .memory_bytes_max = t->arena.limit_bytes * 4};
    mq_net *net;
    size_t width = mq_dataset_facts_of(t->data)->x_count;
    mq_code code = mq_net_new(&net, t->model, &options, err);
    for (uint64_t at = first; at < end && code == MQ_OK; at += rows) {
        mq_net_stats stats = {0};
        code = t->host->ops->check(t->host, err);
        for (uint32_t i = 0; i < rows && code == MQ_OK; i++) {
            code = load_row(t, at + i, t->x + i * width, &t->y[i], err);
        }
        code = code != MQ_OK ? code : mq_net_score(net, t->state.weights, t->x, t->y, &stats, err);
        sums->loss += stats.loss_sum;
        sums->correct += (uint64_t)stats.correct;
        sums->rows += rows;
    }
    mq_net_free(net);
    return code;
}

mq_code mq_trainer_validate(mq_trainer *t, mq_error *err)
{
    mq_record *r = &t->state.record;
    bool is_end = r->step % t->plan.steps_per_epoch == 0 || r->step == t->plan.steps;
    if (!mq_validation_is_on(&t->m.validation) || !is_end) {
        return MQ_OK;
    }
    uint64_t rows = t->held != NULL ? mq_dataset_facts_of(t->held)->rows : t->plan.held_rows;
    uint64_t whole = rows - rows % t->shard_rows;
    mq_sums sums = {0};
    mq_code code = whole == 0 ? MQ_OK : score(t, 0, whole, t->shard_rows, &sums, err);
    if (code == MQ_OK && whole < rows) {
        code = score(t, whole, rows, (uint32_t)(rows - whole), &sums, err);
    }
    if (code != MQ_OK) {
        return mq_wrap(err, "validation after step %llu", (unsigned long long)r->step);
    }
    double loss = sums.loss / (double)rows, accuracy = (double)sums.correct / (double)rows;
    if (!isfinite(loss)) {
        return mq_fail(err, MQ_E_NUMERIC,
                       "validation loss is not finite after step %llu: training diverged; take a "
                       "smaller lr or check the data",
                       (unsigned long long)r->step);
    }
    if (mq_validated_take(&r->validated, &t->m.validation, r->step, loss, accuracy)) {
        mq_state_keep_best(&t->state);
    }
    return MQ_OK;
}
