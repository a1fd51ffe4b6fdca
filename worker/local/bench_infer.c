/* `bench-infer FILE.onnx`: runs of one model in this process: latencies, throughput, arithmetic
 * against the machine's measured matrix products, memory, and with --profile each operator's part.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "shared/base/clock.h"
#include "worker/blas/blas.h"
#include "worker/dnnl/dnnl.h"
#include "worker/local/local.h"
#include "worker/local/subject.h"
#include "worker/ops/op.h"

enum {
    USAGE = 2,
    SAMPLES_MAX = 100000,
    BATCHES_MAX = 16,
    BATCH_MAX = 4096,
    OPERATORS_MAX = 128,
    VALUES_MAX = 20000,
    THREADS_MAX = 64,
    PEAK_SIZE = 384,
    PEAK_ROUNDS = 60,
};

typedef struct bench_args {
    const char *file, *packs;
    int64_t batches[BATCHES_MAX];
    size_t batch_count;
    double seconds;
    int threads;
    bool is_profile, is_json, is_own, is_exact;
} bench_args;

typedef struct operator_time {
    const char *name;
    uint64_t calls;
    int64_t ns;
    double flop; /* of all calls; 0: arithmetic is not what it costs */
} operator_time;

typedef struct profile {
    operator_time list[OPERATORS_MAX];
    size_t count;
    bool is_on;
} profile;

/* Shapes by value name of one run without fusion: what the arithmetic is counted from. */
typedef struct shapes {
    struct {
        const char *name;
        mq_shape shape;
    } list[VALUES_MAX];
    size_t count;
} shapes;

static bool read_batches(const char *text, bench_args *a)
{
    char *end = NULL;
    for (a->batch_count = 0; a->batch_count < BATCHES_MAX; text = end + 1) {
        long n = strtol(text, &end, 10);
        if (end == text || n < 1 || n > BATCH_MAX || (*end != '\0' && *end != ',')) {
            return false;
        }
        a->batches[a->batch_count++] = n;
        if (*end == '\0') {
            return true;
        }
    }
    return false;
}

static mq_code read_value(const char *name, const char *value, bench_args *a, mq_error *err)
{
    char *end = NULL;
    if (strcmp(name, "--batch") == 0) {
        return read_batches(value, a) ? MQ_OK
                                      : mq_fail(err, MQ_E_ARG,
                                                "--batch: \"%.60s\" is no list of 1 to %d numbers "
                                                "of 1..%d with commas between",
                                                value, BATCHES_MAX, BATCH_MAX);
    }
    if (strcmp(name, "--packs") == 0) {
        a->packs = value;
        return MQ_OK;
    }
    double number = strtod(value, &end);
    if (strcmp(name, "--seconds") == 0 && *end == '\0' && number > 0 && number <= 3600) {
        a->seconds = number;
        return MQ_OK;
    }
    if (strcmp(name, "--threads") == 0 && *end == '\0' && number >= 1 && number <= THREADS_MAX) {
        a->threads = (int)number;
        return MQ_OK;
    }
    return mq_fail(err, MQ_E_ARG,
                   "bench-infer: \"%.30s %.60s\": --seconds takes up to 3600, "
                   "--threads 1..%d",
                   name, value, THREADS_MAX);
}

static mq_code read_args(int argc, char **argv, bench_args *a, mq_error *err)
{
    const struct {
        const char *name;
        bool *flag;
    } flags[] = {{"--profile", &a->is_profile},
                 {"--json", &a->is_json},
                 {"--own", &a->is_own},
                 {"--exact-batch", &a->is_exact}};
    for (int i = 0; i < argc; i++) {
        bool is_flag = false;
        for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++) {
            if (strcmp(argv[i], flags[f].name) == 0) {
                *flags[f].flag = is_flag = true;
            }
        }
        if (is_flag) {
            continue;
        }
        if (argv[i][0] != '-' && a->file == NULL) {
            a->file = argv[i];
            continue;
        }
        if (i + 1 == argc) {
            return mq_fail(err, MQ_E_ARG, "bench-infer: \"%.60s\" is not an argument of it",
                           argv[i]);
        }
        mq_code code = read_value(argv[i], argv[i + 1], a, err);
        if (code != MQ_OK) {
            return code;
        }
        i++;
    }
    return a->file != NULL ? MQ_OK : mq_fail(err, MQ_E_ARG, "bench-infer: FILE.onnx is missing");
}

