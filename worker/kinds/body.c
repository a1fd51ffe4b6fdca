/* Checked reading of request bodies; see body.h. Knows JSON, knows no job kind. */
#include "worker/kinds/body.h"

#include <ctype.h>

#include "shared/base/sha256.h"

mq_code mq_body_open(mq_body *body, mq_span json, const char *const *known, mq_error *err)
{
    json_error_t at;
    *body = (mq_body){0};
    if (json.len == 0) {
        json = mq_str("{}");
    }
    body->root = json_loadb((const char *)json.data, json.len, JSON_REJECT_DUPLICATES, &at);
    if (body->root == NULL) {
        return mq_fail(err, MQ_E_FORMAT, "body: byte %d is not JSON: %s", at.position, at.text);
    }
    if (!json_is_object(body->root)) {
        return mq_fail(err, MQ_E_FORMAT, "body: expected a JSON object {...}");
    }
    const char *key;
    json_t *value;
    json_object_foreach(body->root, key, value)
    {
        const char *const *k = known;
        while (*k != NULL && strcmp(*k, key) != 0) {
            k++;
        }
        if (*k == NULL) {
            char list[256] = "";
            size_t used = 0;
            for (k = known; *k != NULL && used < sizeof list; k++) {
                used += (size_t)snprintf(list + used, sizeof list - used, "%s%s",
                                         k == known ? "" : ", ", *k);
            }
            return mq_fail(err, MQ_E_ARG, "body: field \"%.64s\" is not known; known are %s", key,
                           list);
        }
    }
    return MQ_OK;
}

void mq_body_close(mq_body *body)
{
    json_decref(body->root);
    body->root = NULL;
}

/* The field's value, NULL when absent or null. */
static json_t *value_of(const mq_body *body, const char *field)
{
    json_t *value = json_object_get(body->root, field);
    return json_is_null(value) ? NULL : value;
}

mq_code mq_body_text(const mq_body *body, const char *field, bool is_required, size_t bytes_max,
                     const char **out, mq_error *err)
{
    json_t *value = value_of(body, field);
    if (value == NULL) {
        return is_required ? mq_fail(err, MQ_E_ARG, "%s: is required", field) : MQ_OK;
    }
    if (!json_is_string(value)) {
        return mq_fail(err, MQ_E_ARG, "%s: expected a string", field);
    }
    if (json_string_length(value) > bytes_max || json_string_length(value) == 0) {
        return mq_fail(err, MQ_E_ARG, "%s: %zu bytes are outside 1..%zu", field,
                       json_string_length(value), bytes_max);
    }
    *out = json_string_value(value);
    return MQ_OK;
}

mq_code mq_body_int(const mq_body *body, const char *field, int64_t min, int64_t max, int64_t *out,
                    mq_error *err)
{
    json_t *value = value_of(body, field);
    if (value == NULL) {
        return MQ_OK;
    }
    if (!json_is_integer(value)) {
        return mq_fail(err, MQ_E_ARG, "%s: expected a whole number in %lld..%lld", field,
                       (long long)min, (long long)max);
    }
    int64_t n = json_integer_value(value);
    if (n < min || n > max) {
        return mq_fail(err, MQ_E_ARG, "%s: %lld is outside %lld..%lld", field, (long long)n,
                       (long long)min, (long long)max);
    }
    *out = n;
    return MQ_OK;
}

mq_code mq_body_number(const mq_body *body, const char *field, double min, double max, double *out,
                       mq_error *err)
{
    json_t *value = value_of(body, field);
    if (value == NULL) {
        return MQ_OK;
    }
    double n = json_number_value(value);
    if (!json_is_number(value) || !(n >= min && n <= max)) {
        return mq_fail(err, MQ_E_ARG, "%s: expected a number in %g..%g", field, min, max);
    }
    *out = n;
    return MQ_OK;
}

mq_code mq_body_flag(const mq_body *body, const char *field, bool *out, mq_error *err)
{
    json_t *value = value_of(body, field);
    if (value == NULL) {
        return MQ_OK;
    }
    if (!json_is_boolean(value)) {
        return mq_fail(err, MQ_E_ARG, "%s: expected true or false", field);
    }
    *out = json_is_true(value);
    return MQ_OK;
}

static size_t name_len(const char *s)
{
    size_t n = 0;
    while (isalnum((unsigned char)s[n]) || (n > 0 && (s[n] == '.' || s[n] == '_' || s[n] == '-'))) {
        n++;
    }
    return n;
}

mq_code mq_body_name(const mq_body *body, const char *field, bool is_required, bool allow_version,
                     const char **out, mq_error *err)
{
    const char *text = NULL;
    mq_code code = mq_body_text(body, field, is_required, 2 * MQ_NAME_BYTES_MAX, &text, err);
    if (code != MQ_OK || text == NULL) {
        return code;
    }
    size_t n = name_len(text);
    bool is_good = n > 0 && n <= MQ_NAME_BYTES_MAX;
    if (is_good && text[n] == '@' && allow_version) {
        size_t version = name_len(text + n + 1);
        is_good = version > 0 && version <= MQ_NAME_BYTES_MAX && text[n + 1 + version] == '\0';
    } else {
        is_good = is_good && text[n] == '\0';
    }
    if (!is_good) {
        return mq_fail(err, MQ_E_ARG,
                       "%s: \"%.64s\" is not a name: 1..%d letters, digits, '.', '_' or '-', the "
                       "first a letter or digit%s",
                       field, text, MQ_NAME_BYTES_MAX,
                       allow_version ? ", then optionally @VERSION or @ALIAS" : "");
    }
    *out = text;
    return MQ_OK;
}

mq_code mq_body_hash(const json_t *value, const char *field, const char **out, mq_error *err)
{
    const char *text = json_string_value(value);
    if (text == NULL || !mq_sha256_is_hex(mq_span_of(text, json_string_length(value)))) {
        return mq_fail(err, MQ_E_ARG, "%s: expected a blob's hash, 64 lower-case hex digits",
                       field);
    }
    *out = text;
    return MQ_OK;
}
