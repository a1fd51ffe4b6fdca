/* What the first member tells: progress, log lines, checkpoints. Nothing here can change a bit of
 * the result: a checkpoint is a snapshot, taken when the clock says so. */
#include <stdarg.h>
#include <stdio.h>

#include "shared/base/clock.h"
#include "worker/train/train.h"

enum {
    PROGRESS_BYTES_MAX = 4096,
    LOG_BYTES_MAX = 1024,
    CHECKPOINT_BYTES_EXTRA = 65536,
    COST_SHARE = 20
};

void mq_trainer_log(const mq_trainer *t, const char *fmt, ...)
{
    char line[LOG_BYTES_MAX];
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (len > 0) {
        size_t n = (size_t)len < sizeof line ? (size_t)len : sizeof line - 1;
        t->host->ops->log(t->host, mq_span_of(line, n));
    }
}

void mq_trainer_report_begin(mq_trainer *t)
{
    int64_t now = mq_clock_mono_ms();
    t->reporter = (mq_reporter){
        .cost_ms = t->reporter.cost_ms,
        .progress_ms = now,
        .checkpoint_ms = now,
        .checkpoint_step = t->state.record.step,
        .rate_step = t->state.record.step,
    };
}

static void write_progress(const mq_trainer *t, uint32_t workers, mq_buf *out)
{
    const mq_record *r = &t->state.record;
    const mq_reporter *rep = &t->reporter;
    double rows = rep->sums.rows > 0 ? (double)rep->sums.rows : 1;
    double left = (double)(t->plan.steps - r->step) * (double)t->m.batch;
    double epoch = (double)r->step / (double)t->plan.steps_per_epoch;
    mq_buf_printf(
        out,
        "{\"stage\":\"train\",\"model\":\"%s\",\"step\":%llu,\"steps\":%llu,\"epoch\":%.2f,"
        "\"epochs\":%u,\"loss\":%.6g,\"accuracy\":%.5g,\"lr\":%.6g,\"samples_per_s\":%.0f,"
        "\"workers\":%u,\"remaining_s\":%.1f,",
        t->m.model, (unsigned long long)r->step, (unsigned long long)t->plan.steps, epoch,
        t->m.epochs, rep->sums.loss / rows, (double)rep->sums.correct / rows,
        (double)mq_plan_rate(&t->plan, &t->m, r->step > 0 ? r->step - 1 : 0), rep->rate, workers,
        rep->rate > 0 ? left / rep->rate : 0.0);
    if (r->validated.best_step > 0) {
        mq_buf_printf(out, "\"val_loss\":%.6g,\"val_accuracy\":%.5g,\"best_step\":%llu,",
                      r->validated.loss, r->validated.accuracy,
                      (unsigned long long)r->validated.best_step);
    }
    mq_buf_add_str(out, "\"curve\":");
    mq_trainer_curve(t, out);
    mq_buf_add_str(out, "}");
}

void mq_trainer_report(mq_trainer *t, uint32_t workers, const mq_sums *step)
{
    mq_reporter *rep = &t->reporter;
    const mq_record *r = &t->state.record;
    rep->sums.loss += step->loss;
    rep->sums.correct += step->correct;
    rep->sums.rows += step->rows;
    int64_t now = mq_clock_mono_ms(), past_ms = now - rep->progress_ms;
    if (past_ms < (int64_t)t->m.progress_ms && !mq_state_is_over(&t->state, &t->plan)) {
        return;
    }
    if (past_ms > 0) {
        double rate =
            (double)(r->step - rep->rate_step) * (double)t->m.batch * 1000.0 / (double)past_ms;
        rep->rate = rep->rate > 0 ? 0.7 * rep->rate + 0.3 * rate : rate;
    }
    mq_buf json;
    mq_buf_init(&json, PROGRESS_BYTES_MAX);
    write_progress(t, workers, &json);
    if (!json.is_full) {
        t->host->ops->progress(t->host, mq_buf_span(&json));
    }
    mq_buf_release(&json);
    rep->progress_ms = now;
    rep->rate_step = r->step;
    rep->sums = (mq_sums){0};
}

/* Young's rule: the best interval is sqrt(2 x cost of a checkpoint x mean time between losses of
 * everything). At 5 ms a checkpoint and one such loss in seven minutes that is 2 s, the default of
 * run.commit_ms; survivors make rarer than that what a checkpoint is needed for. Where a checkpoint
 * costs more, it may take a twentieth of the time. */
static int64_t interval_ms(const mq_trainer *t)
{
    int64_t least_ms = COST_SHARE * t->reporter.cost_ms;
    return least_ms > (int64_t)t->m.commit_ms ? least_ms : (int64_t)t->m.commit_ms;
}

bool mq_trainer_is_checkpoint_time(const mq_trainer *t)
{
    return mq_clock_mono_ms() - t->reporter.checkpoint_ms >= interval_ms(t);
}

/* An epoch's end is a good place, unless the last checkpoint is quite fresh. */
bool mq_trainer_is_checkpoint_due(const mq_trainer *t)
{
    uint64_t step = t->state.record.step;
    if (step == t->reporter.checkpoint_step) {
        return false;
    }
    int64_t past_ms = mq_clock_mono_ms() - t->reporter.checkpoint_ms;
    bool is_epoch_end = step % t->plan.steps_per_epoch == 0;
    return mq_state_is_over(&t->state, &t->plan) || mq_trainer_is_checkpoint_time(t) ||
           (is_epoch_end && past_ms >= interval_ms(t) / 4);
}

mq_code mq_trainer_checkpoint(mq_trainer *t, uint64_t epoch, mq_error *err)
{
    mq_host *host = t->host;
    const mq_record *r = &t->state.record;
    t->reporter.checkpoint_ms = mq_clock_mono_ms();
    t->reporter.checkpoint_step = r->step;
    mq_buf bytes;
    char chain[MQ_SHA256_HEX], blob[MQ_SHA256_HEX], meta[512];
    mq_buf_init(&bytes,
                t->state.vector_count * t->state.count * sizeof(float) + CHECKPOINT_BYTES_EXTRA);
    mq_code code = mq_state_save(&t->state, &t->m, &bytes, err);
    code = code != MQ_OK ? code : host->ops->blob_put(host, mq_buf_span(&bytes), blob, err);
    mq_buf_release(&bytes);
    t->reporter.cost_ms = mq_clock_mono_ms() - t->reporter.checkpoint_ms;
    if (code != MQ_OK) {
        return mq_wrap(err, "checkpoint of step %llu", (unsigned long long)r->step);
    }
    mq_state_chain_hex(&t->state, &t->plan, chain);
    memcpy(t->checkpoint_blob, blob, sizeof blob);
    t->checkpoint_step = r->step;
    int len = snprintf(
        meta, sizeof meta, "{\"step\":%llu,\"steps\":%llu,\"manifest\":\"%s\",\"chain\":\"%s\"}",
        (unsigned long long)r->step, (unsigned long long)t->plan.steps, t->m.hash, chain);
    code = host->ops->checkpoint(host, epoch, r->step, chain, blob, mq_span_of(meta, (size_t)len),
                                 err);
    /* A stale or late checkpoint is no harm: the next roster makes its own. */
    return code == MQ_E_CANCELLED || code == MQ_E_IO ? code : MQ_OK;
}
