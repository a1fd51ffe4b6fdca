/* Compares a tensor with its reference; see compare.h. It knows nothing of models or files. */
#include "worker/exec/compare.h"

#include <math.h>

#include "worker/ops/element.h"

static bool is_near(double x, double y, mq_tolerance by)
{
    if (isnan(x) || isnan(y)) {
        return isnan(x) && isnan(y);
    }
    if (isinf(x) || isinf(y)) {
        return x == y;
    }
    return fabs(x - y) <= by.absolute + by.relative * fabs(y);
}

static void compare_numbers(const mq_tensor *got, const mq_tensor *want, mq_tolerance by,
                            mq_difference *d)
{
    bool is_whole = !mq_is_float(got->dtype);
    for (size_t i = 0; i < mq_elements(got); i++) {
        double x = mq_element(got, i), y = mq_element(want, i);
        bool is_same = is_whole && mq_element_int(got, i) == mq_element_int(want, i);
        if (isfinite(x) && isfinite(y) && fabs(x - y) > d->largest) {
            d->largest = fabs(x - y);
        }
        if (!is_same && !is_near(x, y, by) && d->wrong++ == 0) {
            d->first = i;
            d->got = x;
            d->want = y;
        }
    }
}

static void compare_strings(const mq_tensor *got, const mq_tensor *want, mq_difference *d)
{
    const mq_span *x = got->data, *y = want->data;
    for (size_t i = 0; i < mq_elements(got); i++) {
        if (!mq_span_eq(x[i], y[i]) && d->wrong++ == 0) {
            d->first = i;
        }
    }
}

mq_code mq_tensor_compare(const mq_tensor *got, const mq_tensor *want, mq_tolerance by,
                          mq_difference *out, mq_error *err)
{
    mq_difference d = {0};
    char a[128], b[128];
    if (got->dtype != want->dtype || !mq_shape_eq(&got->shape, &want->shape)) {
        return mq_fail(err, MQ_E_CONFLICT, "%s%s where the reference is %s%s",
                       mq_dtype_name(got->dtype), mq_shape_text(&got->shape, a, sizeof a),
                       mq_dtype_name(want->dtype), mq_shape_text(&want->shape, b, sizeof b));
    }
    if (got->dtype == MQ_DT_STR) {
        compare_strings(got, want, &d);
    } else {
        compare_numbers(got, want, by, &d);
    }
    if (out != NULL) {
        *out = d;
    }
    if (d.wrong > 0 && got->dtype == MQ_DT_STR) {
        return mq_fail(err, MQ_E_CONFLICT, "%zu strings differ, the first is number %zu", d.wrong,
                       d.first);
    }
    if (d.wrong > 0) {
        return mq_fail(err, MQ_E_CONFLICT,
                       "%zu elements differ, the first is number %zu: %.9g where %.9g is due",
                       d.wrong, d.first, d.got, d.want);
    }
    return MQ_OK;
}
