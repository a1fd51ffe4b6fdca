/* Sequences of tensors and optionals (onnx.ai/onnx/operators: Sequence*, SplitToSequence,
 * ConcatFromSequence, Optional*). A sequence is a list of borrowed tensors that is never changed:
 * inserting makes a new list. An optional that holds a value is that value. */
#include "shared/base/math.h"
#include "worker/ops/control.h"

#define SEQUENCE MQ_T(MQ_DT_SEQUENCE)
#define TENSORS  (MQ_T_FIXED | MQ_T(MQ_DT_STR))

static const mq_sequence *sequence_of(const mq_tensor *t)
{
    return t->data;
}

/* Makes output 0 a sequence of so many items, zeroed. */
static mq_code new_sequence(const mq_op_call *call, size_t count, mq_tensor **items, mq_error *err)
{
    mq_sequence *s = mq_arena_new(call->arena, mq_sequence, 1);
    *items = mq_arena_new(call->arena, mq_tensor, count + 1);
    if (s == NULL || *items == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a sequence of %zu", count);
    }
    *s = (mq_sequence){*items, count};
    *call->outputs[0] = (mq_tensor){MQ_DT_SEQUENCE, {.rank = 0}, s, sizeof *s};
    return MQ_OK;
}

/* Position input (negative: from the end) of a sequence; room 1 also allows one past the last. */
static mq_code position(const mq_tensor *t, size_t count, size_t room, size_t *out, mq_error *err)
{
    if ((t->dtype != MQ_DT_I32 && t->dtype != MQ_DT_I64) || mq_elements(t) != 1) {
        return mq_fail(err, MQ_E_ARG, "the position is not one integer");
    }
    int64_t at;
    mq_tensor_ints(t, &at, 1);
    int64_t length = (int64_t)count;
    if (at < -length || at >= length + (int64_t)room) {
        return mq_fail(err, MQ_E_ARG, "position %lld is outside a sequence of %zu", (long long)at,
                       count);
    }
    *out = (size_t)(at < 0 ? at + length : at);
    return MQ_OK;
}

#define SEQUENCE_OP(symbol, name_, since_, in_min, in_max, run_, ...)                              \
    const mq_op mq_op_##symbol = {                                                                 \
        .name = name_,                                                                             \
        .domain = "",                                                                              \
        .since = since_,                                                                           \
        .in = {in_min, in_max},                                                                    \
        .out = {1, 1},                                                                             \
        .flags = MQ_OP_MAKES,                                                                      \
        .run = run_,                                                                               \
        __VA_ARGS__,                                                                               \
    }

/* --- making --- */

typedef struct empty_attrs {
    int64_t dtype;
} empty_attrs;

static const mq_attr_spec empty_specs[] = {
    {.name = "dtype", .type = MQ_ATTR_INT, .offset = offsetof(empty_attrs, dtype), .i = 1},
    {.name = NULL},
};

static mq_code empty_run(const mq_op_call *call, mq_error *err)
{
    mq_tensor *items;
    return new_sequence(call, 0, &items, err);
}

SEQUENCE_OP(sequence_empty, "SequenceEmpty", 11, 0, 0, empty_run,
            .attrs_bytes = sizeof(empty_attrs), .specs = empty_specs);

static mq_code construct_run(const mq_op_call *call, mq_error *err)
{
    mq_tensor *items;
    mq_code code = new_sequence(call, call->input_count, &items, err);
    for (uint32_t i = 0; i < call->input_count && code == MQ_OK; i++) {
        if (call->inputs[i] == NULL) {
            return mq_fail(err, MQ_E_ARG, "input %u is omitted", i);
        }
        items[i] = *call->inputs[i];
    }
    return code;
}

SEQUENCE_OP(sequence_construct, "SequenceConstruct", 11, 1, UINT32_MAX, construct_run,
            .args = {{'T', TENSORS}});

