/* Command-line options of the daemons from one table: parsing, range checks and the help text.
 *
 *     static const mq_option options[] = {
 *         {"front", "ENDPOINT", MQ_OPT_TEXT, offsetof(config, front), 1, 255, "where clients
 * connect"},
 *     };
 *
 * `--name value` and `--name=value` are accepted; a flag takes no value. */
#ifndef MQ_BASE_OPTIONS_H
#define MQ_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared/base/error.h"

typedef enum mq_option_type {
    MQ_OPT_TEXT,  /* const char *: borrowed from argv; min..max bytes */
    MQ_OPT_INT,   /* int64_t: min..max */
    MQ_OPT_BYTES, /* int64_t: a number with an optional K, M or G (powers of 1024); min..max */
    MQ_OPT_FLAG,  /* bool */
    MQ_OPT_LIST,  /* mq_option_list: may be given again and again; min..max bytes each */
} mq_option_type;

enum { MQ_OPTION_LIST_MAX = 32 };

/* Values in the order in which they were given; borrowed from argv. */
typedef struct mq_option_list {
    const char *at[MQ_OPTION_LIST_MAX];
    uint32_t count;
} mq_option_list;

typedef struct mq_option {
    const char *name;       /* without the dashes */
    const char *value_name; /* for the help text; "" for flags */
    mq_option_type type;
    size_t offset; /* of the field in the caller's struct */
    int64_t min, max;
    const char *help;
} mq_option;

/* Reads argv[1..]; fields that are not named keep what they hold. MQ_E_ARG names the option, its
 * limits and what was given. --help and --version are the caller's, found before. Arguments that do
 * not begin with "--" are refused. */
MQ_MUST_USE mq_code mq_options_parse(const mq_option *options, size_t count, int argc, char **argv,
                                     void *out, mq_error *err);

/* True when argv holds --name before any "--". */
bool mq_options_ask(int argc, char **argv, const char *name);

/* One line an option to standard output. */
void mq_options_help(const mq_option *options, size_t count);

#endif
