/* compare: our sessions beside ONNX Runtime on the same models, inputs and threads, in turn in one
 * run. compare --peer LIBRARY [--models DIR] [--data DIR] [--seconds S] [--threads N] [--only TEXT]
 *             [--own] [--memory] [--json]
 * Without --peer (or when it cannot be opened) only our side is printed. --own: without oneDNN.
 * Latencies are single runs; the ratio to look at is that of the tenth percentiles, which other
 * work on the machine disturbs least. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "tests/bench/peer/ort.h"
#include "tests/bench/peer/resident.h"
#include "worker/blas/blas.h"
#include "worker/dnnl/dnnl.h"
#include "worker/local/subject.h"

enum { SAMPLES_MAX = 200000, BLOCK_NS = 20000000, WARM = 3 };

typedef struct options {
    const char *peer, *models, *data, *only, *child, *packs;
    double seconds;
    int threads;
    bool is_own, is_memory, is_json;
} options;

typedef struct row {
    const char *model;
    int64_t batch;
    double aim[2];
} row;

static const row rows[] = {
#define MQ_PEER_CASE(model, batch, one, two) {model, batch, {one, two}},
#include "tests/bench/peer/cases.def"
#undef MQ_PEER_CASE
};

enum { ROW_COUNT = sizeof rows / sizeof rows[0] };

typedef struct samples {
    double *us; /* SAMPLES_MAX */
    size_t count;
} samples;

typedef struct pair {
    mq_subject ours;
    ort_model *theirs; /* NULL: not there */
    samples side[2];
} pair;

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(const samples *s, double part)
{
    return s->count == 0 ? 0 : s->us[(size_t)(part * (double)(s->count - 1))];
}

static bool run_once(pair *p, int side)
{
    const mq_tensor *out;
    mq_error err;
    if (side == 1) {
        return ort_run(p->theirs);
    }
    mq_code code = mq_session_run(p->ours.session, p->ours.inputs, p->ours.input_count, &out, &err);
    if (code != MQ_OK) {
        fprintf(stderr, "ours: %s\n", err.text);
    }
    return code == MQ_OK;
}

/* Runs of one side for a while, at least one. */
static bool block(pair *p, int side, bool is_kept)
{
    samples *s = &p->side[side];
    int64_t begin = mq_clock_mono_ns(), now = begin;
    for (int i = 0; i == 0 || now - begin < BLOCK_NS; i++) {
        int64_t before = mq_clock_mono_ns();
        if (!run_once(p, side)) {
            return false;
        }
        now = mq_clock_mono_ns();
        if (is_kept && s->count < SAMPLES_MAX) {
            s->us[s->count++] = (double)(now - before) * 1e-3;
        }
    }
    return true;
}

static bool alternate(pair *p, double seconds)
{
    int sides = p->theirs == NULL ? 1 : 2;
    int64_t until = 0;
    for (int turn = 0; turn < WARM || mq_clock_mono_ns() < until; turn++) {
        if (turn == WARM - 1) {
            until = mq_clock_mono_ns() + (int64_t)(seconds * 1e9);
        }
        for (int side = 0; side < sides; side++) {
            if (!block(p, (side + turn) % sides, turn >= WARM - 1)) {
                return false;
            }
        }
    }
    for (int side = 0; side < sides; side++) {
        qsort(p->side[side].us, p->side[side].count, sizeof(double), by_value);
    }
    return true;
}

/* Largest difference of the float outputs over the largest value of theirs; -1: other sizes. */
static double difference(pair *p)
{
    const mq_tensor *ours;
    mq_error err;
    double worst = 0, largest = 1e-30;
    if (p->theirs == NULL || mq_session_run(p->ours.session, p->ours.inputs, p->ours.input_count,
                                            &ours, &err) != MQ_OK) {
        return -1;
    }
    for (size_t o = 0; o < p->ours.output_count; o++) {
        size_t count;
        const float *x = ours[o].data, *y = ort_output(p->theirs, o, &count);
        if (ours[o].dtype != MQ_DT_F32) {
            continue;
        }
        if (y == NULL || count * sizeof *x != ours[o].bytes) {
            return -1;
        }
        for (size_t i = 0; i < count; i++) {
            worst = fmax(worst, fabs((double)x[i] - (double)y[i]));
            largest = fmax(largest, fabs((double)y[i]));
        }
    }
    return worst / largest;
}

