/* Filters over jobs; see filter.h. It must not know where the jobs come from. */
#include "broker/io/filter.h"

#include "shared/job/fingerprint.h"

static const struct {
    const char *key;
    size_t at; /* of the fact */
} terms[] = {
    {"state", offsetof(mq_facts, state)},
    {"kind", offsetof(mq_facts, kind)},
    {"queue", offsetof(mq_facts, queue)},
    {"model", offsetof(mq_facts, model)},
    {"tenant", offsetof(mq_facts, tenant)},
    {"worker", offsetof(mq_facts, worker)},
    {"why", offsetof(mq_facts, why)},
    {"code", offsetof(mq_facts, code)},
    {"fingerprint", offsetof(mq_facts, fingerprint)},
};

enum { KEY_COUNT = sizeof terms / sizeof terms[0] };

static mq_span word(mq_span *rest, uint8_t end)
{
    size_t n = 0;
    while (n < rest->len && rest->data[n] != end) {
        n++;
    }
    mq_span out = mq_span_of(rest->data, n);
    n += n < rest->len;
    *rest = mq_span_of(rest->data + n, rest->len - n);
    return out;
}

mq_code mq_filter_read(mq_span text, mq_filter *out, mq_error *err)
{
    *out = (mq_filter){0};
    while (text.len > 0) {
        mq_span term = word(&text, ' ');
        if (term.len == 0) {
            continue;
        }
        if (out->count == MQ_FILTER_TERMS) {
            return mq_fail(err, MQ_E_ARG, "filter: more than %d terms", MQ_FILTER_TERMS);
        }
        mq_span value = term;
        mq_span key = word(&value, '=');
        bool is_known = false;
        for (size_t i = 0; i < KEY_COUNT; i++) {
            is_known |= mq_span_is(key, terms[i].key);
        }
        if (!is_known || value.len == 0) {
            return mq_fail(
                err, MQ_E_ARG,
                "filter: \"%.*s\" is not state=, kind=, queue=, model=, tenant=, worker=, why=, "
                "code= or fingerprint= with a value",
                MQ_SPAN_ARG(term));
        }
        out->keys[out->count] = key;
        out->values[out->count++] = value;
    }
    return MQ_OK;
}

static mq_span fact(const mq_facts *facts, mq_span key)
{
    mq_span out = {0};
    for (size_t i = 0; i < KEY_COUNT; i++) {
        if (mq_span_is(key, terms[i].key)) {
            memcpy(&out, (const uint8_t *)facts + terms[i].at, sizeof out);
        }
    }
    return out;
}

bool mq_filter_matches(const mq_filter *filter, const mq_facts *facts)
{
    for (uint32_t i = 0; i < filter->count; i++) {
        if (!mq_span_eq(fact(facts, filter->keys[i]), filter->values[i])) {
            return false;
        }
    }
    return true;
}

mq_span mq_filter_value(const mq_filter *filter, const char *key)
{
    mq_span out = {0};
    for (uint32_t i = 0; i < filter->count; i++) {
        out = mq_span_is(filter->keys[i], key) ? filter->values[i] : out;
    }
    return out;
}

mq_facts mq_facts_of(const mq_job_record *r, char *print)
{
    mq_facts out = {.id = r->id,
                    .kind = r->kind,
                    .queue = r->queue,
                    .model = r->model,
                    .tenant = r->tenant,
                    .state = r->state,
                    .worker = r->worker,
                    .why = r->why,
                    .code = r->code};
    if (r->code.len > 0 || r->error.len > 0) {
        mq_error_fingerprint(r->kind, r->why, r->code, r->error, print);
        out.fingerprint = mq_str(print);
    }
    return out;
}