static mq_code insert_run(const mq_op_call *call, mq_error *err)
{
    const mq_sequence *s = sequence_of(call->inputs[0]);
    const mq_tensor *where = mq_call_input(call, 2);
    mq_tensor *items;
    size_t at = s->count;
    mq_code code = where == NULL ? MQ_OK : position(where, s->count, 1, &at, err);
    if (code == MQ_OK && s->count > 0 && s->items[0].dtype != call->inputs[1]->dtype) {
        code = mq_fail(err, MQ_E_ARG, "a %s into a sequence of %s",
                       mq_dtype_name(call->inputs[1]->dtype), mq_dtype_name(s->items[0].dtype));
    }
    if (code == MQ_OK) {
        code = new_sequence(call, s->count + 1, &items, err);
    }
    for (size_t i = 0; code == MQ_OK && i <= s->count; i++) {
        items[i] = i == at ? *call->inputs[1] : s->items[i < at ? i : i - 1];
    }
    return code;
}

SEQUENCE_OP(sequence_insert, "SequenceInsert", 11, 2, 3, insert_run,
            .args = {{0, SEQUENCE}, {0, TENSORS}, {0, MQ_T_INDEX}});

static mq_code erase_run(const mq_op_call *call, mq_error *err)
{
    const mq_sequence *s = sequence_of(call->inputs[0]);
    const mq_tensor *where = mq_call_input(call, 1);
    mq_tensor *items;
    size_t at = s->count - 1;
    mq_code code = MQ_OK;
    if (s->count == 0) {
        code = mq_fail(err, MQ_E_ARG, "the sequence is empty");
    } else if (where != NULL) {
        code = position(where, s->count, 0, &at, err);
    }
    if (code == MQ_OK) {
        code = new_sequence(call, s->count - 1, &items, err);
    }
    for (size_t i = 0; code == MQ_OK && i + 1 < s->count; i++) {
        items[i] = s->items[i < at ? i : i + 1];
    }
    return code;
}

SEQUENCE_OP(sequence_erase, "SequenceErase", 11, 1, 2, erase_run,
            .args = {{0, SEQUENCE}, {0, MQ_T_INDEX}});

/* --- reading --- */

static mq_code at_run(const mq_op_call *call, mq_error *err)
{
    const mq_sequence *s = sequence_of(call->inputs[0]);
    size_t at = 0;
    mq_code code = position(call->inputs[1], s->count, 0, &at, err);
    if (code == MQ_OK) {
        *call->outputs[0] = s->items[at];
    }
    return code;
}

SEQUENCE_OP(sequence_at, "SequenceAt", 11, 2, 2, at_run, .args = {{0, SEQUENCE}, {0, MQ_T_INDEX}});

static mq_code length_run(const mq_op_call *call, mq_error *err)
{
    mq_shape scalar = {.rank = 0};
    mq_code code = mq_make_tensor(call->arena, MQ_DT_I64, &scalar, call->outputs[0], err);
    if (code == MQ_OK) {
        *(int64_t *)call->outputs[0]->data = (int64_t)sequence_of(call->inputs[0])->count;
    }
    return code;
}

SEQUENCE_OP(sequence_length, "SequenceLength", 11, 1, 1, length_run, .args = {{0, SEQUENCE}});

/* --- ConcatFromSequence: joins the items along an axis, or a new one --- */

typedef struct concat_attrs {
    int64_t axis, new_axis;
} concat_attrs;

static const mq_attr_spec concat_specs[] = {
    {.name = "axis",
     .type = MQ_ATTR_INT,
     .offset = offsetof(concat_attrs, axis),
     .is_required = true},
    {.name = "new_axis", .type = MQ_ATTR_INT, .offset = offsetof(concat_attrs, new_axis)},
    {.name = NULL},
};

static mq_code stack_items(const mq_op_call *call, const mq_sequence *s, mq_error *err)
{
    mq_stack stack;
    mq_code code = MQ_OK;
    mq_stack_init(&stack, call);
    for (size_t i = 0; i < s->count && code == MQ_OK; i++) {
        code = mq_stack_push(&stack, call->arena, &s->items[i], err);
    }
    if (code == MQ_OK) {
        code = mq_stack_finish(&stack, call, ((const concat_attrs *)call->attrs)->axis, false,
                               call->outputs[0], err);
    }
    mq_buf_release(&stack.bytes);
    return code;
}