static double ratio(double ours, double theirs)
{
    return theirs > 0 ? ours / theirs : 0;
}

static void print_latency(const options *o, const row *r, const pair *p, double difference)
{
    double ours[2] = {percentile(&p->side[0], 0.1), percentile(&p->side[0], 0.5)};
    double theirs[2] = {percentile(&p->side[1], 0.1), percentile(&p->side[1], 0.5)};
    double aim = r->aim[o->threads > 1];
    const char *build = o->is_own ? "own" : mq_dnnl_is_there() ? "onednn" : "own";
    if (o->is_json) {
        printf("{\"bench\":\"peer\",\"case\":\"%s-b%lld-t%d-%s\",\"value\":%.2f,\"unit\":\"us\","
               "\"p50\":%.2f,\"ceiling\":\"onnxruntime\",\"ceiling_value\":%.2f,"
               "\"ceiling_p50\":%.2f,\"ratio\":%.3f,\"ratio_p50\":%.3f,\"aim\":%.2f,"
               "\"difference\":%.2g}\n",
               r->model, (long long)r->batch, o->threads, build, ours[0], ours[1], theirs[0],
               theirs[1], ratio(ours[0], theirs[0]), ratio(ours[1], theirs[1]), aim, difference);
        return;
    }
    printf("%-24s %3lld %2d %-6s %11.1f %11.1f %11.1f %11.1f %7.3f %7.3f", r->model,
           (long long)r->batch, o->threads, build, ours[0], ours[1], theirs[0], theirs[1],
           ratio(ours[0], theirs[0]), ratio(ours[1], theirs[1]));
    if (aim > 0) {
        printf(" %5.2f", aim);
    } else {
        printf("     -");
    }
    printf("  %.1e\n", difference);
}

static void path_of(const options *o, const row *r, char *path, size_t room)
{
    bool is_data = strchr(r->model, '/') != NULL;
    (void)snprintf(path, room, "%s/%s.onnx", is_data ? o->data : o->models, r->model);
}

static bool open_pair(const options *o, const row *r, const char *path, pair *p)
{
    mq_error err;
    const mq_session_options how = {.own_kernels = o->is_own};
    mq_code code = mq_subject_load(&p->ours, path, &how, &err);
    code = code == MQ_OK ? mq_subject_inputs(&p->ours, r->batch, &err) : code;
    if (code != MQ_OK) {
        fprintf(stderr, "%s: %s\n", path, err.text);
        return false;
    }
    if (o->peer != NULL) {
        p->theirs = ort_load(path, o->threads, p->ours.input_names, p->ours.input_count,
                             p->ours.output_names, p->ours.output_count);
        return p->theirs != NULL && ort_set_inputs(p->theirs, p->ours.inputs);
    }
    return true;
}

static bool latency_row(const options *o, const row *r, const char *path)
{
    static double us[2][SAMPLES_MAX];
    pair p = {.side = {{us[0], 0}, {us[1], 0}}};
    bool is_done = open_pair(o, r, path, &p) && alternate(&p, o->seconds);
    if (is_done) {
        print_latency(o, r, &p, difference(&p));
    }
    ort_free(p.theirs);
    mq_subject_release(&p.ours);
    return is_done;
}

