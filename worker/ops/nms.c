/* NonMaxSuppression: per batch and class the best boxes that do not overlap a better one too much.
 * Boxes are by single precision throughout, so that thresholds fall as the page says.
 * onnx.ai/onnx/operators/onnx__NonMaxSuppression.html */
#include "worker/ops/order.h"

#define WORK_BYTES_MAX ((size_t)1 << 30)

typedef struct nms_attrs {
    int64_t center_point_box;
} nms_attrs;

typedef struct nms_work {
    const mq_op_call *call;
    int64_t most; /* boxes of one class */
    float overlap, score;
    bool has_score;
    size_t boxes, classes, batches;
    size_t *order, *spare, *kept;
} nms_work;

static float number(const mq_op_call *call, uint32_t i, float otherwise)
{
    const mq_tensor *t = mq_call_input(call, i);
    return t == NULL || mq_elements(t) == 0 ? otherwise : ((const float *)t->data)[0];
}

static mq_code nms_init(const mq_op_call *call, mq_arena *arena, nms_work *w, mq_error *err)
{
    const mq_shape *b = &call->inputs[0]->shape, *s = &call->inputs[1]->shape;
    const mq_tensor *most = mq_call_input(call, 2), *score = mq_call_input(call, 4);
    if (b->rank != 3 || s->rank != 3 || b->dims[2] != 4 || b->dims[0] != s->dims[0] ||
        b->dims[1] != s->dims[2]) {
        return mq_fail(err, MQ_E_ARG, "boxes must be [N, B, 4] and scores [N, C, B]");
    }
    *w = (nms_work){.call = call,
                    .most = most == NULL || mq_elements(most) == 0 ? 0 : mq_element_int(most, 0),
                    .overlap = number(call, 3, 0.0f),
                    .score = number(call, 4, 0.0f),
                    .has_score = score != NULL && mq_elements(score) > 0,
                    .boxes = (size_t)b->dims[1],
                    .classes = (size_t)s->dims[1],
                    .batches = (size_t)b->dims[0]};
    w->order = mq_arena_new(arena, size_t, w->boxes + 1);
    w->spare = mq_arena_new(arena, size_t, w->boxes + 1);
    w->kept = mq_arena_new(arena, size_t, w->boxes + 1);
    return w->order == NULL || w->spare == NULL || w->kept == NULL
               ? mq_fail(err, MQ_E_LIMIT, "no memory for %zu boxes", w->boxes)
               : MQ_OK;
}

typedef struct rect {
    float x0, x1, y0, y1;
} rect;

static rect rect_of(const float *b, bool is_center)
{
    if (is_center) {
        return (rect){b[0] - b[2] / 2, b[0] + b[2] / 2, b[1] - b[3] / 2, b[1] + b[3] / 2};
    }
    return (rect){fminf(b[1], b[3]), fmaxf(b[1], b[3]), fminf(b[0], b[2]), fmaxf(b[0], b[2])};
}

static bool overlaps(const nms_work *w, const float *a, const float *b)
{
    const nms_attrs *attrs = w->call->attrs;
    rect p = rect_of(a, attrs->center_point_box != 0), q = rect_of(b, attrs->center_point_box != 0);
    float width = fminf(p.x1, q.x1) - fmaxf(p.x0, q.x0);
    float height = fminf(p.y1, q.y1) - fmaxf(p.y0, q.y0);
    if (!(width > 0.0f) || !(height > 0.0f)) {
        return false;
    }
    float first = (p.x1 - p.x0) * (p.y1 - p.y0), second = (q.x1 - q.x0) * (q.y1 - q.y0);
    float both = width * height, all = first + second - both;
    return first > 0.0f && second > 0.0f && all > 0.0f && both / all > w->overlap;
}

static int by_score(const void *arg, size_t a, size_t b)
{
    const float *scores = arg;
    return scores[a] > scores[b] ? -1 : scores[a] < scores[b] ? 1 : 0;
}

/* Boxes kept of one class, in w->kept; returns how many. */
static size_t nms_class(nms_work *w, size_t batch, size_t class)
{
    const float *boxes = (const float *)w->call->inputs[0]->data + batch * w->boxes * 4;
    const float *scores =
        (const float *)w->call->inputs[1]->data + (batch * w->classes + class) * w->boxes;
    size_t count = 0, kept = 0;
    for (size_t i = 0; i < w->boxes; i++) {
        if (!w->has_score || scores[i] > w->score) {
            w->order[count++] = i;
        }
    }
    mq_sort_indices(w->order, w->spare, count, by_score, scores);
    for (size_t i = 0; i < count && (int64_t)kept < w->most; i++) {
        bool is_free = true;
        for (size_t k = 0; k < kept && is_free; k++) {
            is_free = !overlaps(w, boxes + 4 * w->order[i], boxes + 4 * w->kept[k]);
        }
        if (is_free) {
            w->kept[kept++] = w->order[i];
        }
    }
    return kept;
}

/* All classes; out NULL: only counts. */
static mq_code nms_all(const mq_op_call *call, int64_t *out, int64_t *count, mq_error *err)
{
    mq_arena arena;
    nms_work w = {0};
    mq_arena_init(&arena, WORK_BYTES_MAX);
    mq_code code = nms_init(call, &arena, &w, err);
    *count = 0;
    for (size_t i = 0; code == MQ_OK && i < w.batches * w.classes; i++) {
        size_t kept = nms_class(&w, i / w.classes, i % w.classes);
        for (size_t k = 0; out != NULL && k < kept; k++) {
            *out++ = (int64_t)(i / w.classes);
            *out++ = (int64_t)(i % w.classes);
            *out++ = (int64_t)w.kept[k];
        }
        *count += (int64_t)kept;
    }
    mq_arena_release(&arena);
    return code;
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    int64_t count;
    mq_code code = nms_all(call, NULL, &count, err);
    call->outputs[0]->dtype = MQ_DT_I64;
    call->outputs[0]->shape = (mq_shape){2, {count, 3}};
    return code;
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    int64_t count;
    return nms_all(call, call->outputs[0]->data, &count, err);
}

static const mq_attr_spec specs[] = {
    {.name = "center_point_box",
     .type = MQ_ATTR_INT,
     .offset = offsetof(nms_attrs, center_point_box)},
    {.name = NULL},
};

const mq_op mq_op_non_max_suppression = {
    .name = "NonMaxSuppression",
    .domain = "",
    .since = 10,
    .in = {2, 5},
    .out = {1, 1},
    .args = {{0, MQ_T(MQ_DT_F32)},
             {0, MQ_T(MQ_DT_F32)},
             {0, MQ_T(MQ_DT_I64)},
             {0, MQ_T(MQ_DT_F32)}},
    .shape_inputs = 31,
    .attrs_bytes = sizeof(nms_attrs),
    .specs = specs,
    .shape = shape,
    .run = run,
    .cases = "| f32[2,6,4] f32[2,3,6] i64{3} f32{0.5} f32{0.2}; "
             "center_point_box=1 | f32[1,5,4] f32[1,2,5] i64{4} f32{0.3}; | f32[1,5,4] f32[1,2,5]",
};
