/* Einsum: sums of products over named axes, with ellipses, diagonals and broadcasting. Axes of the
 * output are the outer loops, summed ones the inner; single precision is summed in double.
 * onnx.ai/onnx/operators/onnx__Einsum.html */
#include "worker/ops/element.h"

enum {
    OPERANDS_MAX = 8,
    LETTERS = 52,
    LABELS_MAX =
        LETTERS + MQ_RANK_MAX, /* behind the letters: axes of the ellipsis, aligned right */
};

typedef struct einsum_attrs {
    mq_span equation;
} einsum_attrs;

/* Labels of a term, one an axis. */
typedef struct einsum_term {
    int32_t labels[MQ_RANK_MAX], count;
    bool has_ellipsis;
} einsum_term;

typedef struct einsum_plan {
    uint32_t operands;
    einsum_term in[OPERANDS_MAX], out;
    int64_t dims[LABELS_MAX]; /* 0: not used, or empty */
    bool is_used[LABELS_MAX];
    int32_t loops[LABELS_MAX], outer, loop_count; /* labels in order of the loops */
    size_t stride[OPERANDS_MAX][LABELS_MAX];
} einsum_plan;

static int32_t label_of(uint8_t c)
{
    return c >= 'a' && c <= 'z'   ? c - 'a' + 26 /* sorted as characters are: capitals first */
           : c >= 'A' && c <= 'Z' ? c - 'A'
                                  : -1;
}

/* Reads one term up to ',' or '-' or the end. ellipsis_axes: what "..." stands for, -1: as many as
 * rank leaves. */
static mq_code read_term(const uint8_t **at, const uint8_t *end, int32_t rank,
                         int32_t ellipsis_axes, einsum_term *t, mq_error *err)
{
    int32_t letters = 0;
    *t = (einsum_term){.count = 0};
    for (const uint8_t *p = *at; p < end && *p != ',' && *p != '-'; p++) {
        letters += label_of(*p) >= 0;
    }
    int32_t hidden = ellipsis_axes >= 0 ? ellipsis_axes : rank - letters;
    for (; *at < end && **at != ',' && **at != '-'; (*at)++) {
        bool is_dots = end - *at >= 3 && memcmp(*at, "...", 3) == 0;
        int32_t more = is_dots ? hidden : 1;
        if (**at == ' ') {
            continue;
        }
        if ((label_of(**at) < 0 && !is_dots) || (is_dots && t->has_ellipsis) || more < 0 ||
            t->count + more > MQ_RANK_MAX) {
            return mq_fail(err, MQ_E_FORMAT, "equation: '%c' of a term of rank %d", **at, rank);
        }
        for (int32_t i = 0; i < more; i++) {
            t->labels[t->count++] = is_dots ? LABELS_MAX - more + i : label_of(**at);
        }
        *at += is_dots ? 2 : 0;
        t->has_ellipsis = t->has_ellipsis || is_dots;
    }
    if (rank >= 0 && t->count != rank) {
        return mq_fail(err, MQ_E_ARG, "equation: a term has %d axes, its input %d", t->count, rank);
    }
    return MQ_OK;
}

/* Adds an operand's axes: their sizes must agree or be 1. */
static mq_code add_operand(einsum_plan *p, uint32_t i, const mq_shape *x, mq_error *err)
{
    size_t stride = 1;
    for (int32_t d = x->rank - 1; d >= 0; d--) {
        int32_t label = p->in[i].labels[d];
        int64_t have = p->is_used[label] ? p->dims[label] : 1;
        if (have != x->dims[d] && have != 1 && x->dims[d] != 1) {
            return mq_fail(err, MQ_E_ARG, "equation: axis %d of input %u is %lld, elsewhere %lld",
                           d, i, (long long)x->dims[d], (long long)have);
        }
        p->dims[label] = have == 1 ? x->dims[d] : have;
        p->is_used[label] = true;
        p->stride[i][label] += x->dims[d] == 1 ? 0 : stride; /* twice: the diagonal */
        stride *= (size_t)x->dims[d];
    }
    return MQ_OK;
}

