/* Model-parallel training: each of the first members holds one stage of the net, micro-batches pass
 * through all of them. The micro-batches are the logical shards, each with the same kernels on the
 * same shapes as in a gang, and their gradients are added by the same tree: the same bits.
 *
 * One forward, one backward (Narayanan et al., PipeDream, SOSP 2019, the synchronous form): stage p
 * of P runs P-1-p micro-batches ahead, then alternates, so that it keeps at most P-p of them.
 *
 *     stage 0   F0 F1 F2 B0 F3 B1 .. B2 B3       activations go down, gradients come up;
 *     stage 1      F0 F1 B0 F2 B1 F3 B2 B3       the loss is computed in the last stage
 *     stage 2         F0 B0 F1 B1 F2 B2 F3 B3
 *
 * Before each step rank 0 says whether the stages are gathered after it (checkpoints and links of
 * the chain need the whole state) and which checkpoint is the newest. */
#include <stdio.h>

#include "shared/base/assert.h"
#include "shared/base/clock.h"
#include "worker/train/train.h"

enum { PIECES_MAX = 256 };

/* Rank 0 to all, before a step (and after the last one). */
typedef struct step_plan {
    uint64_t is_gather, is_over;
    uint64_t checkpoint_step;
    char checkpoint_blob[MQ_SHA256_HEX + 7]; /* padded to whole words */
} step_plan;

/* Which parts of the parameter vector a stage owns. Travels as bytes. */
typedef struct stage_pieces {
    uint64_t count;
    mq_piece pieces[PIECES_MAX];
} stage_pieces;

typedef struct pipeline {
    mq_trainer *t;
    mq_link *link;
    mq_net *net; /* of this stage */
    uint32_t stage, stages;
    uint32_t slots; /* micro-batches kept at a time */
    size_t in_floats, out_floats;
    float *in, *out, *dout, *din; /* at the borders */
    stage_pieces *all;            /* by stage; rank 0 has all, others their own */
    mq_fold fold;
    mq_shard_stats stats[MQ_TREE_SHARDS_MAX];
    double *squares; /* by parameter, for clip_norm; rank 0 has room for another's */
} pipeline;

static mq_code find_pieces(const mq_net *net, stage_pieces *out, mq_error *err)
{
    const mq_net_param *params;
    size_t count = mq_net_params(net, &params);
    *out = (stage_pieces){0};
    for (size_t i = 0; i < count; i++) {
        mq_piece *last = out->count > 0 ? &out->pieces[out->count - 1] : NULL;
        if (last != NULL && last->first + last->count == params[i].offset) {
            last->count += params[i].count;
        } else if (out->count < PIECES_MAX) {
            out->pieces[out->count++] = (mq_piece){params[i].offset, params[i].count};
        } else {
            return mq_fail(err, MQ_E_LIMIT,
                           "mode: a stage's parameters are scattered over more than %d places; "
                           "take fewer stages",
                           PIECES_MAX);
        }
    }
    return MQ_OK;
}

static mq_code compile_stage(pipeline *p, mq_error *err)
{
    mq_trainer *t = p->t;
    mq_net_options options = {
        .rows = t->shard_rows,
        .loss = t->m.recipe.loss,
        .stage = p->stage,
        .stage_count = p->stages,
        .shards = t->m.shards,
        .freeze = &t->m.freeze,
        .memory_bytes_max = t->arena.limit_bytes * 4,
    };
    mq_shape in, out;
    mq_code code = mq_net_new(&p->net, t->model, &options, err);
    if (code != MQ_OK) {
        return mq_wrap(err, "mode: stage %u of %u", p->stage, p->stages);
    }
    mq_net_input_shape(p->net, &in);
    mq_net_output_shape(p->net, &out);
    code = mq_shape_count(&in, &p->in_floats, err);
    code = code != MQ_OK ? code : mq_shape_count(&out, &p->out_floats, err);
    return code != MQ_OK ? code : find_pieces(p->net, &p->all[p->stage], err);
}

static mq_code make_buffers(pipeline *p, mq_error *err)
{
    mq_arena *arena = &p->t->roster;
    p->in = mq_arena_new(arena, float, p->in_floats);
    p->din = mq_arena_new(arena, float, p->in_floats);
    p->out = mq_arena_new(arena, float, p->out_floats);
    p->dout = mq_arena_new(arena, float, p->out_floats);
    p->squares = mq_arena_new(arena, double, 2 * p->t->state.param_count);
    if (p->squares == NULL || p->in == NULL || p->din == NULL || p->out == NULL ||
        p->dout == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "memory: a stage's borders do not fit in %zu bytes",
                       arena->limit_bytes);
    }
    const stage_pieces *own = &p->all[p->stage];
    return mq_fold_init(&p->fold, arena, p->t->state.count, p->t->m.shards,
                        MQ_EXCHANGE_LEAVES_BYTES, own->pieces, own->count, err);
}

