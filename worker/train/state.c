/* The state of a run and how one step changes it; see state.h. Knows no members and no transport.
 */
#include "worker/train/state.h"

#include <math.h>
#include <stdio.h>

#include "shared/base/assert.h"
#include "shared/base/math.h"

_Static_assert(sizeof(mq_record) == 8 + 32 + 3 * 24 + 8 + MQ_CURVE_MAX * 24 + 56,
               "a record travels as bytes and has no padding");

#define STEPS_MAX (UINT64_C(1) << 31)

mq_code mq_plan_make(mq_plan *plan, const mq_manifest *m, uint64_t rows, mq_error *err)
{
    uint64_t held = mq_validation_held(&m->validation, rows);
    rows -= held;
    *plan = (mq_plan){.rows = rows, .held_rows = held, .steps_per_epoch = rows / m->batch};
    mq_code code = mq_manifest_steps(m, rows, &plan->steps, err);
    if (code != MQ_OK) {
        return code;
    }
    if (plan->steps >= STEPS_MAX) {
        return mq_fail(err, MQ_E_LIMIT,
                       "epochs: %llu steps in all; the limit is 2^31: take fewer or set max_steps",
                       (unsigned long long)plan->steps);
    }
    plan->point_steps = (plan->steps + MQ_CURVE_MAX - 1) / MQ_CURVE_MAX;
    return MQ_OK;
}

float mq_plan_rate(const mq_plan *plan, const mq_manifest *m, uint64_t step)
{
    return mq_recipe_step(&m->recipe, step, plan->steps, plan->steps_per_epoch).lr;
}

mq_code mq_state_init(mq_state *state, mq_arena *arena, mq_optimizer optimizer, bool keeps_best,
                      const mq_state_param *params, size_t param_count, mq_error *err)
{
    const mq_piece *last = &params[param_count - 1].at;
    *state = (mq_state){.count = last->first + last->count,
                        .vector_count = 1 + mq_optimizer_of(optimizer)->vectors + keeps_best,
                        .moment_count = mq_optimizer_of(optimizer)->vectors,
                        .params = params,
                        .param_count = param_count};
    for (uint32_t v = 0; v < state->vector_count; v++) {
        state->vectors[v] = mq_arena_new(arena, float, mq_align_up(state->count, 16));
        if (state->vectors[v] == NULL) {
            return mq_fail(err, MQ_E_LIMIT,
                           "memory: %u vectors of %zu parameters (weights, and what the optimizer "
                           "keeps) do not fit in the job's limit of %zu bytes",
                           state->vector_count, state->count, arena->limit_bytes);
        }
    }
    state->weights = state->vectors[0];
    state->best = keeps_best ? state->vectors[state->vector_count - 1] : NULL;
    return MQ_OK;
}

void mq_state_keep_best(mq_state *state)
{
    if (state->best != NULL) {
        memcpy(state->best, state->weights, state->count * sizeof(float));
    }
}

bool mq_state_is_over(const mq_state *state, const mq_plan *plan)
{
    return state->record.step >= plan->steps || state->record.validated.is_stopped != 0;
}

