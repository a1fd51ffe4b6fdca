/* Reading, checking and writing of recipes; see recipe.h. Knows JSON and the three tables. */
#include "worker/train/recipe.h"

#include <math.h>

#include "worker/train/fields.h"

const char *const mq_recipe_fields[] = {
    "loss",     "label_smoothing", "class_weights", "optimizer",    "lr",
    "momentum", "nesterov",        "beta1",         "beta2",        "rho",
    "epsilon",  "weight_decay",    "schedule",      "warmup_steps", "step_epochs",
    "gamma",    "clip_value",      "clip_norm",     NULL,
};

/* The largest float below 1: what has to be less than 1 is still so as a float. */
static const double below_one = 0.99999994;

static mq_code refuse(const json_t *o, const char *field, bool applies, const char *what,
                      const char *name, mq_error *err)
{
    if (applies || json_object_get(o, field) == NULL) {
        return MQ_OK;
    }
    return mq_fail(err, MQ_E_ARG, "%s: %s \"%s\" has no such setting; leave it out", field, what,
                   name);
}

/* --- loss --- */

static mq_code read_weights(mq_loss_spec *l, const json_t *o, mq_error *err)
{
    const json_t *list = json_object_get(o, "class_weights");
    size_t count = json_array_size(list), i;
    const json_t *v;
    if (list == NULL) {
        return MQ_OK;
    }
    if (!json_is_array(list) || count < 1 || count > MQ_LOSS_WEIGHTS_MAX) {
        return mq_fail(err, MQ_E_ARG, "class_weights: must be a list of 1..%d numbers, one a class",
                       MQ_LOSS_WEIGHTS_MAX);
    }
    json_array_foreach(list, i, v)
    {
        double x = json_number_value(v);
        if (!json_is_number(v) || !(x >= 0) || !(x <= 1000)) {
            return mq_fail(err, MQ_E_ARG, "class_weights[%zu]: must be a number in 0..1000", i);
        }
        l->weights[i] = (float)x;
    }
    l->weight_count = (uint32_t)count;
    return MQ_OK;
}

static mq_code read_loss(mq_recipe *r, const json_t *o, mq_error *err)
{
    static const char *const names[] = {
#define MQ_LOSS(symbol, id, name, values, softmax) name,
#include "worker/train/loss.def"
#undef MQ_LOSS
        NULL};
    uint32_t loss = 0;
    double smoothing = 0;
    mq_code code = mq_field_choice(o, "loss", names, &loss, err);
    r->loss = (mq_loss_spec){.loss = (mq_loss)loss};
    bool is_value = mq_loss_of(r->loss.loss)->is_value;
    code = code != MQ_OK ? code
                         : refuse(o, "label_smoothing", loss == MQ_LOSS_CROSS_ENTROPY, "loss",
                                  names[loss], err);
    code = code != MQ_OK ? code : refuse(o, "class_weights", !is_value, "loss", names[loss], err);
    code =
        code != MQ_OK ? code : mq_field_real(o, "label_smoothing", 0, below_one, &smoothing, err);
    r->loss.smoothing = (float)smoothing;
    return code != MQ_OK ? code : read_weights(&r->loss, o, err);
}

/* --- optimizer --- */

static mq_code read_optimizer(mq_recipe *r, const json_t *o, mq_error *err)
{
    static const char *const names[] = {
#define MQ_OPTIMIZER(symbol, name, vectors, lr, epsilon, uses) name,
#include "worker/train/optimizer.def"
#undef MQ_OPTIMIZER
        NULL};
    static const struct {
        const char *field;
        uint32_t uses;
    } own[] = {{"momentum", MQ_USES_MOMENTUM}, {"nesterov", MQ_USES_MOMENTUM},
               {"beta1", MQ_USES_BETAS},       {"beta2", MQ_USES_BETAS},
               {"rho", MQ_USES_RHO},           {"epsilon", MQ_USES_EPSILON}};
    uint32_t optimizer = 0;
    mq_code code = mq_field_choice(o, "optimizer", names, &optimizer, err);
    r->optimizer = (mq_optimizer)optimizer;
    const mq_optimizer_row *row = mq_optimizer_of(r->optimizer);
    for (size_t i = 0; i < sizeof own / sizeof own[0] && code == MQ_OK; i++) {
        code = refuse(o, own[i].field, (row->uses & own[i].uses) != 0, "optimizer", row->name, err);
    }
    r->lr = row->lr;
    r->epsilon = row->epsilon;
    r->momentum = 0.9;
    r->beta1 = 0.9;
    r->beta2 = 0.999;
    r->rho = 0.99;
    const struct {
        const char *field;
        double least, most, *out;
    } reals[] = {{"lr", 1e-30, 100, &r->lr},
                 {"momentum", 0, below_one, &r->momentum},
                 {"beta1", 0, below_one, &r->beta1},
                 {"beta2", 0, below_one, &r->beta2},
                 {"rho", 0, below_one, &r->rho},
                 {"epsilon", 1e-12, 1, &r->epsilon},
                 {"weight_decay", 0, 1, &r->weight_decay}};
    for (size_t i = 0; i < sizeof reals / sizeof reals[0] && code == MQ_OK; i++) {
        code = mq_field_real(o, reals[i].field, reals[i].least, reals[i].most, reals[i].out, err);
    }
    return code != MQ_OK ? code : mq_field_bool(o, "nesterov", &r->is_nesterov, err);
}

/* --- schedule --- */