/* Without "->": the ellipsis, then every letter that occurs once, sorted. */
static void implicit_output(einsum_plan *p)
{
    int32_t times[LABELS_MAX] = {0};
    for (uint32_t i = 0; i < p->operands; i++) {
        for (int32_t d = 0; d < p->in[i].count; d++) {
            times[p->in[i].labels[d]]++;
        }
    }
    p->out = (einsum_term){.count = 0};
    for (int32_t k = 0; k < LABELS_MAX; k++) {
        int32_t label = (k + LETTERS) % LABELS_MAX;
        bool is_out = label >= LETTERS ? p->is_used[label] : times[label] == 1;
        if (is_out && p->out.count < MQ_RANK_MAX) {
            p->out.labels[p->out.count++] = label;
        }
    }
}

static mq_code order_loops(einsum_plan *p, mq_error *err)
{
    bool is_out[LABELS_MAX] = {false};
    for (int32_t d = 0; d < p->out.count; d++) {
        int32_t label = p->out.labels[d];
        if (!p->is_used[label] || is_out[label]) {
            return mq_fail(err, MQ_E_FORMAT,
                           "equation: output axis %d is in no input, or comes twice", d);
        }
        is_out[label] = true;
        p->loops[p->loop_count++] = label;
    }
    p->outer = p->loop_count;
    for (int32_t label = 0; label < LABELS_MAX; label++) {
        if (p->is_used[label] && !is_out[label]) {
            p->loops[p->loop_count++] = label;
        }
    }
    return MQ_OK;
}

static mq_code plan_of(const mq_op_call *call, einsum_plan *p, mq_error *err)
{
    const einsum_attrs *a = call->attrs;
    const uint8_t *at = a->equation.data, *end = at + a->equation.len;
    mq_code code = MQ_OK;
    int32_t ellipsis = 0;
    *p = (einsum_plan){.operands = call->input_count};
    for (uint32_t i = 0; i < p->operands && code == MQ_OK; i++) {
        code = read_term(&at, end, call->inputs[i]->shape.rank, -1, &p->in[i], err);
        bool is_last = i + 1 == p->operands;
        if (code == MQ_OK && (is_last ? at < end && *at == ',' : at >= end || *at != ',')) {
            code = mq_fail(err, MQ_E_FORMAT, "equation: not as many terms as inputs (%u)",
                           p->operands);
        }
        at += code == MQ_OK && !is_last;
        code = code == MQ_OK ? add_operand(p, i, &call->inputs[i]->shape, err) : code;
    }
    for (int32_t label = LETTERS; label < LABELS_MAX; label++) {
        ellipsis += p->is_used[label];
    }
    if (code == MQ_OK && at < end) {
        if (end - at < 2 || at[1] != '>') {
            return mq_fail(err, MQ_E_FORMAT, "equation: '->' is due");
        }
        at += 2;
        code = read_term(&at, end, -1, ellipsis, &p->out, err);
        if (code == MQ_OK && at < end) {
            code = mq_fail(err, MQ_E_FORMAT, "equation: more than one output");
        }
    } else if (code == MQ_OK) {
        implicit_output(p);
    }
    return code == MQ_OK ? order_loops(p, err) : code;
}

static mq_code shape(const mq_op_call *call, mq_error *err)
{
    einsum_plan p;
    mq_code code = plan_of(call, &p, err);
    if (code == MQ_OK) {
        call->outputs[0]->dtype = call->inputs[0]->dtype;
        call->outputs[0]->shape = (mq_shape){.rank = p.out.count};
        for (int32_t d = 0; d < p.out.count; d++) {
            call->outputs[0]->shape.dims[d] = p.dims[p.out.labels[d]];
        }
    }
    return code;
}

/* Next index over loops from..to, moving the operands' offsets; false after the last. */
static bool next(const einsum_plan *p, int32_t from, int32_t to, int64_t *index, size_t *offset)
{
    for (int32_t k = to - 1; k >= from; k--) {
        int32_t label = p->loops[k];
        bool is_more = ++index[k] < p->dims[label];
        for (uint32_t i = 0; i < p->operands; i++) {
            offset[i] = is_more ? offset[i] + p->stride[i][label]
                                : offset[i] - p->stride[i][label] * (size_t)(p->dims[label] - 1);
        }
        if (is_more) {
            return true;
        }
        index[k] = 0;
    }
    return false;
}