/* Rank 0 learns what the others own. */
static mq_code swap_pieces(pipeline *p, mq_error *err)
{
    if (p->stage > 0) {
        return mq_link_send(p->link, &(mq_parcel){0, MQ_PARCEL_STAGE, UINT32_MAX, 0},
                            mq_span_of(&p->all[p->stage], sizeof p->all[0]), err);
    }
    mq_code code = MQ_OK;
    for (uint32_t s = 1; s < p->stages && code == MQ_OK; s++) {
        code = mq_link_receive(p->link, &(mq_parcel){s, MQ_PARCEL_STAGE, UINT32_MAX, 0}, &p->all[s],
                               sizeof p->all[s], err);
        for (uint64_t i = 0; code == MQ_OK && i < p->all[s].count; i++) {
            const mq_piece *piece = &p->all[s].pieces[i % PIECES_MAX];
            if (i >= PIECES_MAX || piece->first > p->t->state.count ||
                piece->count > p->t->state.count - piece->first) {
                code =
                    mq_fail(err, MQ_E_FORMAT, "gang message: stage %u owns what is not there", s);
            }
        }
    }
    return code;
}

/* --- one step --- */

static mq_code forward(pipeline *p, uint32_t micro, mq_error *err)
{
    mq_trainer *t = p->t;
    uint64_t step = t->state.record.step;
    bool is_first = p->stage == 0, is_last = p->stage + 1 == p->stages;
    mq_net_stats stats = {0};
    mq_code code = MQ_OK;
    if (is_first || is_last) {
        code = mq_trainer_gather(t, micro, is_first ? p->in : NULL, is_last ? t->y : NULL, err);
    }
    if (code == MQ_OK && !is_first) {
        code =
            mq_link_receive(p->link, &(mq_parcel){p->stage - 1, MQ_PARCEL_ACTIVATION, micro, step},
                            p->in, p->in_floats * sizeof(float), err);
    }
    mq_draw draw = {(uint64_t)t->m.seed, step, (uint64_t)micro * t->shard_rows};
    mq_net_draw(p->net, &draw);
    if (code == MQ_OK) {
        code = mq_net_forward(p->net, micro % p->slots, t->state.weights, p->in,
                              is_last ? t->y : NULL, is_last ? NULL : p->out, &stats, err);
    }
    if (code == MQ_OK && is_last) {
        p->stats[micro] = (mq_shard_stats){stats.loss_sum, (uint64_t)stats.correct};
    }
    if (code == MQ_OK && !is_last) {
        code = mq_link_send(p->link, &(mq_parcel){p->stage + 1, MQ_PARCEL_ACTIVATION, micro, step},
                            mq_span_of(p->out, p->out_floats * sizeof(float)), err);
    }
    return code;
}

static mq_code backward(pipeline *p, uint32_t micro, mq_error *err)
{
    mq_trainer *t = p->t;
    uint64_t step = t->state.record.step;
    bool is_first = p->stage == 0, is_last = p->stage + 1 == p->stages;
    mq_code code = MQ_OK;
    if (!is_last) {
        code = mq_link_receive(p->link, &(mq_parcel){p->stage + 1, MQ_PARCEL_GRADIENT, micro, step},
                               p->dout, p->out_floats * sizeof(float), err);
    }
    if (code == MQ_OK) {
        code = mq_net_backward(p->net, micro % p->slots, t->state.weights, is_last ? NULL : p->dout,
                               1.0F / (float)t->m.batch, is_first ? NULL : p->din,
                               mq_fold_next(&p->fold), err);
    }
    if (code == MQ_OK) {
        mq_fold_push(&p->fold, micro);
    }
    if (code == MQ_OK && !is_first) {
        code = mq_link_send(p->link, &(mq_parcel){p->stage - 1, MQ_PARCEL_GRADIENT, micro, step},
                            mq_span_of(p->din, p->in_floats * sizeof(float)), err);
    }
    return code;
}

static mq_code run_micro_batches(pipeline *p, mq_error *err)
{
    uint32_t count = p->t->m.shards, ahead = p->slots - 1;
    mq_code code = MQ_OK;
    for (uint32_t i = 0; i < count + ahead && code == MQ_OK; i++) {
        if (i < count) {
            code = forward(p, i, err);
        }
        if (i >= ahead && code == MQ_OK) {
            code = backward(p, i - ahead, err);
        }
    }
    return code;
}

