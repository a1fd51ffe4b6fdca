/* The peer's C interface by number of place; see ort.h. Function pointers come as object pointers
 * from dlsym and from the table, hence the unions. */
#include "tests/bench/peer/ort.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Places in the table that GetApi gives. */
enum place {
    ERROR_TEXT = 2,
    CREATE_ENV = 3,
    DISABLE_TELEMETRY = 6,
    CREATE_SESSION = 7,
    RUN = 9,
    CREATE_OPTIONS = 10,
    INTRA_THREADS = 24,
    INTER_THREADS = 25,
    TENSOR_OVER_DATA = 49,
    TENSOR_DATA = 51,
    ELEMENT_COUNT = 64,
    TYPE_AND_SHAPE = 65,
    CPU_MEMORY = 69,
    RELEASE_STATUS = 93,
    RELEASE_SESSION = 95,
    RELEASE_VALUE = 96,
    RELEASE_SHAPE = 99,
    RELEASE_OPTIONS = 100,
};
enum { API_VERSION = 17, LOG_ERROR = 3, DEVICE_ALLOCATOR = 0, DEFAULT_MEMORY = 0 };

typedef union entry {
    void *object;
    const char *(*text)(const void *status);
    void *(*create_env)(int level, const char *name, void **env);
    void *(*one)(void *object);
    void (*release)(void *object);
    void *(*create_session)(void *env, const char *file, void *options, void **session);
    void *(*run)(void *session, void *options, const char *const *input_names, void **inputs,
                 size_t input_count, const char *const *output_names, size_t output_count,
                 void **outputs);
    void *(*create)(void **object);
    void *(*set_int)(void *options, int value);
    void *(*tensor)(void *memory, void *data, size_t len, const int64_t *dims, size_t rank,
                    int type, void **value);
    void *(*get)(const void *value, void **out);
    void *(*count)(const void *shape, size_t *out);
    void *(*memory)(int allocator, int kind, void **out);
} entry;

typedef struct base {
    const entry *(*api)(uint32_t version);
    const char *(*version)(void);
} base;

struct ort_model {
    void *session, *inputs[ORT_VALUES_MAX], *outputs[ORT_VALUES_MAX];
    const char *const *input_names, *const *output_names;
    size_t input_count, output_count;
};

static const entry *api;
static void *env, *memory;

static bool is_ok(void *status)
{
    if (status != NULL) {
        fprintf(stderr, "peer: %s\n", api[ERROR_TEXT].text(status));
        api[RELEASE_STATUS].release(status);
    }
    return status == NULL;
}

bool ort_open(const char *path)
{
    union {
        void *object;
        const base *(*get)(void);
    } get = {NULL};
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    get.object = library == NULL ? NULL : dlsym(library, "OrtGetApiBase");
    api = get.object == NULL ? NULL : get.get()->api(API_VERSION);
    if (api == NULL) {
        fprintf(stderr, "peer: %s\n", library == NULL ? dlerror() : "the library has no such API");
        return false;
    }
    return is_ok(api[CREATE_ENV].create_env(LOG_ERROR, "bench", &env)) &&
           is_ok(api[DISABLE_TELEMETRY].one(env)) &&
           is_ok(api[CPU_MEMORY].memory(DEVICE_ALLOCATOR, DEFAULT_MEMORY, &memory));
}

ort_model *ort_load(const char *file, int threads, const char *const *inputs, size_t input_count,
                    const char *const *outputs, size_t output_count)
{
    void *options = NULL;
    ort_model *m = calloc(1, sizeof *m);
    if (m == NULL || input_count > ORT_VALUES_MAX || output_count > ORT_VALUES_MAX) {
        free(m);
        return NULL;
    }
    m->input_names = inputs;
    m->output_names = outputs;
    m->input_count = input_count;
    m->output_count = output_count;
    bool is_loaded = is_ok(api[CREATE_OPTIONS].create(&options)) &&
                     is_ok(api[INTRA_THREADS].set_int(options, threads)) &&
                     is_ok(api[INTER_THREADS].set_int(options, 1)) &&
                     is_ok(api[CREATE_SESSION].create_session(env, file, options, &m->session));
    if (options != NULL) {
        api[RELEASE_OPTIONS].release(options);
    }
    if (!is_loaded) {
        ort_free(m);
        return NULL;
    }
    return m;
}

static void release_all(void **values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (values[i] != NULL) {
            api[RELEASE_VALUE].release(values[i]);
        }
        values[i] = NULL;
    }
}

void ort_free(ort_model *m)
{
    if (m != NULL) {
        release_all(m->inputs, m->input_count);
        release_all(m->outputs, m->output_count);
        if (m->session != NULL) {
            api[RELEASE_SESSION].release(m->session);
        }
        free(m);
    }
}

bool ort_set_inputs(ort_model *m, const mq_tensor *inputs)
{
    release_all(m->inputs, m->input_count);
    for (size_t i = 0; i < m->input_count; i++) {
        const mq_tensor *t = &inputs[i];
        if (!is_ok(api[TENSOR_OVER_DATA].tensor(memory, t->data, t->bytes, t->shape.dims,
                                                (size_t)t->shape.rank, (int)t->dtype,
                                                &m->inputs[i]))) {
            return false;
        }
    }
    return true;
}

bool ort_run(ort_model *m)
{
    release_all(m->outputs, m->output_count);
    return is_ok(api[RUN].run(m->session, NULL, m->input_names, m->inputs, m->input_count,
                              m->output_names, m->output_count, m->outputs));
}

const void *ort_output(ort_model *m, size_t index, size_t *count)
{
    void *data = NULL, *shape = NULL;
    *count = 0;
    if (is_ok(api[TENSOR_DATA].get(m->outputs[index], &data)) &&
        is_ok(api[TYPE_AND_SHAPE].get(m->outputs[index], &shape))) {
        (void)is_ok(api[ELEMENT_COUNT].count(shape, count));
        api[RELEASE_SHAPE].release(shape);
    }
    return data;
}
