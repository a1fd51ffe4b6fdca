/* The table of passes and the reading of their texts; see pass.h. */
#include "worker/passes/pass.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const mq_pass *const passes[] = {
#define MQ_PASS(symbol) &mq_pass_##symbol,
#include "worker/passes/passes.def"
#undef MQ_PASS
};
enum { PASS_COUNT = sizeof passes / sizeof passes[0] };

size_t mq_pass_table(const mq_pass *const **out)
{
    *out = passes;
    return PASS_COUNT;
}

static mq_code add_item(mq_pass_args *args, const char *from, size_t len, mq_error *err)
{
    const char *equals = memchr(from, '=', len);
    size_t key_len = equals == NULL ? 0 : (size_t)(equals - from);
    size_t skip = equals == NULL ? 0 : key_len + 1;
    if (args->count == MQ_PASS_ITEMS_MAX || len == 0 || len == skip ||
        (equals != NULL && key_len == 0) || key_len >= MQ_PASS_ITEM_MAX ||
        len - skip >= MQ_PASS_ITEM_MAX) {
        return mq_fail(err, MQ_E_ARG,
                       "pass \"%s\": at \"%.*s\" expected VALUE or KEY=VALUE of 1..%d bytes each, "
                       "at most %d of them",
                       args->text, (int)len, from, MQ_PASS_ITEM_MAX - 1, MQ_PASS_ITEMS_MAX);
    }
    mq_span_copy(mq_span_of(from, key_len), args->items[args->count].key, MQ_PASS_ITEM_MAX);
    mq_span_copy(mq_span_of(from + skip, len - skip), args->items[args->count].value,
                 MQ_PASS_ITEM_MAX);
    args->count++;
    return MQ_OK;
}

static mq_code unknown(const char *text, mq_error *err)
{
    char forms[400] = "";
    for (size_t i = 0; i < PASS_COUNT; i++) {
        size_t used = strlen(forms);
        snprintf(forms + used, sizeof forms - used, "%s%s", i == 0 ? "" : "; ", passes[i]->form);
    }
    return mq_fail(err, MQ_E_ARG, "pass \"%.64s\" is not known; there are: %s", text, forms);
}

mq_code mq_pass_parse(const char *text, const mq_pass **pass, mq_pass_args *args, size_t *index,
                      mq_error *err)
{
    size_t name_len = strcspn(text, ":"), i = 0;
    *args = (mq_pass_args){0};
    if (!mq_span_copy(mq_str(text), args->text, sizeof args->text)) {
        return mq_fail(err, MQ_E_ARG, "pass: longer than %d bytes", MQ_PASS_TEXT_MAX);
    }
    while (i < PASS_COUNT && !mq_span_is(mq_span_of(text, name_len), passes[i]->name)) {
        i++;
    }
    if (i == PASS_COUNT) {
        return unknown(text, err);
    }
    mq_code code = MQ_OK;
    if (text[name_len] == ':') {
        const char *at = text + name_len;
        do {
            at++;
            size_t len = strcspn(at, ",");
            code = add_item(args, at, len, err);
            at += len;
        } while (code == MQ_OK && *at == ',');
    }
    if (code == MQ_OK) {
        code = passes[i]->check(args, err);
    }
    if (code == MQ_OK) {
        *pass = passes[i];
        if (index != NULL) {
            *index = i;
        }
    }
    return code;
}

mq_code mq_pass_apply(const mq_pass *pass, const mq_pass_args *args, mq_model *model,
                      mq_buf *report, mq_error *err)
{
    mq_buf members;
    mq_buf_init(&members, MQ_PASS_REPORT_MAX);
    mq_code code = pass->run(model, args, &members, err);
    if (code == MQ_OK) {
        mq_model_remove_dead(model);
        code = mq_model_verify(model, err);
    }
    if (code == MQ_OK && members.is_full) {
        code = mq_fail(err, MQ_E_LIMIT, "report of more than %d bytes", MQ_PASS_REPORT_MAX);
    }
    if (code == MQ_OK) {
        mq_buf_add_str(report, "{\"pass\":");
        mq_buf_add_json(report, mq_str(args->text));
        mq_buf_add_str(report, members.len > 0 ? "," : "");
        mq_buf_add_span(report, mq_buf_span(&members));
        mq_buf_add_str(report, "}");
    }
    mq_buf_release(&members);
    return code == MQ_OK ? MQ_OK : mq_wrap(err, "pass %s", args->text);
}

const char *mq_pass_item(const mq_pass_args *args, const char *key)
{
    for (uint32_t i = 0; i < args->count; i++) {
        if (strcmp(args->items[i].key, key) == 0) {
            return args->items[i].value;
        }
    }
    return NULL;
}

mq_code mq_pass_number(const mq_pass_args *args, const char *key, bool is_required, double min,
                       double max, double *out, mq_error *err)
{
    const char *text = mq_pass_item(args, key), *label = key[0] == '\0' ? "value" : key;
    if (text == NULL) {
        return is_required
                   ? mq_fail(err, MQ_E_ARG, "pass \"%s\": %s is required, a number in %g..%g",
                             args->text, label, min, max)
                   : MQ_OK;
    }
    char *end;
    double v = strtod(text, &end);
    if (*end != '\0' || end == text || !(v >= min && v <= max)) {
        return mq_fail(err, MQ_E_ARG, "pass \"%s\": %s \"%s\" is not a number in %g..%g",
                       args->text, label, text, min, max);
    }
    *out = v;
    return MQ_OK;
}

mq_code mq_pass_choice(const mq_pass_args *args, const char *key, const char *const *choices,
                       int *out, mq_error *err)
{
    const char *text = mq_pass_item(args, key), *label = key[0] == '\0' ? "value" : key;
    char list[128] = "";
    if (text == NULL) {
        return MQ_OK;
    }
    for (int i = 0; choices[i] != NULL; i++) {
        if (strcmp(text, choices[i]) == 0) {
            *out = i;
            return MQ_OK;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i == 0 ? "" : ", ", choices[i]);
    }
    return mq_fail(err, MQ_E_ARG, "pass \"%s\": %s \"%s\" is none of %s", args->text, label, text,
                   list);
}

mq_code mq_pass_known(const mq_pass_args *args, const char *const *keys, mq_error *err)
{
    for (uint32_t i = 0; i < args->count; i++) {
        const char *key = args->items[i].key;
        size_t k = 0;
        while (keys[k] != NULL && strcmp(keys[k], key) != 0) {
            k++;
        }
        bool is_twice = mq_pass_item(args, key) != args->items[i].value;
        if (keys[k] == NULL || is_twice) {
            return mq_fail(err, MQ_E_ARG, "pass \"%s\": %s%s%s is %s", args->text,
                           key[0] == '\0' ? "a value alone (\"" : "item \"",
                           key[0] == '\0' ? args->items[i].value : key,
                           key[0] == '\0' ? "\")" : "\"",
                           is_twice ? "given twice" : "not known to this pass");
        }
    }
    return MQ_OK;
}
