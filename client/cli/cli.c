/* The program `maasq` around its commands: finds the row, reads arguments, connects, prints. Must
 * not know what any command does. */
#include "client/cli/cli.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "client/cli/system.h"
#include "shared/base/assert.h"

#define GLOBAL_OPTIONS "[--json] [--broker URL] [--timeout SECONDS] [--help]"

static const mq_command_row rows[] = {
#define MQ_COMMAND(symbol, words, arguments, summary) {words, arguments, summary, mq_cmd_##symbol},
#include "client/cli/commands.def"
#undef MQ_COMMAND
};

enum { ROW_COUNT = sizeof rows / sizeof *rows, TIMEOUT_MS = 30000, CONNECT_MS = 10000 };

const mq_command_row *mq_commands(size_t *count)
{
    *count = ROW_COUNT;
    return rows;
}

/* ---- errors ---- */

static void say(const mq_cli *cli, const char *fmt, va_list args)
    __attribute__((format(printf, 2, 0)));

static void say(const mq_cli *cli, const char *fmt, va_list args)
{
    char text[1024];
    (void)vsnprintf(text, sizeof text, fmt, args);
    const char *words = cli != NULL && cli->command != NULL ? cli->command->words : "";
    fprintf(stderr, "maasq%s%s: %s\n", words[0] == '\0' ? "" : " ", words, text);
}

int mq_cli_fail(const mq_cli *cli, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    say(cli, fmt, args);
    va_end(args);
    return MQ_EXIT_FAILED;
}

int mq_cli_usage(const mq_cli *cli, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    say(cli, fmt, args);
    va_end(args);
    if (cli->command != NULL) {
        fprintf(stderr, "usage: maasq %s %s\n", cli->command->words, cli->command->arguments);
    } else {
        fprintf(stderr, "usage: maasq COMMAND ...; `maasq help` lists the commands\n");
    }
    return MQ_EXIT_USAGE;
}

/* ---- help ---- */

static int help_all(void)
{
    printf("maasq %s: Model-as-a-Service over a message queue\n\n", MQ_VERSION);
    for (size_t i = 0; i < ROW_COUNT; i++) {
        printf("  maasq %-16s %s\n", rows[i].words, rows[i].summary);
    }
    printf("\n`maasq COMMAND --help` shows a command's arguments. Every command takes %s.\n"
           "MAASQ_BROKER names a running system; without it, the one of `maasq up` is used.\n",
           GLOBAL_OPTIONS);
    return MQ_EXIT_OK;
}

/* For the shell's completion: a command a line, then its options. */
static int help_words(void)
{
    for (size_t i = 0; i < ROW_COUNT; i++) {
        static mq_usage usage;
        usage = (mq_usage){0};
        mq_usage_read(&usage, rows[i].arguments);
        mq_usage_read(&usage, GLOBAL_OPTIONS);
        printf("%s:", rows[i].words);
        for (size_t k = 0; k < usage.option_count; k++) {
            printf(" --%.*s", MQ_SPAN_ARG(usage.options[k].name));
        }
        printf("\n");
    }
    return MQ_EXIT_OK;
}

static int help_one(const mq_command_row *row)
{
    printf("maasq %s: %s\n\nusage: maasq %s %s\n       %s\n", row->words, row->summary, row->words,
           row->arguments, GLOBAL_OPTIONS);
    return MQ_EXIT_OK;
}

/* ---- finding and running ---- */

/* Number of argv words that are the row's words, 0 when they are not. */
static int matches(const mq_command_row *row, int argc, char **argv)
{
    const char *at = row->words;
    int count = 0;
    while (*at != '\0') {
        size_t len = strcspn(at, " ");
        if (count >= argc || strlen(argv[count]) != len || memcmp(argv[count], at, len) != 0) {
            return 0;
        }
        count++;
        at += len + (at[len] == ' ');
    }
    return count;
}

static int unknown(int argc, char **argv)
{
    mq_cli none = {0};
    size_t len = strlen(argv[0]);
    bool is_family = false;
    for (size_t i = 0; i < ROW_COUNT; i++) {
        is_family |= strncmp(rows[i].words, argv[0], len) == 0 && rows[i].words[len] == ' ';
    }
    if (!is_family) {
        return mq_cli_usage(&none, "unknown command '%.40s'", argv[0]);
    }
    if (argc > 1) {
        return mq_cli_usage(&none, "unknown command '%.40s %.40s'", argv[0], argv[1]);
    }
    fprintf(stderr, "maasq %s: which one?\n", argv[0]);
    for (size_t i = 0; i < ROW_COUNT; i++) {
        if (strncmp(rows[i].words, argv[0], len) == 0 && rows[i].words[len] == ' ') {
            fprintf(stderr, "usage: maasq %s %s\n", rows[i].words, rows[i].arguments);
        }
    }
    return MQ_EXIT_USAGE;
}

