/* The table of users' own kinds; see own.h. It must not know how a kind is run. */
#include "worker/own/own.h"

#include "worker/kinds/kind.h"

static mq_own_kind kinds[MQ_OWN_KINDS_MAX];
static uint32_t kind_count;

static bool is_name(mq_span name)
{
    bool is_ok = name.len >= 1 && name.len <= 64;
    for (size_t i = 0; i < name.len && is_ok; i++) {
        uint8_t c = name.data[i];
        is_ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                c == '_' || ((c == '.' || c == '-') && i > 0);
    }
    return is_ok;
}

static mq_code check_limits(const mq_own_policy *p, mq_error *err)
{
    if (p->max_run_ms > MQ_OWN_RUN_MS_MAX) {
        return mq_fail(err, MQ_E_ARG, "kind \"%s\": max_run_ms: %llu is outside 1..%d", p->name,
                       (unsigned long long)p->max_run_ms, MQ_OWN_RUN_MS_MAX);
    }
    if (p->attempts_max > MQ_OWN_ATTEMPTS_MAX) {
        return mq_fail(err, MQ_E_ARG, "kind \"%s\": attempts_max: %u is outside 1..%d", p->name,
                       p->attempts_max, MQ_OWN_ATTEMPTS_MAX);
    }
    if (p->body_bytes_max > MQ_OWN_BODY_BYTES) {
        return mq_fail(err, MQ_E_ARG,
                       "kind \"%s\": body_bytes_max: %u is outside 1..%d; larger inputs are blobs",
                       p->name, p->body_bytes_max, MQ_OWN_BODY_BYTES);
    }
    return MQ_OK;
}

mq_code mq_own_add(const mq_own_kind *kind, mq_own_kind **out, mq_error *err)
{
    mq_span name = mq_str(kind->policy.name);
    if (!is_name(name)) {
        return mq_fail(err, MQ_E_ARG,
                       "kind \"%s\": must be 1..64 letters, digits, '.', '_', '-', not beginning "
                       "with '.' or '-'",
                       kind->policy.name);
    }
    if (mq_kind_find(name) != NULL) {
        return mq_fail(err, MQ_E_EXISTS, "kind \"%s\" is one of maasq's own; choose another name",
                       kind->policy.name);
    }
    if (mq_own_find(name) != NULL) {
        return mq_fail(err, MQ_E_EXISTS, "kind \"%s\" is there already; each may come once",
                       kind->policy.name);
    }
    if (kind_count == MQ_OWN_KINDS_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "kind \"%s\": more than %d kinds; start another worker",
                       kind->policy.name, MQ_OWN_KINDS_MAX);
    }
    mq_code code = check_limits(&kind->policy, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_own_kind *k = &kinds[kind_count++];
    *k = *kind;
    mq_own_policy *p = &k->policy;
    p->max_run_ms = p->max_run_ms > 0 ? p->max_run_ms : MQ_OWN_RUN_MS;
    p->attempts_max = p->attempts_max > 0 ? p->attempts_max : MQ_OWN_ATTEMPTS;
    p->body_bytes_max = p->body_bytes_max > 0 ? p->body_bytes_max : MQ_OWN_BODY_BYTES;
    *out = k;
    return MQ_OK;
}

mq_code mq_own_load(int argc, char **argv, mq_error *err)
{
    static const struct {
        const char *name;
        mq_code (*add)(const char *value, mq_error *err);
    } sources[] = {{"--handlers", mq_handlers_load},
                   {"--exec", mq_exec_add},
                   {"--exec-limits", mq_exec_limits}};
    for (int i = 0; i + 1 < argc; i += 2) {
        for (size_t k = 0; k < sizeof sources / sizeof sources[0]; k++) {
            mq_code code = mq_span_is(mq_str(sources[k].name), argv[i])
                               ? sources[k].add(argv[i + 1], err)
                               : MQ_OK;
            if (code != MQ_OK) {
                return mq_wrap(err, "%s %.100s", sources[k].name, argv[i + 1]);
            }
        }
    }
    return MQ_OK;
}

void mq_own_release(void)
{
    for (uint32_t i = 0; i < kind_count; i++) {
        if (kinds[i].release != NULL) {
            kinds[i].release(kinds[i].state);
        }
    }
    kind_count = 0;
}

mq_own_kind *mq_own_entered(const char *name)
{
    for (uint32_t i = 0; i < kind_count; i++) {
        if (strcmp(name, kinds[i].policy.name) == 0) {
            return &kinds[i];
        }
    }
    return NULL;
}

const mq_own_kind *mq_own_find(mq_span name)
{
    char text[sizeof kinds[0].policy.name];
    return mq_span_copy(name, text, sizeof text) ? mq_own_entered(text) : NULL;
}

uint32_t mq_own_count(void)
{
    return kind_count;
}

const mq_own_kind *mq_own_at(uint32_t index)
{
    return &kinds[index];
}

mq_span mq_own_clean(mq_span text, char *out, size_t size)
{
    size_t len = 0;
    for (size_t i = 0; i < text.len;) {
        size_t n = mq_utf8_len(mq_span_of(text.data + i, text.len - i));
        if (len + (n > 0 ? n : 1) > size) {
            break;
        }
        if (n == 0 || (n == 1 && text.data[i] < ' ')) {
            out[len++] = n == 0 ? '?' : ' ';
            i++;
        } else {
            memcpy(out + len, text.data + i, n);
            len += n;
            i += n;
        }
    }
    return mq_span_of(out, len);
}

mq_code mq_own_run(mq_host *host, const mq_own_kind *kind, mq_error *err)
{
    if (host->body.len > kind->policy.body_bytes_max) {
        return mq_fail(err, MQ_E_LIMIT, "body: %zu bytes; kind %s takes at most %u", host->body.len,
                       kind->policy.name, kind->policy.body_bytes_max);
    }
    return kind->run(host, kind, err);
}
