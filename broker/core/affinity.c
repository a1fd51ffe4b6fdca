/* Model affinity: which workers have a job's model at hand. A worker says which model blobs the
 * cache of its host holds (ready, beats); until it has, those that it was sent lately stand for
 * them (route.c). A hint and nothing more: a worker without the blob fetches it. */
#include "broker/core/state.h"

void mq_worker_told_blobs(mq_worker *w, const mq_span *blobs, uint32_t count)
{
    w->blob_count = 0;
    for (uint32_t i = 0; i < count && w->blob_count < MQ_WORKER_MODELS; i++) {
        if (blobs[i].len == MQ_HASH_LEN) {
            memcpy(w->blobs[w->blob_count++], blobs[i].data, MQ_HASH_LEN);
        }
    }
}

static bool holds_blob(const mq_worker *w, mq_span hash)
{
    for (uint32_t i = 0; i < w->blob_count && hash.len == MQ_HASH_LEN; i++) {
        if (memcmp(w->blobs[i], hash.data, MQ_HASH_LEN) == 0) {
            return true;
        }
    }
    return false;
}

mq_span mq_model_blob(mq_core *core, uint32_t model)
{
    mq_entry_view view;
    bool is_known = model != 0 && mq_core_resolve(core, MQ_ENTRY_MODEL, mq_name_text(core, model),
                                                  &view, NULL) == MQ_OK;
    if (!is_known || mq_entry_read(view.value, &core->entry, NULL) != MQ_OK ||
        core->entry.blob_count == 0) {
        return (mq_span){0};
    }
    return core->entry.blobs[0];
}

uint32_t mq_affinity_of(const mq_worker *w, uint32_t model, mq_span blob)
{
    if (model == 0) {
        return MQ_AFFINITY_MOST;
    }
    return holds_blob(w, blob)             ? MQ_AFFINITY_MOST
           : mq_worker_has_model(w, model) ? MQ_AFFINITY_MOST - 1
                                           : 0;
}

bool mq_affinity_waits(mq_core *core, const mq_lane *lane, const mq_job *job, uint32_t worker)
{
    int64_t until_ms = job->ready_ms + core->config.affinity_wait_ms;
    if (core->config.affinity_wait_ms == 0 || job->model == 0 || until_ms <= core->now_ms) {
        return false;
    }
    mq_span blob = mq_model_blob(core, job->model);
    if (blob.len == 0 || mq_affinity_of(&core->workers[worker], job->model, blob) > 0) {
        return false;
    }
    for (uint32_t i = 0; i < core->worker_slots.high; i++) {
        const mq_worker *w = &core->workers[i];
        if (w->is_used && !w->is_draining && mq_worker_fits(w, lane) && holds_blob(w, blob)) {
            core->affinity_ms = mq_min_i64(core->affinity_ms, until_ms);
            return true;
        }
    }
    return false;
}
