/* RNN, GRU and LSTM: what each does at one step of time (recurrent.h has the rest). */
#include "worker/ops/recurrent.h"

#define COMMON(name_)                                                                              \
    .name = name_, .domain = "", .since = 1, .attrs_bytes = sizeof(mq_recurrent_attrs),            \
    .specs = mq_recurrent_specs, .parse = mq_recurrent_parse, .shape = mq_recurrent_shape,         \
    .scratch = mq_recurrent_scratch
#define F32 MQ_T(MQ_DT_F32)
#define I32 MQ_T(MQ_DT_I32)

/* H' = f(x + H R) */
static void rnn_step(const mq_recurrent_step *s)
{
    mq_recurrent_product(s, s->h, 0, 1);
    for (size_t b = 0; b < s->batch; b++) {
        for (size_t i = 0; s->is_active[b] && i < s->hidden; i++) {
            s->h[b * s->hidden + i] =
                mq_recurrent_activate(s, 0, s->x[b][i] + s->rec[b * s->hidden + i]);
        }
    }
}

static mq_code rnn_run(const mq_op_call *call, mq_error *err)
{
    return mq_recurrent_run(call, 1, rnn_step, err);
}

const mq_op mq_op_rnn = {
    COMMON("RNN"),
    .in = {3, 6},
    .out = {0, 2},
    .args = {{'T', F32}, {'T', F32}, {'T', F32}, {'T', F32}, {0, I32}, {'T', F32}},
    .run = rnn_run,
    .cases = "| f32[A,B,C] f32[1,5,C] f32[1,5,5];"
             "direction=bidirectional clip=0.5 | f32[3,2,4] f32[2,5,4] f32[2,5,5] f32[2,10] "
             "i32{3,1} f32[2,2,5]",
};

/* Gates z, r, h: H' = (1 - z) h + z H */
static void gru_step(const mq_recurrent_step *s)
{
    size_t n = s->hidden;
    bool is_late = s->attrs->linear_before_reset != 0;
    mq_recurrent_product(s, s->h, 0, is_late ? 3 : 2);
    for (size_t b = 0; b < s->batch; b++) {
        float *x = s->x[b], *rec = s->rec + b * 3 * n, *h = s->h + b * n;
        for (size_t i = 0; i < n; i++) { /* z and r stay in rec */
            rec[i] = mq_recurrent_activate(s, 0, x[i] + rec[i]);
            rec[n + i] = mq_recurrent_activate(s, 0, x[n + i] + rec[n + i]);
            s->room[b * n + i] = rec[n + i] * h[i];
        }
    }
    if (!is_late) {
        mq_recurrent_product(s, s->room, 2, 1);
    }
    for (size_t b = 0; b < s->batch; b++) {
        const float *x = s->x[b], *rec = s->rec + b * 3 * n;
        for (size_t i = 0; s->is_active[b] && i < n; i++) {
            float *h = &s->h[b * n + i], r = rec[2 * n + i];
            if (is_late) {
                r = rec[n + i] * (r + (s->r_bias == NULL ? 0.0f : s->r_bias[2 * n + i]));
            }
            *h = (1.0f - rec[i]) * mq_recurrent_activate(s, 1, x[2 * n + i] + r) + rec[i] * *h;
        }
    }
}

static mq_code gru_run(const mq_op_call *call, mq_error *err)
{
    return mq_recurrent_run(call, 3, gru_step, err);
}

const mq_op mq_op_gru = {
    COMMON("GRU"),
    .in = {3, 6},
    .out = {0, 2},
    .args = {{'T', F32}, {'T', F32}, {'T', F32}, {'T', F32}, {0, I32}, {'T', F32}},
    .run = gru_run,
    .cases = "| f32[A,B,C] f32[1,15,C] f32[1,15,5];"
             "linear_before_reset=1 direction=reverse | f32[3,2,4] f32[1,15,4] f32[1,15,5] "
             "f32[1,30] i32{3,1} f32[1,2,5]",
};

/* Gates i, o, f, c: C' = f C + i c, H' = o h(C') */
static void lstm_step(const mq_recurrent_step *s)
{
    size_t n = s->hidden;
    const float *p = s->peepholes;
    mq_recurrent_product(s, s->h, 0, 4);
    for (size_t b = 0; b < s->batch; b++) {
        const float *x = s->x[b], *rec = s->rec + b * 4 * n;
        for (size_t i = 0; s->is_active[b] && i < n; i++) {
            float *c = &s->c[b * n + i];
            float in = x[i] + rec[i], out = x[n + i] + rec[n + i];
            float forget = x[2 * n + i] + rec[2 * n + i];
            in = mq_recurrent_activate(s, 0, p == NULL ? in : in + p[i] * *c);
            forget = mq_recurrent_activate(s, 0, p == NULL ? forget : forget + p[2 * n + i] * *c);
            if (s->attrs->input_forget != 0) {
                forget = 1.0f - in;
            }
            float fresh = mq_recurrent_activate(s, 1, x[3 * n + i] + rec[3 * n + i]);
            *c = forget * *c + in * fresh;
            out = mq_recurrent_activate(s, 0, p == NULL ? out : out + p[n + i] * *c);
            s->h[b * n + i] = out * mq_recurrent_activate(s, 2, *c);
        }
    }
}

static mq_code lstm_run(const mq_op_call *call, mq_error *err)
{
    return mq_recurrent_run(call, 4, lstm_step, err);
}

const mq_op mq_op_lstm = {
    COMMON("LSTM"),
    .in = {3, 8},
    .out = {0, 3},
    .args = {{'T', F32},
             {'T', F32},
             {'T', F32},
             {'T', F32},
             {0, I32},
             {'T', F32},
             {'T', F32},
             {'T', F32}},
    .run = lstm_run,
    .cases = "| f32[A,B,C] f32[1,20,C] f32[1,20,5];"
             "direction=bidirectional input_forget=1 | f32[3,2,4] f32[2,20,4] f32[2,20,5] "
             "f32[2,40] i32{3,1} f32[2,2,5] f32[2,2,5] f32[2,15];"
             "layout=1 | f32[2,3,4] f32[1,20,4] f32[1,20,5]",
};
