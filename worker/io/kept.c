/* What the supervisor keeps for a job: its request until it runs, its outcome until the verdict. */
#include <sys/stat.h>
#include <unistd.h>

#include "shared/base/math.h"
#include "shared/base/ulid.h"
#include "worker/io/supervisor.h"
#include "worker/slot/outcome.h"

enum { ARENA_BYTES_MAX = 96 << 20 };

static bool copy(mq_arena *arena, mq_span *span)
{
    const void *at = mq_arena_copy(arena, *span);
    span->data = at;
    return at != NULL;
}

static bool copy_members(mq_arena *arena, mq_msg_job_item *item)
{
    mq_msg_member *members = mq_arena_new(arena, mq_msg_member, (size_t)item->members_count + 1);
    if (members == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < item->members_count; i++) {
        members[i] = item->members[i];
        if (!copy(arena, &members[i].worker) || !copy(arena, &members[i].host) ||
            !copy(arena, &members[i].gang_unix) || !copy(arena, &members[i].gang_tcp)) {
            return false;
        }
    }
    item->members = members;
    return true;
}

bool mq_kept_accept(mq_kept_job *kept, const mq_msg_job_item *item, mq_span body)
{
    mq_kept_forget(kept);
    kept->is_used = true;
    mq_arena_init(&kept->arena, ARENA_BYTES_MAX);
    mq_buf_init(&kept->result, MQ_RESULT_BYTES_MAX);
    kept->item = *item;
    kept->body = body;
    mq_arena *a = &kept->arena;
    mq_msg_job_item *it = &kept->item;
    return copy(a, &kept->body) && copy(a, &it->id) && copy(a, &it->kind) && copy(a, &it->model) &&
           copy(a, &it->model_blob) && copy(a, &it->trace) && copy(a, &it->chain) &&
           copy(a, &it->blob) && copy(a, &it->meta) && copy_members(a, it);
}

void mq_kept_forget(mq_kept_job *kept)
{
    if (!kept->is_used) {
        return;
    }
    for (uint32_t i = 0; i < kept->blob_count; i++) {
        close(kept->blobs[i].fd);
    }
    mq_arena_release(&kept->arena);
    mq_buf_release(&kept->result);
    kept->is_used = false;
    kept->publish_count = kept->spawn_count = kept->blob_count = 0;
    kept->header_bytes = kept->blob_bytes = kept->progress_len = 0;
    kept->uploads = 0;
    kept->is_progress_new = kept->is_upload_lost = false;
    kept->progress_ms = kept->checkpoint_ms = 0;
    kept->sent.step = kept->next.step = 0;
    kept->item = (mq_msg_job_item){0};
    kept->body = (mq_span){0};
}

static mq_code count_header(mq_kept_job *kept, size_t bytes, mq_error *err)
{
    kept->header_bytes += bytes;
    return kept->header_bytes > MQ_OUTCOME_BYTES_MAX
               ? mq_fail(err, MQ_E_LIMIT, "publish and spawn: more than %d bytes",
                         MQ_OUTCOME_BYTES_MAX)
               : MQ_OK;
}

mq_code mq_kept_publish(mq_kept_job *kept, const mq_slot_publish *m, mq_error *err)
{
    if (kept->publish_count == MQ_KEPT_PUBLISH_MAX || m->blobs.len % 64 != 0) {
        return mq_fail(err, MQ_E_FORMAT, "publish: too many, or hashes of %zu bytes", m->blobs.len);
    }
    uint32_t count = (uint32_t)(m->blobs.len / 64);
    mq_msg_published *p = &kept->publish[kept->publish_count];
    *p = (mq_msg_published){.type = m->type, .name = m->name, .meta = m->meta};
    mq_span all = m->blobs;
    mq_arena *a = &kept->arena;
    p->blobs = mq_arena_new(a, mq_span, (size_t)count + 1);
    if (!copy(a, &p->type) || !copy(a, &p->name) || !copy(a, &p->meta) || !copy(a, &all) ||
        p->blobs == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "publish: more than %d bytes for a job", ARENA_BYTES_MAX);
    }
    p->blobs_count = count;
    for (uint32_t i = 0; i < count; i++) {
        p->blobs[i] = mq_span_of(all.data + (size_t)i * 64, 64);
        if (!mq_sha256_is_hex(p->blobs[i])) {
            return mq_fail(err, MQ_E_FORMAT, "publish: blob %u is not named by a hash", i);
        }
    }
    kept->publish_count++;
    return count_header(kept, m->meta.len + 256 + 67 * (size_t)count, err);
}

