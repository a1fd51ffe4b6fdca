/* Loop: runs its graph while a condition holds and a count is not reached; Scan: once for each
 * slice of its inputs. (onnx.ai/onnx/operators: Loop-21, Scan-21, Scan-8.) */
#include "shared/base/math.h"
#include "worker/ops/control.h"

static mq_code no_memory(mq_error *err)
{
    return mq_fail(err, MQ_E_LIMIT, "no memory for the values of a loop");
}

/* What one run of Loop or Scan holds. */
typedef struct turn {
    const mq_op_call *call;
    mq_tensor *in, *out; /* of the graph */
    uint32_t in_count, out_count;
    mq_carried carried;
    mq_stack *stacks;
    uint32_t stack_count;
} turn;

/* carried_at: where the carried values lie among the graph's inputs. */
static mq_code start(turn *t, const mq_op_call *call, uint32_t in_count, uint32_t out_count,
                     uint32_t carried_at, uint32_t carried_count, mq_error *err)
{
    *t = (turn){.call = call, .in_count = in_count, .out_count = out_count};
    t->in = mq_arena_new(call->arena, mq_tensor, (size_t)in_count + 1);
    t->out = mq_arena_new(call->arena, mq_tensor, (size_t)out_count + 1);
    t->stack_count = call->output_count > carried_count ? call->output_count - carried_count : 0;
    t->stacks = mq_arena_new(call->arena, mq_stack, (size_t)t->stack_count + 1);
    if (t->in == NULL || t->out == NULL || t->stacks == NULL) {
        t->stack_count = 0;
        return no_memory(err);
    }
    mq_carried_init(&t->carried, t->in + carried_at, carried_count, call->arena->limit_bytes);
    for (uint32_t i = 0; i < t->stack_count; i++) {
        mq_stack_init(&t->stacks[i], call);
    }
    return MQ_OK;
}

/* One run of the graph; its outputs from first_output on are carried values, then scan outputs. */
static mq_code one_trip(turn *t, uint32_t first_output, mq_error *err)
{
    mq_code code = t->call->graphs->go_on(t->call->graphs, err);
    if (code == MQ_OK) {
        code =
            t->call->graphs->run(t->call->graphs, 0, t->in, t->in_count, t->out, t->out_count, err);
    }
    for (uint32_t i = 0; i < t->stack_count && code == MQ_OK; i++) {
        code = mq_stack_push(&t->stacks[i], t->call->arena,
                             &t->out[first_output + t->carried.count + i], err);
    }
    return code == MQ_OK ? mq_carried_take(&t->carried, t->out + first_output, err) : code;
}

/* Types and shapes of scan outputs where the graph never ran. */
static mq_code shape_stacks(turn *t, uint32_t first_output, mq_error *err)
{
    if (t->stack_count == 0 || t->stacks[0].count > 0) {
        return MQ_OK;
    }
    mq_code code =
        t->call->graphs->shapes(t->call->graphs, 0, t->in, t->in_count, t->out, t->out_count, err);
    for (uint32_t i = 0; i < t->stack_count && code == MQ_OK; i++) {
        const mq_tensor *one = &t->out[first_output + t->carried.count + i];
        t->stacks[i].dtype = one->dtype;
        t->stacks[i].shape = one->shape;
        if (one->dtype == MQ_DT_NONE) {
            code = mq_fail(err, MQ_E_UNSUPPORTED,
                           "no trip, and the graph does not say the type of scan output %u", i);
        }
    }
    return code;
}

static mq_code give_carried(const turn *t, mq_error *err)
{
    for (uint32_t i = 0; i < t->carried.count; i++) {
        mq_tensor *out = mq_call_output(t->call, i);
        if (out != NULL && !mq_value_copy(t->call->arena, &t->carried.at[i], out)) {
            return no_memory(err);
        }
    }
    return MQ_OK;
}

static void end(turn *t)
{
    mq_carried_release(&t->carried);
    for (uint32_t i = 0; i < t->stack_count; i++) {
        mq_buf_release(&t->stacks[i].bytes);
    }
}

/* --- Loop: graph inputs (trip, condition, carried...), outputs (condition, carried..., scan...) */

typedef struct loop_attrs {
    const mq_graph *body;
} loop_attrs;

