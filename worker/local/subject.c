/* Models under our session and their inputs; see subject.h. */
#include "worker/local/subject.h"

#include <stdlib.h>
#include <string.h>

#include "shared/base/prng.h"

enum { FREE_DIM = 16 };
#define FILE_BYTES_MAX ((size_t)4 << 30)

mq_code mq_subject_load(mq_subject *s, const char *path, const mq_session_options *options,
                        mq_error *err)
{
    const mq_value_info *infos;
    *s = (mq_subject){.input_count = 0};
    mq_code code = mq_map_file_open(&s->file, path, FILE_BYTES_MAX, err);
    code = code == MQ_OK ? mq_model_load(&s->model, s->file.bytes, 0, err) : code;
    mq_session_options all = options == NULL ? (mq_session_options){0} : *options;
    all.file = &s->file;
    code = code == MQ_OK ? mq_session_new(&s->session, s->model, &all, err) : code;
    if (code != MQ_OK) {
        mq_subject_release(s);
        return code;
    }
    s->input_count = mq_session_inputs(s->session, &infos);
    for (size_t i = 0; i < s->input_count && i < MQ_SUBJECT_VALUES_MAX; i++) {
        s->input_names[i] = infos[i].name;
    }
    s->output_count = mq_session_outputs(s->session, &infos);
    for (size_t i = 0; i < s->output_count && i < MQ_SUBJECT_VALUES_MAX; i++) {
        s->output_names[i] = infos[i].name;
    }
    if (s->input_count > MQ_SUBJECT_VALUES_MAX || s->output_count > MQ_SUBJECT_VALUES_MAX) {
        mq_subject_release(s);
        return mq_fail(err, MQ_E_LIMIT, "more than %d inputs or outputs", MQ_SUBJECT_VALUES_MAX);
    }
    return MQ_OK;
}

mq_code mq_subject_hash(const char *path, char hash[MQ_SHA256_HEX], mq_error *err)
{
    mq_map_file file;
    mq_code code = mq_map_file_open(&file, path, FILE_BYTES_MAX, err);
    if (code == MQ_OK) {
        mq_sha256_hex_of(file.bytes, hash);
        mq_map_file_release(&file);
    }
    return code;
}

static void fill(const char *name, mq_tensor *t, size_t count, mq_prng *prng)
{
    bool is_mask = strstr(name, "mask") != NULL;
    size_t each = mq_dtype_bytes(t->dtype);
    for (size_t i = 0; i < count; i++) {
        if (t->dtype == MQ_DT_F32) {
            ((float *)t->data)[i] = (float)mq_prng_below(prng, 1000) * 0.001F;
        } else { /* little-endian: the lowest byte is the number */
            ((uint8_t *)t->data)[i * each] = is_mask ? 1 : (uint8_t)mq_prng_below(prng, 2);
        }
    }
}

mq_code mq_subject_inputs(mq_subject *s, int64_t batch, mq_error *err)
{
    const mq_value_info *infos;
    mq_prng prng = {7};
    (void)mq_session_inputs(s->session, &infos);
    for (size_t i = 0; i < s->input_count; i++) {
        mq_tensor *t = &s->inputs[i];
        size_t count = 1;
        free(t->data);
        *t = (mq_tensor){.dtype = infos[i].dtype, .shape = {.rank = infos[i].rank}};
        for (int32_t d = 0; d < infos[i].rank; d++) {
            int64_t dim = infos[i].dims[d];
            t->shape.dims[d] = dim >= 0 ? dim : d == 0 ? batch : FREE_DIM;
            count *= (size_t)t->shape.dims[d];
        }
        size_t each = mq_dtype_bytes(t->dtype);
        if (infos[i].rank < 0 || t->dtype == MQ_DT_STR || each == 0) {
            return mq_fail(err, MQ_E_UNSUPPORTED, "input '%s' has no shape or is text",
                           infos[i].name);
        }
        t->bytes = count * each;
        t->data = calloc(count, each);
        if (t->data == NULL) {
            return mq_fail(err, MQ_E_LIMIT, "no memory for input '%s'", infos[i].name);
        }
        fill(infos[i].name, t, count, &prng);
    }
    return MQ_OK;
}

void mq_subject_release(mq_subject *s)
{
    for (size_t i = 0; i < MQ_SUBJECT_VALUES_MAX; i++) {
        free(s->inputs[i].data);
    }
    mq_session_free(s->session);
    mq_model_free(s->model);
    mq_map_file_release(&s->file);
    *s = (mq_subject){.input_count = 0};
}
