/* Readers of JSON fields; see fields.h. They know no manifest. */
#include "worker/train/fields.h"

#include <stdio.h>
#include <string.h>

mq_code mq_field_text(const json_t *o, const char *name, char *out, size_t size, mq_error *err)
{
    const json_t *v = json_object_get(o, name);
    if (v == NULL) {
        return MQ_OK;
    }
    size_t len = json_string_length(v);
    if (!json_is_string(v) || len == 0 || len >= size) {
        return mq_fail(err, MQ_E_ARG, "%s: must be a text of 1..%zu bytes", name, size - 1);
    }
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)json_string_value(v)[i];
        if (c <= 0x20 || c == 0x7f || c == '"' || c == '\\') {
            return mq_fail(err, MQ_E_ARG, "%s: byte %zu is a blank, a quote or not printable", name,
                           i);
        }
    }
    memcpy(out, json_string_value(v), len + 1);
    return MQ_OK;
}

mq_code mq_field_int(const json_t *o, const char *name, int64_t least, int64_t most, int64_t *out,
                     mq_error *err)
{
    const json_t *v = json_object_get(o, name);
    if (v == NULL) {
        return MQ_OK;
    }
    if (!json_is_integer(v) || json_integer_value(v) < least || json_integer_value(v) > most) {
        return mq_fail(err, MQ_E_ARG, "%s: must be a whole number in %lld..%lld", name,
                       (long long)least, (long long)most);
    }
    *out = json_integer_value(v);
    return MQ_OK;
}

mq_code mq_field_u32(const json_t *o, const char *name, uint32_t least, uint32_t most,
                     uint32_t *out, mq_error *err)
{
    int64_t v = *out;
    mq_code code = mq_field_int(o, name, least, most, &v, err);
    *out = (uint32_t)v;
    return code;
}

mq_code mq_field_real(const json_t *o, const char *name, double least, double most, double *out,
                      mq_error *err)
{
    const json_t *v = json_object_get(o, name);
    if (v == NULL) {
        return MQ_OK;
    }
    double x = json_number_value(v);
    if (!json_is_number(v) || !(x >= least) || !(x <= most)) {
        return mq_fail(err, MQ_E_ARG, "%s: must be a number in %g..%g", name, least, most);
    }
    *out = x;
    return MQ_OK;
}

mq_code mq_field_bool(const json_t *o, const char *name, bool *out, mq_error *err)
{
    const json_t *v = json_object_get(o, name);
    if (v != NULL && !json_is_boolean(v)) {
        return mq_fail(err, MQ_E_ARG, "%s: must be true or false", name);
    }
    *out = v == NULL ? *out : json_is_true(v);
    return MQ_OK;
}

mq_code mq_field_choice(const json_t *o, const char *name, const char *const *choices,
                        uint32_t *out, mq_error *err)
{
    const json_t *v = json_object_get(o, name);
    if (v == NULL) {
        return MQ_OK;
    }
    for (uint32_t i = 0; json_is_string(v) && choices[i] != NULL; i++) {
        if (strcmp(json_string_value(v), choices[i]) == 0) {
            *out = i;
            return MQ_OK;
        }
    }
    char list[256] = "";
    for (uint32_t i = 0; choices[i] != NULL; i++) {
        size_t at = strlen(list);
        (void)snprintf(list + at, sizeof list - at, "%s\"%s\"", i > 0 ? ", " : "", choices[i]);
    }
    return mq_fail(err, MQ_E_ARG, "%s: must be one of %s", name, list);
}

mq_code mq_fields_known(json_t *o, const char *where, const char *const *known, mq_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach(o, key, value)
    {
        bool is_known = false;
        for (uint32_t i = 0; known[i] != NULL; i++) {
            is_known = is_known || strcmp(key, known[i]) == 0;
        }
        if (!is_known) {
            return mq_fail(err, MQ_E_ARG, "%s%.64s: no such field; see the list in manifest.h",
                           where, key);
        }
    }
    return MQ_OK;
}
