/* libFuzzer's door to onnx.h; `make fuzz` builds and runs it. */
#include "tests/fuzz/onnx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_onnx(data, size);
    return 0;
}
