/* A random decoder with a vocabulary trained on made-up words, written as GGUF, and items to go with it: what the tests of whole trials run on.
 * The test includes "base/mem.h", "kern/kern.h", "model/model.h", "task/item.h" and "token/vocab.h" itself, so that it is linked with them. */
#ifndef EW_TESTS_SUPPORT_TOY_H
#define EW_TESTS_SUPPORT_TOY_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "model/model.h"
#include "model/save.h"
#include "model/weights.h"
#include "task/item.h"
#include "token/bpe_train.h"
#include "token/vocab.h"

typedef struct toy_shape {
    uint32_t C, H, K, F, V, L, n_ctx; /* V pieces: the vocabulary is filled up with unused ones */
} toy_shape;

#define TOY_SHAPE_SMALL                                                                                                \
    {                                                                                                                  \
        .C = 64, .H = 4, .K = 2, .F = 128, .V = 512, .L = 2, .n_ctx = 256                                              \
    }

static const char *const toy_sections[] = {"perl",    "python", "libs", "golang", "javascript",
                                           "haskell", "ruby",   "rust", "games",  "science",
                                           "net",     "fonts",  "text", "sound",  "java"};

/* Words of two or three syllables, always the same. */
static inline void toy_word(ew_rng *rng, ew_buf *out)
{
    static const char *const syllable[] = {"ka",  "lo", "mi",  "ter", "san", "du",
                                           "vel", "po", "rin", "ga",  "bel", "sto"};
    size_t n = 2 + ew_rng_below(rng, 2);
    for (size_t i = 0; i < n; i++) {
        ew_buf_adds(out, syllable[ew_rng_below(rng, EW_COUNT(syllable))]);
    }
}

/* n items: words about one of n_labels sections, which is the output; with synopsis the output is a few of the words. */
static inline ew_status toy_items(size_t n, size_t n_words, size_t n_labels, bool synopsis, uint64_t seed,
                                  ew_items *ret)
{
    ew_rng rng;
    ew_rng_init(&rng, seed, 3);
    for (size_t i = 0; i < n; i++) {
        char id[32];
        EW_AUTO_BUF in = {0};
        EW_AUTO_BUF out = {0};
        size_t label = ew_rng_below(&rng, n_labels);
        (void)snprintf(id, sizeof(id), "item-%zu", i);
        ew_buf_addf(&in, "%s-thing:", toy_sections[label]);
        for (size_t w = 0; w < n_words; w++) {
            ew_buf_addc(&in, ' ');
            toy_word(&rng, &in);
            if (synopsis && w < 5) {
                ew_buf_addc(&out, ' ');
                ew_buf_adds(&out, strrchr(ew_buf_str(&in), ' ') + 1);
            }
        }
        char user[] = "u";
        ew_item item = {.id = id,
                        .user = user,
                        .input = (char *)(uintptr_t)ew_buf_str(&in),
                        .output = (char *)(uintptr_t)(synopsis ? ew_buf_str(&out) + 1 : toy_sections[label]),
                        .order = i};
        EW_TRY(ew_items_add(ret, &item, NULL));
    }
    return EW_OK;
}

static inline ew_status toy_text(void *ctx, ew_span *ret_text, ew_error *reterr)
{
    static char text[24 * 1024];
    bool *done = ctx;
    EW_AUTO_BUF b = {0};
    ew_rng rng;
    (void)reterr;
    *ret_text = (ew_span){text, 0};
    if (*done) {
        return EW_OK;
    }
    *done = true;
    ew_rng_init(&rng, 11, 0);
    while (b.size < sizeof(text) - 64 && b.status == EW_OK) {
        ew_buf_adds(&b, "text: ");
        ew_buf_adds(&b, toy_sections[ew_rng_below(&rng, EW_COUNT(toy_sections))]);
        for (int i = 0; i < 6; i++) {
            ew_buf_addc(&b, ' ');
            toy_word(&rng, &b);
        }
        ew_buf_adds(&b, "\nsection: ");
        ew_buf_adds(&b, toy_sections[ew_rng_below(&rng, EW_COUNT(toy_sections))]);
        ew_buf_adds(&b, "\n\n");
    }
    ret_text->size = EW_MIN(b.size, sizeof(text));
    memcpy(text, b.data, ret_text->size);
    return b.status;
}

static inline ew_status toy_vocab(uint32_t V, ew_vocab **ret_vocab, ew_error *reterr)
{
    static const char *const specials[] = {"<|endoftext|>"};
    bool done = false;
    const ew_bpe_train_opt opt = {
        .vocab_size = V, .specials = specials, .n_specials = 1, .bos = specials[0], .eos = specials[0]};
    EW_TRY(ew_bpe_train(&opt, toy_text, &done, ret_vocab, reterr));
    return ew_vocab_pad(*ret_vocab, V, reterr);
}

/* f32 weights of any size from a table of random numbers. */
static inline ew_status toy_save_vocab(const char *path, const toy_shape *s, const char *dtype, uint64_t seed,
                                       const ew_vocab *vocab, ew_error *reterr)
{
    ew_model_config cfg = {.arch = "llama",
                           .name = "toy",
                           .C = s->C,
                           .H = s->H,
                           .K = s->K,
                           .D = s->C / s->H,
                           .F = s->F,
                           .V = s->V,
                           .L = s->L,
                           .n_ctx_train = s->n_ctx,
                           .norm_eps = 1e-5f,
                           .rope_kind = EW_ROPE_NORM,
                           .n_rot = s->C / s->H,
                           .rope_theta = 10000,
                           .tied_head = true,
                           .file_type = -1};
    EW_AUTO(ew_model) m = NULL;
    ew_dtype t;
    size_t most = EW_MAX((size_t)s->V, (size_t)s->F) * s->C;
    size_t n = (size_t)(1 + EW_LINEAR_COUNT * s->L) * most + 2 * s->C;
    float *block = ew_malloc(n, sizeof(float));
    ew_layer_floats *layer = ew_calloc(s->L, sizeof(*layer));
    EW_ASSERT(block != NULL && layer != NULL && ew_dtype_parse(dtype, &t));
    ew_rng rng;
    ew_rng_init(&rng, seed, 5);
    float *ones = block + n - s->C;
    for (size_t i = 0; i < n; i++) {
        block[i] = ((float)(ew_rng_u64(&rng) >> 40) / 8388608.0f - 1.0f) / sqrtf((float)s->C);
    }
    for (size_t i = 0; i < s->C; i++) {
        ones[i] = 1;
    }
    for (uint32_t il = 0; il < s->L; il++) {
        for (size_t l = 0; l < EW_LINEAR_COUNT; l++) {
            layer[il].linear[l] = block + (1 + il * EW_LINEAR_COUNT + l) * most;
        }
        layer[il].attn_norm = ones;
        layer[il].ffn_norm = ones;
    }
    const ew_model_floats f = {.token_embd = block, .output_norm = ones, .layer = layer};
    ew_status st = ew_model_from_floats(&cfg, vocab, &f, &m, reterr);
    if (st == EW_OK) {
        st = ew_model_save_gguf(m, path, &(ew_save_opt){.convert = true, .dtype = t}, reterr);
    }
    ew_model_free(&m);
    ew_free(layer);
    ew_free(block);
    return st;
}

static inline ew_status toy_save(const char *path, const toy_shape *s, const char *dtype, uint64_t seed,
                                 ew_error *reterr)
{
    EW_AUTO(ew_vocab) vocab = NULL;
    EW_TRY(toy_vocab(s->V, &vocab, reterr));
    return toy_save_vocab(path, s, dtype, seed, vocab, reterr);
}

#endif
