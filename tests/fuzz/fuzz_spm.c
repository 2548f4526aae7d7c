/* SentencePiece's tokenizer.model from anywhere: read, make a tokenizer, use it on a text of every kind, take the text back. */
#include <stddef.h>
#include <stdint.h>

#include "model/vocab.h"
#include "token/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        "Hello <s> world's 12345\n\n  \xE2\x96\x81x\xF0\x9F\x9A\x80 \xFF\xFE\0abc \xEF\xAC\x81 aaaaaaaaaaaaaaaa";
    EW_AUTO(ew_vocab) v = NULL;
    EW_AUTO(ew_tokenizer) tok = NULL;
    EW_AUTO_TOKENS ids = {0};
    EW_AUTO_BUF out = {0};
    ew_error err = EW_ERROR_INIT;
    if (ew_vocab_from_spm("fuzz", data, size, &v, &err) != EW_OK || ew_tokenizer_new(v, &tok, &err) != EW_OK) {
        return 0;
    }
    for (unsigned flags = 0; flags < 8; flags++) {
        ids.n = 0;
        ew_buf_clear(&out);
        if (ew_tokenizer_encode(tok, text, sizeof(text) - 1, flags, &ids, &err) == EW_OK) {
            (void)!ew_tokenizer_decode(tok, ids.id, ids.n, flags, &out, &err);
        }
    }
    return 0;
}
