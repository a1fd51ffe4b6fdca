/* More epochs of a run that was finished before. Where the schedule does not look at the number of
 * epochs, a state is a function of (family, step): the manifest but for that number. The last state
 * of a finished run is remembered under the family's hash, and a run of more epochs goes on from
 * there, to the bits that all epochs at once would have given. */
#include <jansson.h>
#include <stdio.h>

#include "worker/train/train.h"

enum { KEY_SIZE = MQ_SHA256_HEX + 8, ANSWER_BYTES_MAX = 65536 };

static void key_of(const mq_trainer *t, char out[KEY_SIZE])
{
    (void)snprintf(out, KEY_SIZE, "state.%s", t->m.family);
}

/* What is remembered, when the same numeric class made it. step 0: nothing. */
static void recall(mq_trainer *t, char blob[MQ_SHA256_HEX], uint64_t *step)
{
    char key[KEY_SIZE];
    mq_buf answer;
    *step = 0;
    key_of(t, key);
    mq_buf_init(&answer, ANSWER_BYTES_MAX);
    if (t->host->ops->query(t->host, "memo", key, &answer, NULL) == MQ_OK) {
        json_t *o = json_loadb((const char *)answer.data, answer.len, JSON_REJECT_DUPLICATES, NULL);
        const json_t *meta = json_object_get(o, "meta");
        const char *hash = json_string_value(json_object_get(meta, "state"));
        const char *print = json_string_value(json_object_get(meta, "fingerprint"));
        json_int_t at = json_integer_value(json_object_get(meta, "step"));
        if (hash != NULL && mq_sha256_is_hex(mq_str(hash)) && at > 0 && print != NULL &&
            strcmp(print, t->fingerprint) == 0) {
            memcpy(blob, hash, MQ_SHA256_HEX);
            *step = (uint64_t)at;
        }
        json_decref(o);
    }
    mq_buf_release(&answer);
}

/* Pairs of points become one until the curve has room for the epochs to come. */
static void thin_curve(mq_record *r)
{
    while (r->curve_count > MQ_CURVE_MAX / 2) {
        uint32_t count = r->curve_count / 2;
        for (uint32_t i = 0; i < count; i++) {
            const mq_curve_point *a = &r->curve[2 * i], *b = &r->curve[2 * i + 1];
            r->curve[i] =
                (mq_curve_point){b->step, (a->loss + b->loss) / 2, (a->accuracy + b->accuracy) / 2};
        }
        r->curve_count = count;
    }
}

bool mq_trainer_continue(mq_trainer *t)
{
    char blob[MQ_SHA256_HEX];
    uint64_t step = 0;
    mq_map_file file;
    if (!t->m.reuse || !mq_manifest_continues(&t->m)) {
        return false;
    }
    recall(t, blob, &step);
    if (step == 0 || step > t->plan.steps ||
        t->host->ops->blob_open(t->host, blob, &file, NULL) != MQ_OK) {
        return false;
    }
    mq_error err;
    bool is_loaded = mq_state_load(&t->state, &t->m, file.bytes, &err) == MQ_OK;
    mq_map_file_release(&file);
    if (!is_loaded) {
        mq_trainer_log(t, "the remembered state of step %llu is of no use: %.200s",
                       (unsigned long long)step, err.text);
        return false;
    }
    thin_curve(&t->state.record);
    t->continued_step = t->state.record.step;
    mq_trainer_log(t, "goes on from step %llu of an equal run with fewer epochs",
                   (unsigned long long)t->continued_step);
    return true;
}

mq_code mq_trainer_remember(mq_trainer *t, mq_error *err)
{
    char key[KEY_SIZE], known[MQ_SHA256_HEX], meta[256];
    const char *blob = t->checkpoint_blob;
    uint64_t step = 0;
    if (!mq_manifest_continues(&t->m) || blob[0] == '\0' ||
        t->checkpoint_step != t->state.record.step) {
        return MQ_OK;
    }
    recall(t, known, &step);
    if (step >= t->state.record.step) {
        return MQ_OK; /* a longer run's state serves more */
    }
    key_of(t, key);
    int len = snprintf(meta, sizeof meta, "{\"state\":\"%s\",\"step\":%llu,\"fingerprint\":\"%s\"}",
                       blob, (unsigned long long)t->state.record.step, t->fingerprint);
    mq_publish publish = {"memo", key, mq_span_of(meta, (size_t)len), &blob, 1};
    return t->host->ops->publish(t->host, &publish, err);
}
