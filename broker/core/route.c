/* Which worker may run what: kinds, queues, tags and memory; and which of those that may is chosen.
 * A job's needs are one text, "avx512,mem=8589934592,region=eu", so that jobs with equal needs
 * share a lane and are compared with workers once for all of them. It must not know limits and
 * fairness. */
#include "broker/core/state.h"

/* The next tag of a list "a,b,c"; false at its end. */
static bool next_tag(mq_span *rest, mq_span *tag)
{
    if (rest->len == 0) {
        return false;
    }
    size_t n = 0;
    while (n < rest->len && rest->data[n] != ',') {
        n++;
    }
    *tag = mq_span_of(rest->data, n);
    n += n < rest->len;
    *rest = mq_span_of(rest->data + n, rest->len - n);
    return true;
}

/* "mem=123"; false: not of this form. */
static bool memory_tag(mq_span tag, uint64_t *bytes)
{
    if (tag.len < 5 || tag.len > 4 + 16 || memcmp(tag.data, "mem=", 4) != 0) {
        return false;
    }
    *bytes = 0;
    for (size_t i = 4; i < tag.len; i++) {
        if (tag.data[i] < '0' || tag.data[i] > '9') {
            return false;
        }
        *bytes = *bytes * 10 + (uint64_t)(tag.data[i] - '0');
    }
    return true;
}

const char *mq_needs_check(const mq_msg_submit_job *item)
{
    mq_span rest = item->needs;
    mq_span tag;
    uint64_t bytes = 0;
    int count = item->memory_bytes > 0;
    if (item->memory_bytes > INT64_C(1) << 50) {
        return "mem: at most 1 PiB";
    }
    while (next_tag(&rest, &tag)) {
        bool is_memory = tag.len >= 4 && memcmp(tag.data, "mem=", 4) == 0;
        if (!mq_entry_name_ok(tag) || tag.len > MQ_TAG_BYTES_MAX ||
            (is_memory && !memory_tag(tag, &bytes))) {
            return "needs: tags of 1 to 32 printable letters without blank / @, with commas "
                   "between; mem=BYTES";
        }
        count++;
    }
    return count > MQ_NEEDS_TAGS_MAX ? "needs: at most 8 tags, mem among them" : NULL;
}

static bool goes_before(mq_span a, mq_span b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int order = n == 0 ? 0 : memcmp(a.data, b.data, n);
    return order < 0 || (order == 0 && a.len < b.len);
}

/* Puts a tag into its place; equal ones once. */
static uint32_t sort_in(mq_span tags[MQ_NEEDS_TAGS_MAX], uint32_t count, mq_span tag)
{
    uint32_t at = 0;
    while (at < count && goes_before(tags[at], tag)) {
        at++;
    }
    if ((at < count && mq_span_eq(tags[at], tag)) || count == MQ_NEEDS_TAGS_MAX) {
        return count;
    }
    for (uint32_t i = count; i > at; i--) {
        tags[i] = tags[i - 1];
    }
    tags[at] = tag;
    return count + 1;
}

mq_span mq_needs_text(mq_core *core, const mq_msg_submit_job *item)
{
    mq_span tags[MQ_NEEDS_TAGS_MAX];
    mq_span rest = item->needs;
    mq_span tag;
    char memory[32] = "mem=";
    char digits[21];
    uint32_t count = 0;
    size_t len = 0;
    if (item->needs.len == 0 && item->memory_bytes == 0) {
        return (mq_span){0};
    }
    while (next_tag(&rest, &tag)) {
        count = sort_in(tags, count, tag);
    }
    if (item->memory_bytes > 0) {
        mq_span n = mq_digits(item->memory_bytes, digits);
        memcpy(memory + 4, n.data, n.len);
        count = sort_in(tags, count, mq_span_of(memory, 4 + n.len));
    }
    for (uint32_t i = 0; i < count; i++) {
        MQ_ASSERT(len + tags[i].len + 1 < sizeof core->needs);
        if (i > 0) {
            core->needs[len++] = ',';
        }
        memcpy(core->needs + len, tags[i].data, tags[i].len);
        len += tags[i].len;
    }
    return mq_span_of(core->needs, len);
}

