/* Which models the cache of this host holds: blobs that were opened for a job as its model, as long
 * as their files are there. The broker prefers a worker that has what a job needs. Must not know
 * what a model is. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "worker/io/supervisor.h"

void mq_models_note(mq_supervisor *sv, uint32_t slot, const char *hash)
{
    const mq_kept_job *kept = mq_sv_job_of(sv, slot);
    if (kept == NULL || !mq_span_is(kept->item.model_blob, hash)) {
        return;
    }
    uint32_t at = 0;
    while (at < sv->model_count && strcmp(sv->models[at], hash) != 0) {
        at++;
    }
    at = at < MQ_MODELS_TOLD_MAX ? at : MQ_MODELS_TOLD_MAX - 1; /* the oldest goes */
    sv->model_count += at == sv->model_count;
    memmove(sv->models[1], sv->models[0], at * sizeof sv->models[0]);
    snprintf(sv->models[0], sizeof sv->models[0], "%s", hash);
}

/* Other workers of the host share the folder and may have made room in it. */
void mq_models_look(mq_supervisor *sv)
{
    char path[MQ_CACHE_DIR_MAX + MQ_SHA256_HEX + 1];
    uint32_t kept = 0;
    for (uint32_t i = 0; i < sv->model_count; i++) {
        snprintf(path, sizeof path, "%s/%s", sv->cache_dir, sv->models[i]);
        if (access(path, F_OK) == 0) {
            memmove(sv->models[kept++], sv->models[i], sizeof sv->models[0]);
        }
    }
    sv->model_count = kept;
}

uint32_t mq_models_list(const mq_supervisor *sv, mq_span out[MQ_MODELS_TOLD_MAX])
{
    for (uint32_t i = 0; i < sv->model_count; i++) {
        out[i] = mq_str(sv->models[i]);
    }
    return sv->model_count;
}