/* The last stage knows the loss, rank 0 keeps the record. */
static mq_code share_stats(pipeline *p, uint64_t step, mq_error *err)
{
    size_t bytes = p->t->m.shards * sizeof p->stats[0];
    if (p->stage + 1 == p->stages) {
        return mq_link_send(p->link, &(mq_parcel){0, MQ_PARCEL_STATS, 0, step},
                            mq_span_of(p->stats, bytes), err);
    }
    if (p->stage == 0) {
        return mq_link_receive(p->link, &(mq_parcel){p->stages - 1, MQ_PARCEL_STATS, 0, step},
                               p->stats, bytes, err);
    }
    return MQ_OK;
}

/* The norm is that of the whole gradient: rank 0 puts the stages' squares together, each parameter
 * being in one stage, and says by what all multiply. */
static mq_code share_norm(pipeline *p, float *scale, mq_error *err)
{
    mq_trainer *t = p->t;
    const stage_pieces *own = &p->all[p->stage];
    uint64_t step = t->state.record.step;
    size_t count = t->state.param_count, bytes = count * sizeof *p->squares;
    mq_state_squares(&t->state, &t->m.recipe, &p->fold.view, own->pieces, own->count,
                     p->fold.scratch, p->squares);
    mq_code code = MQ_OK;
    if (p->stage > 0) {
        code = mq_link_send(p->link, &(mq_parcel){0, MQ_PARCEL_STATS, 1, step},
                            mq_span_of(p->squares, bytes), err);
        return code != MQ_OK ? code
                             : mq_link_receive(p->link, &(mq_parcel){0, MQ_PARCEL_STATS, 2, step},
                                               scale, sizeof *scale, err);
    }
    double *theirs = p->squares + count;
    for (uint32_t s = 1; s < p->stages && code == MQ_OK; s++) {
        code =
            mq_link_receive(p->link, &(mq_parcel){s, MQ_PARCEL_STATS, 1, step}, theirs, bytes, err);
        for (size_t i = 0; i < count && code == MQ_OK; i++) {
            p->squares[i] += theirs[i];
        }
    }
    *scale = mq_state_clip(&t->m.recipe, p->squares, count);
    for (uint32_t s = 1; s < p->stages && code == MQ_OK; s++) {
        code = mq_link_send(p->link, &(mq_parcel){s, MQ_PARCEL_STATS, 2, step},
                            mq_span_of(scale, sizeof *scale), err);
    }
    return code;
}

static mq_code take_step(pipeline *p, mq_sums *sums, mq_error *err)
{
    mq_trainer *t = p->t;
    const stage_pieces *own = &p->all[p->stage];
    int64_t begin_ms = mq_clock_mono_ms();
    mq_fold_reset(&p->fold);
    mq_code code = run_micro_batches(p, err);
    if (code != MQ_OK) {
        return mq_wrap(err, "step %llu", (unsigned long long)t->state.record.step + 1);
    }
    t->is_whole = false;
    float scale = 1;
    code = t->m.recipe.clip_norm > 0 ? share_norm(p, &scale, err) : MQ_OK;
    if (code != MQ_OK) {
        return code;
    }
    mq_state_update(&t->state, &t->m.recipe, &t->plan, &p->fold.view, scale, own->pieces,
                    own->count, p->fold.scratch);
    code = share_stats(p, t->state.record.step, err);
    int64_t patience_ms = 10 * (mq_clock_mono_ms() - begin_ms);
    p->link->patience_ms = patience_ms > MQ_LINK_LEASE_MS ? patience_ms : (int64_t)MQ_LINK_LEASE_MS;
    if (code != MQ_OK || p->stage > 0) {
        t->state.record.step++;
        return code;
    }
    *sums = mq_trainer_sums(t, p->stats);
    return mq_state_count(&t->state, &t->plan, sums, err);
}

/* --- between steps --- */

/* Stages send what they have of the vectors to rank 0, whose state is whole after that. */
static mq_code gather_stages(pipeline *p, mq_error *err)
{
    mq_state *state = &p->t->state;
    uint64_t step = state->record.step;
    mq_code code = MQ_OK;
    for (uint32_t s = 1; s < p->stages && code == MQ_OK; s++) {
        const stage_pieces *own = &p->all[s];
        if (p->stage != 0 && p->stage != s) {
            continue;
        }
        uint32_t vectors = 1 + state->moment_count;
        for (uint32_t i = 0; i < vectors * own->count && code == MQ_OK; i++) {
            const mq_piece *piece = &own->pieces[i / vectors];
            float *at = state->vectors[i % vectors] + piece->first;
            size_t bytes = piece->count * sizeof(float);
            mq_parcel parcel = {p->stage == 0 ? s : 0, MQ_PARCEL_STAGE, i, step};
            code = p->stage == 0 ? mq_link_receive(p->link, &parcel, at, bytes, err)
                                 : mq_link_send(p->link, &parcel, mq_span_of(at, bytes), err);
        }
    }
    p->t->is_whole = code == MQ_OK && p->stage == 0;
    if (p->t->is_whole && mq_state_is_link(state, &p->t->plan)) {
        mq_state_link(state);
    }
    return code;
}