static mq_code read_limits(const mq_op_call *call, int64_t *trips, bool *goes, mq_error *err)
{
    const mq_tensor *m = mq_call_input(call, 0), *cond = mq_call_input(call, 1);
    *trips = INT64_MAX;
    *goes = true;
    if (m != NULL && (m->dtype != MQ_DT_I64 || m->bytes != sizeof *trips)) {
        return mq_fail(err, MQ_E_ARG, "the trip count is not one int64");
    }
    if (m != NULL) {
        memcpy(trips, m->data, sizeof *trips);
    }
    return cond == NULL ? MQ_OK : mq_condition(cond, "the condition", goes, err);
}

static mq_code loop_trips(turn *t, int64_t trips, bool goes, mq_error *err)
{
    int64_t trip = 0;
    uint8_t condition = 1;
    /* Exporters write both scalars also with one dimension of 1: as the graph says. */
    const mq_graph *body = ((const loop_attrs *)t->call->attrs)->body;
    int32_t ranks[2] = {body->inputs[0].rank == 1, body->inputs[1].rank == 1};
    t->in[0] = (mq_tensor){MQ_DT_I64, {ranks[0], {1}}, &trip, sizeof trip};
    t->in[1] = (mq_tensor){MQ_DT_BOOL, {ranks[1], {1}}, &condition, 1};
    for (; trip < trips && goes; trip++) {
        if (trip == MQ_LOOP_TRIPS_MAX) {
            return mq_fail(err, MQ_E_LIMIT, "more than %lld trips", (long long)MQ_LOOP_TRIPS_MAX);
        }
        mq_code code = one_trip(t, 1, err);
        if (code == MQ_OK) {
            code = mq_condition(&t->out[0], "the graph's condition", &goes, err);
        }
        if (code != MQ_OK) {
            return code;
        }
    }
    return shape_stacks(t, 1, err);
}

static mq_code loop_run(const mq_op_call *call, mq_error *err)
{
    const mq_graph *body = ((const loop_attrs *)call->attrs)->body;
    uint32_t carried = body->input_count < 2 ? 0 : body->input_count - 2;
    uint32_t given = call->input_count < 2 ? 0 : call->input_count - 2;
    int64_t trips;
    bool goes;
    mq_code code = read_limits(call, &trips, &goes, err);
    if (code != MQ_OK) {
        return code;
    }
    if (body->input_count < 2 || given != carried || body->output_count < 1 + carried ||
        call->output_count > body->output_count - 1) {
        return mq_fail(err, MQ_E_FORMAT,
                       "%u carried values and %u outputs do not fit a graph of %u inputs and %u "
                       "outputs",
                       given, call->output_count, body->input_count, body->output_count);
    }
    turn t;
    code = start(&t, call, body->input_count, body->output_count, 2, carried, err);
    for (uint32_t i = 0; i < carried && code == MQ_OK; i++) {
        if (call->inputs[2 + i] == NULL) {
            code = mq_fail(err, MQ_E_FORMAT, "carried value %u is omitted", i);
        } else {
            t.in[2 + i] = *call->inputs[2 + i];
        }
    }
    if (code == MQ_OK) {
        code = loop_trips(&t, trips, goes, err);
    }
    if (code == MQ_OK) {
        code = give_carried(&t, err);
    }
    for (uint32_t i = 0; i < t.stack_count && code == MQ_OK; i++) {
        mq_tensor *out = call->outputs[carried + i];
        code = out == NULL ? MQ_OK : mq_stack_finish(&t.stacks[i], call, 0, false, out, err);
    }
    end(&t);
    return code;
}

static const mq_attr_spec loop_specs[] = {
    {.name = "body",
     .type = MQ_ATTR_GRAPH,
     .offset = offsetof(loop_attrs, body),
     .is_required = true},
    {.name = NULL},
};

const mq_op mq_op_loop = {
    .name = "Loop",
    .domain = "",
    .since = 1,
    .in = {0, UINT32_MAX},
    .out = {0, UINT32_MAX},
    .args = {{0, MQ_T(MQ_DT_I64)}, {0, MQ_T_BOOL}, {0, MQ_T_VALUES}},
    .flags = MQ_OP_MAKES,
    .attrs_bytes = sizeof(loop_attrs),
    .specs = loop_specs,
    .run = loop_run,
};

/* --- Scan: graph inputs (states..., slices...), outputs (states..., scan outputs...) --- */

typedef struct scan_attrs {
    const mq_graph *body;
    int64_t scan_count;
    mq_ints in_axes, in_directions, out_axes, out_directions;
} scan_attrs;

