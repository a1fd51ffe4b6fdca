/* generate DIR [NAME...]: writes the benchmark models of models.def as DIR/NAME.onnx, weights
 * random by a fixed seed; a file that is there stays. Equal on every machine. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/bench/models/kit.h"

#define FILE_BYTES_MAX ((size_t)1 << 30)

typedef struct row {
    const char *name;
    kit_make *make;
    bool is_int8;
    int64_t opset;
} row;

#define MQ_BENCH_MODEL(name, make, is_int8, opset) kit_make make;
#include "tests/bench/models/models.def"
#undef MQ_BENCH_MODEL

static const row rows[] = {
#define MQ_BENCH_MODEL(name, make, is_int8, opset) {name, make, is_int8, opset},
#include "tests/bench/models/models.def"
#undef MQ_BENCH_MODEL
};

enum { ROW_COUNT = sizeof rows / sizeof rows[0], SEED = 4 };

static int write_file(const char *path, mq_span bytes)
{
    char part[4200];
    (void)snprintf(part, sizeof part, "%s.part", path);
    FILE *f = fopen(part, "wb");
    bool is_ok = f != NULL && fwrite(bytes.data, 1, bytes.len, f) == bytes.len;
    is_ok = f != NULL && fclose(f) == 0 && is_ok && rename(part, path) == 0;
    if (!is_ok) {
        perror(path);
    }
    return is_ok ? 0 : 1;
}

static int generate(const char *dir, const row *r)
{
    char path[4096];
    kit k;
    mq_buf buf;
    mq_error err;
    (void)snprintf(path, sizeof path, "%s/%s.onnx", dir, r->name);
    if (access(path, R_OK) == 0) {
        return 0;
    }
    kit_begin(&k, SEED, r->is_int8, r->opset);
    r->make(&k);
    kit_must(mq_model_verify(k.model, &err), &err);
    mq_buf_init(&buf, FILE_BYTES_MAX);
    kit_must(mq_model_save(k.model, &buf, &err), &err);
    int status = write_file(path, mq_buf_span(&buf));
    printf("%s: %u nodes, %zu bytes\n", path, k.model->graph.node_count, mq_buf_span(&buf).len);
    mq_buf_release(&buf);
    mq_model_free(k.model);
    return status;
}

int main(int argc, char **argv)
{
    int status = argc < 2 ? 2 : 0;
    if (status != 0) {
        fprintf(stderr, "usage: generate DIR [NAME...]\n");
    }
    for (int i = 0; i < ROW_COUNT && status == 0; i++) {
        bool is_wanted = argc == 2;
        for (int a = 2; a < argc; a++) {
            is_wanted = is_wanted || strcmp(argv[a], rows[i].name) == 0;
        }
        status = is_wanted ? generate(argv[1], &rows[i]) : 0;
    }
    return status;
}