/* The joined shape; all items agree but for the axis. */
static mq_code joined_shape(const mq_sequence *s, int32_t axis, mq_shape *out, mq_error *err)
{
    *out = s->items[0].shape;
    for (size_t i = 1; i < s->count; i++) {
        mq_shape one = s->items[i].shape;
        int64_t length = one.rank == out->rank ? one.dims[axis] : 0;
        if (one.rank == out->rank) {
            one.dims[axis] = out->dims[axis];
        }
        if (!mq_shape_eq(&one, out) || s->items[i].dtype != s->items[0].dtype) {
            return mq_fail(err, MQ_E_ARG, "item %zu does not fit the one before", i);
        }
        out->dims[axis] += length; /* each below 2^31, as many as fit in memory */
    }
    return MQ_OK;
}

static mq_code concat_run(const mq_op_call *call, mq_error *err)
{
    const concat_attrs *a = call->attrs;
    const mq_sequence *s = sequence_of(call->inputs[0]);
    mq_tensor *out = call->outputs[0];
    mq_shape shape;
    int32_t axis;
    if (s->count == 0) {
        return mq_fail(err, MQ_E_ARG, "the sequence is empty");
    }
    if (a->new_axis != 0) {
        return stack_items(call, s, err);
    }
    mq_code code = mq_axis(a->axis, s->items[0].shape.rank, &axis, err);
    if (code == MQ_OK) {
        code = joined_shape(s, axis, &shape, err);
    }
    if (code == MQ_OK) {
        code = mq_make_tensor(call->arena, s->items[0].dtype, &shape, out, err);
    }
    if (code != MQ_OK || out->bytes == 0) {
        return code;
    }
    size_t outer = mq_dims_product(&shape, 0, axis), row = out->bytes / outer;
    size_t at = 0;
    for (size_t i = 0; i < s->count; i++) {
        size_t each = s->items[i].bytes / outer;
        for (size_t o = 0; o < outer && each > 0; o++) {
            memcpy((uint8_t *)out->data + o * row + at,
                   (const uint8_t *)s->items[i].data + o * each, each);
        }
        at += each;
    }
    return MQ_OK;
}

SEQUENCE_OP(concat_from_sequence, "ConcatFromSequence", 11, 1, 1, concat_run,
            .args = {{0, SEQUENCE}}, .attrs_bytes = sizeof(concat_attrs), .specs = concat_specs);

/* --- SplitToSequence: parts of one length, of given lengths, or of 1 without the axis --- */

typedef struct split_attrs {
    int64_t axis, keepdims;
} split_attrs;

static const mq_attr_spec split_specs[] = {
    {.name = "axis", .type = MQ_ATTR_INT, .offset = offsetof(split_attrs, axis)},
    {.name = "keepdims", .type = MQ_ATTR_INT, .offset = offsetof(split_attrs, keepdims), .i = 1},
    {.name = NULL},
};

