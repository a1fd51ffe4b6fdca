/* Questions and commands to every shard; see spread.h. It must not know what they are about. */
#include "client/src/spread.h"

#include <stdio.h>
#include <stdlib.h>

#include "shared/base/clock.h"
#include "shared/base/math.h"

enum { FILTER_MAX = 257 };

/* One shard's call. */
typedef struct leg {
    maasq_client *client; /* NULL: none could be made */
    mq_call call;
    bool is_begun, is_skipped; /* skipped: its list is at its end */
    char filter[FILTER_MAX];
} leg;

bool mq_spread_is_wanted(const char *verb)
{
    static const char *const verbs[] = {"pause",       "resume",    "drain-queue",
                                        "pause-kind",  "limit",     "tenant",
                                        "resume-kind", "retry-all", "purge"};
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(verb, verbs[i]) == 0) {
            return true;
        }
    }
    return false;
}

static void begin(maasq_client *primary, leg *l, uint32_t shard)
{
    mq_error why = {0};
    l->client = mq_client_of(primary, shard, &why);
    l->is_begun = l->client != NULL && mq_client_call_begin(l->client, &l->call);
    if (!l->is_begun) {
        (void)snprintf(l->call.text, sizeof l->call.text, "%s",
                       l->client == NULL ? why.text : "too many calls are under way");
    }
}

/* Waits for each until soon_ms; while none at all is there, until late_ms. */
static mq_code await(leg *legs, uint32_t shards, int64_t soon_ms, int64_t late_ms)
{
    uint32_t answered = 0;
    for (uint32_t s = 0; s < shards; s++) {
        if (legs[s].is_begun) {
            mq_code code = mq_client_call_wait(legs[s].client, &legs[s].call, soon_ms);
            if (code == MQ_E_ARG) {
                return code;
            }
            answered += code == MQ_OK;
        }
    }
    for (uint32_t s = 0; s < shards && answered == 0; s++) {
        answered += legs[s].is_begun &&
                    mq_client_call_wait(legs[s].client, &legs[s].call, late_ms) == MQ_OK;
    }
    return MQ_OK;
}

static leg *new_legs(uint32_t shards, maasq_error *err)
{
    leg *legs = calloc(shards, sizeof *legs);
    if (legs == NULL) {
        (void)mq_client_fail(err, MQ_E_LIMIT, "no memory for questions to %u shards", shards);
    }
    return legs;
}

static void end_all(leg *legs, uint32_t shards)
{
    for (uint32_t s = 0; s < shards; s++) {
        if (legs[s].is_begun) {
            (void)mq_client_call_end(legs[s].client, &legs[s].call);
        }
    }
}

static void free_legs(leg *legs, uint32_t shards)
{
    for (uint32_t s = 0; s < shards; s++) {
        free(legs[s].call.json);
    }
    free(legs);
}

/* ---- questions ---- */

/* Takes the term after= out of the filter. */
static void split_filter(mq_span filter, char rest[FILTER_MAX + MQ_CURSORS_SIZE],
                         char after[MQ_CURSORS_SIZE])
{
    size_t len = 0, at = 0;
    after[0] = '\0';
    while (at < filter.len) {
        size_t n = 0;
        while (at + n < filter.len && filter.data[at + n] != ' ') {
            n++;
        }
        mq_span term = mq_span_of(filter.data + at, n);
        if (n > 6 && memcmp(term.data, "after=", 6) == 0) {
            (void)mq_span_copy(mq_span_of(term.data + 6, n - 6), after, MQ_CURSORS_SIZE);
        } else if (n > 0) {
            memcpy(rest + len, term.data, n);
            len += n;
            rest[len++] = ' ';
        }
        at += n + 1;
    }
    rest[len > 0 ? len - 1 : 0] = '\0';
}