static int64_t listed(const mq_ints *list, uint32_t i)
{
    return i < list->count ? list->at[i] : 0;
}

/* Slice `at` of x along the axis, into out's memory. */
static void take_slice(const mq_tensor *x, int32_t axis, int64_t at, const mq_tensor *out)
{
    size_t outer = mq_dims_product(&x->shape, 0, axis), length = (size_t)x->shape.dims[axis];
    size_t each =
        mq_dims_product(&x->shape, axis + 1, x->shape.rank) * mq_value_item_bytes(x->dtype);
    for (size_t o = 0; o < outer && each > 0; o++) {
        memcpy((uint8_t *)out->data + o * each,
               (const uint8_t *)x->data + (o * length + (size_t)at) * each, each);
    }
}

typedef struct scan_input {
    const mq_tensor *x;
    int32_t axis;
    bool is_reversed;
} scan_input;

/* Room for the slices, and that all inputs have equally many. */
static mq_code open_inputs(turn *t, const scan_input *inputs, uint32_t count, uint32_t states,
                           int64_t *length, mq_error *err)
{
    for (uint32_t i = 0; i < count; i++) {
        mq_shape shape = inputs[i].x->shape;
        int64_t mine = shape.dims[inputs[i].axis];
        if (i > 0 && mine != *length) {
            return mq_fail(err, MQ_E_ARG, "scan inputs have %lld and %lld slices",
                           (long long)*length, (long long)mine);
        }
        *length = mine;
        memmove(shape.dims + inputs[i].axis, shape.dims + inputs[i].axis + 1,
                (size_t)(shape.rank - 1 - inputs[i].axis) * sizeof shape.dims[0]);
        shape.rank--;
        mq_code code =
            mq_make_tensor(t->call->arena, inputs[i].x->dtype, &shape, &t->in[states + i], err);
        if (code != MQ_OK) {
            return code;
        }
    }
    return MQ_OK;
}

static mq_code scan_trips(turn *t, const scan_input *inputs, uint32_t count, int64_t length,
                          mq_error *err)
{
    mq_code code = MQ_OK;
    for (int64_t trip = 0; trip < length && code == MQ_OK; trip++) {
        for (uint32_t i = 0; i < count; i++) {
            take_slice(inputs[i].x, inputs[i].axis,
                       inputs[i].is_reversed ? length - 1 - trip : trip,
                       &t->in[t->carried.count + i]);
        }
        code = one_trip(t, 0, err);
    }
    return code == MQ_OK ? shape_stacks(t, 0, err) : code;
}

static mq_code scan_arity(const mq_op_call *call, uint32_t first, uint32_t *states, mq_error *err)
{
    const scan_attrs *a = call->attrs;
    uint32_t given = call->input_count - (first < call->input_count ? first : call->input_count);
    if (a->scan_count < 1 || a->scan_count > given || a->body->input_count != given ||
        call->output_count > a->body->output_count ||
        a->body->output_count < given - (uint32_t)a->scan_count) {
        return mq_fail(err, MQ_E_FORMAT,
                       "%u inputs, %lld of them scanned, and %u outputs do not fit a graph of %u "
                       "inputs and %u outputs",
                       given, (long long)a->scan_count, call->output_count, a->body->input_count,
                       a->body->output_count);
    }
    for (uint32_t i = first; i < call->input_count; i++) {
        if (call->inputs[i] == NULL) {
            return mq_fail(err, MQ_E_FORMAT, "input %u is omitted", i);
        }
    }
    *states = given - (uint32_t)a->scan_count;
    return MQ_OK;
}

