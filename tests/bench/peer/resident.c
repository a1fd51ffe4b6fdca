/* Children that load one model and say how long and how large; see resident.h. */
#include "tests/bench/peer/resident.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/clock.h"
#include "tests/bench/peer/ort.h"
#include "worker/local/subject.h"

typedef struct child {
    pid_t pid;
    int to, from;
} child;

static double ms_since(int64_t start_ns)
{
    return (double)(mq_clock_mono_ns() - start_ns) * 1e-6;
}

/* A line "Rss: N kB" of a process's memory summary; 0 when it cannot be read. */
static double memory_kib(pid_t pid, const char *field)
{
    char path[64], line[256];
    double kib = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
    FILE *f = fopen(path, "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, field, strlen(field)) == 0) {
            kib = strtod(line + strlen(field) + 1, NULL);
        }
    }
    if (f != NULL) {
        (void)fclose(f);
    }
    return kib;
}

static bool load_peer(const char *peer, const char *file, const mq_subject *names, double *load_ms,
                      double *first_ms)
{
    if (!ort_open(peer)) {
        return false;
    }
    int64_t start = mq_clock_mono_ns();
    ort_model *m = ort_load(file, 1, names->input_names, names->input_count, names->output_names,
                            names->output_count);
    *load_ms = ms_since(start);
    bool is_run = m != NULL && ort_set_inputs(m, names->inputs) && ort_run(m);
    *first_ms = ms_since(start);
    return is_run; /* the model stays until the process ends */
}

/* The peer's child needs names and inputs only: they are read by us and the memory given back. */
static bool load_ours(const char *file, bool own_kernels, const char *packs, mq_subject *s,
                      double *load_ms, double *first_ms)
{
    mq_error err;
    const mq_tensor *out;
    char hash[MQ_SHA256_HEX] = ""; /* a worker knows the name of a blob before it loads it */
    if (packs != NULL && mq_subject_hash(file, hash, &err) != MQ_OK) {
        return false;
    }
    const mq_pack_place place = {.dir = packs, .model = hash};
    const mq_session_options options = {.own_kernels = own_kernels, .packs = &place};
    int64_t start = mq_clock_mono_ns();
    mq_code code = mq_subject_load(s, file, &options, &err);
    *load_ms = ms_since(start);
    code = code == MQ_OK ? mq_subject_inputs(s, 1, &err) : code;
    code = code == MQ_OK ? mq_session_run(s->session, s->inputs, s->input_count, &out, &err) : code;
    *first_ms = ms_since(start);
    if (code != MQ_OK) {
        fprintf(stderr, "%s: %s\n", file, err.text);
    }
    return code == MQ_OK;
}

/* Names and inputs without a session of ours in memory: the model is only read. */
static bool read_names(const char *file, mq_subject *s, char *text, size_t room)
{
    mq_error err;
    size_t at = 0;
    if (mq_subject_load(s, file, &(mq_session_options){.no_fusion = true}, &err) != MQ_OK ||
        mq_subject_inputs(s, 1, &err) != MQ_OK) {
        fprintf(stderr, "%s: %s\n", file, err.text);
        return false;
    }
    for (size_t i = 0; i < s->input_count + s->output_count; i++) {
        const char **name =
            i < s->input_count ? &s->input_names[i] : &s->output_names[i - s->input_count];
        int n = snprintf(text + at, room - at, "%s", *name);
        if (n < 0 || (size_t)n >= room - at) {
            return false;
        }
        *name = text + at;
        at += (size_t)n + 1;
    }
    mq_session_free(s->session);
    mq_model_free(s->model);
    mq_map_file_release(&s->file);
    s->session = NULL;
    s->model = NULL;
    return true;
}

int resident_child(const char *file, const char *peer, bool own_kernels, const char *packs)
{
    static char names[8192];
    static mq_subject s;
    double load_ms = 0, first_ms = 0;
    char end;
    bool is_ok = peer == NULL ? load_ours(file, own_kernels, packs, &s, &load_ms, &first_ms)
                              : read_names(file, &s, names, sizeof names) &&
                                    load_peer(peer, file, &s, &load_ms, &first_ms);
    printf("%.3f %.3f\n", load_ms, first_ms);
    (void)fflush(stdout);
    while (read(STDIN_FILENO, &end, 1) > 0) {
    }
    _exit(is_ok ? 0 : 1);
}

static bool start(child *c, const char *file, const char *peer, bool own_kernels, const char *packs)
{
    int in[2], out[2];
    if (pipe(in) != 0 || pipe(out) != 0) {
        return false;
    }
    c->pid = fork();
    if (c->pid == 0) {
        const char *argv[10] = {"compare", "--child", file};
        int at = 3;
        if (own_kernels) {
            argv[at++] = "--own";
        }
        if (peer != NULL) {
            argv[at++] = "--peer";
            argv[at++] = peer;
        }
        if (packs != NULL) {
            argv[at++] = "--packs";
            argv[at] = packs;
        }
        (void)dup2(in[0], STDIN_FILENO);
        (void)dup2(out[1], STDOUT_FILENO);
        (void)close(in[1]);
        (void)close(out[0]);
        (void)execv("/proc/self/exe", (char **)(uintptr_t)argv);
        _exit(127);
    }
    (void)close(in[0]);
    (void)close(out[1]);
    c->to = in[1];
    c->from = out[0];
    return c->pid > 0;
}

static bool read_line(const child *c, double *load_ms, double *first_ms)
{
    char line[128] = "", *end = NULL;
    size_t at = 0;
    while (at + 1 < sizeof line && read(c->from, line + at, 1) == 1 && line[at] != '\n') {
        at++;
    }
    *load_ms = strtod(line, &end);
    *first_ms = strtod(end, NULL);
    return *first_ms > 0;
}

static bool finish(child *c)
{
    int status = 1;
    (void)close(c->to);
    (void)close(c->from);
    return waitpid(c->pid, &status, 0) == c->pid && status == 0;
}

static bool measure(const char *file, const char *peer, bool own_kernels, const char *packs,
                    resident *out)
{
    child a, b;
    double load_ms, first_ms;
    *out = (resident){0};
    if (packs != NULL) {
        bool is_read = start(&a, file, peer, own_kernels, packs) &&
                       read_line(&a, &out->cold_ms, &out->cold_first_ms);
        if (!finish(&a) || !is_read) {
            return false;
        }
    }
    if (!start(&a, file, peer, own_kernels, packs)) {
        return false;
    }
    bool is_ok = read_line(&a, &out->load_ms, &out->first_ms);
    out->one_kib = memory_kib(a.pid, "Rss:");
    double alone = memory_kib(a.pid, "Pss:");
    if (is_ok && start(&b, file, peer, own_kernels, packs)) {
        is_ok = read_line(&b, &load_ms, &first_ms);
        out->more_kib = memory_kib(a.pid, "Pss:") + memory_kib(b.pid, "Pss:") - alone;
        is_ok = finish(&b) && is_ok;
    }
    return finish(&a) && is_ok;
}

bool resident_measure(const char *file, const char *peer, bool own_kernels, resident *out)
{
    char dir[] = "/var/tmp/maasq-packs-XXXXXX";
    mq_error err;
    if (peer != NULL || mkdtemp(dir) == NULL) {
        return measure(file, peer, own_kernels, NULL, out);
    }
    bool is_ok = measure(file, peer, own_kernels, dir, out);
    return mq_dir_remove(dir, &err) == MQ_OK && is_ok;
}