/* The innermost summed axis for one or two float32 operands. */
static double inner_f32(const mq_op_call *call, const size_t *offset, const size_t *step, int64_t n)
{
    const float *a = (const float *)call->inputs[0]->data + offset[0];
    double sum = 0.0;
    if (call->input_count == 1) {
        for (int64_t i = 0; i < n; i++) {
            sum += (double)a[(size_t)i * step[0]];
        }
        return sum;
    }
    const float *b = (const float *)call->inputs[1]->data + offset[1];
    for (int64_t i = 0; i < n; i++) {
        sum += (double)a[(size_t)i * step[0]] * (double)b[(size_t)i * step[1]];
    }
    return sum;
}

static double product(const mq_op_call *call, const size_t *offset)
{
    double v = 1.0;
    for (uint32_t i = 0; i < call->input_count; i++) {
        v *= mq_element(call->inputs[i], offset[i]);
    }
    return v;
}

static uint64_t product_int(const mq_op_call *call, const size_t *offset)
{
    uint64_t v = 1;
    for (uint32_t i = 0; i < call->input_count; i++) {
        v *= (uint64_t)mq_element_int(call->inputs[i], offset[i]);
    }
    return v;
}

/* One element of the output. offset is as before afterwards. */
static void sum_element(const mq_op_call *call, const einsum_plan *p, int64_t *index,
                        size_t *offset, size_t at)
{
    bool is_float = mq_is_float(call->inputs[0]->dtype);
    bool is_fast =
        call->inputs[0]->dtype == MQ_DT_F32 && call->input_count <= 2 && p->loop_count > p->outer;
    int32_t last = is_fast ? p->loop_count - 1 : p->loop_count;
    int32_t label = p->loop_count > 0 ? p->loops[p->loop_count - 1] : 0;
    size_t step[2] = {p->stride[0][label], p->stride[1][label]};
    double sum = 0.0;
    uint64_t whole = 0;
    do {
        if (is_fast) {
            sum += inner_f32(call, offset, step, p->dims[label]);
        } else if (is_float) {
            sum += product(call, offset);
        } else {
            whole += product_int(call, offset);
        }
    } while (next(p, p->outer, last, index, offset));
    if (is_float) {
        mq_element_set(call->outputs[0], at, sum);
    } else {
        mq_element_set_int(call->outputs[0], at, (int64_t)whole);
    }
}

static mq_code run(const mq_op_call *call, mq_error *err)
{
    einsum_plan p;
    mq_code code = plan_of(call, &p, err);
    size_t count = mq_elements(call->outputs[0]), offset[OPERANDS_MAX] = {0};
    int64_t index[LABELS_MAX] = {0};
    if (code != MQ_OK || count == 0) {
        return code;
    }
    for (uint32_t i = 0; i < call->input_count; i++) {
        if (mq_elements(call->inputs[i]) == 0) { /* a sum over nothing */
            memset(call->outputs[0]->data, 0, count * mq_dtype_bytes(call->outputs[0]->dtype));
            return MQ_OK;
        }
    }
    size_t at = 0;
    do {
        sum_element(call, &p, index, offset, at++);
    } while (next(&p, 0, p.outer, index, offset));
    return MQ_OK;
}

static double flop(const mq_op_call *call)
{
    einsum_plan p;
    mq_error err;
    double all = 2.0;
    if (plan_of(call, &p, &err) != MQ_OK) {
        return 0.0;
    }
    for (int32_t k = 0; k < p.loop_count; k++) {
        all *= (double)p.dims[p.loops[k]];
    }
    return all;
}

static const mq_attr_spec specs[] = {
    {.name = "equation",
     .type = MQ_ATTR_STRING,
     .offset = offsetof(einsum_attrs, equation),
     .is_required = true},
    {.name = NULL},
};

const mq_op mq_op_einsum = {
    .name = "Einsum",
    .domain = "",
    .since = 12,
    .in = {1, OPERANDS_MAX},
    .out = {1, 1},
    .args = {{'T', MQ_T_NUMBERS | MQ_T_HALF}},
    .attrs_bytes = sizeof(einsum_attrs),
    .specs = specs,
    .shape = shape,
    .run = run,
    .flop = flop,
    .cases = "equation=bij,bjk->bik | f32[A,B,C] f32[A,C,D]; equation=ij->ji | f64[A,B]; "
             "equation=i...->... | i32[A,B,C]; equation=ii->i | f32[3,3]; equation=ij,jk | "
             "f32[A,B] f32[B,C]; equation=b...i,b...j->b...ij | f32[A,B,C] f32[A,1,D]; "
             "equation=i,j,k->kj | f64[A] f64[B] f64[C]; equation=ij-> | u8[A,B]",
};
