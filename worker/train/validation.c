/* Fields and rules of validation; see validation.h. Knows JSON and no net. */
#include "worker/train/validation.h"

#include "worker/train/fields.h"

bool mq_validation_is_on(const mq_validation *v)
{
    return v->share > 0 || v->data[0] != '\0';
}

uint64_t mq_validation_held(const mq_validation *v, uint64_t rows)
{
    uint64_t held = (uint64_t)((double)rows * v->share);
    return v->share > 0 && held == 0 ? 1 : held;
}

static mq_code read_source(mq_validation *out, const json_t *given, const json_t *o, mq_error *err)
{
    if (json_is_string(given)) {
        return mq_field_text(o, "validation", out->data, sizeof out->data, err);
    }
    double share = json_number_value(given);
    if (!json_is_number(given) || !(share > 0) || !(share <= 0.5)) {
        return mq_fail(err, MQ_E_ARG,
                       "validation: must be a share of the rows, more than 0 and at most 0.5, or "
                       "the name of a dataset");
    }
    out->share = share;
    return MQ_OK;
}

mq_code mq_validation_read(mq_validation *out, const json_t *o, mq_error *err)
{
    static const char *const dependent[] = {"patience", "min_delta", "last"};
    const json_t *given = json_object_get(o, "validation");
    *out = (mq_validation){0};
    for (size_t i = 0; given == NULL && i < sizeof dependent / sizeof dependent[0]; i++) {
        if (json_object_get(o, dependent[i]) != NULL) {
            return mq_fail(err, MQ_E_ARG,
                           "%s: needs validation; give a share of the rows or a "
                           "dataset",
                           dependent[i]);
        }
    }
    mq_code code = given == NULL ? MQ_OK : read_source(out, given, o, err);
    code = code != MQ_OK ? code : mq_field_u32(o, "patience", 1, 10000, &out->patience, err);
    code = code != MQ_OK ? code : mq_field_real(o, "min_delta", 0, 1e6, &out->min_delta, err);
    return code != MQ_OK ? code : mq_field_bool(o, "last", &out->is_last, err);
}

bool mq_validation_write(const mq_validation *v, json_t *o)
{
    if (!mq_validation_is_on(v)) {
        return true;
    }
    json_t *source = v->share > 0 ? json_real(v->share) : json_string(v->data);
    return json_object_set_new(o, "validation", source) == 0 &&
           (v->patience == 0 ||
            json_object_set_new(o, "patience", json_integer(v->patience)) == 0) &&
           (v->min_delta == 0 ||
            json_object_set_new(o, "min_delta", json_real(v->min_delta)) == 0) &&
           (!v->is_last || json_object_set_new(o, "last", json_true()) == 0);
}

bool mq_validated_take(mq_validated *seen, const mq_validation *v, uint64_t step, double loss,
                       double accuracy)
{
    bool is_first = seen->best_step == 0;
    bool is_best = is_first || loss < seen->best_loss;
    seen->loss = loss;
    seen->accuracy = accuracy;
    if (is_first || loss < seen->patience_loss - v->min_delta) {
        seen->patience_loss = loss;
        seen->waited = 0;
    } else {
        seen->waited++;
    }
    if (is_best) {
        seen->best_loss = loss;
        seen->best_accuracy = accuracy;
        seen->best_step = step;
    }
    seen->is_stopped = v->patience > 0 && seen->waited >= v->patience ? 1 : 0;
    return is_best;
}
