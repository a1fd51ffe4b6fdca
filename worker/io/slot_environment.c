/* What a slot process sees of the environment, and which OpenBLAS kernels it is told to use. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shared/base/assert.h"
#include "worker/io/slot_process.h"

enum { ENTRIES_MAX = 64, OWN_MAX = 6, ADDED_MAX = 32 };

/* Nothing that could hold a key or an address: only what the process itself needs to run. */
static const char *const passed[] = {
    "PATH=", "HOME=",         "LANG=",          "LC_",           "TZ=",           "TMPDIR=",
    "LD_",   "ASAN_OPTIONS=", "UBSAN_OPTIONS=", "TSAN_OPTIONS=", "LSAN_OPTIONS=", "MALLOC_",
    "GCOV_",
};

static bool is_passed(const char *entry)
{
    for (size_t i = 0; i < sizeof passed / sizeof passed[0]; i++) {
        if (strncmp(entry, passed[i], strlen(passed[i])) == 0) {
            return true;
        }
    }
    return false;
}

char **mq_slot_environment(const char *blas_core, const char *extra)
{
    size_t count = 0;
    char **envp = calloc(ENTRIES_MAX + OWN_MAX + ADDED_MAX, sizeof *envp);
    MQ_ASSERT(envp != NULL);
    for (char **e = environ; e != NULL && *e != NULL && count < ENTRIES_MAX; e++) {
        if (is_passed(*e)) {
            envp[count++] = strdup(*e);
        }
    }
    envp[count++] = strdup("OPENBLAS_NUM_THREADS=1");
    envp[count++] = strdup("OMP_NUM_THREADS=1");
    /* Idle threads of a slot with several spin for some 100 us and then sleep: OpenMP's own rule
     * spins for milliseconds, which starves the other slots. Read when the program is loaded. */
    envp[count++] = strdup("GOMP_SPINCOUNT=20000");
    if (*blas_core != '\0') {
        char text[80];
        (void)snprintf(text, sizeof text, "OPENBLAS_CORETYPE=%s", blas_core);
        envp[count++] = strdup(text);
    }
    if (*extra != '\0') {
        envp[count++] = strdup(extra);
    }
    return envp;
}

mq_code mq_slot_environment_add(char **envp, const char *entry, mq_error *err)
{
    size_t name = strcspn(entry, "="), at = 0;
    if (name == 0 || entry[name] != '=') {
        return mq_fail(err, MQ_E_ARG, "\"%.60s\": must be NAME=VALUE", entry);
    }
    if (strncmp(entry, "OPENBLAS_", 9) == 0 || strncmp(entry, "OMP_", 4) == 0) {
        return mq_fail(err, MQ_E_ARG, "%.60s: would change the bits of training; see --blas-core",
                       entry);
    }
    while (envp[at] != NULL && strncmp(envp[at], entry, name + 1) != 0) {
        at++;
    }
    if (at == ENTRIES_MAX + OWN_MAX + ADDED_MAX - 1) {
        return mq_fail(err, MQ_E_LIMIT, "%.60s: more than %d", entry, ADDED_MAX);
    }
    free(envp[at]);
    envp[at] = strdup(entry);
    return envp[at] != NULL ? MQ_OK : mq_fail(err, MQ_E_LIMIT, "%.60s: no memory", entry);
}

void mq_slot_environment_free(char **envp)
{
    for (size_t i = 0; envp != NULL && envp[i] != NULL; i++) {
        free(envp[i]);
    }
    free(envp);
}

const char *mq_slot_blas_core(void)
{
    const char *wish = getenv("MAASQ_BLAS_CORE");
    if (wish != NULL && *wish != '\0' && strlen(wish) <= 32) {
        return wish;
    }
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        return "SkylakeX";
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return "Haswell";
    }
#endif
    return "";
}
