/* Training curves; see curves.h. */
#include "client/gateway/curves.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "shared/base/span.h"

static mq_curve *find(mq_curves *curves, const char *job);
static mq_curve *make(mq_curves *curves, const char *job);
static void add_point(mq_curve *curve, mq_curve_point point);
static void add_past(mq_curve *curve, const json_t *past);
static double number(const json_t *object, const char *key);
static json_t *curve_json(const mq_curve *curve);
static json_t *point_json(const mq_curve_point *point);

void mq_curves_add(mq_curves *curves, const json_t *jobs)
{
    curves->round++;
    size_t count = json_array_size(jobs);
    for (size_t i = 0; i < count; i++) {
        const json_t *job = json_array_get(jobs, i);
        const char *id = json_string_value(json_object_get(job, "id"));
        const char *state = json_string_value(json_object_get(job, "state"));
        const char *model = json_string_value(json_object_get(job, "model"));
        const json_t *progress = json_object_get(job, "progress");
        mq_curve_point point = {number(progress, "step"), number(progress, "loss"),
                                number(progress, "accuracy")};
        if (id == NULL || strlen(id) >= sizeof curves->curves[0].job || state == NULL ||
            strcmp(state, "leased") != 0 || isnan(point.step) || isnan(point.loss)) {
            continue;
        }
        const char *named = json_string_value(json_object_get(progress, "model"));
        mq_curve *curve = find(curves, id);
        if (curve == NULL) {
            curve = make(curves, id);
            model = model == NULL || model[0] == '\0' ? named : model;
            mq_span_copy(mq_str(model), curve->model, sizeof curve->model);
            add_past(curve, json_object_get(progress, "curve"));
        }
        curve->seen = curves->round;
        add_point(curve, point);
    }
    for (size_t i = 0; i < MQ_CURVES_MAX; i++) {
        curves->curves[i].is_running = curves->curves[i].seen == curves->round;
    }
}

void mq_curves_recall(mq_curves *curves, const json_t *models)
{
    const json_t *newest = NULL;
    const char *name = NULL;
    for (size_t i = 0; i < json_array_size(models); i++) {
        const json_t *model = json_array_get(models, i);
        const json_t *versions = json_object_get(model, "versions");
        for (size_t v = 0; v < json_array_size(versions); v++) {
            const json_t *one = json_array_get(versions, v);
            size_t points = json_array_size(json_object_get(json_object_get(one, "meta"), "curve"));
            double at_ms = number(one, "at_ms");
            if (points > 1 && (newest == NULL || at_ms > number(newest, "at_ms"))) {
                newest = one;
                name = json_string_value(json_object_get(model, "name"));
            }
        }
    }
    const char *job = json_string_value(json_object_get(newest, "job"));
    if (job == NULL || name == NULL || strlen(job) >= sizeof curves->curves[0].job) {
        return;
    }
    mq_curve *curve = find(curves, job);
    if (curve != NULL && (curve->is_running || curve->is_final)) {
        return;
    }
    if (curve == NULL) {
        curve = make(curves, job);
    }
    curve->count = 0;
    curve->skipped = 0;
    curve->stride = 1;
    curve->is_final = true;
    snprintf(curve->model, sizeof curve->model, "%.100s@%lld", name,
             (long long)json_integer_value(json_object_get(newest, "version")));
    add_past(curve, json_object_get(json_object_get(newest, "meta"), "curve"));
}

json_t *mq_curves_json(const mq_curves *curves)
{
    json_t *list = json_array();
    bool is_taken[MQ_CURVES_MAX] = {false};
    for (size_t n = 0; n < MQ_CURVES_MAX; n++) {
        const mq_curve *newest = NULL;
        for (size_t i = 0; i < MQ_CURVES_MAX; i++) {
            const mq_curve *curve = &curves->curves[i];
            /* ULIDs sort by time. */
            if (!is_taken[i] && curve->job[0] != '\0' &&
                (newest == NULL || strcmp(curve->job, newest->job) > 0)) {
                newest = curve;
            }
        }
        if (newest == NULL) {
            break;
        }
        is_taken[newest - curves->curves] = true;
        json_array_append_new(list, curve_json(newest));
    }
    return list;
}

static mq_curve *find(mq_curves *curves, const char *job)
{
    for (size_t i = 0; i < MQ_CURVES_MAX; i++) {
        if (strcmp(curves->curves[i].job, job) == 0) {
            return &curves->curves[i];
        }
    }
    return NULL;
}

/* Takes the place of the curve that has not run for longest. */
static mq_curve *make(mq_curves *curves, const char *job)
{
    mq_curve *oldest = &curves->curves[0];
    for (size_t i = 1; i < MQ_CURVES_MAX; i++) {
        if (curves->curves[i].seen < oldest->seen) {
            oldest = &curves->curves[i];
        }
    }
    *oldest = (mq_curve){.stride = 1};
    mq_span_copy(mq_str(job), oldest->job, sizeof oldest->job);
    return oldest;
}

static void add_point(mq_curve *curve, mq_curve_point point)
{
    bool is_first = curve->count == 0;
    if (!is_first && point.step == curve->last.step) {
        return;
    }
    if (!is_first && point.step < curve->last.step) {
        /* Went back to its last checkpoint: what lies beyond is computed again. */
        while (curve->count > 0 && curve->points[curve->count - 1].step >= point.step) {
            curve->count--;
        }
    }
    curve->last = point;
    if (++curve->skipped < curve->stride && !is_first) {
        return;
    }
    curve->skipped = 0;
    if (curve->count == MQ_CURVE_POINTS_MAX) {
        for (uint32_t i = 0; 2 * i < MQ_CURVE_POINTS_MAX; i++) {
            curve->points[i] = curve->points[2 * i];
        }
        curve->count = (MQ_CURVE_POINTS_MAX + 1) / 2;
        curve->stride *= 2;
    }
    curve->points[curve->count++] = point;
}

/* What the training itself remembers of the time before it was looked at. */
static void add_past(mq_curve *curve, const json_t *past)
{
    for (size_t i = 0; i < json_array_size(past); i++) {
        const json_t *at = json_array_get(past, i);
        mq_curve_point point = {number(at, "step"), number(at, "loss"), number(at, "accuracy")};
        if (!isnan(point.step) && !isnan(point.loss)) {
            add_point(curve, point);
        }
    }
}

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

static json_t *curve_json(const mq_curve *curve)
{
    json_t *points = json_array();
    for (uint32_t i = 0; i < curve->count; i++) {
        json_array_append_new(points, point_json(&curve->points[i]));
    }
    if (curve->count > 0 && curve->points[curve->count - 1].step != curve->last.step) {
        json_array_append_new(points, point_json(&curve->last));
    }
    json_t *object = json_object();
    json_object_set_new(object, "job", json_string(curve->job));
    json_object_set_new(object, "model", json_string(curve->model));
    json_object_set_new(object, "running", json_boolean(curve->is_running));
    json_object_set_new(object, "points", points);
    return object;
}

static json_t *point_json(const mq_curve_point *point)
{
    json_t *list = json_array();
    json_array_append_new(list, json_real(point->step));
    json_array_append_new(list, json_real(point->loss));
    json_array_append_new(list, isnan(point->accuracy) ? json_null() : json_real(point->accuracy));
    return list;
}
