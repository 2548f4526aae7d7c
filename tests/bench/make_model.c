/* Writes a GGUF of random weights in a named shape, to measure speed and memory with.
 *   make_model OUT.gguf TYPE [SHAPE]     TYPE: F16 Q8_0 Q4_0; SHAPE: tinyllama (default), smollm135 or qwen05b */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "format/gguf.h"
#include "kern/dtype.h"
#include "model/weights.h"

typedef struct shape {
    const char *name;
    uint32_t C, H, K, F, V, L, n_ctx;
    bool tied;
} shape;

static const shape shapes[] = {
    {"tinyllama", 2048, 32, 4, 5632, 32000, 22, 2048, false},
    {"smollm135", 576, 9, 3, 1536, 49152, 30, 2048, true},
    {"qwen05b", 896, 14, 2, 4864, 151936, 24, 4096, true}, /* Qwen2.5-0.5B without its biases */
};

/* A SentencePiece vocabulary of control pieces, bytes and made-up words, so that other runners load the file too. */
static ew_status vocab(ew_gguf_writer *w, uint32_t V, ew_error *err)
{
    ew_buf text = {0};
    ew_span *piece = ew_calloc(V, sizeof(*piece));
    float *score = ew_calloc(V, sizeof(*score));
    int32_t *type = ew_calloc(V, sizeof(*type));
    size_t *at = ew_calloc((size_t)V + 1, sizeof(*at));
    ew_status st = piece == NULL || score == NULL || type == NULL || at == NULL ? EW_ENOMEM : EW_OK;
    for (uint32_t i = 0; st == EW_OK && i < V; i++) {
        type[i] = i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1;
        score[i] = i < 259 ? 0.0F : -(float)i;
        if (i < 3) {
            ew_buf_adds(&text, i == 0 ? "<unk>" : i == 1 ? "<s>" : "</s>");
        } else if (i < 259) {
            ew_buf_addf(&text, "<0x%02X>", i - 3);
        } else {
            ew_buf_addf(&text, "\xe2\x96\x81w%u", i);
        }
        at[i + 1] = text.size;
    }
    if (st == EW_OK && (st = ew_buf_check(&text, err)) == EW_OK) {
        for (uint32_t i = 0; i < V; i++) {
            piece[i] = (ew_span){text.data + at[i], at[i + 1] - at[i]};
        }
        ew_gguf_add_str(w, "tokenizer.ggml.model", "llama");
        ew_gguf_add_array_str(w, "tokenizer.ggml.tokens", piece, V);
        ew_gguf_add_array(w, "tokenizer.ggml.scores", EW_GGUF_F32, score, V);
        ew_gguf_add_array(w, "tokenizer.ggml.token_type", EW_GGUF_I32, type, V);
        ew_gguf_add_u32(w, "tokenizer.ggml.bos_token_id", 1);
        ew_gguf_add_u32(w, "tokenizer.ggml.eos_token_id", 2);
        ew_gguf_add_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    }
    ew_buf_release(&text);
    ew_free(piece);
    ew_free(score);
    ew_free(type);
    ew_free(at);
    return st;
}

static ew_status declare(ew_gguf_writer *w, const shape *s, ew_dtype t, ew_error *err)
{
    const ew_model_config cfg = {.C = s->C, .H = s->H, .K = s->K, .D = s->C / s->H, .F = s->F};
    const uint64_t embd[2] = {s->C, s->V};
    char name[64];
    EW_TRY(ew_gguf_add_tensor(w, "token_embd.weight", t, 2, embd, err));
    if (!s->tied) {
        EW_TRY(ew_gguf_add_tensor(w, "output.weight", t, 2, embd, err));
    }
    EW_TRY(ew_gguf_add_tensor(w, "output_norm.weight", EW_DTYPE_F32, 1, embd, err));
    for (uint32_t i = 0; i < s->L; i++) {
        for (unsigned l = 0; l < EW_LINEAR_COUNT; l++) {
            uint32_t rows;
            uint32_t cols;
            ew_linear_shape(&cfg, (ew_linear)l, &rows, &cols);
            const uint64_t dims[2] = {cols, rows};
            (void)snprintf(name, sizeof(name), "blk.%u.%s.weight", i, ew_linear_gguf_name((ew_linear)l));
            EW_TRY(ew_gguf_add_tensor(w, name, t, 2, dims, err));
        }
        (void)snprintf(name, sizeof(name), "blk.%u.attn_norm.weight", i);
        EW_TRY(ew_gguf_add_tensor(w, name, EW_DTYPE_F32, 1, embd, err));
        (void)snprintf(name, sizeof(name), "blk.%u.ffn_norm.weight", i);
        EW_TRY(ew_gguf_add_tensor(w, name, EW_DTYPE_F32, 1, embd, err));
    }
    return ew_gguf_writer_begin(w, err);
}