/* Lengths of the parts, which add up to the axis. */
static mq_code part_lengths(const mq_op_call *call, int64_t length, int64_t **out, size_t *count,
                            mq_error *err)
{
    const mq_tensor *split = mq_call_input(call, 1);
    int64_t each = 1;
    bool is_list = split != NULL && split->shape.rank > 0;
    if (split != NULL && (split->shape.rank > 1 || (!is_list && mq_elements(split) != 1))) {
        return mq_fail(err, MQ_E_ARG, "split has %d dimensions", split->shape.rank);
    }
    if (split != NULL && !is_list) {
        mq_tensor_ints(split, &each, 1);
    }
    if (each < 1) {
        return mq_fail(err, MQ_E_ARG, "split is %lld", (long long)each);
    }
    *count = is_list ? mq_elements(split) : (size_t)((length + each - 1) / each);
    *out = mq_arena_new(call->arena, int64_t, *count + 1);
    if (*out == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for %zu parts", *count);
    }
    if (is_list) {
        mq_tensor_ints(split, *out, *count);
    }
    int64_t left = length;
    for (size_t i = 0; i < *count; i++) {
        if (!is_list) {
            (*out)[i] = left < each ? left : each;
        }
        if ((*out)[i] < 0 || (*out)[i] > left) {
            return mq_fail(err, MQ_E_ARG, "split[%zu] is %lld of %lld left", i,
                           (long long)(*out)[i], (long long)left);
        }
        left -= (*out)[i];
    }
    return left == 0 ? MQ_OK
                     : mq_fail(err, MQ_E_ARG, "split leaves %lld of %lld", (long long)left,
                               (long long)length);
}

static mq_code split_run(const mq_op_call *call, mq_error *err)
{
    const split_attrs *a = call->attrs;
    const mq_tensor *x = call->inputs[0];
    int32_t axis;
    int64_t *lengths = NULL;
    size_t count = 0, at = 0;
    mq_tensor *items;
    mq_code code = mq_axis(a->axis, x->shape.rank, &axis, err);
    if (code == MQ_OK) {
        code = part_lengths(call, x->shape.dims[axis], &lengths, &count, err);
    }
    if (code == MQ_OK) {
        code = new_sequence(call, count, &items, err);
    }
    size_t outer = code == MQ_OK ? mq_dims_product(&x->shape, 0, axis) : 0;
    size_t row = outer == 0 ? 0 : x->bytes / outer;
    for (size_t i = 0; i < count && code == MQ_OK; i++) {
        mq_shape shape = x->shape;
        shape.dims[axis] = lengths[i];
        code = mq_make_tensor(call->arena, x->dtype, &shape, &items[i], err);
        size_t each = code == MQ_OK && outer > 0 ? items[i].bytes / outer : 0;
        for (size_t o = 0; o < outer && each > 0; o++) {
            memcpy((uint8_t *)items[i].data + o * each, (const uint8_t *)x->data + o * row + at,
                   each);
        }
        at += each;
        if (code == MQ_OK && mq_call_input(call, 1) == NULL && a->keepdims == 0) {
            mq_shape *s = &items[i].shape;
            memmove(s->dims + axis, s->dims + axis + 1,
                    (size_t)(s->rank - 1 - axis) * sizeof s->dims[0]);
            s->rank--;
        }
    }
    return code;
}

SEQUENCE_OP(split_to_sequence, "SplitToSequence", 11, 1, 2, split_run,
            .args = {{0, TENSORS}, {0, MQ_T_INDEX}}, .attrs_bytes = sizeof(split_attrs),
            .specs = split_specs);

/* --- optionals --- */

static mq_code optional_run(const mq_op_call *call, mq_error *err)
{
    (void)err;
    const mq_tensor *x = mq_call_input(call, 0);
    *call->outputs[0] = x == NULL ? (mq_tensor){.dtype = MQ_DT_EMPTY} : *x;
    return MQ_OK;
}

SEQUENCE_OP(optional, "Optional", 15, 0, 1, optional_run, .args = {{0, MQ_T_VALUES}});

static mq_code has_element_run(const mq_op_call *call, mq_error *err)
{
    const mq_tensor *x = mq_call_input(call, 0);
    mq_shape scalar = {.rank = 0};
    mq_code code = mq_make_tensor(call->arena, MQ_DT_BOOL, &scalar, call->outputs[0], err);
    if (code == MQ_OK) {
        *(uint8_t *)call->outputs[0]->data = x != NULL && x->dtype != MQ_DT_EMPTY;
    }
    return code;
}

SEQUENCE_OP(optional_has_element, "OptionalHasElement", 15, 0, 1, has_element_run,
            .args = {{0, MQ_T_VALUES}});