static void digest_of_hex(const char *hex, uint8_t out[MQ_SHA256_BYTES])
{
    for (size_t i = 0; i < MQ_SHA256_BYTES; i++) {
        unsigned byte = 0;
        for (size_t j = 0; j < 2; j++) {
            char c = hex[2 * i + j];
            byte = byte * 16 + (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
        }
        out[i] = (uint8_t)byte;
    }
}

void mq_state_begin(mq_state *state, const mq_manifest *m)
{
    MQ_ASSERT(mq_sha256_is_hex(mq_str(m->family)));
    state->record = (mq_record){0};
    for (uint32_t v = 1; v < state->vector_count; v++) {
        memset(state->vectors[v], 0, state->count * sizeof(float));
    }
    digest_of_hex(m->family, state->record.chain);
}

static void add_sums(mq_sums *to, const mq_sums *from)
{
    to->loss += from->loss;
    to->correct += from->correct;
    to->rows += from->rows;
}

static void end_point(mq_record *r)
{
    if (r->point.rows == 0 || r->curve_count == MQ_CURVE_MAX) {
        return;
    }
    double rows = (double)r->point.rows;
    r->curve[r->curve_count++] =
        (mq_curve_point){r->step, r->point.loss / rows, (double)r->point.correct / rows};
    r->point = (mq_sums){0};
}

mq_code mq_state_count(mq_state *state, const mq_plan *plan, const mq_sums *step, mq_error *err)
{
    mq_record *r = &state->record;
    if (!isfinite(step->loss)) {
        return mq_fail(err, MQ_E_NUMERIC,
                       "loss is not finite at step %llu of %llu (epoch %llu): training diverged; "
                       "take a smaller lr or check the data",
                       (unsigned long long)r->step + 1, (unsigned long long)plan->steps,
                       (unsigned long long)(r->step / plan->steps_per_epoch) + 1);
    }
    add_sums(&r->epoch, step);
    add_sums(&r->point, step);
    r->step++;
    bool is_end = r->step == plan->steps;
    if (r->step % plan->point_steps == 0 || is_end) {
        end_point(r);
    }
    if (r->step % plan->steps_per_epoch == 0 || (is_end && r->epoch_before.rows == 0)) {
        r->epoch_before = r->epoch;
        r->epoch = (mq_sums){0};
    }
    return MQ_OK;
}

bool mq_state_is_link(const mq_state *state, const mq_plan *plan)
{
    uint64_t step = state->record.step;
    return step > 0 && (step % plan->steps_per_epoch == 0 || step == plan->steps);
}

static void next_link(const mq_state *state, uint8_t out[MQ_SHA256_BYTES])
{
    uint8_t weights[MQ_SHA256_BYTES], step[8];
    mq_sha256_of(mq_span_of(state->weights, state->count * sizeof(float)), weights);
    for (size_t i = 0; i < 8; i++) {
        step[i] = (uint8_t)(state->record.step >> (8 * i));
    }
    mq_sha256 *hash = mq_sha256_new();
    mq_sha256_add(hash, mq_span_of(state->record.chain, MQ_SHA256_BYTES));
    mq_sha256_add(hash, mq_span_of(step, sizeof step));
    mq_sha256_add(hash, mq_span_of(weights, sizeof weights));
    mq_sha256_end(hash, out);
}

void mq_state_link(mq_state *state)
{
    uint8_t link[MQ_SHA256_BYTES];
    next_link(state, link);
    memcpy(state->record.chain, link, sizeof link);
}

void mq_state_chain_hex(const mq_state *state, const mq_plan *plan, char out[MQ_SHA256_HEX])
{
    uint8_t link[MQ_SHA256_BYTES];
    if (mq_state_is_link(state, plan)) {
        memcpy(link, state->record.chain, sizeof link);
    } else {
        next_link(state, link);
    }
    mq_sha256_hex(link, out);
}

void mq_state_weights_hex(const mq_state *state, char out[MQ_SHA256_HEX])
{
    mq_sha256_hex_of(mq_span_of(state->weights, state->count * sizeof(float)), out);
}

void mq_state_digest(const mq_state *state, uint8_t out[MQ_SHA256_BYTES])
{
    mq_sha256 *hash = mq_sha256_new();
    mq_sha256_add(hash, mq_span_of(&state->record.step, sizeof state->record.step));
    mq_sha256_add(hash, mq_span_of(state->record.chain, MQ_SHA256_BYTES));
    for (uint32_t v = 0; v < state->vector_count; v++) {
        mq_sha256_add(hash, mq_span_of(state->vectors[v], state->count * sizeof(float)));
    }
    mq_sha256_end(hash, out);
}
