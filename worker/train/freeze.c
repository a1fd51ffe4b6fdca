/* Names of frozen tensors; see freeze.h. Knows no net. */
#include "worker/train/freeze.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/train/net_impl.h"

static int compare(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void sort(mq_freeze *f)
{
    uint32_t kept = 0;
    qsort(f->patterns, f->count, sizeof f->patterns[0], compare);
    for (uint32_t i = 0; i < f->count; i++) {
        if (kept == 0 || strcmp(f->patterns[kept - 1], f->patterns[i]) != 0) {
            memmove(f->patterns[kept++], f->patterns[i], sizeof f->patterns[0]);
        }
    }
    f->count = kept;
}

mq_code mq_freeze_read(mq_freeze *out, const json_t *o, mq_error *err)
{
    const json_t *list = json_object_get(o, "freeze"), *v;
    size_t i;
    *out = (mq_freeze){0};
    if (list == NULL) {
        return MQ_OK;
    }
    if (!json_is_array(list) || json_array_size(list) < 1 ||
        json_array_size(list) > MQ_FREEZE_MAX) {
        return mq_fail(err, MQ_E_ARG,
                       "freeze: must be a list of 1..%d patterns of initializer names, such as "
                       "\"layer1.*\"",
                       MQ_FREEZE_MAX);
    }
    json_array_foreach(list, i, v)
    {
        size_t len = json_string_length(v);
        if (!json_is_string(v) || len < 1 || len >= MQ_FREEZE_PATTERN_SIZE ||
            strlen(json_string_value(v)) != len) {
            return mq_fail(err, MQ_E_ARG, "freeze[%zu]: must be a text of 1..%d bytes", i,
                           MQ_FREEZE_PATTERN_SIZE - 1);
        }
        memcpy(out->patterns[out->count++], json_string_value(v), len + 1);
    }
    sort(out);
    return MQ_OK;
}

bool mq_freeze_write(const mq_freeze *freeze, json_t *o)
{
    json_t *list = freeze->count == 0 ? NULL : json_array();
    for (uint32_t i = 0; list != NULL && i < freeze->count; i++) {
        (void)json_array_append_new(list, json_string(freeze->patterns[i]));
    }
    return freeze->count == 0 || (list != NULL && json_object_set_new(o, "freeze", list) == 0);
}

/* Goes back to the last '*' only: at most length of pattern x length of name. */
static bool fits(const char *pattern, const char *name)
{
    const char *star = NULL, *from = NULL;
    while (*name != '\0') {
        if (*pattern == '*') {
            star = pattern++;
            from = name;
        } else if (*pattern == '?' || *pattern == *name) {
            pattern++;
            name++;
        } else if (star != NULL) {
            pattern = star + 1;
            name = ++from;
        } else {
            return false;
        }
    }
    while (*pattern == '*') {
        pattern++;
    }
    return *pattern == '\0';
}

bool mq_freeze_fits(const mq_freeze *freeze, const char *name)
{
    for (uint32_t i = 0; freeze != NULL && i < freeze->count; i++) {
        if (fits(freeze->patterns[i], name)) {
            return true;
        }
    }
    return false;
}

/* "a, b, c" of what can be frozen. */
static void some_names(const mq_model *model, const bool *is_param, char *out, size_t size)
{
    size_t len = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < model->graph.initializer_count && len < size; i++) {
        if (is_param[i]) {
            int n = snprintf(out + len, size - len, "%s%s", len > 0 ? ", " : "",
                             model->graph.initializers[i].name);
            len += n > 0 ? (size_t)n : 0;
        }
    }
}

static mq_code check(const mq_freeze *f, const mq_model *model, const bool *is_param, mq_error *err)
{
    bool is_left = false, is_used[MQ_FREEZE_MAX] = {false};
    for (uint32_t i = 0; i < model->graph.initializer_count; i++) {
        const char *name = model->graph.initializers[i].name;
        for (uint32_t k = 0; k < f->count && is_param[i]; k++) {
            is_used[k] = is_used[k] || fits(f->patterns[k], name);
        }
        is_left = is_left || (is_param[i] && !mq_freeze_fits(f, name));
    }
    for (uint32_t k = 0; k < f->count; k++) {
        if (!is_used[k]) {
            char names[240];
            some_names(model, is_param, names, sizeof names);
            return mq_fail(err, MQ_E_ARG,
                           "freeze: \"%.60s\" fits no trainable tensor of the model; it has %s",
                           f->patterns[k], names);
        }
    }
    return is_left ? MQ_OK
                   : mq_fail(err, MQ_E_ARG,
                             "freeze: every trainable tensor of the model is frozen; leave some");
}

mq_code mq_freeze_check(const mq_freeze *freeze, const mq_model *model, mq_error *err)
{
    if (freeze->count == 0) {
        return MQ_OK;
    }
    bool *is_param = calloc((size_t)model->graph.initializer_count + 1, sizeof *is_param);
    mq_code code = is_param == NULL
                       ? mq_fail(err, MQ_E_LIMIT, "freeze: no memory to list parameters")
                       : mq_net_trainable(model, NULL, is_param, err);
    code = code != MQ_OK ? code : check(freeze, model, is_param, err);
    free(is_param);
    return code;
}