static mq_code read_schedule(mq_recipe *r, const json_t *o, mq_error *err)
{
    static const char *const names[] = {
#define MQ_SCHEDULE(symbol, name, warms) name,
#include "worker/train/schedule.def"
#undef MQ_SCHEDULE
        NULL};
    mq_schedule_spec *s = &r->schedule;
    uint32_t schedule = 0;
    *s = (mq_schedule_spec){.step_epochs = 10, .gamma = 0.1};
    mq_code code = mq_field_choice(o, "schedule", names, &schedule, err);
    s->schedule = (mq_schedule)schedule;
    bool is_step = s->schedule == MQ_SCHEDULE_STEP;
    const char *name = names[schedule];
    code = code != MQ_OK
               ? code
               : refuse(o, "warmup_steps", mq_schedule_warms(s->schedule), "schedule", name, err);
    code = code != MQ_OK ? code : refuse(o, "step_epochs", is_step, "schedule", name, err);
    code = code != MQ_OK ? code : refuse(o, "gamma", is_step, "schedule", name, err);
    code = code != MQ_OK ? code
                         : mq_field_u32(o, "warmup_steps", 0, 1000000000, &s->warmup_steps, err);
    code = code != MQ_OK ? code : mq_field_u32(o, "step_epochs", 1, 10000, &s->step_epochs, err);
    return code != MQ_OK ? code : mq_field_real(o, "gamma", 0, 1, &s->gamma, err);
}

mq_code mq_recipe_read(mq_recipe *out, const json_t *o, mq_error *err)
{
    *out = (mq_recipe){0};
    mq_code code = read_loss(out, o, err);
    code = code != MQ_OK ? code : read_optimizer(out, o, err);
    code = code != MQ_OK ? code : read_schedule(out, o, err);
    code = code != MQ_OK ? code : mq_field_real(o, "clip_value", 0, 1e6, &out->clip_value, err);
    return code != MQ_OK ? code : mq_field_real(o, "clip_norm", 0, 1e6, &out->clip_norm, err);
}

/* --- writing --- */

static bool put_real(json_t *o, const char *name, bool is_wanted, double x)
{
    return !is_wanted || json_object_set_new(o, name, json_real(x)) == 0;
}

static bool put_weights(json_t *o, const mq_loss_spec *l)
{
    json_t *list = l->weight_count == 0 ? NULL : json_array();
    if (list == NULL) {
        return l->weight_count == 0;
    }
    for (uint32_t i = 0; i < l->weight_count; i++) {
        (void)json_array_append_new(list, json_real((double)l->weights[i]));
    }
    return json_object_set_new(o, "class_weights", list) == 0;
}

bool mq_recipe_write(const mq_recipe *r, json_t *o)
{
    const mq_optimizer_row *row = mq_optimizer_of(r->optimizer);
    const mq_schedule_spec *s = &r->schedule;
    bool has_betas = (row->uses & MQ_USES_BETAS) != 0, is_step = s->schedule == MQ_SCHEDULE_STEP;
    return json_object_set_new(o, "loss", json_string(mq_loss_of(r->loss.loss)->name)) == 0 &&
           put_real(o, "label_smoothing", r->loss.smoothing > 0, (double)r->loss.smoothing) &&
           put_weights(o, &r->loss) &&
           json_object_set_new(o, "optimizer", json_string(row->name)) == 0 &&
           put_real(o, "lr", true, r->lr) &&
           put_real(o, "momentum", (row->uses & MQ_USES_MOMENTUM) != 0, r->momentum) &&
           (!r->is_nesterov || json_object_set_new(o, "nesterov", json_true()) == 0) &&
           put_real(o, "beta1", has_betas, r->beta1) && put_real(o, "beta2", has_betas, r->beta2) &&
           put_real(o, "rho", (row->uses & MQ_USES_RHO) != 0, r->rho) &&
           put_real(o, "epsilon", (row->uses & MQ_USES_EPSILON) != 0, r->epsilon) &&
           put_real(o, "weight_decay", true, r->weight_decay) &&
           json_object_set_new(o, "schedule", json_string(mq_schedule_name(s->schedule))) == 0 &&
           (s->warmup_steps == 0 ||
            json_object_set_new(o, "warmup_steps", json_integer(s->warmup_steps)) == 0) &&
           (!is_step || json_object_set_new(o, "step_epochs", json_integer(s->step_epochs)) == 0) &&
           put_real(o, "gamma", is_step, s->gamma) &&
           put_real(o, "clip_value", r->clip_value > 0, r->clip_value) &&
           put_real(o, "clip_norm", r->clip_norm > 0, r->clip_norm);
}

mq_opt_step mq_recipe_step(const mq_recipe *r, uint64_t step, uint64_t steps,
                           uint64_t steps_per_epoch)
{
    double factor = mq_schedule_factor(&r->schedule, step, steps, steps_per_epoch);
    return (mq_opt_step){
        .optimizer = r->optimizer,
        .is_nesterov = r->is_nesterov,
        .lr = (float)(r->lr * factor),
        .momentum = (float)r->momentum,
        .decay = (float)r->weight_decay,
        .beta1 = (float)r->beta1,
        .beta2 = (float)r->beta2,
        .rho = (float)r->rho,
        .epsilon = (float)r->epsilon,
        .unbias1 = (float)(1 / (1 - mq_power(r->beta1, step + 1))),
        .unbias2 = (float)(1 / (1 - mq_power(r->beta2, step + 1))),
        .trust = 1,
    };
}