/* n rows of cols; a few random rows are quantized once and repeated, so that a big file takes seconds. */
static ew_status fill(ew_gguf_writer *w, ew_dtype t, uint32_t rows, uint32_t cols, ew_rng *rng, ew_error *err)
{
    enum {
        DISTINCT = 61
    };
    size_t bytes;
    if (!ew_dtype_row_bytes(t, cols, &bytes)) {
        return ew_fail(err, EW_EINVAL, "rows of %u do not fit the type", cols);
    }
    float *row = ew_malloc(cols, sizeof(float));
    unsigned char *q = ew_malloc(DISTINCT, bytes);
    ew_status st = row == NULL || q == NULL ? EW_ENOMEM : EW_OK;
    for (size_t i = 0; st == EW_OK && i < DISTINCT; i++) {
        for (uint32_t j = 0; j < cols; j++) {
            row[j] = rows == 1 ? 1.0F : (float)(ew_rng_normal(rng) / sqrt((double)cols));
        }
        ew_quant_row(t, row, q + i * bytes, cols);
    }
    for (uint32_t r = 0; r < rows && st == EW_OK; r++) {
        st = ew_gguf_write(w, q + (r % DISTINCT) * bytes, bytes, err);
    }
    ew_free(row);
    ew_free(q);
    return st;
}

static ew_status write_all(ew_gguf_writer *w, const shape *s, ew_dtype t, ew_error *err)
{
    const ew_model_config cfg = {.C = s->C, .H = s->H, .K = s->K, .D = s->C / s->H, .F = s->F};
    ew_rng rng;
    ew_rng_init(&rng, 1, 0);
    ew_gguf_add_str(w, "general.architecture", "llama");
    ew_gguf_add_str(w, "general.name", s->name);
    ew_gguf_add_u32(w, "llama.context_length", s->n_ctx);
    ew_gguf_add_u32(w, "llama.embedding_length", s->C);
    ew_gguf_add_u32(w, "llama.block_count", s->L);
    ew_gguf_add_u32(w, "llama.feed_forward_length", s->F);
    ew_gguf_add_u32(w, "llama.attention.head_count", s->H);
    ew_gguf_add_u32(w, "llama.attention.head_count_kv", s->K);
    ew_gguf_add_u32(w, "llama.vocab_size", s->V);
    ew_gguf_add_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5F);
    EW_TRY(vocab(w, s->V, err));
    EW_TRY(declare(w, s, t, err));
    EW_TRY(fill(w, t, s->V, s->C, &rng, err));
    if (!s->tied) {
        EW_TRY(fill(w, t, s->V, s->C, &rng, err));
    }
    EW_TRY(fill(w, EW_DTYPE_F32, 1, s->C, &rng, err));
    for (uint32_t i = 0; i < s->L; i++) {
        for (unsigned l = 0; l < EW_LINEAR_COUNT; l++) {
            uint32_t rows;
            uint32_t cols;
            ew_linear_shape(&cfg, (ew_linear)l, &rows, &cols);
            EW_TRY(fill(w, t, rows, cols, &rng, err));
        }
        EW_TRY(fill(w, EW_DTYPE_F32, 1, s->C, &rng, err));
        EW_TRY(fill(w, EW_DTYPE_F32, 1, s->C, &rng, err));
    }
    return ew_gguf_writer_commit(w, err);
}

int main(int argc, char **argv)
{
    ew_error err = EW_ERROR_INIT;
    ew_dtype t;
    const shape *s = &shapes[0];
    for (size_t i = 0; argc > 3 && i < EW_COUNT(shapes); i++) {
        s = ew_str_eq(argv[3], shapes[i].name) ? &shapes[i] : s;
    }
    if (argc < 3 || !ew_dtype_parse(argv[2], &t)) {
        (void)fprintf(stderr, "usage: make_model OUT.gguf F16|Q8_0|Q4_0 [tinyllama|smollm135]\n");
        return 2;
    }
    EW_AUTO(ew_gguf_writer) w = NULL;
    if (ew_gguf_writer_new(argv[1], &w, &err) != EW_OK || write_all(w, s, t, &err) != EW_OK) {
        (void)fprintf(stderr, "make_model: %s\n", err.msg);
        return 1;
    }
    return 0;
}
