/* Arguments of one command. Which there are stands in its usage text (commands.def), and nowhere
 * else:
 *
 *     NAME            needed          [NAME]   may be left out       FILE...   one or more, at the
 * end
 *     [--flag]        a flag          [--option VALUE]               [--option VALUE]...   may be
 * repeated
 *
 * `ANY...` takes every word and option as it is (for another program). `--option value` and
 * `--option=value` are the same; `--` ends the options. Options may stand anywhere. A wrong
 * argument is a usage error: exit status 2 and a sentence that names it. */
#ifndef MQ_CLI_ARGS_H
#define MQ_CLI_ARGS_H

#include "shared/base/error.h"
#include "shared/base/span.h"

enum {
    MQ_ARGV_OPTIONS_MAX = 48,
    MQ_ARGV_GIVEN_MAX = 512, /* words on one command line */
};

typedef struct mq_arg_option {
    mq_span name; /* without the dashes; borrowed from the usage text */
    bool takes_value;
    bool is_repeated;
} mq_arg_option;

/* What a usage text allows. */
typedef struct mq_usage {
    mq_arg_option options[MQ_ARGV_OPTIONS_MAX];
    size_t option_count;
    bool is_any;
    size_t words_min, words_max;
    mq_span words[16]; /* names of the positional arguments */
} mq_usage;

/* Our own text, so a mistake in it is asserted. Several texts are read one after the other. */
void mq_usage_read(mq_usage *usage, const char *text);

typedef struct mq_argv {
    const mq_usage *usage;
    const char *words[MQ_ARGV_GIVEN_MAX]; /* borrowed from argv */
    size_t word_count;
    struct {
        size_t option; /* index into usage->options */
        const char *value;
    } given[MQ_ARGV_GIVEN_MAX];
    size_t given_count;
} mq_argv;

/* Reads what follows the command's own words. MQ_E_ARG. Borrows usage and argv. */
MQ_MUST_USE mq_code mq_argv_read(mq_argv *args, const mq_usage *usage, int argc, char **argv,
                                 mq_error *err);

/* Word number i, or NULL. */
const char *mq_argv_word(const mq_argv *args, size_t i);

/* Value number i of an option that may be repeated; NULL behind the last one. */
const char *mq_argv_nth(const mq_argv *args, const char *option, size_t i);

/* Value of an option, or the fallback (may be NULL). */
const char *mq_argv_text(const mq_argv *args, const char *option, const char *fallback);
bool mq_argv_has(const mq_argv *args, const char *option);

/* A whole number or a real one within limits into *out; left alone when the option was not given.
 */
MQ_MUST_USE mq_code mq_argv_int(const mq_argv *args, const char *option, int64_t min, int64_t max,
                                int64_t *out, mq_error *err);
MQ_MUST_USE mq_code mq_argv_real(const mq_argv *args, const char *option, double min, double max,
                                 double *out, mq_error *err);

/* "3..7" or "3" (both ends). */
MQ_MUST_USE mq_code mq_argv_range(const mq_argv *args, const char *option, int64_t min, int64_t max,
                                  int64_t *from, int64_t *to, mq_error *err);

/* A number at the start of text and nothing else. */
bool mq_text_int(const char *text, int64_t *out);
bool mq_text_real(const char *text, double *out);

#endif
