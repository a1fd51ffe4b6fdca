/* Arguments by usage text; see args.h. Must not know any command. */
#include "client/cli/args.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "shared/base/assert.h"

static bool is_blank(char c)
{
    return c == ' ' || c == '\n';
}

/* Next token between blanks; empty at the end. */
static mq_span token(const char **at)
{
    while (is_blank(**at)) {
        (*at)++;
    }
    const char *start = *at;
    while (**at != '\0' && !is_blank(**at)) {
        (*at)++;
    }
    return mq_span_of(start, (size_t)(*at - start));
}

static bool ends_with(mq_span s, const char *end)
{
    size_t n = strlen(end);
    return s.len >= n && memcmp(s.data + s.len - n, end, n) == 0;
}

/* "[--name" or "--name" and perhaps its value, up to the "]" or the next token. */
static void read_option(mq_usage *usage, mq_span name, bool is_bracketed, const char **at)
{
    MQ_ASSERT(usage->option_count < MQ_ARGV_OPTIONS_MAX);
    mq_arg_option *option = &usage->options[usage->option_count++];
    *option = (mq_arg_option){0};
    mq_span last = name;
    bool is_open = is_bracketed && !ends_with(name, "]") && !ends_with(name, "]...");
    if (is_open || !is_bracketed) {
        last = token(at);
        option->takes_value = true;
    }
    option->is_repeated = ends_with(last, "]...");
    size_t cut = !option->takes_value ? (option->is_repeated ? 4 : 1) : 0;
    option->name = mq_span_of(name.data + 2, name.len - 2 - cut);
    MQ_ASSERT(option->name.len > 0);
}

void mq_usage_read(mq_usage *usage, const char *text)
{
    const char *at = text;
    for (mq_span t = token(&at); t.len > 0; t = token(&at)) {
        bool is_bracketed = t.data[0] == '[';
        mq_span bare = is_bracketed ? mq_span_of(t.data + 1, t.len - 1) : t;
        if (mq_span_is(t, "|")) {
            continue;
        }
        if (bare.len > 2 && bare.data[0] == '-' && bare.data[1] == '-') {
            read_option(usage, bare, is_bracketed, &at);
            continue;
        }
        if (mq_span_is(t, "ANY...")) {
            usage->is_any = true;
            continue;
        }
        MQ_ASSERT(usage->words_max <
                  sizeof usage->words / sizeof *usage->words); /* a list is last */
        usage->words_min += is_bracketed ? 0 : 1;
        usage->words[usage->words_max++] = t;
        if (ends_with(t, "...") || ends_with(t, "...]")) {
            usage->words_max = MQ_ARGV_GIVEN_MAX;
        }
    }
}

static const mq_arg_option *find(const mq_usage *usage, mq_span name)
{
    for (size_t i = 0; i < usage->option_count; i++) {
        if (mq_span_eq(usage->options[i].name, name)) {
            return &usage->options[i];
        }
    }
    return NULL;
}

static mq_code take_option(mq_argv *args, int argc, char **argv, int *i, mq_error *err)
{
    const char *text = argv[*i] + 2;
    const char *equal = strchr(text, '=');
    mq_span name = equal == NULL ? mq_str(text) : mq_span_of(text, (size_t)(equal - text));
    const mq_arg_option *option = find(args->usage, name);
    if (option == NULL) {
        return mq_fail(err, MQ_E_ARG, "unknown option --%.*s", MQ_SPAN_ARG(name));
    }
    const char *value = equal == NULL ? NULL : equal + 1;
    if (!option->takes_value && value != NULL) {
        return mq_fail(err, MQ_E_ARG, "--%.*s takes no value", MQ_SPAN_ARG(name));
    }
    if (option->takes_value && value == NULL) {
        if (*i + 1 >= argc) {
            return mq_fail(err, MQ_E_ARG, "--%.*s needs a value", MQ_SPAN_ARG(name));
        }
        value = argv[++*i];
    }
    size_t index = (size_t)(option - args->usage->options);
    for (size_t k = 0; k < args->given_count && !option->is_repeated; k++) {
        if (args->given[k].option == index) {
            return mq_fail(err, MQ_E_ARG, "--%.*s is given twice", MQ_SPAN_ARG(name));
        }
    }
    args->given[args->given_count].option = index;
    args->given[args->given_count++].value = value == NULL ? "" : value;
    return MQ_OK;
}

