/* Collects what a job gives; see outcome.h. Knows limits, not where the bytes go. */
#include "worker/slot/outcome.h"

enum { ARENA_BYTES_MAX = 16 << 20 };

void mq_outcome_init(mq_outcome *outcome)
{
    *outcome = (mq_outcome){0};
    mq_arena_init(&outcome->arena, ARENA_BYTES_MAX);
    mq_buf_init(&outcome->result, MQ_RESULT_BYTES_MAX);
}

void mq_outcome_release(mq_outcome *outcome)
{
    mq_arena_release(&outcome->arena);
    mq_buf_release(&outcome->result);
}

void mq_outcome_reset(mq_outcome *outcome)
{
    mq_arena_reset(&outcome->arena);
    mq_buf_reset(&outcome->result);
    outcome->publish_count = 0;
    outcome->spawn_count = 0;
    outcome->header_bytes = 0;
}

mq_code mq_outcome_result(mq_outcome *outcome, mq_span bytes, mq_error *err)
{
    if (bytes.len > MQ_RESULT_BYTES_MAX) {
        return mq_fail(err, MQ_E_LIMIT,
                       "result: %zu bytes; the limit is %d, store more than that as a blob",
                       bytes.len, MQ_RESULT_BYTES_MAX);
    }
    mq_buf_reset(&outcome->result);
    if (!mq_buf_add_span(&outcome->result, bytes)) {
        return mq_fail(err, MQ_E_LIMIT, "result: no memory for %zu bytes", bytes.len);
    }
    return MQ_OK;
}

bool mq_outcome_is_name(mq_span name)
{
    if (name.len < 1 || name.len > MQ_PUBLISH_NAME_MAX || name.data[0] == '.') {
        return false;
    }
    for (size_t i = 0; i < name.len; i++) {
        uint8_t c = name.data[i];
        bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        bool is_digit = c >= '0' && c <= '9';
        if (!is_letter && !is_digit && c != '.' && c != '_' && c != '-') {
            return false;
        }
    }
    return true;
}

static mq_code count_bytes(mq_outcome *outcome, size_t bytes, mq_error *err)
{
    if (outcome->header_bytes + bytes > MQ_OUTCOME_BYTES_MAX) {
        return mq_fail(err, MQ_E_LIMIT,
                       "publish and spawn: more than %d bytes in all; put large parts into blobs",
                       MQ_OUTCOME_BYTES_MAX);
    }
    outcome->header_bytes += bytes;
    return MQ_OK;
}

static mq_code publish_check(const mq_publish *what, mq_error *err)
{
    mq_span type = mq_str(what->type);
    mq_span name = mq_str(what->name);
    bool is_memo = mq_span_is(type, "memo");
    if (!is_memo && !mq_span_is(type, "model") && !mq_span_is(type, "dataset")) {
        return mq_fail(err, MQ_E_ARG, "publish type: \"%.*s\" is not model, dataset or memo",
                       MQ_SPAN_ARG(type));
    }
    if (is_memo ? name.len < 1 || name.len > MQ_PUBLISH_NAME_MAX : !mq_outcome_is_name(name)) {
        return mq_fail(err, MQ_E_ARG,
                       "publish name: \"%.64s\" must be 1..%d letters, digits, '.', '_' or '-'",
                       what->name == NULL ? "" : what->name, MQ_PUBLISH_NAME_MAX);
    }
    if (what->meta.len > MQ_PUBLISH_META_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "publish meta: %zu bytes; the limit is %d", what->meta.len,
                       MQ_PUBLISH_META_MAX);
    }
    if (what->blob_count > MQ_PUBLISH_BLOBS_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "publish blobs: %u of them; the limit is %d",
                       what->blob_count, MQ_PUBLISH_BLOBS_MAX);
    }
    for (uint32_t i = 0; i < what->blob_count; i++) {
        if (!mq_sha256_is_hex(mq_str(what->blobs[i]))) {
            return mq_fail(err, MQ_E_ARG, "publish blobs[%u]: not 64 lower-case hex digits", i);
        }
    }
    return MQ_OK;
}

mq_code mq_outcome_publish(mq_outcome *outcome, const mq_publish *what, mq_error *err)
{
    mq_code code = publish_check(what, err);
    if (code != MQ_OK) {
        return code;
    }
    if (outcome->publish_count == MQ_PUBLISH_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "publish: the limit is %d things a result", MQ_PUBLISH_MAX);
    }
    code = count_bytes(outcome, what->meta.len + 256 + 67 * (size_t)what->blob_count, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_arena *arena = &outcome->arena;
    mq_publish copy = {.blob_count = what->blob_count};
    const char **blobs = mq_arena_new(arena, const char *, (size_t)what->blob_count + 1);
    copy.type = mq_arena_str(arena, mq_str(what->type));
    copy.name = mq_arena_str(arena, mq_str(what->name));
    copy.meta = mq_span_of(mq_arena_str(arena, what->meta), what->meta.len);
    bool is_whole =
        blobs != NULL && copy.type != NULL && copy.name != NULL && copy.meta.data != NULL;
    for (uint32_t i = 0; is_whole && i < what->blob_count; i++) {
        blobs[i] = mq_arena_str(arena, mq_str(what->blobs[i]));
        is_whole = blobs[i] != NULL;
    }
    if (!is_whole) {
        return mq_fail(err, MQ_E_LIMIT, "publish: more than %d bytes in all", ARENA_BYTES_MAX);
    }
    copy.blobs = blobs;
    outcome->publish[outcome->publish_count++] = copy;
    return MQ_OK;
}

mq_code mq_outcome_spawn(mq_outcome *outcome, const mq_spawn *child, mq_error *err)
{
    mq_span kind = mq_str(child->kind);
    mq_span model = mq_str(child->model);
    if (kind.len < 1 || kind.len > MQ_SPAWN_KIND_MAX) {
        return mq_fail(err, MQ_E_ARG, "spawn kind: %zu bytes; must be 1..%d", kind.len,
                       MQ_SPAWN_KIND_MAX);
    }
    if (model.len > MQ_SPAWN_MODEL_MAX || child->body.len > MQ_SPAWN_BODY_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "spawn: model of at most %d and body of at most %d bytes",
                       MQ_SPAWN_MODEL_MAX, MQ_SPAWN_BODY_MAX);
    }
    if (outcome->spawn_count == MQ_SPAWN_MAX) {
        return mq_fail(err, MQ_E_LIMIT, "spawn: the limit is %d child jobs a result", MQ_SPAWN_MAX);
    }
    mq_code code = count_bytes(outcome, child->body.len + 320, err);
    if (code != MQ_OK) {
        return code;
    }
    mq_spawn copy = {
        .kind = mq_arena_str(&outcome->arena, kind),
        .model = mq_arena_str(&outcome->arena, model),
        .body = mq_span_of(mq_arena_str(&outcome->arena, child->body), child->body.len),
    };
    if (copy.kind == NULL || copy.model == NULL || copy.body.data == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "spawn: more than %d bytes in all", ARENA_BYTES_MAX);
    }
    outcome->spawn[outcome->spawn_count++] = copy;
    return MQ_OK;
}
