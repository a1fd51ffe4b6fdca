/* One step's change of the weights: the sum of the shards' gradients, clipped, through the
 * optimizer; see state.h. Works in blocks, so that nothing leaves the first cache level twice. */
#include <math.h>

#include "shared/base/math.h"
#include "worker/train/state.h"

/* The batch's gradient from `at`, clipped and scaled. `own`: room for a block. */
static const float *gradient(const mq_recipe *r, const mq_tree_view *sum, float scale, size_t at,
                             size_t count, mq_tree_scratch *scratch, float *own)
{
    const float *g = mq_tree_block(sum->nodes, sum->count, at, count, scratch);
    float most = (float)r->clip_value;
    if (most == 0 && scale == 1) {
        return g;
    }
    for (size_t i = 0; i < count; i++) {
        float x = g[i];
        if (most > 0) {
            x = x > most ? most : x < -most ? -most : x;
        }
        own[i] = x * scale;
    }
    return own;
}

/* Is the parameter, which is never cut, among the pieces? Both ascend; *at goes along. */
static bool is_in(const mq_piece *param, const mq_piece *pieces, size_t count, size_t *at)
{
    while (*at < count && pieces[*at].first + pieces[*at].count <= param->first) {
        ++*at;
    }
    return *at < count && pieces[*at].first <= param->first;
}

void mq_state_squares(const mq_state *state, const mq_recipe *r, const mq_tree_view *sum,
                      const mq_piece *pieces, size_t piece_count, mq_tree_scratch *scratch,
                      double *squares)
{
    float own[MQ_TREE_BLOCK];
    size_t piece = 0;
    for (size_t p = 0; p < state->param_count; p++) {
        const mq_piece *param = &state->params[p];
        squares[p] = 0;
        if (!is_in(param, pieces, piece_count, &piece)) {
            continue;
        }
        for (size_t done = 0; done < param->count; done += MQ_TREE_BLOCK) {
            size_t count = mq_min_size(MQ_TREE_BLOCK, param->count - done);
            const float *g = gradient(r, sum, 1, param->first + done, count, scratch, own);
            squares[p] += mq_squares(g, count);
        }
    }
}

float mq_state_clip(const mq_recipe *r, const double *squares, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += squares[i];
    }
    double norm = sqrt(sum);
    return norm > r->clip_norm ? (float)(r->clip_norm / norm) : 1;
}

/* One parameter by LAMB, whose factor needs two norms over all of it. */
static void update_lamb(mq_state *state, mq_opt_step step, const mq_recipe *r,
                        const mq_tree_view *sum, float scale, const mq_piece *param,
                        mq_tree_scratch *scratch)
{
    float own[MQ_TREE_BLOCK];
    mq_opt_squares squares = {0};
    for (int pass = 0; pass < 2; pass++) {
        for (size_t done = 0; done < param->count; done += MQ_TREE_BLOCK) {
            size_t at = param->first + done,
                   count = mq_min_size(MQ_TREE_BLOCK, param->count - done);
            float *const vectors[2] = {state->vectors[1] + at, state->vectors[2] + at};
            if (pass == 0) {
                const float *g = gradient(r, sum, scale, at, count, scratch, own);
                mq_optimizer_norms(&step, g, state->weights + at, vectors, count, &squares);
            } else {
                mq_optimizer_block(&step, NULL, state->weights + at, vectors, count);
            }
        }
        bool has_norms = squares.w > 0 && squares.r > 0;
        step.trust = has_norms ? (float)(sqrt(squares.w) / sqrt(squares.r)) : 1;
    }
}

void mq_state_update(mq_state *state, const mq_recipe *r, const mq_plan *plan,
                     const mq_tree_view *sum, float scale, const mq_piece *pieces,
                     size_t piece_count, mq_tree_scratch *scratch)
{
    mq_opt_step step = mq_recipe_step(r, state->record.step, plan->steps, plan->steps_per_epoch);
    float own[MQ_TREE_BLOCK];
    size_t piece = 0;
    for (size_t p = 0; step.optimizer == MQ_OPTIMIZER_LAMB && p < state->param_count; p++) {
        if (is_in(&state->params[p], pieces, piece_count, &piece)) {
            update_lamb(state, step, r, sum, scale, &state->params[p], scratch);
        }
    }
    for (size_t p = 0; step.optimizer != MQ_OPTIMIZER_LAMB && p < piece_count; p++) {
        size_t end = pieces[p].first + pieces[p].count;
        for (size_t at = pieces[p].first; at < end; at += MQ_TREE_BLOCK) {
            size_t count = mq_min_size(MQ_TREE_BLOCK, end - at);
            const float *g = gradient(r, sum, scale, at, count, scratch, own);
            float *vectors[MQ_OPTIMIZER_VECTORS_MAX] = {NULL};
            for (uint32_t v = 1; v < state->vector_count; v++) {
                vectors[v - 1] = state->vectors[v] + at;
            }
            mq_optimizer_block(&step, g, state->weights + at, vectors, count);
        }
    }
}