mq_code mq_argv_read(mq_argv *args, const mq_usage *usage, int argc, char **argv, mq_error *err)
{
    args->usage = usage;
    args->word_count = 0;
    args->given_count = 0;
    bool is_over = false;
    if (argc > MQ_ARGV_GIVEN_MAX) {
        return mq_fail(err, MQ_E_ARG, "more than %d arguments", MQ_ARGV_GIVEN_MAX);
    }
    for (int i = 0; i < argc; i++) {
        if (usage->is_any) {
            args->words[args->word_count++] = argv[i];
        } else if (!is_over && strcmp(argv[i], "--") == 0) {
            is_over = true;
        } else if (!is_over && strncmp(argv[i], "--", 2) == 0) {
            mq_code code = take_option(args, argc, argv, &i, err);
            if (code != MQ_OK) {
                return code;
            }
        } else if (!is_over && argv[i][0] == '-' && argv[i][1] != '\0') {
            return mq_fail(err, MQ_E_ARG, "unknown option %.40s (options have two dashes)",
                           argv[i]);
        } else {
            args->words[args->word_count++] = argv[i];
        }
    }
    if (args->word_count < usage->words_min) {
        return mq_fail(err, MQ_E_ARG, "%.*s is missing",
                       MQ_SPAN_ARG(usage->words[args->word_count]));
    }
    if (args->word_count > usage->words_max && !usage->is_any) {
        return mq_fail(err, MQ_E_ARG, "unexpected argument '%.80s'", args->words[usage->words_max]);
    }
    return MQ_OK;
}

const char *mq_argv_word(const mq_argv *args, size_t i)
{
    return i < args->word_count ? args->words[i] : NULL;
}

const char *mq_argv_nth(const mq_argv *args, const char *option, size_t i)
{
    const mq_arg_option *row = find(args->usage, mq_str(option));
    MQ_ASSERT(row != NULL); /* a command asks only for what its usage text names */
    size_t index = (size_t)(row - args->usage->options);
    for (size_t k = 0; k < args->given_count; k++) {
        if (args->given[k].option == index && i-- == 0) {
            return args->given[k].value;
        }
    }
    return NULL;
}

const char *mq_argv_text(const mq_argv *args, const char *option, const char *fallback)
{
    const char *value = mq_argv_nth(args, option, 0);
    return value == NULL ? fallback : value;
}

bool mq_argv_has(const mq_argv *args, const char *option)
{
    return mq_argv_nth(args, option, 0) != NULL;
}

bool mq_text_int(const char *text, int64_t *out)
{
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (text[0] == '\0' || is_blank(text[0]) || *end != '\0' || errno != 0) {
        return false;
    }
    *out = value;
    return true;
}

bool mq_text_real(const char *text, double *out)
{
    char *end = NULL;
    errno = 0;
    double value = strtod(text, &end);
    if (text[0] == '\0' || is_blank(text[0]) || *end != '\0' || errno != 0 || !isfinite(value)) {
        return false;
    }
    *out = value;
    return true;
}

mq_code mq_argv_int(const mq_argv *args, const char *option, int64_t min, int64_t max, int64_t *out,
                    mq_error *err)
{
    const char *text = mq_argv_nth(args, option, 0);
    int64_t value = 0;
    if (text == NULL) {
        return MQ_OK;
    }
    if (!mq_text_int(text, &value) || value < min || value > max) {
        return mq_fail(err, MQ_E_ARG, "--%s: '%.40s' is not a whole number in %lld..%lld", option,
                       text, (long long)min, (long long)max);
    }
    *out = value;
    return MQ_OK;
}

mq_code mq_argv_real(const mq_argv *args, const char *option, double min, double max, double *out,
                     mq_error *err)
{
    const char *text = mq_argv_nth(args, option, 0);
    double value = 0;
    if (text == NULL) {
        return MQ_OK;
    }
    if (!mq_text_real(text, &value) || value < min || value > max) {
        return mq_fail(err, MQ_E_ARG, "--%s: '%.40s' is not a number in %g..%g", option, text, min,
                       max);
    }
    *out = value;
    return MQ_OK;
}

mq_code mq_argv_range(const mq_argv *args, const char *option, int64_t min, int64_t max,
                      int64_t *from, int64_t *to, mq_error *err)
{
    const char *text = mq_argv_nth(args, option, 0);
    if (text == NULL) {
        return MQ_OK;
    }
    const char *dots = strstr(text, "..");
    char first[24];
    bool is_good =
        mq_span_copy(mq_span_of(text, dots == NULL ? strlen(text) : (size_t)(dots - text)), first,
                     sizeof first) &&
        mq_text_int(first, from) && mq_text_int(dots == NULL ? first : dots + 2, to);
    if (!is_good || *from < min || *to > max || *from > *to) {
        return mq_fail(err, MQ_E_ARG, "--%s: '%.40s' is not MIN..MAX within %lld..%lld", option,
                       text, (long long)min, (long long)max);
    }
    return MQ_OK;
}
