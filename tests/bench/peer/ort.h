/* ONNX Runtime called through its C interface, from a library that is opened at run time: the peer
 * of tests/bench/peer. Its header is not needed: the interface is a table of function pointers
 * whose order never changes (new ones go to the end), and only the places used here are named. */
#ifndef MQ_TESTS_BENCH_PEER_ORT_H
#define MQ_TESTS_BENCH_PEER_ORT_H

#include <stdbool.h>

#include "shared/tensor/tensor.h"

enum { ORT_VALUES_MAX = 8 };

typedef struct ort_model ort_model;

/* Opens the library; false with a line on standard error when it is not there or is no such. */
bool ort_open(const char *path);

/* NULL with a line on standard error. names: of inputs and outputs, borrowed while it lives. */
ort_model *ort_load(const char *file, int threads, const char *const *inputs, size_t input_count,
                    const char *const *outputs, size_t output_count);
void ort_free(ort_model *m);

/* Inputs are given once; each run makes its outputs anew, as callers of it do. */
bool ort_set_inputs(ort_model *m, const mq_tensor *inputs);
bool ort_run(ort_model *m);

/* Data of an output of the last run and how many elements it has. */
const void *ort_output(ort_model *m, size_t index, size_t *count);

#endif
