/* Any bytes as a GGUF file. */
#include <string.h>

#include "base/mem.h"
#include "format/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static volatile unsigned sink;
    ew_error err = EW_ERROR_INIT;
    uint8_t *copy = ew_aligned(size);
    EW_AUTO(ew_gguf) g = NULL;
    if (copy == NULL) {
        return 0;
    }
    memcpy(copy, data, size);
    if (ew_gguf_open_memory(copy, size, "fuzz", &g, &err) == EW_OK) {
        for (size_t i = 0; i < ew_gguf_n_tensors(g); i++) {
            const ew_tensor_view *t = ew_gguf_tensor(g, i);
            sink += ((const uint8_t *)t->data)[0] + ((const uint8_t *)t->data)[t->bytes - 1];
        }
        for (size_t i = 0; i < ew_gguf_n_kv(g); i++) {
            ew_gguf_array a;
            const char *key = ew_gguf_key(g, i);
            double d = 0;
            int64_t v = 0;
            sink += ew_gguf_get_f64(g, key, &d) + ew_gguf_get_i64(g, key, &v);
            if (ew_gguf_get_array(g, key, &a) && a.n > 0) {
                sink += a.type == EW_GGUF_STRING ? (unsigned)ew_gguf_array_str(&a, a.n - 1).size
                                                 : (unsigned)ew_gguf_array_i64(&a, a.n - 1);
            }
        }
    }
    ew_gguf_free(&g);
    ew_free(copy);
    (void)sink;
    return 0;
}
