/* `maasq redis serve`: becomes a redis-server, after what a kill has left at the end of its log was
 * cut; with --replica-of as a replica of another one. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "client/cli/cli.h"
#include "shared/base/file.h"
#include "shared/base/url.h"
#include "shared/store/aof.h"

enum { TEXT_MAX = 8192, PATH_BYTES = 512 };

/* The configuration with what makes it a replica, password included, as a file beside the log: the
 * command line is everybody's to read. */
static mq_code write_replica_conf(const char *dir, const char *conf, const char *text,
                                  char path[PATH_BYTES], mq_error *err)
{
    mq_url url;
    char password[MQ_URL_SECRET_MAX];
    mq_code code = mq_url_parse(&url, text, err);
    if (code == MQ_OK && url.kind != MQ_URL_TCP) {
        code = mq_fail(err, MQ_E_ARG,
                       "--replica-of: %s: Redis replicates over TCP only: "
                       "tcp:HOST:PORT[,user=U,secret=FILE]",
                       text);
    }
    code = code != MQ_OK ? code : mq_url_password(&url, password, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_buf out;
    mq_buf_init(&out, TEXT_MAX);
    (void)mq_buf_printf(&out, "include \"%s\"\nreplicaof %s %d\n", conf, url.host, url.port);
    if (url.user[0] != '\0') {
        (void)mq_buf_printf(&out, "masteruser %s\n", url.user);
    }
    if (password[0] != '\0') {
        (void)mq_buf_printf(&out, "masterauth \"%s\"\n", password);
    }
    int len = snprintf(path, PATH_BYTES, "%s/replica.conf", dir);
    if (out.is_full || len < 0 || len >= PATH_BYTES) {
        code = mq_fail(err, MQ_E_LIMIT, "--replica-of: paths and names of more than %d bytes",
                       PATH_BYTES);
    } else {
        code = mq_file_write(path, mq_buf_span(&out), 0600, err);
    }
    mq_buf_release(&out);
    return code;
}

int mq_cmd_redis_serve(mq_cli *cli, const mq_argv *args)
{
    static char replica_conf[PATH_BYTES];
    if (args->word_count < 2) {
        return mq_cli_usage(cli, "needs the folder of the log (the server's `dir`) and a "
                                 "configuration file");
    }
    mq_error err;
    size_t cut_bytes = 0;
    if (mq_aof_repair(args->words[0], &cut_bytes, &err) != MQ_OK) {
        return mq_cli_fail(cli, "%s", err.text);
    }
    if (cut_bytes > 0) {
        fprintf(stderr, "%s: cut %zu bytes that were never acknowledged off the end of the log\n",
                args->words[0], cut_bytes);
    }
    const char *argv[MQ_ARGV_GIVEN_MAX + 2] = {"redis-server", args->words[1]};
    size_t count = 2;
    for (size_t i = 2; i < args->word_count; i++) {
        if (strcmp(args->words[i], "--replica-of") != 0) {
            argv[count++] = args->words[i];
        } else if (i + 1 == args->word_count) {
            return mq_cli_usage(cli, "--replica-of needs tcp:HOST:PORT[,user=U,secret=FILE]");
        } else if (write_replica_conf(args->words[0], args->words[1], args->words[++i],
                                      replica_conf, &err) != MQ_OK) {
            return mq_cli_fail(cli, "%s", err.text);
        } else {
            argv[1] = replica_conf;
        }
    }
    return mq_cli_exec(cli, "redis-server", (char **)(uintptr_t)argv);
}
