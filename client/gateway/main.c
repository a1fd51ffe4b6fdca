/* maasq-gateway: HTTP in front of a maasq system. Reads the command line, serves until a signal. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "client/gateway/gateway.h"

#include "shared/base/log.h"
#include "shared/base/options.h"

static const mq_option options[] = {
    {"broker", "ENDPOINTS", MQ_OPT_TEXT, offsetof(mq_gateway_config, broker), 1, 1024,
     "brokers, separated by commas (default: $MAASQ_BROKER, else tcp://127.0.0.1:7700)"},
    {"listen", "ADDRESS:PORT", MQ_OPT_TEXT, offsetof(mq_gateway_config, listen), 1, 255,
     "where to serve HTTP; port 0 = any free one (default 127.0.0.1:7780)"},
    {"host", "NAME", MQ_OPT_TEXT, offsetof(mq_gateway_config, host), 1, 255,
     "on a loopback address: another host name under which pages may be opened"},
    {"endpoint-file", "PATH", MQ_OPT_TEXT, offsetof(mq_gateway_config, endpoint_file), 1, 4095,
     "write http://ADDRESS:PORT there once it serves"},
    {"body-max", "BYTES", MQ_OPT_BYTES, offsetof(mq_gateway_config, body_bytes_max), 1024, 64 << 20,
     "longest request body (default 8M)"},
    {"read-only", "", MQ_OPT_FLAG, offsetof(mq_gateway_config, is_read_only), 0, 0,
     "no submitting and cancelling of jobs; inference still works"},
    {"log-level", "LEVEL", MQ_OPT_TEXT, offsetof(mq_gateway_config, log_level), 4, 5,
     "debug, info, warn or error (default info)"},
    {"log-json", "", MQ_OPT_FLAG, offsetof(mq_gateway_config, is_log_json), 0, 0,
     "log lines as JSON objects"},
};
enum { OPTIONS = sizeof options / sizeof *options };

static int usage(void);
static int serve(const mq_gateway_config *config);

int main(int argc, char **argv)
{
    const char *broker = getenv("MAASQ_BROKER");
    mq_gateway_config config = {
        .broker = broker != NULL && broker[0] != '\0' ? broker : "tcp://127.0.0.1:7700",
        .listen = "127.0.0.1:7780",
        .host = "",
        .endpoint_file = "",
        .log_level = "info",
        .body_bytes_max = 8 << 20,
    };
    mq_error err;
    mq_log_level level = MQ_INFO;
    if (mq_options_ask(argc, argv, "help")) {
        return usage();
    }
    if (mq_options_ask(argc, argv, "version")) {
        puts("maasq-gateway " MQ_VERSION);
        return 0;
    }
    if (mq_options_parse(options, OPTIONS, argc, argv, &config, &err) != MQ_OK) {
        fprintf(stderr, "maasq-gateway: %s (see --help)\n", err.text);
        return 2;
    }
    if (!mq_log_level_parse(config.log_level, &level)) {
        fprintf(stderr, "maasq-gateway: --log-level %s: must be debug, info, warn or error\n",
                config.log_level);
        return 2;
    }
    mq_log_setup("gateway", level, config.is_log_json);
    return serve(&config);
}

static int usage(void)
{
    puts("maasq-gateway: HTTP in front of a maasq system: inference (Open Inference Protocol v2),\n"
         "jobs, metrics for Prometheus, and the operators' page.\n\n"
         "usage: maasq-gateway [--broker ENDPOINTS] [--listen ADDRESS:PORT] [options]\n");
    mq_options_help(options, OPTIONS);
    return 0;
}

static int serve(const mq_gateway_config *config)
{
    static mq_gateway gateway;
    mq_error err = {0};
    sigset_t stops;
    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    signal(SIGPIPE, SIG_IGN);
    /* Before any thread: then none of them is interrupted. */
    pthread_sigmask(SIG_BLOCK, &stops, NULL);
    mq_code code = mq_gateway_start(&gateway, config, &err);
    if (code != MQ_OK) {
        mq_log(MQ_ERROR_LEVEL, "gateway does not start", "why=\"%s\"", err.text);
    } else {
        int signal_number = 0;
        mq_log(MQ_INFO, "gateway serves", "url=%s broker=%s", gateway.url, config->broker);
        sigwait(&stops, &signal_number);
        mq_log(MQ_INFO, "gateway stops", "signal=%d", signal_number);
    }
    mq_gateway_stop(&gateway);
    return code == MQ_OK ? 0 : 1;
}