/* Each shard's own filter, with its own cursor. */
static mq_code set_filters(leg *legs, uint32_t shards, mq_span filter,
                           char cursors[MQ_ULID_SHARDS_MAX][MQ_CURSOR_SIZE], mq_error *err)
{
    char rest[FILTER_MAX + MQ_CURSORS_SIZE], after[MQ_CURSORS_SIZE];
    split_filter(filter, rest, after);
    mq_code code = mq_merge_cursors(after, shards, cursors, err);
    for (uint32_t s = 0; code == MQ_OK && s < shards; s++) {
        const char *at = cursors[s];
        legs[s].is_skipped = strcmp(at, "end") == 0;
        bool has_at = at[0] != '\0' && !legs[s].is_skipped;
        int n = snprintf(legs[s].filter, FILTER_MAX, "%s%s%s", rest, has_at ? " after=" : "",
                         has_at ? at : "");
        if (n >= FILTER_MAX) {
            code = mq_fail(err, MQ_E_ARG, "filter: more than %d bytes", FILTER_MAX - 1);
        }
    }
    return code;
}

/* The first shard that refuses the question itself, or NULL. Busy and too large are absences. */
static const leg *refusal_of(const leg *legs, uint32_t shards)
{
    for (uint32_t s = 0; s < shards; s++) {
        const mq_call *c = &legs[s].call;
        if (c->is_done && (c->code == MAASQ_E_ARG || c->code == -MQ_E_STALE)) {
            return &legs[s];
        }
    }
    return NULL;
}

static int give(const leg *legs, uint32_t shards, const mq_msg_query *query,
                char cursors[MQ_ULID_SHARDS_MAX][MQ_CURSOR_SIZE], char **json, maasq_error *err)
{
    mq_error why = {0};
    char what[64];
    mq_merge_part parts[MQ_ULID_SHARDS_MAX];
    bool is_any = false;
    (void)mq_span_copy(query->what, what, sizeof what);
    for (uint32_t s = 0; s < shards; s++) {
        const mq_call *c = &legs[s].call;
        bool is_good = c->is_done && c->code == MAASQ_OK;
        parts[s] = (mq_merge_part){is_good ? c->json : NULL, c->text, cursors[s]};
        parts[s].json = legs[s].is_skipped ? "{}" : parts[s].json;
        is_any = is_any || is_good;
    }
    if (!is_any) {
        return mq_client_fail(err, MQ_E_TIMEOUT, "%s: no answer of any of %u shards (%.300s)", what,
                              shards, legs[0].call.text);
    }
    mq_code code = mq_merge(what, parts, shards, (uint32_t)query->limit, json, &why);
    return code == MQ_OK ? MAASQ_OK : mq_client_error(err, &why);
}

int mq_spread_query(maasq_client *primary, uint32_t shards, const mq_msg_query *query,
                    int64_t timeout_ms, char **json, maasq_error *err)
{
    mq_error why = {0};
    char cursors[MQ_ULID_SHARDS_MAX][MQ_CURSOR_SIZE];
    int64_t late_ms = mq_client_deadline(timeout_ms, err);
    leg *legs = late_ms < 0 ? NULL : new_legs(shards, err);
    if (legs == NULL) {
        return late_ms < 0 ? MAASQ_E_ARG : MAASQ_E_LIMIT;
    }
    if (set_filters(legs, shards, query->filter, cursors, &why) != MQ_OK) {
        free_legs(legs, shards);
        return mq_client_error(err, &why);
    }
    for (uint32_t s = 0; s < shards; s++) {
        legs[s].call.command = MQ_CMD_query;
        legs[s].call.query = *query;
        legs[s].call.query.filter = mq_str(legs[s].filter);
        if (!legs[s].is_skipped) {
            begin(primary, &legs[s], s);
        }
    }
    int64_t soon_ms = mq_min_i64(late_ms, mq_clock_mono_ms() + MQ_SPREAD_PATIENCE_MS);
    mq_code waited = await(legs, shards, soon_ms, late_ms);
    end_all(legs, shards);
    const leg *refusal = refusal_of(legs, shards);
    int code = MAASQ_OK;
    if (waited == MQ_E_ARG) {
        code = mq_client_fail(err, waited, "query: must not be called in a callback");
    } else if (refusal != NULL) {
        code = mq_client_fail(err, (mq_code)-refusal->call.code, "%s", refusal->call.text);
    } else {
        code = give(legs, shards, query, cursors, json, err);
    }
    free_legs(legs, shards);
    return code;
}

