/* What a running job says of itself, kept for after its end: the tail of its log and its latest
 * progress, written with its last record. Before that they are hints in memory, as is what is said
 * while the store or this broker is lost. It must not know what is in them. */
#include "broker/core/state.h"

enum { SPARE = 4 /* a quarter of the pool is not for hints */ };

static bool has_room(const mq_core *core, size_t bytes)
{
    uint64_t left = core->pool.units - core->pool.high;
    return left >= core->pool.units / SPARE && mq_pool_has(&core->pool, bytes);
}

/* The end of `text` of at most `most` bytes, beginning with a whole line. */
static mq_span tail_of(mq_span text, size_t most)
{
    size_t from = text.len > most ? text.len - most : 0;
    while (from > 0 && from < text.len && text.data[from - 1] != '\n') {
        from++;
    }
    return mq_span_of(text.data + from, text.len - from);
}

static void add_line(mq_core *core, mq_job *job, mq_span line)
{
    line.len = mq_min_size(line.len, MQ_NOTE_LINE_MAX);
    mq_span kept = tail_of(mq_pool_span(&core->pool, job->log), MQ_NOTE_LOG_MAX - line.len - 1);
    if (!has_room(core, kept.len + line.len + 1)) {
        return;
    }
    mq_ref log = mq_pool_take(&core->pool, kept.len + line.len + 1);
    if (log.at == 0) {
        return;
    }
    uint8_t *at = mq_pool_at(&core->pool, log);
    if (kept.len > 0) {
        memcpy(at, kept.data, kept.len);
    }
    for (size_t i = 0; i < line.len; i++) { /* one line stays one line */
        at[kept.len + i] = line.data[i] == '\n' ? ' ' : line.data[i];
    }
    at[kept.len + line.len] = '\n';
    mq_ref_drop(core, &job->log);
    job->log = log;
    job->log_lines++;
}

void mq_note(mq_core *core, const mq_input *in)
{
    mq_job *job = mq_job_find(core, in->as.note.id);
    if (job == NULL || job->is_transient || mq_job_ended(job)) {
        return;
    }
    mq_span progress = in->as.note.progress;
    if (progress.len > 0 && progress.len <= MQ_NOTE_PROGRESS_MAX && has_room(core, progress.len)) {
        mq_ref_drop(core, &job->progress);
        (void)mq_pool_copy(&core->pool, progress, &job->progress);
    }
    if (in->as.note.log.len > 0) {
        add_line(core, job, in->as.note.log);
    }
}
