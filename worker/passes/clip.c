/* Pass "clip": bounds the size of weights.
 *
 *   clip:l1=T         a tensor whose L1 norm is above T is divided by its norm: its norm becomes 1
 *                     ("if ||w||1 > t then w / ||w||1")
 *   clip:l2=T         a tensor whose L2 norm is above T is scaled back to norm T
 *   clip:max-norm=T   the same for each row (the weights of one output) by itself
 *   clip:value=T      every weight is moved into -T..T
 *   scope=tensor|row  norm of the whole tensor or of each row (l1, l2)
 *   to=unit|threshold what a norm above T becomes: 1 or T (default: unit for l1, else threshold)
 *
 * A norm counts as above its bound only beyond a relative 1e-6, so that rounding does not make a
 * second run move weights again. */
#include <math.h>
#include <stdio.h>

#include "worker/passes/pass.h"
#include "worker/passes/weights.h"

static mq_code check(const mq_pass_args *args, mq_error *err);
static mq_code run(mq_model *model, const mq_pass_args *args, mq_buf *report, mq_error *err);

const mq_pass mq_pass_clip = {
    .name = "clip",
    .form = "clip:l1=T|l2=T|max-norm=T|value=T[,scope=tensor|row][,to=unit|threshold]",
    .summary = "bound the norm or the size of weights",
    .check = check,
    .run = run,
};

#define THRESHOLD_MIN 1e-6
#define THRESHOLD_MAX 1e9
#define SLACK         1e-6

typedef enum clip_mode { CLIP_L1, CLIP_L2, CLIP_MAX_NORM, CLIP_VALUE, CLIP_MODES } clip_mode;

typedef struct clip_rule {
    clip_mode mode;
    double threshold;
    bool per_row;
    double target; /* what a norm above the threshold becomes */
} clip_rule;

typedef struct clip_count {
    size_t clipped, of;
    double largest; /* norm (or size) met */
} clip_count;

static mq_code parse(const mq_pass_args *args, clip_rule *rule, mq_error *err)
{
    static const char *const modes[] = {"l1", "l2", "max-norm", "value", "scope", "to", NULL};
    static const char *const scopes[] = {"tensor", "row", NULL};
    static const char *const targets[] = {"unit", "threshold", NULL};
    int given = 0, scope = 0;
    mq_code code = mq_pass_known(args, modes, err);
    for (int m = 0; m < CLIP_MODES && code == MQ_OK; m++) {
        if (mq_pass_item(args, modes[m]) != NULL) {
            given++;
            rule->mode = (clip_mode)m;
            code = mq_pass_number(args, modes[m], true, THRESHOLD_MIN, THRESHOLD_MAX,
                                  &rule->threshold, err);
        }
    }
    if (code == MQ_OK && given != 1) {
        code = mq_fail(err, MQ_E_ARG,
                       "pass \"%s\": exactly one of l1=T, l2=T, max-norm=T, value=T is required, "
                       "T in %g..%g",
                       args->text, THRESHOLD_MIN, THRESHOLD_MAX);
    }
    int target = rule->mode == CLIP_L1 ? 0 : 1;
    if (code == MQ_OK) {
        scope = rule->mode == CLIP_MAX_NORM ? 1 : 0;
        code = mq_pass_choice(args, "scope", scopes, &scope, err);
    }
    if (code == MQ_OK) {
        code = mq_pass_choice(args, "to", targets, &target, err);
    }
    if (code == MQ_OK && rule->mode >= CLIP_MAX_NORM &&
        (mq_pass_item(args, "to") != NULL || scope != (rule->mode == CLIP_MAX_NORM))) {
        code = mq_fail(err, MQ_E_ARG, "pass \"%s\": scope and to are for l1 and l2", args->text);
    }
    rule->per_row = scope == 1;
    rule->target = target == 0 ? 1.0 : rule->threshold;
    return code;
}

static mq_code check(const mq_pass_args *args, mq_error *err)
{
    clip_rule rule = {0};
    return parse(args, &rule, err);
}

static double norm_of(const float *v, const mq_weight_rows *r, bool is_l1)
{
    double sum = 0;
    for (size_t o = 0; o < r->outer; o++) {
        for (size_t i = 0; i < r->inner; i++) {
            double x = (double)v[o * r->step + i];
            sum += is_l1 ? fabs(x) : x * x;
        }
    }
    return is_l1 ? sum : sqrt(sum);
}

/* Scales one tensor or row when its norm is above the threshold. */
static bool clip_norm(float *v, const mq_weight_rows *r, const clip_rule *rule, clip_count *count)
{
    double norm = norm_of(v, r, rule->mode == CLIP_L1);
    count->of++;
    count->largest = norm > count->largest ? norm : count->largest;
    bool is_there = fabs(norm - rule->target) <= rule->target * SLACK;
    if (norm <= rule->threshold * (1 + SLACK) || is_there) {
        return false;
    }
    for (size_t o = 0; o < r->outer; o++) {
        for (size_t i = 0; i < r->inner; i++) {
            float *x = &v[o * r->step + i];
            *x = (float)((double)*x * rule->target / norm);
        }
    }
    count->clipped++;
    return true;
}

static bool clip_values(mq_weight *w, float bound, clip_count *count)
{
    size_t before = count->clipped;
    for (size_t i = 0; i < w->count; i++) {
        float x = fabsf(w->values[i]);
        count->of++;
        count->largest = (double)x > count->largest ? (double)x : count->largest;
        if (x > bound) {
            w->values[i] = w->values[i] > 0 ? bound : -bound;
            count->clipped++;
        }
    }
    return count->clipped > before;
}

static bool clip_weight(mq_weight *w, const clip_rule *rule, clip_count *count)
{
    if (rule->mode == CLIP_VALUE) {
        return clip_values(w, (float)rule->threshold, count);
    }
    if (!rule->per_row) {
        mq_weight_rows whole = {.outer = 1, .inner = w->count};
        return clip_norm(w->values, &whole, rule, count);
    }
    mq_weight_rows rows = mq_weight_rows_of(w);
    bool has_changed = false;
    for (size_t c = 0; c < rows.channels; c++) {
        has_changed = clip_norm(w->values + c * rows.inner, &rows, rule, count) || has_changed;
    }
    return has_changed;
}

static mq_code run(mq_model *model, const mq_pass_args *args, mq_buf *report, mq_error *err)
{
    mq_weights weights;
    clip_count count = {0};
    clip_rule rule = {0};
    mq_code code = parse(args, &rule, err);
    if (code != MQ_OK) {
        return code;
    }
    code = mq_weights_get(&weights, model, err);
    for (size_t i = 0; i < weights.count && code == MQ_OK; i++) {
        if (clip_weight(&weights.list[i], &rule, &count)) {
            code = mq_weight_set(&weights.list[i], model, err);
        }
    }
    mq_weights_release(&weights);
    mq_buf_printf(report, "\"clipped\":%zu,\"of\":%zu,\"largest\":%.9g", count.clipped, count.of,
                  count.largest);
    return code;
}
