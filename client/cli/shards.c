/* `maasq shard` and `maasq broker`: which broker owns what, and operators' wishes. */
#include <stdio.h>

#include "client/cli/cli.h"
#include "client/cli/out.h"

int mq_cmd_shard_list(mq_cli *cli, const mq_argv *args)
{
    (void)args;
    json_t *answer = NULL;
    int status = mq_cli_query(cli, "shards", "", "", 0, &answer);
    if (status != MQ_EXIT_OK || cli->is_json) {
        return status != MQ_EXIT_OK ? status : mq_cli_json(answer);
    }
    mq_table *table = mq_table_new(">shard|owner|>epoch|>jobs|since|wish");
    size_t i;
    json_t *shard;
    json_array_foreach(json_object_get(answer, "shards"), i, shard)
    {
        bool is_owned = mq_js_text(shard, "owner", "")[0] != '\0';
        bool goes = strcmp(mq_js_text(shard, "owner", ""), mq_js_text(shard, "target", "")) != 0;
        mq_table_cell(table, "%lld", (long long)mq_js_int(shard, "shard"));
        mq_table_cell(table, "%s%s", is_owned ? mq_js_text(shard, "owner", "") : "nobody",
                      goes && is_owned ? " (goes)" : "");
        mq_table_cell(table, "%lld", (long long)mq_js_int(shard, "epoch"));
        mq_table_cell(table, "%lld", (long long)mq_js_int(shard, "jobs"));
        mq_table_cell(table, "%s",
                      mq_out_ms(mq_js_int(answer, "now_ms") - mq_js_int(shard, "since_ms")));
        mq_table_cell(table, "%s", mq_js_text(shard, "pin", ""));
    }
    mq_table_print(table, "no shards");
    json_decref(answer);
    return MQ_EXIT_OK;
}

static void shards_text(const json_t *broker, char *out, size_t size)
{
    size_t i, len = 0;
    json_t *shard;
    out[0] = '\0';
    json_array_foreach(json_object_get(broker, "shards"), i, shard)
    {
        int n = snprintf(out + len, size - len, "%s%lld", i == 0 ? "" : " ",
                         (long long)json_integer_value(shard));
        len += n > 0 ? (size_t)n : 0;
        if (len >= size) {
            return;
        }
    }
}

int mq_cmd_broker_list(mq_cli *cli, const mq_argv *args)
{
    (void)args;
    json_t *answer = NULL;
    int status = mq_cli_query(cli, "brokers", "", "", 0, &answer);
    if (status != MQ_EXIT_OK || cli->is_json) {
        return status != MQ_EXIT_OK ? status : mq_cli_json(answer);
    }
    mq_table *table = mq_table_new("name|broker|front|shards|>jobs|>load|beat|state");
    size_t i;
    json_t *broker;
    json_array_foreach(json_object_get(answer, "brokers"), i, broker)
    {
        char shards[200];
        bool is_alive = json_is_true(json_object_get(broker, "is_alive"));
        shards_text(broker, shards, sizeof shards);
        mq_table_cell(table, "%s", mq_js_text(broker, "name", "?"));
        mq_table_cell(table, "%s", mq_js_text(broker, "broker", "?"));
        mq_table_cell(table, "%s", mq_js_text(broker, "front", "?"));
        mq_table_cell(table, "%s", shards);
        mq_table_cell(table, "%lld", (long long)mq_js_int(broker, "jobs"));
        mq_table_cell(table, "%lld %%", (long long)mq_js_int(broker, "load_milli") / 10);
        mq_table_cell(table, "%s", mq_out_ms(mq_js_int(broker, "beat_age_ms")));
        bool is_draining = json_is_true(json_object_get(broker, "is_draining"));
        mq_table_cell(table, "%s", !is_alive ? "gone" : is_draining ? "draining" : "ready");
    }
    mq_table_print(table, "no brokers");
    json_decref(answer);
    return MQ_EXIT_OK;
}

int mq_cmd_shard_move(mq_cli *cli, const mq_argv *args)
{
    const char *words[] = {mq_argv_word(args, 0), mq_argv_word(args, 1)};
    int status = mq_cli_command(cli, "shard-move", words, 2);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    if (cli->is_json) {
        return mq_cli_json(json_pack("{s:s, s:s}", "shard", words[0], "broker", words[1]));
    }
    printf("shard %s goes to %s; `maasq shard list` shows when it is there\n", words[0], words[1]);
    return MQ_EXIT_OK;
}

int mq_cmd_broker_drain(mq_cli *cli, const mq_argv *args)
{
    const char *broker = mq_argv_word(args, 0);
    bool is_undo = mq_argv_has(args, "undo");
    int status = mq_cli_command(cli, is_undo ? "broker-undrain" : "broker-drain", &broker, 1);
    if (status != MQ_EXIT_OK) {
        return status;
    }
    if (cli->is_json) {
        return mq_cli_json(json_pack("{s:s, s:b}", "broker", broker, "drain", !is_undo));
    }
    printf("%s %s\n", broker,
           is_undo ? "takes its share of the shards again"
                   : "gives its shards away; stop it when `maasq broker list` shows none");
    return MQ_EXIT_OK;
}
