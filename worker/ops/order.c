/* Comparing elements and sorting indices; see order.h. */
#include "worker/ops/order.h"

static int sign_of(bool is_less, bool is_more)
{
    return is_less ? -1 : is_more ? 1 : 0;
}

int mq_element_compare(const mq_tensor *t, size_t a, size_t b)
{
    if (t->dtype == MQ_DT_STR) {
        const mq_span *s = t->data;
        size_t len = s[a].len < s[b].len ? s[a].len : s[b].len;
        int order = len == 0 ? 0 : memcmp(s[a].data, s[b].data, len);
        return order != 0 ? sign_of(order<0, order> 0)
                          : sign_of(s[a].len<s[b].len, s[a].len> s[b].len);
    }
    if (mq_is_float(t->dtype)) {
        double x = mq_element(t, a), y = mq_element(t, b);
        if (isnan(x) || isnan(y)) {
            return sign_of(!isnan(x), !isnan(y));
        }
        return sign_of(x<y, x> y);
    }
    int64_t x = mq_element_int(t, a), y = mq_element_int(t, b);
    if (t->dtype == MQ_DT_U64) {
        return sign_of((uint64_t)x<(uint64_t)y, (uint64_t)x>(uint64_t) y);
    }
    return sign_of(x<y, x> y);
}

void mq_sort_indices(size_t *indices, size_t *spare, size_t count, mq_order *order, const void *arg)
{
    size_t *from = indices, *to = spare;
    for (size_t run = 1; run < count; run *= 2) {
        for (size_t start = 0; start < count; start += 2 * run) {
            size_t middle = start + run < count ? start + run : count;
            size_t end = middle + run < count ? middle + run : count;
            size_t a = start, b = middle;
            for (size_t k = start; k < end; k++) {
                bool is_left = b == end || (a < middle && order(arg, from[a], from[b]) <= 0);
                to[k] = is_left ? from[a++] : from[b++];
            }
        }
        size_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != indices) {
        memcpy(indices, from, count * sizeof *indices);
    }
}