/* --- arithmetic --- */

static void note_shape(void *arg, const char *name, const mq_tensor *value)
{
    shapes *s = arg;
    if (s->count < VALUES_MAX) {
        s->list[s->count].name = name;
        s->list[s->count++].shape = value->shape;
    }
}

static const mq_shape *shape_of(const shapes *s, const mq_graph *g, const char *name)
{
    for (size_t i = 0; i < s->count; i++) {
        if (strcmp(s->list[i].name, name) == 0) {
            return &s->list[i].shape;
        }
    }
    const mq_init *init = mq_graph_init(g, name);
    return init == NULL ? NULL : &init->tensor.shape;
}

static double elements(const mq_shape *shape)
{
    double count = 1;
    for (int32_t i = 0; i < shape->rank; i++) {
        count *= (double)shape->dims[i];
    }
    return count;
}

/* Two operations for each multiply-add of a convolution or product; 0 for other nodes. */
static double operations_of(const shapes *s, const mq_graph *g, const mq_node *n)
{
    bool is_conv = strstr(n->op_type, "Conv") != NULL;
    bool is_product = strstr(n->op_type, "MatMul") != NULL || strcmp(n->op_type, "Gemm") == 0;
    uint32_t w_at = strncmp(n->op_type, "QLinear", 7) == 0 ? 3 : 1;
    if ((!is_conv && !is_product) || n->input_count <= w_at) {
        return 0;
    }
    const mq_shape *x = shape_of(s, g, n->inputs[0]), *w = shape_of(s, g, n->inputs[w_at]),
                   *y = shape_of(s, g, n->outputs[0]);
    if (x == NULL || w == NULL || y == NULL || x->rank < 1 || w->rank < 1) {
        return 0;
    }
    if (is_conv) {
        bool is_back = strcmp(n->op_type, "ConvTranspose") == 0;
        return 2 * elements(is_back ? x : y) * elements(w) / (double)w->dims[0];
    }
    const mq_attr *trans = mq_node_attr(n, "transA");
    bool is_trans = trans != NULL && trans->i != 0 && x->rank == 2;
    return 2 * elements(y) * (double)x->dims[is_trans ? 0 : x->rank - 1];
}

/* Of one run at the subject's inputs. */
static double operations(const bench_args *a, mq_subject *like)
{
    static shapes seen;
    mq_session *s = NULL;
    const mq_tensor *out;
    mq_error err;
    double total = 0;
    seen.count = 0;
    const mq_session_options options = {
        .own_kernels = a->is_own, .observe = note_shape, .observe_arg = &seen};
    if (mq_session_new(&s, like->model, &options, &err) == MQ_OK &&
        mq_session_run(s, like->inputs, like->input_count, &out, &err) == MQ_OK) {
        const mq_graph *g = &like->model->graph;
        for (uint32_t i = 0; i < g->node_count; i++) {
            total += operations_of(&seen, g, &g->nodes[i]);
        }
    }
    mq_session_free(s);
    return total;
}

/* GFLOP/s of a square product, the best of a few: what this machine gives at this moment. */
static double gemm_peak(void)
{
    const size_t count = (size_t)PEAK_SIZE * PEAK_SIZE;
    float *x = calloc(3 * count, sizeof *x);
    double best = 0;
    for (int i = 0; x != NULL && i < PEAK_ROUNDS; i++) {
        const mq_gemm g = {.m = PEAK_SIZE,
                           .n = PEAK_SIZE,
                           .k = PEAK_SIZE,
                           .alpha = 1,
                           .a = x,
                           .b = x + count,
                           .c = x + 2 * count,
                           .lda = PEAK_SIZE,
                           .ldb = PEAK_SIZE,
                           .ldc = PEAK_SIZE};
        int64_t start = mq_clock_mono_ns();
        mq_blas_gemm(&g);
        double rate = 2.0 * PEAK_SIZE * (double)count / (double)(mq_clock_mono_ns() - start);
        best = rate > best ? rate : best;
    }
    free(x);
    return best;
}

