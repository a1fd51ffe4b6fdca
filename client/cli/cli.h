/* What every command of `maasq` shares: the table, the connection, output and errors. A command is
 * a function that returns the exit status: 0, 1 failed (an error was printed), 2 usage. */
#ifndef MQ_CLI_CLI_H
#define MQ_CLI_CLI_H

#include <jansson.h>

#include "client/cli/args.h"
#include "client/include/maasq.h"
#include "shared/base/buf.h"
#include "shared/base/error.h"

enum { MQ_EXIT_OK = 0, MQ_EXIT_FAILED = 1, MQ_EXIT_USAGE = 2 };

typedef struct mq_cli {
    const struct mq_command_row *command;
    const mq_argv *args;
    bool is_json;       /* --json: one JSON value on standard output, nothing else there */
    int64_t timeout_ms; /* --timeout, for one answer of the broker; default 30 s */
    const char *broker; /* --broker, or NULL */
    char found_broker[512];
    maasq_client *client; /* by mq_cli_connect; freed by the caller of the command */
} mq_cli;

typedef int mq_command_fn(mq_cli *cli, const mq_argv *args);

typedef struct mq_command_row {
    const char *words;     /* "dataset import" */
    const char *arguments; /* usage text */
    const char *summary;
    mq_command_fn *run;
} mq_command_row;

/* mq_cmd_<symbol>: one function a row. */
#define MQ_COMMAND(symbol, words, arguments, summary) mq_command_fn mq_cmd_##symbol;
#include "client/cli/commands.def"
#undef MQ_COMMAND

/* All commands, count of them. */
const mq_command_row *mq_commands(size_t *count);

/* The program: finds the command, reads its arguments, runs it. Returns the exit status. */
int mq_cli_main(int argc, char **argv);

/* ---- errors; each prints to standard error and returns an exit status ---- */
int mq_cli_fail(const mq_cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int mq_cli_usage(const mq_cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- the system ---- */

/* Connects to --broker, MAASQ_BROKER, the `maasq up` of the default data directory, or
 * 127.0.0.1:7700, and waits for an answer. MQ_EXIT_OK, or prints what to do. */
int mq_cli_connect(mq_cli *cli);

/* Asks a question; *out is owned by the caller (json_decref). */
int mq_cli_query(mq_cli *cli, const char *what, const char *name, const char *filter,
                 uint32_t limit, json_t **out);

/* A table of the jobs that a filter fits (job.c); --limit of args. */
int mq_job_list(mq_cli *cli, const mq_argv *args, const char *filter);

/* A future for the id of a command line (owned: maasq_job_release), or NULL after a message. */
maasq_job *mq_job_open(mq_cli *cli, const char *id);

/* The body that --input or --param give, into an empty buffer (job.c). */
MQ_MUST_USE mq_code mq_job_body(const mq_argv *args, mq_buf *body, mq_error *err);

int mq_cli_command(mq_cli *cli, const char *verb, const char *const *args, size_t count);

/* Default data directory: $MAASQ_DATA, else $XDG_DATA_HOME/maasq, else ~/.local/share/maasq. */
bool mq_cli_data_dir(char *out, size_t size);

/* The folder this program lies in. */
bool mq_cli_bin_dir(char *out, size_t size);

/* Replaces this process by a program of the same folder (else of the PATH); returns only on
 * failure. argv as for execv. */
int mq_cli_exec(const mq_cli *cli, const char *program, char **argv);

/* ---- output ---- */

/* Prints a value to standard output, indented; takes the reference. Returns MQ_EXIT_OK, or
 * MQ_EXIT_FAILED when standard output is gone. */
int mq_cli_json(json_t *takes);

/* Members of an object, with a value for what is absent. Borrowed from the object. */
const char *mq_js_text(const json_t *object, const char *key, const char *fallback);
int64_t mq_js_int(const json_t *object, const char *key);
double mq_js_real(const json_t *object, const char *key);    /* NAN when absent or no number */
const json_t *mq_js(const json_t *object, const char *path); /* "meta.metrics.accuracy", or NULL */

#endif