/* ---- commands ---- */

/* What the shards said, as one text: the sum of their counts, or the first that is not empty. */
static char *text_of(const leg *legs, uint32_t shards)
{
    mq_merge_part parts[MQ_ULID_SHARDS_MAX] = {0};
    const char *first = "";
    char *out = NULL;
    bool are_counts = true;
    for (uint32_t s = 0; s < shards; s++) {
        const mq_call *c = &legs[s].call;
        bool is_good = c->is_done && c->code == MAASQ_OK;
        parts[s] = (mq_merge_part){is_good ? c->text : NULL, c->text, ""};
        are_counts = are_counts && (!is_good || c->text[0] == '{');
        first = is_good && first[0] == '\0' ? c->text : first;
    }
    if (are_counts && first[0] != '\0' && mq_merge("bulk", parts, shards, 0, &out, NULL) == MQ_OK) {
        return out;
    }
    return strdup(first);
}

/* Which shards did not, and what the others did. */
static int partial(const leg *legs, uint32_t shards, const char *verb, maasq_error *err)
{
    char failed[320] = "", done[160] = "";
    size_t used = 0, done_used = 0;
    int code = MAASQ_OK;
    for (uint32_t s = 0; s < shards; s++) {
        const mq_call *c = &legs[s].call;
        bool is_good = c->is_done && c->code == MAASQ_OK;
        int n = 0;
        if (is_good) {
            n = snprintf(done + done_used, sizeof done - done_used, " %u", s);
            done_used = mq_min_size(done_used + (n > 0 ? (size_t)n : 0), sizeof done - 1);
        } else {
            n = snprintf(failed + used, sizeof failed - used, "%sshard %u: %.120s",
                         used == 0 ? "" : "; ", s, c->text);
            used = mq_min_size(used + (n > 0 ? (size_t)n : 0), sizeof failed - 1);
            code = code != MAASQ_OK ? code : c->is_done ? c->code : MAASQ_E_TIMEOUT;
        }
    }
    if (code == MAASQ_OK) {
        return code;
    }
    if (done[0] == '\0') {
        return mq_client_fail(err, (mq_code)-code, "%s: %s", verb, failed);
    }
    return mq_client_fail(err, (mq_code)-code, "%s: %s; done in shards%s; give it again", verb,
                          failed, done);
}

int mq_spread_command(maasq_client *primary, uint32_t shards, const mq_msg_command *request,
                      int64_t timeout_ms, char **text, maasq_error *err)
{
    char verb[64];
    int64_t deadline_ms = mq_client_deadline(timeout_ms, err);
    leg *legs = deadline_ms < 0 ? NULL : new_legs(shards, err);
    if (legs == NULL) {
        return deadline_ms < 0 ? MAASQ_E_ARG : MAASQ_E_LIMIT;
    }
    (void)mq_span_copy(request->verb, verb, sizeof verb);
    for (uint32_t s = 0; s < shards; s++) {
        legs[s].call.command = MQ_CMD_command;
        legs[s].call.request = *request;
        begin(primary, &legs[s], s);
    }
    mq_code waited = await(legs, shards, deadline_ms, deadline_ms);
    end_all(legs, shards);
    int code = waited == MQ_E_ARG
                   ? mq_client_fail(err, waited, "%s: must not be called in a callback", verb)
                   : partial(legs, shards, verb, err);
    if (code == MAASQ_OK && text != NULL) {
        *text = text_of(legs, shards);
        code = *text != NULL ? code : mq_client_fail(err, MQ_E_LIMIT, "no memory for an answer");
    }
    free_legs(legs, shards);
    return code;
}
