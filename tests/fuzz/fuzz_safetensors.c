/* Any bytes as a safetensors file. */
#include <string.h>

#include "base/mem.h"
#include "format/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static volatile unsigned sink;
    ew_error err = EW_ERROR_INIT;
    uint8_t *copy = ew_aligned(size);
    EW_AUTO(ew_safetensors) s = NULL;
    if (copy == NULL) {
        return 0;
    }
    memcpy(copy, data, size);
    if (ew_safetensors_open_memory(copy, size, "fuzz", &s, &err) == EW_OK) {
        for (size_t i = 0; i < ew_safetensors_n_tensors(s); i++) {
            const ew_tensor_view *t = ew_safetensors_tensor(s, i);
            sink += ((const uint8_t *)t->data)[0] + ((const uint8_t *)t->data)[t->bytes - 1];
        }
        sink += ew_safetensors_metadata(s, "format") != NULL;
    }
    ew_safetensors_free(&s);
    ew_free(copy);
    (void)sink;
    return 0;
}
