/* What makes a run faster and is for inference alone: a table of rules, tried on every step until
 * none fires. Counts of uses are taken anew after each round only: until then they are too high
 * where a rule has fired, never too low, so a rule waits rather than errs. */
#include "worker/exec/fuse.h"

enum { ROUNDS_MAX = 8, OPSET_MIN = 7 }; /* below 7 binary operators broadcast by attributes */

/* Before mq_program_fuse makes Dense of products, and after. */
static mq_fuse_rule *const before[] = {
    mq_fuse_gelu,       mq_fuse_silu,        mq_fuse_clip,
    mq_fuse_layer_norm, mq_fuse_conv_affine, mq_fuse_attention,
};
static mq_fuse_rule *const after[] = {mq_fuse_dense_act, mq_fuse_skip_norm};

static mq_code apply(mq_program *p, mq_fuse_rule *const *rules, size_t count, mq_error *err)
{
    bool fired = true;
    for (int round = 0; round < ROUNDS_MAX && fired; round++) {
        fired = false;
        for (size_t r = 0; r < count; r++) {
            for (uint32_t s = 0; s < p->step_count; s++) {
                mq_code code = rules[r](p, s, &fired, err);
                if (code != MQ_OK) {
                    return code;
                }
            }
        }
        mq_program_compact(p);
    }
    return MQ_OK;
}

#define APPLY(p, rules, err) apply((p), (rules), sizeof(rules) / sizeof((rules)[0]), (err))

mq_code mq_program_optimize(mq_program *p, mq_error *err)
{
    bool is_new = mq_model_opset(p->model, "") >= OPSET_MIN;
    mq_code code = mq_program_merge(p, err);
    code = code == MQ_OK && is_new ? APPLY(p, before, err) : code;
    code = code == MQ_OK ? mq_program_fuse(p, err) : code;
    code = code == MQ_OK && is_new ? APPLY(p, after, err) : code;
    return code == MQ_OK ? mq_program_each_body(p, mq_program_optimize, err) : code;
}