/* Rank 0 tells the stages which checkpoint is the newest, and whether they are gathered after the
 * step that begins. */
static mq_code share_plan(pipeline *p, bool *is_gather, mq_error *err)
{
    mq_trainer *t = p->t;
    uint64_t step = t->state.record.step;
    step_plan plan = {0};
    mq_code code = MQ_OK;
    if (p->stage == 0) {
        bool is_due = mq_clock_mono_ms() - t->reporter.checkpoint_ms >= (int64_t)t->m.commit_ms;
        *is_gather =
            is_due || (step + 1) % t->plan.steps_per_epoch == 0 || step + 1 >= t->plan.steps;
        plan.is_gather = *is_gather ? 1 : 0;
        plan.is_over = t->state.record.validated.is_stopped;
        plan.checkpoint_step = t->checkpoint_step;
        memcpy(plan.checkpoint_blob, t->checkpoint_blob, MQ_SHA256_HEX);
        for (uint32_t s = 1; s < p->stages && code == MQ_OK; s++) {
            code = mq_link_send(p->link, &(mq_parcel){s, MQ_PARCEL_PLAN, 0, step},
                                mq_span_of(&plan, sizeof plan), err);
        }
        return code;
    }
    code =
        mq_link_receive(p->link, &(mq_parcel){0, MQ_PARCEL_PLAN, 0, step}, &plan, sizeof plan, err);
    if (code == MQ_OK) {
        plan.checkpoint_blob[MQ_SHA256_HEX - 1] = '\0';
        *is_gather = plan.is_gather != 0;
        t->state.record.validated.is_stopped = plan.is_over != 0;
        t->checkpoint_step = plan.checkpoint_step;
        memcpy(t->checkpoint_blob, plan.checkpoint_blob, MQ_SHA256_HEX);
    }
    return code;
}

static mq_code run_steps(pipeline *p, mq_error *err)
{
    mq_trainer *t = p->t;
    const mq_roster *roster = &p->link->roster;
    mq_code code = MQ_OK;
    bool is_gather = false;
    while (!mq_state_is_over(&t->state, &t->plan) && code == MQ_OK) {
        mq_sums sums = {0};
        code = mq_trainer_check(t, roster->epoch, err);
        code = code != MQ_OK ? code : share_plan(p, &is_gather, err);
        if (code == MQ_OK && t->state.record.validated.is_stopped != 0) {
            return MQ_OK; /* rank 0 has told so with its last plan */
        }
        code = code != MQ_OK ? code : take_step(p, &sums, err);
        if (code == MQ_OK && is_gather) {
            code = gather_stages(p, err);
        }
        if (code == MQ_OK && is_gather && p->stage == 0) {
            code = mq_trainer_validate(t, err);
        }
        if (code == MQ_OK && p->stage == 0) {
            mq_trainer_report(t, roster->count, &sums);
        }
        if (code == MQ_OK && p->stage == 0 && is_gather && mq_trainer_is_checkpoint_due(t)) {
            code = mq_trainer_checkpoint(t, roster->epoch, err);
        }
    }
    /* So that all know the last checkpoint, should rank 0 die before the job's end. */
    return code != MQ_OK ? code : share_plan(p, &is_gather, err);
}

mq_code mq_trainer_run_pipeline(mq_trainer *t, mq_link *link, uint32_t stages, mq_error *err)
{
    MQ_ASSERT(t->is_whole);
    MQ_ASSERT(link->roster.self < stages);
    pipeline *p = mq_arena_new(&t->roster, pipeline, 1);
    stage_pieces *all = mq_arena_new(&t->roster, stage_pieces, stages);
    if (p == NULL || all == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "memory: no room for a pipeline");
    }
    p->t = t;
    p->link = link;
    p->stage = link->roster.self;
    p->stages = stages;
    p->all = all;
    uint32_t slots = stages - p->stage;
    p->slots = slots < t->m.shards ? slots : t->m.shards;
    mq_code code = compile_stage(p, err);
    code = code != MQ_OK ? code : make_buffers(p, err);
    code = code != MQ_OK ? code : swap_pieces(p, err);
    if (code == MQ_OK) {
        mq_trainer_report_begin(t);
        code = run_steps(p, err);
    }
    mq_net_free(p->net);
    return code;
}
