/* One step's change of the weights: the sum of the shards' gradients, clipped, through the
 * optimizer; see state.h. Works in blocks, so that nothing leaves the first cache level twice. */
#include <math.h>
#include <string.h>

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
        const mq_piece *param = &state->params[p].at;
        squares[p] = 0;
        if (!is_in(param, pieces, piece_count, &piece) || state->params[p].follows) {
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

/* One block through the optimizer, or LAMB's pass over it that finds the norms. */
static void update_block(mq_state *state, const mq_opt_step *step, const float *g, size_t at,
                         size_t count, mq_opt_squares *norms)
{
    float *vectors[MQ_OPTIMIZER_VECTORS_MAX] = {NULL};
    for (uint32_t v = 1; v <= state->moment_count; v++) {
        vectors[v - 1] = state->vectors[v] + at;
    }
    if (norms != NULL) {
        mq_optimizer_norms(step, g, state->weights + at, vectors, count, norms);
    } else {
        mq_optimizer_block(step, g, state->weights + at, vectors, count);
    }
}

/* One parameter; LAMB's factor needs two norms over all of it, so it goes over it twice. */
static void update_param(mq_state *state, mq_opt_step step, const mq_recipe *r,
                         const mq_tree_view *sum, float scale, const mq_state_param *param,
                         mq_tree_scratch *scratch)
{
    float own[MQ_TREE_BLOCK];
    mq_opt_squares norms = {0};
    int passes = step.optimizer == MQ_OPTIMIZER_LAMB ? 2 : 1;
    size_t end = param->at.first + param->at.count;
    for (int pass = 1; pass <= passes; pass++) {
        bool is_norms = pass < passes;
        for (size_t at = param->at.first; at < end; at += MQ_TREE_BLOCK) {
            size_t count = mq_min_size(MQ_TREE_BLOCK, end - at);
            const float *g = pass == 1 ? gradient(r, sum, scale, at, count, scratch, own) : NULL;
            update_block(state, &step, g, at, count, is_norms ? &norms : NULL);
        }
        if (is_norms && norms.w > 0 && norms.r > 0) {
            step.trust = (float)(sqrt(norms.w) / sqrt(norms.r));
        }
    }
}

/* A running moment: the shards' shares of its new value, added up. */
static void take_over(mq_state *state, const mq_tree_view *sum, const mq_piece *param,
                      mq_tree_scratch *scratch)
{
    size_t end = param->first + param->count;
    for (size_t at = param->first; at < end; at += MQ_TREE_BLOCK) {
        size_t count = mq_min_size(MQ_TREE_BLOCK, end - at);
        memcpy(state->weights + at, mq_tree_block(sum->nodes, sum->count, at, count, scratch),
               count * sizeof(float));
    }
}

void mq_state_update(mq_state *state, const mq_recipe *r, const mq_plan *plan,
                     const mq_tree_view *sum, float scale, const mq_piece *pieces,
                     size_t piece_count, mq_tree_scratch *scratch)
{
    mq_opt_step step = mq_recipe_step(r, state->record.step, plan->steps, plan->steps_per_epoch);
    size_t piece = 0;
    for (size_t p = 0; p < state->param_count; p++) {
        const mq_state_param *param = &state->params[p];
        if (!is_in(&param->at, pieces, piece_count, &piece)) {
            continue;
        }
        if (param->follows) {
            take_over(state, sum, &param->at, scratch);
        } else {
            update_param(state, step, r, sum, scale, param, scratch);
        }
    }
}