static int run(const mq_command_row *row, int argc, char **argv)
{
    static mq_usage usage;
    static mq_argv args;
    usage = (mq_usage){0};
    mq_usage_read(&usage, row->arguments);
    mq_usage_read(&usage, GLOBAL_OPTIONS);
    mq_cli cli = {.command = row, .args = &args, .timeout_ms = TIMEOUT_MS};
    mq_error err;
    if (argc > 0 && strcmp(argv[0], "--help") == 0) {
        return help_one(row);
    }
    if (mq_argv_read(&args, &usage, argc, argv, &err) != MQ_OK) {
        return mq_cli_usage(&cli, "%s", err.text);
    }
    if (mq_argv_has(&args, "help")) {
        return help_one(row);
    }
    int64_t seconds = TIMEOUT_MS / 1000;
    if (mq_argv_int(&args, "timeout", 1, 86400, &seconds, &err) != MQ_OK) {
        return mq_cli_usage(&cli, "%s", err.text);
    }
    cli.timeout_ms = seconds * 1000;
    cli.is_json = mq_argv_has(&args, "json");
    cli.broker = mq_argv_text(&args, "broker", NULL);
    int status = row->run(&cli, &args);
    (void)maasq_client_free(&cli.client);
    return status;
}

int mq_cli_main(int argc, char **argv)
{
    argc--;
    argv++;
    if (argc == 0) {
        (void)help_all();
        return MQ_EXIT_USAGE;
    }
    if (strcmp(argv[0], "help") == 0 || strcmp(argv[0], "--help") == 0) {
        bool is_words = argc > 1 && strcmp(argv[1], "--words") == 0;
        return is_words ? help_words() : help_all();
    }
    if (strcmp(argv[0], "version") == 0 || strcmp(argv[0], "--version") == 0) {
        printf("maasq %s\n", MQ_VERSION);
        return MQ_EXIT_OK;
    }
    for (size_t i = 0; i < ROW_COUNT; i++) {
        int words = matches(&rows[i], argc, argv);
        if (words > 0) {
            return run(&rows[i], argc - words, argv + words);
        }
    }
    return unknown(argc, argv);
}

/* ---- the system ---- */

bool mq_cli_data_dir(char *out, size_t size)
{
    const char *data = getenv("MAASQ_DATA");
    const char *xdg = getenv("XDG_DATA_HOME");
    const char *home = getenv("HOME");
    int n = 0;
    if (data != NULL && data[0] != '\0') {
        n = snprintf(out, size, "%s", data);
    } else if (xdg != NULL && xdg[0] == '/') {
        n = snprintf(out, size, "%s/maasq", xdg);
    } else {
        n = snprintf(out, size, "%s/.local/share/maasq", home != NULL ? home : "/root");
    }
    return n > 0 && (size_t)n < size;
}

bool mq_cli_bin_dir(char *out, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", out, size - 1);
    if (n <= 0) {
        return false;
    }
    out[n] = '\0';
    char *slash = strrchr(out, '/');
    if (slash == NULL) {
        return false;
    }
    *slash = '\0';
    return true;
}

int mq_cli_exec(const mq_cli *cli, const char *program, char **argv)
{
    char dir[4096];
    char path[4400];
    if (mq_cli_bin_dir(dir, sizeof dir)) {
        (void)snprintf(path, sizeof path, "%s/%s", dir, program);
        (void)execv(path, argv);
    }
    (void)execvp(program, argv);
    return mq_cli_fail(cli, "cannot run %s: it is neither beside this program nor in PATH",
                       program);
}

/* Where the system is: what was said, else what runs in the default data directory. */
static const char *find_broker(mq_cli *cli)
{
    const char *env = getenv("MAASQ_BROKER");
    if (cli->broker != NULL) {
        return cli->broker;
    }
    if (env != NULL && env[0] != '\0') {
        return env;
    }
    char dir[4096];
    if (mq_cli_data_dir(dir, sizeof dir) &&
        mq_system_broker(dir, cli->found_broker, sizeof cli->found_broker)) {
        return cli->found_broker;
    }
    return "tcp://127.0.0.1:7700";
}