/* --- runs --- */

static void note_time(void *arg, const mq_op_call *call, int64_t ns)
{
    profile *p = arg;
    size_t at = 0;
    if (!p->is_on) {
        return;
    }
    while (at < p->count && strcmp(p->list[at].name, call->op->name) != 0) {
        at++;
    }
    if (at == OPERATORS_MAX) {
        return;
    }
    if (at == p->count) {
        p->list[p->count++] = (operator_time){.name = call->op->name};
    }
    p->list[at].calls++;
    p->list[at].ns += ns;
    p->list[at].flop += call->op->flop == NULL ? 0.0 : call->op->flop(call);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int by_time(const void *a, const void *b)
{
    int64_t x = ((const operator_time *)a)->ns, y = ((const operator_time *)b)->ns;
    return (x < y) - (x > y);
}

static mq_code measure(const bench_args *a, mq_subject *s, profile *p, double *us, size_t *count,
                       mq_error *err)
{
    const mq_tensor *out;
    p->count = 0;
    p->is_on = false;
    mq_code code = mq_session_run(s->session, s->inputs, s->input_count, &out, err); /* plans */
    p->is_on = a->is_profile;
    int64_t begin = mq_clock_mono_ns(), now = begin;
    for (*count = 0; code == MQ_OK && *count < SAMPLES_MAX &&
                     (*count < 3 || (double)(now - begin) < a->seconds * 1e9);) {
        int64_t before = mq_clock_mono_ns();
        code = mq_session_run(s->session, s->inputs, s->input_count, &out, err);
        now = mq_clock_mono_ns();
        us[(*count)++] = (double)(now - before) * 1e-3;
    }
    qsort(us, *count, sizeof us[0], by_value);
    qsort(p->list, p->count, sizeof p->list[0], by_time);
    return code;
}

static double peak_memory_mb(void)
{
    struct rusage use;
    return getrusage(RUSAGE_SELF, &use) == 0 ? (double)use.ru_maxrss / 1024 : 0;
}

static void print_profile(const bench_args *a, const profile *p, size_t runs)
{
    double total = 0;
    for (size_t i = 0; i < p->count; i++) {
        total += (double)p->list[i].ns;
    }
    printf(a->is_json ? ",\"operators\":[" : "");
    for (size_t i = 0; i < p->count; i++) {
        const operator_time *o = &p->list[i];
        double us = (double)o->ns * 1e-3 / (double)runs;
        double gflops = o->ns > 0 ? o->flop / (double)o->ns : 0;
        if (a->is_json) {
            printf("%s{\"operator\":\"%s\",\"calls\":%.0f,\"us\":%.2f,\"share\":%.4f,"
                   "\"gflops\":%.2f}",
                   i == 0 ? "" : ",", o->name, (double)o->calls / (double)runs, us,
                   (double)o->ns / total, gflops);
        } else {
            printf("    %-28s %6.0f calls %12.1f us %6.1f %%", o->name,
                   (double)o->calls / (double)runs, us, 100 * (double)o->ns / total);
            if (o->flop > 0) {
                printf(" %9.2f GFLOP/s", gflops);
            }
            printf("\n");
        }
    }
    printf(a->is_json ? "]" : "");
}

static void print_batch(const bench_args *a, int64_t batch, const double *us, size_t count,
                        const profile *p, double flop, double peak)
{
    const double at[] = {0.1, 0.5, 0.9, 0.99};
    double q[4], mean = 0;
    for (int i = 0; i < 4; i++) {
        q[i] = us[(size_t)(at[i] * (double)(count - 1))];
    }
    for (size_t i = 0; i < count; i++) {
        mean += us[i] / (double)count;
    }
    double rate = (double)batch * 1e6 / mean, gflops = flop * 1e-3 / q[1];
    const char *build = mq_dnnl_is_there() && !a->is_own ? mq_dnnl_name() : "own kernels";
    if (a->is_json) {
        printf("{\"bench\":\"infer\",\"case\":\"b%" PRId64 "-t%d\",\"value\":%.3f,"
               "\"unit\":\"items/s\",\"runs\":%zu,\"p10_us\":%.2f,\"p50_us\":%.2f,\"p90_us\":%.2f,"
               "\"p99_us\":%.2f,\"gflop\":%.6f,\"gflops\":%.3f,\"ceiling\":\"gemm-%d\","
               "\"ceiling_value\":%.1f,\"ratio\":%.3f,\"peak_mb\":%.1f,\"kernels\":\"%s\"",
               batch, a->threads, rate, count, q[0], q[1], q[2], q[3], flop * 1e-9, gflops,
               PEAK_SIZE, peak, peak > 0 ? gflops / peak : 0, peak_memory_mb(), build);
    } else {
        printf("batch %-4" PRId64 " p10 %10.1f  p50 %10.1f  p90 %10.1f  p99 %10.1f us  %10.1f "
               "items/s  %7.2f GFLOP/s  %5.1f %% of GEMM  peak %7.1f MB\n",
               batch, q[0], q[1], q[2], q[3], rate, gflops, peak > 0 ? 100 * gflops / peak : 0,
               peak_memory_mb());
    }
    if (a->is_profile) {
        print_profile(a, p, count);
    }
    printf(a->is_json ? "}\n" : "");
}

static mq_code bench(const bench_args *a, mq_error *err)
{
    static double us[SAMPLES_MAX];
    static profile p;
    char hash[MQ_SHA256_HEX];
    mq_pack_place place = {.dir = a->packs, .model = hash};
    mq_subject s = {.input_count = 0};
    mq_code code = mq_subject_hash(a->file, hash, err);
    if (code != MQ_OK) {
        return code;
    }
    const mq_session_options options = {.packs = &place,
                                        .own_kernels = a->is_own,
                                        .is_exact = a->is_exact,
                                        .memory_bytes_max = (size_t)4 << 30,
                                        .timed = a->is_profile ? note_time : NULL,
                                        .timed_arg = &p};
    int64_t start = mq_clock_mono_ns();
    code = mq_subject_load(&s, a->file, &options, err);
    double load_ms = (double)(mq_clock_mono_ns() - start) * 1e-6, peak = gemm_peak();
    if (code == MQ_OK && !a->is_json) {
        mq_session_stats stats;
        mq_session_stats_get(s.session, &stats);
        printf("%s: loaded in %.1f ms (%s), %d thread(s), %s, %s, GEMM peak %.1f GFLOP/s of one "
               "core\n",
               a->file, load_ms,
               stats.packs.found_count > 0 ? "warm: packed weights found" : "cold", a->threads,
               mq_blas_core(), mq_dnnl_name(), peak);
    }
    for (size_t b = 0; b < a->batch_count && code == MQ_OK; b++) {
        size_t count = 0;
        code = mq_subject_inputs(&s, a->batches[b], err);
        code = code == MQ_OK ? measure(a, &s, &p, us, &count, err) : code;
        if (code == MQ_OK) {
            print_batch(a, a->batches[b], us, count, &p, operations(a, &s), peak);
        }
        (void)fflush(stdout);
    }
    mq_subject_release(&s);
    return code;
}

int mq_local_bench_infer(int argc, char **argv)
{
    bench_args a = {.batches = {1, 8, 32}, .batch_count = 3, .seconds = 2, .threads = 1};
    mq_error err;
    if (read_args(argc, argv, &a, &err) != MQ_OK) {
        fprintf(stderr, "maasq-worker: %s\n", err.text);
        return USAGE;
    }
    mq_dnnl_threads(a.threads);
    if (bench(&a, &err) != MQ_OK) {
        fprintf(stderr, "maasq-worker: bench-infer: %s\n", err.text);
        return 1;
    }
    return 0;
}
