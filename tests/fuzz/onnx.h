/* One hostile model: loaded, saved, opened and run with inputs made up from what it asks for.
 * Whatever the bytes are, each step ends with a code, within the limits below; a crash, a
 * sanitizer's word or a hang is the finding. */
#ifndef MQ_TESTS_FUZZ_ONNX_H
#define MQ_TESTS_FUZZ_ONNX_H

#include "worker/exec/session.h"
#include "worker/ops/kit.h"

enum {
    FUZZ_MEMORY_BYTES = 16 << 20,
    FUZZ_INPUTS_MAX = 16,
    FUZZ_ELEMENTS_MAX = 4096, /* of one input */
    FUZZ_NODES_MAX = 4096,    /* computed in one run, those of loops counted each time */
};

static inline bool fuzz_stop(void *arg)
{
    uint32_t *left = arg;
    return *left == 0 || --*left == 0;
}

/* A tensor for an input: free dimensions are 2, elements small numbers. False: too large. */
static inline bool fuzz_input(const mq_value_info *info, mq_arena *arena, mq_tensor *out)
{
    size_t count = 1,
           each = info->dtype == MQ_DT_STR ? sizeof(mq_span) : mq_dtype_bytes(info->dtype);
    *out = (mq_tensor){.dtype = info->dtype};
    out->shape.rank = info->rank < 0 ? 2 : info->rank;
    for (int32_t d = 0; d < out->shape.rank; d++) {
        int64_t dim = info->rank < 0 || info->dims[d] < 0 ? 2 : info->dims[d];
        if (dim > FUZZ_ELEMENTS_MAX || (count *= (size_t)dim) > FUZZ_ELEMENTS_MAX) {
            return false;
        }
        out->shape.dims[d] = dim;
    }
    out->bytes = count * each;
    out->data = mq_arena_alloc(arena, out->bytes + 1, 1);
    for (size_t i = 0; out->data != NULL && i < count && info->dtype != MQ_DT_STR; i++) {
        float f = (float)(int)(i % 7) - 2.0f;
        uint64_t n = i % 3;
        if (info->dtype == MQ_DT_F32) {
            memcpy((uint8_t *)out->data + i * each, &f, each);
        } else {
            memcpy((uint8_t *)out->data + i * each, &n, each);
        }
    }
    return out->data != NULL;
}

static inline void fuzz_run(const mq_model *model, bool no_fusion)
{
    mq_error err;
    uint32_t left = FUZZ_NODES_MAX;
    mq_session *s = NULL;
    mq_session_options options = {.memory_bytes_max = FUZZ_MEMORY_BYTES,
                                  .no_fusion = no_fusion,
                                  .stop = fuzz_stop,
                                  .stop_arg = &left};
    if (mq_session_new(&s, model, &options, &err) != MQ_OK) {
        return;
    }
    mq_arena arena;
    mq_arena_init(&arena, (size_t)1 << 20);
    const mq_value_info *infos;
    const mq_tensor *outputs;
    mq_tensor inputs[FUZZ_INPUTS_MAX];
    size_t count = mq_session_inputs(s, &infos);
    bool is_small = count <= FUZZ_INPUTS_MAX;
    for (size_t i = 0; is_small && i < count; i++) {
        is_small = fuzz_input(&infos[i], &arena, &inputs[i]);
    }
    for (int again = 0; is_small && again < 2; again++) { /* the second finds the plan */
        if (mq_session_run(s, inputs, count, &outputs, &err) != MQ_OK) {
            break;
        }
    }
    mq_arena_release(&arena);
    mq_session_free(s);
}

static inline void fuzz_onnx(const uint8_t *data, size_t len)
{
    mq_error err;
    mq_model *model = NULL, *copy = NULL;
    if (mq_model_load(&model, mq_span_of(data, len), FUZZ_MEMORY_BYTES, &err) != MQ_OK) {
        return;
    }
    fuzz_run(model, false);
    fuzz_run(model, true);
    if (mq_model_clone(&copy, model, FUZZ_MEMORY_BYTES, &err) == MQ_OK) {
        mq_buf text;
        mq_buf_init(&text, 1 << 16);
        mq_session_check(copy, &text);
        mq_buf_release(&text);
        mq_model_free(copy);
    }
    mq_model_free(model);
}

#endif