mq_code mq_kept_spawn(mq_kept_job *kept, const mq_slot_spawn *m, mq_error *err)
{
    char id[MQ_ULID_SIZE];
    if (kept->spawn_count == MQ_KEPT_SPAWN_MAX) {
        return mq_fail(err, MQ_E_FORMAT, "spawn: more than %d children", MQ_KEPT_SPAWN_MAX);
    }
    mq_msg_spawned *s = &kept->spawn[kept->spawn_count];
    mq_ulid_new(id);
    if (kept->item.id.len == MQ_ULID_LEN) { /* a child lives in its parent's shard */
        mq_ulid_follow(id, kept->item.id);
    }
    *s = (mq_msg_spawned){.id = mq_str(id), .kind = m->kind, .model = m->model, .body = m->body};
    mq_arena *a = &kept->arena;
    if (!copy(a, &s->id) || !copy(a, &s->kind) || !copy(a, &s->model) || !copy(a, &s->body)) {
        return mq_fail(err, MQ_E_LIMIT, "spawn: more than %d bytes for a job", ARENA_BYTES_MAX);
    }
    kept->spawn_count++;
    return count_header(kept, m->body.len + 320, err);
}

mq_code mq_kept_result(mq_kept_job *kept, mq_span bytes, mq_error *err)
{
    mq_buf_reset(&kept->result);
    if (!mq_buf_add_span(&kept->result, bytes)) {
        return mq_fail(err, MQ_E_LIMIT, "result: %zu bytes; the limit is %d", bytes.len,
                       MQ_RESULT_BYTES_MAX);
    }
    return MQ_OK;
}

static void blob_drop(mq_kept_job *kept, uint32_t index)
{
    kept->blob_bytes -= kept->blobs[index].bytes;
    close(kept->blobs[index].fd);
    kept->blob_count--;
    memmove(&kept->blobs[index], &kept->blobs[index + 1],
            (kept->blob_count - index) * sizeof kept->blobs[0]);
}

void mq_kept_blob_add(mq_kept_job *kept, const char *hash, int fd)
{
    struct stat st;
    if (mq_kept_blob_find(kept, mq_str(hash)) >= 0 || fstat(fd, &st) != 0 ||
        st.st_size > MQ_KEPT_BLOB_BYTES_MAX) {
        close(fd);
        return;
    }
    size_t bytes = (size_t)st.st_size;
    while (kept->blob_count == MQ_KEPT_BLOBS_MAX ||
           kept->blob_bytes + bytes > MQ_KEPT_BLOB_BYTES_MAX) {
        blob_drop(kept, 0); /* the oldest: the result names those stored last */
    }
    mq_kept_blob *blob = &kept->blobs[kept->blob_count++];
    memcpy(blob->hash, hash, MQ_SHA256_HEX);
    blob->fd = fd;
    blob->bytes = bytes;
    kept->blob_bytes += bytes;
}

int mq_kept_blob_find(const mq_kept_job *kept, mq_span hash)
{
    for (uint32_t i = 0; i < kept->blob_count; i++) {
        if (mq_span_is(hash, kept->blobs[i].hash)) {
            return kept->blobs[i].fd;
        }
    }
    return -1;
}