int mq_cli_connect(mq_cli *cli)
{
    if (cli->client != NULL) {
        return MQ_EXIT_OK;
    }
    maasq_error err;
    const char *broker = find_broker(cli);
    maasq_options options = {.size = sizeof options, .brokers = broker, .name = "maasq"};
    cli->client = maasq_client_new(&options, &err);
    if (cli->client == NULL) {
        return mq_cli_fail(cli, "%s", err.text);
    }
    int64_t limit_ms = cli->timeout_ms < CONNECT_MS ? cli->timeout_ms : CONNECT_MS;
    if (maasq_connect(cli->client, limit_ms, &err) != MAASQ_OK) {
        return mq_cli_fail(cli,
                           "%s; start a system with `maasq up`, or name one by --broker or "
                           "MAASQ_BROKER",
                           err.text);
    }
    return MQ_EXIT_OK;
}

/* What is not in an answer of several shards is said, whatever is done with the rest. */
static void say_missing(const char *what, const json_t *answer)
{
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(answer, "missing"), i, one)
    {
        (void)fprintf(stderr, "maasq: %s: shard %lld is not in this answer: %s\n", what,
                      (long long)mq_js_int(one, "shard"), mq_js_text(one, "why", "no answer"));
    }
    if (mq_js_int(answer, "left_off") > 0) {
        (void)fprintf(stderr, "maasq: %s: %lld more are left off\n", what,
                      (long long)mq_js_int(answer, "left_off"));
    }
}

int mq_cli_query(mq_cli *cli, const char *what, const char *name, const char *filter,
                 uint32_t limit, json_t **out)
{
    maasq_error err;
    char *text = NULL;
    *out = NULL;
    if (mq_cli_connect(cli) != MQ_EXIT_OK) {
        return MQ_EXIT_FAILED;
    }
    if (maasq_query(cli->client, what, name, filter, limit, cli->timeout_ms, &text, &err) !=
        MAASQ_OK) {
        return mq_cli_fail(cli, "%s%s%s: %s", what, name[0] == '\0' ? "" : " ", name, err.text);
    }
    json_error_t where;
    *out = json_loads(text, JSON_REJECT_DUPLICATES, &where);
    maasq_free(text);
    if (*out == NULL) {
        return mq_cli_fail(cli, "the broker's answer to %s is no JSON: %s", what, where.text);
    }
    say_missing(what, *out);
    return MQ_EXIT_OK;
}

int mq_cli_command(mq_cli *cli, const char *verb, const char *const *args, size_t count)
{
    maasq_error err;
    if (mq_cli_connect(cli) != MQ_EXIT_OK) {
        return MQ_EXIT_FAILED;
    }
    if (maasq_command(cli->client, verb, args, count, cli->timeout_ms, &err) != MAASQ_OK) {
        return mq_cli_fail(cli, "%s", err.text);
    }
    return MQ_EXIT_OK;
}

/* ---- output ---- */

int mq_cli_json(json_t *takes)
{
    bool is_out = takes != NULL &&
                  json_dumpf(takes, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY) == 0 &&
                  putchar('\n') != EOF && fflush(stdout) == 0;
    json_decref(takes);
    return is_out ? MQ_EXIT_OK : MQ_EXIT_FAILED;
}

const json_t *mq_js(const json_t *object, const char *path)
{
    const char *at = path;
    while (object != NULL && *at != '\0') {
        char key[64];
        size_t len = strcspn(at, ".");
        MQ_ASSERT(len < sizeof key);
        (void)mq_span_copy(mq_span_of(at, len), key, sizeof key);
        object = json_object_get(object, key);
        at += len + (at[len] == '.');
    }
    return object;
}

const char *mq_js_text(const json_t *object, const char *key, const char *fallback)
{
    const char *text = json_string_value(mq_js(object, key));
    return text == NULL || text[0] == '\0' ? fallback : text;
}

int64_t mq_js_int(const json_t *object, const char *key)
{
    const json_t *value = mq_js(object, key);
    return json_is_real(value) ? (int64_t)json_real_value(value) : json_integer_value(value);
}

double mq_js_real(const json_t *object, const char *key)
{
    const json_t *value = mq_js(object, key);
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}
