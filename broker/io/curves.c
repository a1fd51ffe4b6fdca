/* Progress lists; see curves.h. */
#include "broker/io/curves.h"

#include <stdlib.h>

typedef struct text {
    uint8_t *data; /* owned */
    uint32_t len;
} text;

typedef struct curve {
    uint8_t id[32];
    size_t id_len; /* 0 = unused */
    uint64_t used; /* when it was added to last, by a counter */
    uint64_t log_total;
    uint32_t point_count, log_count, log_first, skip, seen;
    text last; /* latest point, also when the list skipped it */
    text points[MQ_CURVE_POINTS];
    text logs[MQ_CURVE_LOG_LINES];
} curve;

struct mq_curves {
    uint64_t clock;
    curve *all[MQ_CURVES_MAX]; /* NULL until used */
};

mq_code mq_curves_new(mq_curves **out, mq_error *err)
{
    *out = calloc(1, sizeof **out);
    return *out == NULL ? mq_fail(err, MQ_E_LIMIT, "no memory for progress") : MQ_OK;
}

static void text_set(text *t, mq_span s)
{
    uint8_t *data = malloc(s.len == 0 ? 1 : s.len);
    if (data == NULL) {
        return; /* a hint that is lost */
    }
    if (s.len > 0) {
        memcpy(data, s.data, s.len);
    }
    free(t->data);
    *t = (text){data, (uint32_t)s.len};
}

static void clear(curve *c)
{
    for (uint32_t i = 0; i < MQ_CURVE_POINTS; i++) {
        free(c->points[i].data);
    }
    for (uint32_t i = 0; i < MQ_CURVE_LOG_LINES; i++) {
        free(c->logs[i].data);
    }
    free(c->last.data);
    memset(c, 0, sizeof *c);
}

void mq_curves_free(mq_curves *curves)
{
    for (uint32_t i = 0; curves != NULL && i < MQ_CURVES_MAX; i++) {
        if (curves->all[i] != NULL) {
            clear(curves->all[i]);
            free(curves->all[i]);
        }
    }
    free(curves);
}

static curve *find(const mq_curves *curves, mq_span id)
{
    for (uint32_t i = 0; i < MQ_CURVES_MAX; i++) {
        curve *c = curves->all[i];
        if (c != NULL && c->id_len > 0 && mq_span_eq(id, mq_span_of(c->id, c->id_len))) {
            return c;
        }
    }
    return NULL;
}

static curve *make(mq_curves *curves, mq_span id)
{
    uint32_t oldest = 0;
    for (uint32_t i = 0; i < MQ_CURVES_MAX; i++) {
        if (curves->all[i] == NULL) {
            curves->all[i] = calloc(1, sizeof(curve));
            oldest = i;
            break;
        }
        if (curves->all[i]->used < curves->all[oldest]->used) {
            oldest = i;
        }
    }
    curve *c = curves->all[oldest];
    if (c == NULL || id.len > sizeof c->id) {
        return NULL;
    }
    clear(c);
    memcpy(c->id, id.data, id.len);
    c->id_len = id.len;
    return c;
}

/* Keeps every second point and from now on takes only every second of what comes. */
static void thin(curve *c)
{
    for (uint32_t i = 0; i < MQ_CURVE_POINTS / 2; i++) {
        free(c->points[2 * i + 1].data);
        c->points[i] = c->points[2 * i];
        if (i > 0) {
            c->points[2 * i] = (text){0};
        }
        c->points[2 * i + 1] = (text){0};
    }
    c->point_count = MQ_CURVE_POINTS / 2;
    c->skip = c->skip * 2 + 1;
}

static void add_point(curve *c, mq_span point)
{
    text_set(&c->last, point);
    if (c->point_count == MQ_CURVE_POINTS) {
        thin(c);
    }
    if ((c->seen++ & c->skip) == 0) {
        text_set(&c->points[c->point_count++], point);
    }
}

void mq_curves_add(mq_curves *curves, mq_span id, mq_span point, mq_span log)
{
    curve *c = find(curves, id);
    c = c == NULL ? make(curves, id) : c;
    if (c == NULL) {
        return;
    }
    c->used = ++curves->clock;
    if (point.len > 0 && point.len <= MQ_CURVE_POINT_MAX) {
        add_point(c, point);
    }
    if (log.len > 0 && log.len <= MQ_CURVE_POINT_MAX) {
        uint32_t at = (c->log_first + c->log_count) % MQ_CURVE_LOG_LINES;
        if (c->log_count == MQ_CURVE_LOG_LINES) {
            at = c->log_first;
            c->log_first = (c->log_first + 1) % MQ_CURVE_LOG_LINES;
        } else {
            c->log_count++;
        }
        text_set(&c->logs[at], log);
        c->log_total++;
    }
}

mq_span mq_curves_last(const mq_curves *curves, mq_span id)
{
    const curve *c = find(curves, id);
    return c == NULL ? (mq_span){0} : mq_span_of(c->last.data, c->last.len);
}

mq_span mq_curves_point(const mq_curves *curves, mq_span id, uint32_t index)
{
    const curve *c = find(curves, id);
    if (c == NULL || index >= c->point_count) {
        return (mq_span){0};
    }
    return mq_span_of(c->points[index].data, c->points[index].len);
}

uint64_t mq_curves_log_total(const mq_curves *curves, mq_span id)
{
    const curve *c = find(curves, id);
    return c == NULL ? 0 : c->log_total;
}

mq_span mq_curves_log(const mq_curves *curves, mq_span id, uint32_t index)
{
    const curve *c = find(curves, id);
    if (c == NULL || index >= c->log_count) {
        return (mq_span){0};
    }
    const text *t = &c->logs[(c->log_first + index) % MQ_CURVE_LOG_LINES];
    return mq_span_of(t->data, t->len);
}
