/* Questions about models, datasets and memos. */
#include <stdlib.h>

#include "broker/io/answers.h"
#include "shared/base/assert.h"

/* Registry entries of one type in the order of their names and versions. */
typedef struct entries {
    mq_entry_view *all; /* owned */
    uint32_t count;
} entries;

static int compare_spans(mq_span a, mq_span b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int order = n == 0 ? 0 : memcmp(a.data, b.data, n);
    return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

static int compare_entries(const void *x, const void *y)
{
    const mq_entry_view *a = x, *b = y;
    int order = compare_spans(a->key.name, b->key.name);
    if (order == 0) {
        order = (a->key.version > b->key.version) - (a->key.version < b->key.version);
    }
    return order != 0 ? order : compare_spans(a->key.alias, b->key.alias);
}

/* name: only this one; empty: all. */
static entries collect(const mq_broker *b, mq_entry_type type, mq_span name)
{
    entries e = {0};
    uint32_t max = b->core_config.registry_max;
    e.all = malloc(sizeof *e.all * (max == 0 ? 1 : max));
    for (uint32_t i = 0; e.all != NULL && i < max; i++) {
        mq_entry_view v;
        if (mq_core_entry(b->core, i, &v) && v.key.type == type &&
            (name.len == 0 || mq_span_eq(name, v.key.name))) {
            e.all[e.count++] = v;
        }
    }
    if (e.count > 1) {
        qsort(e.all, e.count, sizeof *e.all, compare_entries);
    }
    return e;
}

static void add_aliases(const entries *aliases, mq_span name, uint32_t version, mq_buf *out)
{
    static mq_entry entry;
    mq_error err;
    mq_json_key(out, "aliases");
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; i < aliases->count; i++) {
        const mq_entry_view *a = &aliases->all[i];
        if (mq_span_eq(a->key.name, name) && mq_entry_read(a->value, &entry, &err) == MQ_OK &&
            entry.version == version) {
            mq_json_comma(out);
            mq_buf_add_json(out, a->key.alias);
        }
    }
    mq_buf_add_str(out, "]");
}

/* {"version":3,"job":..,"at_ms":..,"aliases":[..],"meta":{..}} */
static void add_version(const entries *aliases, const mq_entry_view *v, mq_buf *out)
{
    static mq_entry entry;
    mq_error err;
    if (mq_entry_read(v->value, &entry, &err) != MQ_OK || entry.is_deleted) {
        return;
    }
    mq_json_comma(out);
    mq_buf_add_str(out, "{");
    mq_json_int(out, "version", v->key.version);
    mq_json_text(out, "job", entry.job);
    mq_json_int(out, "at_ms", entry.at_ms);
    mq_json_text(out, "fingerprint", entry.fingerprint);
    add_aliases(aliases, v->key.name, v->key.version, out);
    mq_json_raw(out, "meta", entry.meta);
    mq_buf_add_str(out, "}");
}

static void add_versions(const entries *versions, const entries *aliases, mq_span name, mq_buf *out)
{
    mq_json_key(out, "versions");
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; i < versions->count; i++) {
        if (mq_span_eq(versions->all[i].key.name, name)) {
            add_version(aliases, &versions->all[i], out);
        }
    }
    mq_buf_add_str(out, "]");
}

static void add_list(mq_broker *b, mq_entry_type type, const char *key, mq_buf *out)
{
    entries versions = collect(b, type, (mq_span){0});
    entries aliases = {0};
    if (type == MQ_ENTRY_MODEL) { /* only models have aliases */
        aliases = collect(b, MQ_ENTRY_ALIAS, (mq_span){0});
    }
    mq_json_key(out, key);
    mq_buf_add_str(out, "[");
    for (uint32_t i = 0; i < versions.count; i++) {
        mq_span name = versions.all[i].key.name;
        if (i > 0 && mq_span_eq(name, versions.all[i - 1].key.name)) {
            continue;
        }
        mq_json_comma(out);
        mq_buf_add_str(out, "{");
        mq_json_text(out, "name", name);
        add_versions(&versions, &aliases, name, out);
        mq_buf_add_str(out, "}");
    }
    mq_buf_add_str(out, "]");
    free(versions.all);
    free(aliases.all);
}

/* Of each alias the versions that it pointed to before. */
static void add_before(const entries *aliases, mq_buf *out)
{
    static mq_entry entry;
    mq_json_key(out, "before");
    mq_buf_add_str(out, "{");
    for (uint32_t i = 0; i < aliases->count; i++) {
        if (mq_entry_read(aliases->all[i].value, &entry, NULL) != MQ_OK || entry.version == 0) {
            continue;
        }
        mq_json_comma(out);
        mq_buf_add_json(out, aliases->all[i].key.alias);
        mq_buf_add_str(out, ":[");
        for (uint32_t k = 0; k < entry.before_count; k++) {
            mq_buf_printf(out, "%s%u", k == 0 ? "" : ",", entry.before[k]);
        }
        mq_buf_add_str(out, "]");
    }
    mq_buf_add_str(out, "}");
}

/* One thing by name: the version that the name stands for, then all versions. */
static mq_code add_one(mq_broker *b, mq_entry_type type, mq_span name, mq_buf *out, mq_error *err)
{
    static mq_entry entry;
    mq_entry_view v;
    mq_code code = mq_core_resolve(b->core, type, name, &v, err);
    if (code == MQ_OK) {
        code = mq_entry_read(v.value, &entry, err);
    }
    if (code != MQ_OK) {
        return code;
    }
    mq_json_text(out, "name", v.key.name);
    mq_json_int(out, "version", v.key.version);
    mq_json_text(out, "job", entry.job);
    mq_json_int(out, "at_ms", entry.at_ms);
    mq_json_text(out, "fingerprint", entry.fingerprint);
    mq_json_raw(out, "meta", entry.meta);
    if (type == MQ_ENTRY_MODEL || type == MQ_ENTRY_DATASET) {
        entries versions = collect(b, type, v.key.name);
        entries aliases = {0};
        if (type == MQ_ENTRY_MODEL) {
            aliases = collect(b, MQ_ENTRY_ALIAS, v.key.name);
        }
        add_versions(&versions, &aliases, v.key.name, out);
        if (type == MQ_ENTRY_MODEL) {
            add_before(&aliases, out);
        }
        free(versions.all);
        free(aliases.all);
    }
    return MQ_OK;
}

mq_code mq_answer_registry(mq_broker *b, const mq_msg_query *query, mq_buf *out, mq_error *err)
{
    if (mq_span_is(query->what, "models")) {
        add_list(b, MQ_ENTRY_MODEL, "models", out);
    } else if (mq_span_is(query->what, "datasets")) {
        add_list(b, MQ_ENTRY_DATASET, "datasets", out);
    } else if (mq_span_is(query->what, "model")) {
        return add_one(b, MQ_ENTRY_MODEL, query->name, out, err);
    } else if (mq_span_is(query->what, "dataset")) {
        return add_one(b, MQ_ENTRY_DATASET, query->name, out, err);
    } else if (mq_span_is(query->what, "memo")) {
        return add_one(b, MQ_ENTRY_MEMO, query->name, out, err);
    } else {
        return MQ_E_UNSUPPORTED;
    }
    return MQ_OK;
}
