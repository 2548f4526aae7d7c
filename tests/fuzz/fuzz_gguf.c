/* Any bytes as a GGUF file, and the vocabulary that may be in it. */
#include <string.h>

#include "base/mem.h"
#include "format/gguf.h"
#include "model/vocab.h"
#include "token/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use_vocabulary(const ew_gguf *g)
{
    static const char text[] = "Hello <s> world's 12345\n  \xE2\x96\x81x\xF0\x9F\x9A\x80 \xFF\xFE";
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_vocab) v = NULL;
    EW_AUTO(ew_tokenizer) tok = NULL;
    EW_AUTO_TOKENS ids = {0};
    if (ew_vocab_from_gguf(g, &v, &err) == EW_OK && ew_tokenizer_new(v, &tok, &err) == EW_OK) {
        (void)!ew_tokenizer_encode(tok, text, sizeof(text) - 1, EW_ENCODE_SPECIAL, &ids, &err);
    }
}

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
        use_vocabulary(g);
    }
    ew_gguf_free(&g);
    ew_free(copy);
    (void)sink;
    return 0;
}