static mq_code get_element_run(const mq_op_call *call, mq_error *err)
{
    if (call->inputs[0]->dtype == MQ_DT_EMPTY) {
        return mq_fail(err, MQ_E_ARG, "the optional is empty");
    }
    *call->outputs[0] = *call->inputs[0];
    return MQ_OK;
}

SEQUENCE_OP(optional_get_element, "OptionalGetElement", 15, 1, 1, get_element_run,
            .args = {{0, MQ_T_VALUES}});

/* --- SequenceMap: runs a graph for each item; further sequences go along, tensors stay --- */

typedef struct map_attrs {
    const mq_graph *body;
} map_attrs;

static const mq_attr_spec map_specs[] = {
    {.name = "body",
     .type = MQ_ATTR_GRAPH,
     .offset = offsetof(map_attrs, body),
     .is_required = true},
    {.name = NULL},
};

static mq_code map_items(const mq_op_call *call, size_t count, mq_tensor *in, mq_tensor *out,
                         mq_tensor *const *made, mq_error *err)
{
    mq_code code = MQ_OK;
    for (size_t i = 0; i < count && code == MQ_OK; i++) {
        for (uint32_t k = 0; k < call->input_count; k++) {
            const mq_tensor *x = call->inputs[k];
            in[k] = x->dtype == MQ_DT_SEQUENCE ? sequence_of(x)->items[i] : *x;
        }
        code = call->graphs->go_on(call->graphs, err);
        if (code == MQ_OK) {
            code = call->graphs->run(call->graphs, 0, in, call->input_count, out,
                                     call->output_count, err);
        }
        for (uint32_t k = 0; k < call->output_count && code == MQ_OK; k++) {
            if (made[k] != NULL && !mq_value_copy(call->arena, &out[k], &made[k][i])) {
                code = mq_fail(err, MQ_E_LIMIT, "no memory for a sequence of %zu", count);
            }
        }
    }
    return code;
}

static mq_code map_run(const mq_op_call *call, mq_error *err)
{
    size_t count = sequence_of(call->inputs[0])->count;
    mq_tensor *in = mq_arena_new(call->arena, mq_tensor, (size_t)call->input_count + 1);
    mq_tensor *out = mq_arena_new(call->arena, mq_tensor, (size_t)call->output_count + 1);
    mq_tensor **made = mq_arena_new(call->arena, mq_tensor *, (size_t)call->output_count + 1);
    if (in == NULL || out == NULL || made == NULL) {
        return mq_fail(err, MQ_E_LIMIT, "no memory for a sequence of %zu", count);
    }
    for (uint32_t k = 0; k < call->input_count; k++) {
        const mq_tensor *x = call->inputs[k];
        if (x == NULL || (x->dtype == MQ_DT_SEQUENCE && sequence_of(x)->count != count)) {
            return mq_fail(err, MQ_E_ARG, "input %u is omitted or not as long as the first", k);
        }
    }
    for (uint32_t k = 0; k < call->output_count; k++) {
        mq_sequence *s = mq_arena_new(call->arena, mq_sequence, 1);
        mq_tensor *items = mq_arena_new(call->arena, mq_tensor, count + 1);
        if (s == NULL || items == NULL) {
            return mq_fail(err, MQ_E_LIMIT, "no memory for a sequence of %zu", count);
        }
        *s = (mq_sequence){items, count};
        if (call->outputs[k] != NULL) {
            *call->outputs[k] = (mq_tensor){MQ_DT_SEQUENCE, {.rank = 0}, s, sizeof *s};
            made[k] = items;
        }
    }
    return map_items(call, count, in, out, made, err);
}

const mq_op mq_op_sequence_map = {
    .name = "SequenceMap",
    .domain = "",
    .since = 17,
    .in = {1, UINT32_MAX},
    .out = {1, UINT32_MAX},
    .args = {{0, SEQUENCE}, {0, SEQUENCE | TENSORS}},
    .flags = MQ_OP_MAKES,
    .attrs_bytes = sizeof(map_attrs),
    .specs = map_specs,
    .run = map_run,
};
