/* One vector of the ONNX backend suite: a folder NAME/ with model.onnx, test_data_set_N/input_*.pb
 * and output_*.pb, perhaps data.json with its own tolerance. */
#ifndef MQ_TESTS_CONFORMANCE_SUITE_H
#define MQ_TESTS_CONFORMANCE_SUITE_H

#include "shared/base/error.h"

enum { SUITE_PATH = 1024, SUITE_OP = 64, SUITE_REASON = 400 };

typedef enum suite_verdict {
    SUITE_PASSED,
    SUITE_REFUSED, /* the model was refused, or its files could not be read */
    SUITE_FAILED,  /* it ran and differs, or an error came while running, or the process died */
} suite_verdict;

typedef struct suite_result {
    suite_verdict verdict;
    char op[SUITE_OP]; /* operator of a one-node model, else "(several)" */
    char reason[SUITE_REASON];
} suite_result;

/* Runs the vector in a child process, fused and node by node, each at most limit_s seconds. */
void suite_run(const char *folder, unsigned limit_s, suite_result *out);

#endif