static mq_code scan_run(const mq_op_call *call, mq_error *err)
{
    const scan_attrs *a = call->attrs;
    uint32_t states, count = (uint32_t)a->scan_count;
    int64_t length = 0;
    turn t;
    mq_code code = scan_arity(call, 0, &states, err);
    if (code != MQ_OK) {
        return code;
    }
    code = start(&t, call, a->body->input_count, a->body->output_count, 0, states, err);
    scan_input *inputs = mq_arena_new(call->arena, scan_input, (size_t)count + 1);
    if (inputs == NULL && code == MQ_OK) {
        code = no_memory(err);
    }
    for (uint32_t i = 0; i < states && code == MQ_OK; i++) {
        t.in[i] = *call->inputs[i];
    }
    for (uint32_t i = 0; i < count && code == MQ_OK; i++) {
        const mq_tensor *x = call->inputs[states + i];
        inputs[i] = (scan_input){.x = x, .is_reversed = listed(&a->in_directions, i) == 1};
        code = mq_axis(listed(&a->in_axes, i), x->shape.rank, &inputs[i].axis, err);
    }
    if (code == MQ_OK) {
        code = open_inputs(&t, inputs, count, states, &length, err);
    }
    if (code == MQ_OK) {
        code = scan_trips(&t, inputs, count, length, err);
    }
    if (code == MQ_OK) {
        code = give_carried(&t, err);
    }
    for (uint32_t i = 0; i < t.stack_count && code == MQ_OK; i++) {
        mq_tensor *out = call->outputs[states + i];
        code = out == NULL ? MQ_OK
                           : mq_stack_finish(&t.stacks[i], call, listed(&a->out_axes, i),
                                             listed(&a->out_directions, i) == 1, out, err);
    }
    end(&t);
    return code;
}

static const mq_attr_spec scan_specs[] = {
    {.name = "body",
     .type = MQ_ATTR_GRAPH,
     .offset = offsetof(scan_attrs, body),
     .is_required = true},
    {.name = "num_scan_inputs",
     .type = MQ_ATTR_INT,
     .offset = offsetof(scan_attrs, scan_count),
     .is_required = true},
    {.name = "scan_input_axes", .type = MQ_ATTR_INTS, .offset = offsetof(scan_attrs, in_axes)},
    {.name = "scan_input_directions",
     .type = MQ_ATTR_INTS,
     .offset = offsetof(scan_attrs, in_directions)},
    {.name = "scan_output_axes", .type = MQ_ATTR_INTS, .offset = offsetof(scan_attrs, out_axes)},
    {.name = "scan_output_directions",
     .type = MQ_ATTR_INTS,
     .offset = offsetof(scan_attrs, out_directions)},
    {.name = NULL},
};

const mq_op mq_op_scan = {
    .name = "Scan",
    .domain = "",
    .since = 9,
    .in = {1, UINT32_MAX},
    .out = {1, UINT32_MAX},
    .args = {{0, MQ_T_FIXED | MQ_T(MQ_DT_STR)}},
    .flags = MQ_OP_MAKES,
    .attrs_bytes = sizeof(scan_attrs),
    .specs = scan_specs,
    .run = scan_run,
};

/* --- Scan of opset 8: input 0 is the lengths, every other has a batch in front, time second --- */

/* Item b of a batch, in place. */
static mq_tensor batch_item(const mq_tensor *x, int64_t b)
{
    mq_tensor item = *x;
    size_t each = x->bytes / (size_t)x->shape.dims[0];
    item.shape.rank--;
    memmove(item.shape.dims, x->shape.dims + 1, (size_t)item.shape.rank * sizeof x->shape.dims[0]);
    item.data = (uint8_t *)x->data + (size_t)b * each;
    item.bytes = each;
    return item;
}

static mq_code check_batches(const mq_op_call *call, uint32_t states, int64_t *batch, mq_error *err)
{
    *batch = -1;
    for (uint32_t i = 1; i < call->input_count; i++) {
        const mq_shape *shape = &call->inputs[i]->shape;
        if (shape->rank < (i - 1 < states ? 1 : 2) || shape->dims[0] < 1 ||
            (*batch >= 0 && shape->dims[0] != *batch)) {
            return mq_fail(err, MQ_E_ARG, "input %u lacks the batch or has another one", i);
        }
        *batch = shape->dims[0];
    }
    const mq_tensor *lengths = call->inputs[0];
    if (lengths != NULL && mq_elements(lengths) != (size_t)*batch) {
        return mq_fail(err, MQ_E_ARG, "sequence_lens: not one for each of the batch");
    }
    return MQ_OK;
}