bool mq_lane_needs(mq_core *core, mq_lane *lane)
{
    mq_span rest = mq_name_text(core, lane->needs);
    mq_span tag;
    uint64_t bytes = 0;
    while (next_tag(&rest, &tag)) {
        if (memory_tag(tag, &bytes)) {
            lane->memory_bytes = bytes > lane->memory_bytes ? bytes : lane->memory_bytes;
            continue;
        }
        uint32_t name = mq_name_take(core, tag);
        if (name == MQ_NONE || lane->tag_count == MQ_NEEDS_TAGS_MAX) {
            mq_name_drop(core, name == MQ_NONE ? 0 : name);
            return false;
        }
        lane->tags[lane->tag_count++] = name;
    }
    return true;
}

void mq_lane_needs_drop(mq_core *core, mq_lane *lane)
{
    for (uint32_t i = 0; i < lane->tag_count; i++) {
        mq_name_drop(core, lane->tags[i]);
    }
    lane->tag_count = 0;
}

static bool has(const uint32_t *names, uint32_t count, uint32_t name)
{
    for (uint32_t i = 0; i < count; i++) {
        if (names[i] == name) {
            return true;
        }
    }
    return false;
}

mq_misfit mq_worker_misfit(const mq_worker *worker, const mq_lane *lane)
{
    if (!has(worker->kinds, worker->kind_count, lane->kind)) {
        return MQ_MISFIT_KIND;
    }
    if (worker->queue_count > 0 && !has(worker->queues, worker->queue_count, lane->queue)) {
        return MQ_MISFIT_QUEUE;
    }
    for (uint32_t i = 0; i < lane->tag_count; i++) {
        if (!has(worker->tags, worker->tag_count, lane->tags[i])) {
            return MQ_MISFIT_TAGS;
        }
    }
    return lane->memory_bytes > worker->memory_bytes ? MQ_MISFIT_MEMORY : MQ_MISFIT_NONE;
}

bool mq_worker_fits(const mq_worker *worker, const mq_lane *lane)
{
    return mq_worker_misfit(worker, lane) == MQ_MISFIT_NONE;
}

/* Memory that a job's needs name; it is held while a worker has the job. */
uint64_t mq_job_memory(const mq_core *core, const mq_job *job)
{
    mq_span rest = mq_name_text(core, job->needs);
    mq_span tag;
    uint64_t most = 0;
    uint64_t bytes = 0;
    while (next_tag(&rest, &tag)) {
        most = memory_tag(tag, &bytes) && bytes > most ? bytes : most;
    }
    return most;
}

/* ---- models that a worker has in its cache ---- */

bool mq_worker_has_model(const mq_worker *worker, uint32_t model)
{
    return has(worker->models, MQ_WORKER_MODELS, model);
}

/* Models it was sent last are those that its slots have loaded and its host's cache holds. */
void mq_worker_saw_model(mq_core *core, mq_worker *worker, uint32_t model)
{
    uint32_t at = 0;
    if (worker->models[0] == model) {
        return;
    }
    while (at < MQ_WORKER_MODELS - 1 && worker->models[at] != model) {
        at++;
    }
    mq_name_hold(core, model);
    mq_name_drop(core, worker->models[at]);
    for (; at > 0; at--) {
        worker->models[at] = worker->models[at - 1];
    }
    worker->models[0] = model;
}

void mq_worker_forget_models(mq_core *core, mq_worker *worker)
{
    for (uint32_t i = 0; i < MQ_WORKER_MODELS; i++) {
        mq_name_drop(core, worker->models[i]);
        worker->models[i] = 0;
    }
}
