/* Option tables; see options.h. */
#include "shared/base/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const mq_option *find(const mq_option *options, size_t count, const char *name, size_t len)
{
    for (size_t i = 0; i < count; i++) {
        if (strlen(options[i].name) == len && memcmp(options[i].name, name, len) == 0) {
            return &options[i];
        }
    }
    return NULL;
}

/* Decimal number, for MQ_OPT_BYTES with a suffix; false when text is not one. */
static bool number(const char *text, bool has_suffix, int64_t *out)
{
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno != 0 || end == text || (*text < '0' && *text != '-')) {
        return false;
    }
    int shift = 0;
    if (has_suffix && *end != '\0') {
        static const char units[] = "KMG";
        const char *at = strchr(units, *end++);
        shift = at == NULL ? -1 : 10 * (int)(at - units + 1);
    }
    if (*end != '\0' || shift < 0) {
        return false;
    }
    return !__builtin_mul_overflow((int64_t)value, INT64_C(1) << shift, out);
}

static mq_code store_text(const mq_option *option, const char *text, char *field, mq_error *err)
{
    size_t len = strlen(text);
    if (len < (size_t)option->min || len > (size_t)option->max) {
        return mq_fail(err, MQ_E_ARG, "--%s: %zu bytes, outside %lld..%lld", option->name, len,
                       (long long)option->min, (long long)option->max);
    }
    if (option->type == MQ_OPT_TEXT) {
        memcpy(field, &text, sizeof text);
        return MQ_OK;
    }
    mq_option_list *list = (mq_option_list *)(void *)field;
    if (list->count == MQ_OPTION_LIST_MAX) {
        return mq_fail(err, MQ_E_ARG, "--%s: given more than %d times", option->name,
                       MQ_OPTION_LIST_MAX);
    }
    list->at[list->count++] = text;
    return MQ_OK;
}

static mq_code store(const mq_option *option, const char *text, void *out, mq_error *err)
{
    char *field = (char *)out + option->offset;
    long long min = option->min, max = option->max;
    if (option->type == MQ_OPT_TEXT || option->type == MQ_OPT_LIST) {
        return store_text(option, text, field, err);
    }
    int64_t value = 0;
    if (!number(text, option->type == MQ_OPT_BYTES, &value)) {
        return mq_fail(err, MQ_E_ARG, "--%s: \"%.40s\" is not a number%s", option->name, text,
                       option->type == MQ_OPT_BYTES ? " (K, M or G may follow)" : "");
    }
    if (value < min || value > max) {
        return mq_fail(err, MQ_E_ARG, "--%s: %lld is outside %lld..%lld", option->name,
                       (long long)value, min, max);
    }
    memcpy(field, &value, sizeof value);
    return MQ_OK;
}

mq_code mq_options_parse(const mq_option *options, size_t count, int argc, char **argv, void *out,
                         mq_error *err)
{
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (strncmp(arg, "--", 2) != 0) {
            return mq_fail(err, MQ_E_ARG, "%.80s: options begin with --; see --help", arg);
        }
        size_t len = strcspn(arg + 2, "=");
        const mq_option *option = find(options, count, arg + 2, len);
        if (option == NULL) {
            return mq_fail(err, MQ_E_ARG, "%.80s: unknown option; see --help", arg);
        }
        const char *value = arg[2 + len] == '=' ? arg + 3 + len : NULL;
        if (option->type == MQ_OPT_FLAG) {
            if (value != NULL) {
                return mq_fail(err, MQ_E_ARG, "--%s takes no value", option->name);
            }
            *(bool *)((char *)out + option->offset) = true;
            continue;
        }
        if (value == NULL && ++i == argc) {
            return mq_fail(err, MQ_E_ARG, "--%s needs a value (%s)", option->name,
                           option->value_name);
        }
        mq_code code = store(option, value == NULL ? argv[i] : value, out, err);
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

bool mq_options_ask(int argc, char **argv, const char *name)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strncmp(argv[i], "--", 2) == 0 && strcmp(argv[i] + 2, name) == 0) {
            return true;
        }
    }
    return false;
}

void mq_options_help(const mq_option *options, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char head[64];
        snprintf(head, sizeof head, "--%s %s", options[i].name, options[i].value_name);
        printf("  %-28s %s\n", head, options[i].help);
    }
}