/* Puts a value of one batch item (time, when it is a scan output, padded with zeros) in place. */
static mq_code put_item(const mq_op_call *call, uint32_t output, int64_t b, int64_t batch,
                        const mq_tensor *item, int64_t length, mq_error *err)
{
    mq_tensor *out = mq_call_output(call, output);
    if (out == NULL) {
        return MQ_OK;
    }
    mq_shape shape = {item->shape.rank + 1, {batch}};
    if (shape.rank > MQ_RANK_MAX) {
        return mq_fail(err, MQ_E_UNSUPPORTED, "output %u has too many dimensions", output);
    }
    memcpy(shape.dims + 1, item->shape.dims, (size_t)item->shape.rank * sizeof shape.dims[0]);
    if (length >= 0) {
        shape.dims[1] = length;
    }
    mq_code code = b == 0 ? mq_make_tensor(call->arena, item->dtype, &shape, out, err) : MQ_OK;
    if (code == MQ_OK && (!mq_shape_eq(&out->shape, &shape) || out->dtype != item->dtype)) {
        code = mq_fail(err, MQ_E_ARG, "output %u differs in shape within the batch", output);
    }
    if (code == MQ_OK && item->bytes > 0) {
        memcpy((uint8_t *)out->data + (size_t)b * (out->bytes / (size_t)batch), item->data,
               item->bytes);
    }
    return code;
}

static mq_code scan8_item(const mq_op_call *call, uint32_t states, int64_t b, int64_t batch,
                          mq_error *err)
{
    const scan_attrs *a = call->attrs;
    uint32_t count = (uint32_t)a->scan_count;
    int64_t length = 0, trips;
    turn t;
    mq_code code = start(&t, call, a->body->input_count, a->body->output_count, 0, states, err);
    scan_input *inputs = mq_arena_new(call->arena, scan_input, (size_t)count + 1);
    mq_tensor *items = mq_arena_new(call->arena, mq_tensor, (size_t)count + 1);
    if ((inputs == NULL || items == NULL) && code == MQ_OK) {
        code = no_memory(err);
    }
    for (uint32_t i = 0; i < states && code == MQ_OK; i++) {
        t.in[i] = batch_item(call->inputs[1 + i], b);
    }
    for (uint32_t i = 0; i < count && code == MQ_OK; i++) {
        items[i] = batch_item(call->inputs[1 + states + i], b);
        inputs[i] = (scan_input){.x = &items[i], .is_reversed = listed(&a->in_directions, i) == 1};
    }
    if (code == MQ_OK) {
        code = open_inputs(&t, inputs, count, states, &length, err);
    }
    trips = length;
    if (code == MQ_OK && call->inputs[0] != NULL) {
        memcpy(&trips, (const int64_t *)call->inputs[0]->data + b, sizeof trips);
        if (trips < 0 || trips > length) {
            code = mq_fail(err, MQ_E_ARG, "sequence_lens: %lld is outside 0..%lld",
                           (long long)trips, (long long)length);
        }
    }
    if (code == MQ_OK) {
        code = scan_trips(&t, inputs, count, trips, err);
    }
    for (uint32_t i = 0; i < states && code == MQ_OK; i++) {
        code = put_item(call, i, b, batch, &t.carried.at[i], -1, err);
    }
    for (uint32_t i = 0; i < t.stack_count && code == MQ_OK; i++) {
        mq_tensor stacked;
        code = mq_stack_finish(&t.stacks[i], call, 0, false, &stacked, err);
        if (code == MQ_OK) {
            code = put_item(call, states + i, b, batch, &stacked, length, err);
        }
    }
    end(&t);
    return code;
}

static mq_code scan8_run(const mq_op_call *call, mq_error *err)
{
    uint32_t states;
    int64_t batch = 0;
    mq_code code = scan_arity(call, 1, &states, err);
    if (code == MQ_OK) {
        code = check_batches(call, states, &batch, err);
    }
    for (int64_t b = 0; b < batch && code == MQ_OK; b++) {
        code = scan8_item(call, states, b, batch, err);
    }
    return code;
}

static const mq_attr_spec scan8_specs[] = {
    {.name = "body",
     .type = MQ_ATTR_GRAPH,
     .offset = offsetof(scan_attrs, body),
     .is_required = true},
    {.name = "num_scan_inputs",
     .type = MQ_ATTR_INT,
     .offset = offsetof(scan_attrs, scan_count),
     .is_required = true},
    {.name = "directions", .type = MQ_ATTR_INTS, .offset = offsetof(scan_attrs, in_directions)},
    {.name = NULL},
};

const mq_op mq_op_scan_8 = {
    .name = "Scan",
    .domain = "",
    .since = 8,
    .in = {2, UINT32_MAX},
    .out = {1, UINT32_MAX},
    .args = {{0, MQ_T(MQ_DT_I64)}, {0, MQ_T_FIXED | MQ_T(MQ_DT_STR)}},
    .flags = MQ_OP_MAKES,
    .attrs_bytes = sizeof(scan_attrs),
    .specs = scan8_specs,
    .run = scan8_run,
};