static bool memory_row(const options *o, const row *r, const char *path)
{
    resident ours, theirs = {0};
    if (!resident_measure(path, NULL, o->is_own, &ours) ||
        (o->peer != NULL && !resident_measure(path, o->peer, false, &theirs))) {
        return false;
    }
    double rates[3] = {ratio(ours.load_ms, theirs.load_ms), ratio(ours.one_kib, theirs.one_kib),
                       ratio(ours.more_kib, theirs.one_kib)};
    if (o->is_json) {
        printf("{\"bench\":\"peer-memory\",\"case\":\"%s\",\"cold_load_ms\":%.1f,\"cold_first_ms\":"
               "%.1f,"
               "\"load_ms\":%.1f,"
               "\"peer_load_ms\":%.1f,\"ratio_load\":%.3f,\"first_ms\":%.1f,"
               "\"peer_first_ms\":%.1f,\"mb\":%.1f,\"peer_mb\":%.1f,\"ratio_mb\":%.3f,"
               "\"second_mb\":%.1f,\"ratio_second\":%.3f}\n",
               r->model, ours.cold_ms, ours.cold_first_ms, ours.load_ms, theirs.load_ms, rates[0],
               ours.first_ms, theirs.first_ms, ours.one_kib / 1024, theirs.one_kib / 1024, rates[1],
               ours.more_kib / 1024, rates[2]);
        return true;
    }
    printf("%-24s cold load %8.1f first %8.1f ms  load %8.1f / %8.1f ms %6.3f  first %8.1f / %8.1f "
           "ms  resident %7.1f / %7.1f MB "
           "%6.3f  second +%7.1f MB %6.3f\n",
           r->model, ours.cold_ms, ours.cold_first_ms, ours.load_ms, theirs.load_ms, rates[0],
           ours.first_ms, theirs.first_ms, ours.one_kib / 1024, theirs.one_kib / 1024, rates[1],
           ours.more_kib / 1024, rates[2]);
    return true;
}

static bool parse(int argc, char **argv, options *o)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        bool is_flag = true;
        if (strcmp(argv[i], "--own") == 0) {
            o->is_own = true;
        } else if (strcmp(argv[i], "--memory") == 0) {
            o->is_memory = true;
        } else if (strcmp(argv[i], "--json") == 0) {
            o->is_json = true;
        } else {
            is_flag = false;
        }
        if (is_flag) {
            continue;
        }
        if (value == NULL) {
            return false;
        }
        const struct {
            const char *name;
            const char **text;
        } texts[] = {{"--peer", &o->peer}, {"--models", &o->models}, {"--data", &o->data},
                     {"--only", &o->only}, {"--packs", &o->packs},   {"--child", &o->child}};
        bool is_known = false;
        for (size_t t = 0; t < sizeof texts / sizeof texts[0]; t++) {
            if (strcmp(argv[i], texts[t].name) == 0) {
                *texts[t].text = value;
                is_known = true;
            }
        }
        if (strcmp(argv[i], "--seconds") == 0) {
            o->seconds = strtod(value, NULL);
        } else if (strcmp(argv[i], "--threads") == 0) {
            o->threads = (int)strtol(value, NULL, 10);
        } else if (!is_known) {
            return false;
        }
        i++;
    }
    return o->threads >= 1 && o->threads <= 64 && o->seconds > 0;
}

int main(int argc, char **argv)
{
    options o = {.models = "build/models", .data = "../shared/data", .seconds = 3, .threads = 1};
    int failed = 0;
    if (!parse(argc, argv, &o)) {
        fprintf(stderr, "usage: compare [--peer LIBRARY] [--models DIR] [--data DIR] [--seconds S] "
                        "[--threads N] [--only TEXT] [--own] [--memory] [--json]\n");
        return 2;
    }
    mq_blas_init();
    mq_dnnl_threads(o.threads);
    if (o.child != NULL) {
        return resident_child(o.child, o.peer, o.is_own, o.packs);
    }
    if (o.peer == NULL || !ort_open(o.peer)) {
        fprintf(stderr, "no peer (make peer installs it): only our own figures\n");
        o.peer = NULL;
    }
    if (!o.is_json && !o.is_memory) {
        printf("%s, %s; microseconds\n%-24s   b  t build      ours p10         p50   theirs p10"
               "         p50  ratio10 ratio50   aim  differ\n",
               mq_blas_core(), mq_dnnl_name(), "model");
    }
    const char *before = "";
    for (size_t i = 0; i < ROW_COUNT; i++) {
        char path[4096];
        bool is_again = strcmp(before, rows[i].model) == 0;
        before = rows[i].model;
        if ((o.only != NULL && strstr(rows[i].model, o.only) == NULL) ||
            (o.is_memory && is_again)) {
            continue;
        }
        path_of(&o, &rows[i], path, sizeof path);
        if (access(path, R_OK) != 0) {
            printf("%-24s not there: %s\n", rows[i].model, path);
            continue;
        }
        failed += !(o.is_memory ? memory_row(&o, &rows[i], path) : latency_row(&o, &rows[i], path));
        (void)fflush(stdout);
    }
    return failed > 0;
}
