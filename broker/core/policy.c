/* What operators set once and the core obeys: limits, shares and quotas of tenants, kinds that are
 * paused. Each is an entry of the registry, stored before it is answered and loaded before the
 * first job, so it holds over restarts and takeovers. It must not know how it is obeyed (limit.c,
 * fair.c, strand.c). */
#include "broker/core/state.h"

static void refuse(const mq_input *in, const char *text, mq_outputs *out)
{
    mq_say_reply(out, in->conn, in->rid, mq_code_name(MQ_E_ARG), "", text);
}

static bool number_of(mq_span text, uint64_t most, uint64_t *out)
{
    *out = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9' || *out > most) {
            return false;
        }
        *out = *out * 10 + (uint64_t)(text.data[i] - '0');
    }
    return text.len > 0 && *out <= most;
}

/* "key=NAME" into its parts. */
static bool target_of(mq_span text, mq_limit_type *type, mq_span *name)
{
    for (int i = 0; i < MQ_LIMIT_TYPES; i++) {
        mq_span head = mq_str(mq_limit_type_name((mq_limit_type)i));
        if (text.len > head.len + 1 && text.data[head.len] == '=' &&
            memcmp(text.data, head.data, head.len) == 0) {
            *type = (mq_limit_type)i;
            *name = mq_span_of(text.data + head.len + 1, text.len - head.len - 1);
            return mq_entry_name_ok(*name) && name->len <= 64 &&
                   (i == MQ_LIMIT_KEY || !mq_span_is(*name, "*"));
        }
    }
    return false;
}

static mq_limit rule_of(const uint64_t numbers[MQ_ENTRY_NUMBERS])
{
    mq_limit rule = {.concurrency = (uint32_t)numbers[0],
                     .rate = (uint32_t)numbers[1],
                     .period_ms = (uint32_t)numbers[2],
                     .burst = (uint32_t)numbers[3]};
    if (rule.rate == 0) {
        rule.period_ms = rule.burst = 0;
    } else if (rule.burst == 0) { /* what a second's share is */
        uint64_t share = (uint64_t)rule.rate * 1000 / rule.period_ms;
        rule.burst = share < 1 ? 1 : (uint32_t)share;
    }
    return rule;
}

static bool rule_ok(const uint64_t numbers[MQ_ENTRY_NUMBERS])
{
    return numbers[0] <= UINT32_MAX && numbers[1] <= MQ_LIMIT_RATE_MAX &&
           numbers[2] <= MQ_LIMIT_PERIOD_MAX && numbers[3] <= MQ_LIMIT_RATE_MAX &&
           (numbers[1] == 0 || numbers[2] > 0);
}

void mq_policy_apply(mq_core *core, const mq_entry_key *key, const mq_entry *entry)
{
    mq_limit_type type = MQ_LIMIT_KEY;
    mq_span name = {0};
    if (key->type == MQ_ENTRY_LIMIT && target_of(key->name, &type, &name) &&
        rule_ok(entry->numbers)) {
        mq_limit rule = rule_of(entry->numbers);
        if (!mq_limit_set(core, type, name, &rule)) {
            core->stats.load_errors += core->is_loading;
        }
    } else if (key->type == MQ_ENTRY_TENANT) {
        uint64_t weight = entry->numbers[0] > MQ_WEIGHT_MAX ? MQ_WEIGHT_MAX : entry->numbers[0];
        uint64_t quota = entry->numbers[1] > UINT32_MAX ? UINT32_MAX : entry->numbers[1];
        mq_tenant_set(core, key->name, (uint32_t)weight, (uint32_t)quota);
    } else if (key->type == MQ_ENTRY_KIND) {
        mq_kinds_count(core);
    } else if (key->type == MQ_ENTRY_QUEUE) {
        core->has_draining = core->has_draining || entry->is_draining;
    }
}

bool mq_kind_is_paused(const mq_core *core, mq_span name)
{
    mq_entry_key key = {.type = MQ_ENTRY_KIND, .name = name};
    uint32_t no = mq_reg_find(core, &key);
    return no != MQ_NONE && core->regs[no].is_paused;
}

/* ---- commands ---- */

static void put(mq_core *core, const mq_input *in, const mq_entry_key *key,
                const uint64_t numbers[MQ_ENTRY_NUMBERS], bool is_set, mq_outputs *out)
{
    mq_entry *entry = &core->making;
    memset(entry, 0, offsetof(mq_entry, blobs));
    entry->at_ms = core->now_ms;
    entry->is_deleted = !is_set;
    memcpy(entry->numbers, numbers, sizeof entry->numbers);
    if (mq_command_write(core, in, key, out)) {
        mq_policy_apply(core, key, entry);
        core->wants_turn = true;
    }
}

void mq_do_limit_set(mq_core *core, const mq_input *in, mq_outputs *out)
{
    const mq_span *args = in->as.command->args;
    uint64_t numbers[MQ_ENTRY_NUMBERS] = {0};
    mq_limit_type type;
    mq_span name;
    if (!target_of(args[0], &type, &name)) {
        refuse(in, "limit: of what? queue=NAME, kind=NAME, key=NAME or key=*", out);
        return;
    }
    bool is_ok = true;
    for (uint32_t i = 0; i < MQ_ENTRY_NUMBERS; i++) {
        is_ok = is_ok && number_of(args[1 + i], UINT32_MAX, &numbers[i]);
    }
    if (!is_ok || !rule_ok(numbers)) {
        refuse(
            in,
            "limit: concurrency, rate and burst up to 1,000,000, period of a rate 1 ms to 1 hour",
            out);
        return;
    }
    bool is_set = numbers[0] > 0 || numbers[1] > 0;
    mq_entry_key key = {.type = MQ_ENTRY_LIMIT, .name = args[0]};
    if (!is_set && mq_reg_find(core, &key) == MQ_NONE) {
        mq_say_reply(out, in->conn, in->rid, mq_code_name(MQ_E_NOT_FOUND), "",
                     "limit: there is none to remove");
        return;
    }
    if (is_set && !mq_slots_has(&core->limit_slots, 1)) {
        mq_say_reply(out, in->conn, in->rid, mq_code_name(MQ_E_BUSY), "",
                     "limit: too many limits are in force");
        return;
    }
    put(core, in, &key, numbers, is_set, out);
}

/* An empty number leaves what is set. */
static bool number_or(mq_span text, uint64_t most, uint64_t set, uint64_t *out)
{
    *out = set;
    return text.len == 0 || number_of(text, most, out);
}

void mq_do_tenant_set(mq_core *core, const mq_input *in, mq_outputs *out)
{
    const mq_span *args = in->as.command->args;
    uint64_t numbers[MQ_ENTRY_NUMBERS] = {0};
    uint32_t no = mq_name_find(core, args[0]);
    const mq_name *now = no == MQ_NONE ? NULL : &core->names[no];
    if (!mq_entry_name_ok(args[0]) || args[0].len > 64 ||
        !number_or(args[1], MQ_WEIGHT_MAX, now == NULL ? 0 : now->weight, &numbers[0]) ||
        !number_or(args[2], UINT32_MAX, now == NULL ? 0 : now->quota, &numbers[1])) {
        refuse(in, "tenant: a name, a weight 1..1000 (0 = 1), a quota of live jobs (0 = none)",
               out);
        return;
    }
    mq_entry_key key = {.type = MQ_ENTRY_TENANT, .name = args[0]};
    put(core, in, &key, numbers, numbers[0] > 0 || numbers[1] > 0, out);
}
