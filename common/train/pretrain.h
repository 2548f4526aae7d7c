/* Pre-training of a small decoder, from scratch or grown from a smaller one: vocabulary, weights, schedule and checkpoint from one committed recipe.
 *
 * Documents (in pieces of at most n_ctx tokens) are packed into shards of fixed capacity with their boundaries kept. Every shard of
 * a step has a gradient of its own and they are added in fixed order, so the result does not depend on the number of threads. The state
 * (parameters, moments, random numbers, cursor, schedule) goes to one checkpoint file that is replaced atomically; a run that was
 * killed and continued ends with the same bytes as an unbroken one.
 *
 * The budget is in tokens. With max_minutes and without tokens, the first seconds measure the speed and fix the number of
 * tokens, which the checkpoint keeps: wall time decides once, not while replaying.
 * Locking: one call per process (it uses the whole pool). */
#ifndef EW_TRAIN_PRETRAIN_H
#define EW_TRAIN_PRETRAIN_H

#include "base/base.h"
#include "base/progress.h"
#include "base/status.h"
#include "kern/kern.h"
#include "model/model.h"
#include "token/tokenizer.h"

/* A token sequence to learn from, with its loss weights (1 = plain text). */
typedef struct ew_pretrain_doc {
    const int32_t *id;   /* n tok, ends with end-of-text */
    const float *weight; /* [n] weight of predicting id[i]; weight[0] is not used. NULL = all 1 */
    size_t n;
} ew_pretrain_doc;

/* The source fills docs for a pass over the corpus: it must give the same documents for the same (epoch, index). Texts of all
 * kinds are rendered and tokenised by the source (task formats with fresh retrieval draws per epoch). */
typedef struct ew_pretrain_source {
    size_t n_docs; /* per epoch */
    /* doc's memory is the source's and stays valid until the next call with the same slot (< 2). */
    ew_status (*doc)(void *ctx, uint64_t epoch, size_t index, ew_pretrain_doc *ret_doc, ew_error *reterr);
    void *ctx;
} ew_pretrain_source;

typedef struct ew_pretrain_recipe {
    char *name;                 /* general.name of the GGUF */
    uint32_t vocab_size, n_ctx; /* pieces; longest sequence, tok */
    uint32_t dim, ffn, layers, heads, kv_heads;
    float rope_theta, norm_eps;
    float lr;            /* at its highest */
    float min_lr;        /* share of lr at the end of the cosine */
    float warmup;        /* share of the tokens */
    float weight_decay;  /* matrices only */
    float clip;          /* largest gradient norm */
    float beta1, beta2;  /* AdamW */
    uint32_t shards;     /* gradients that are added per step, in fixed order */
    uint32_t shard_tok;  /* rows of a shard; tokens of a step <= shards * shard_tok */
    float answer_weight; /* loss weight of answer tokens in task formats */
    float prompt_weight; /* loss weight of the other tokens there */
    uint32_t text_percent, section_percent, synopsis_percent; /* documents per pass, in percent of what the pool has */
    uint32_t depends_percent, size_percent;                   /* 0 when the recipe does not say */
    uint32_t zero_shot_percent;                               /* of the task records */
    uint32_t retrieved_max;                                   /* the others have 1 … this many retrieved items */
    uint64_t tokens;                                          /* budget; 0 = from max_minutes */
    uint64_t seed;
} ew_pretrain_recipe;

/* YAML; unknown keys are errors. ew_pretrain_recipe_free frees. */
ew_status ew_pretrain_recipe_load(const char *path, ew_pretrain_recipe **ret_recipe, ew_error *reterr) EW_MUST_CHECK;
void ew_pretrain_recipe_free(ew_pretrain_recipe **r);

typedef struct ew_pretrain_opt {
    const ew_pretrain_recipe *recipe;
    ew_exec exec;
    const ew_vocab *vocab; /* goes into the GGUF */
    const ew_model *
        init; /* grown to the recipe's sizes to start from (train/grow.h); its vocabulary is vocab. NULL = from scratch */
    ew_pretrain_source train;
    ew_pretrain_source val;    /* held-out documents for the curve; n_docs 0 = none. epoch is always 0 */
    const char *checkpoint;    /* path of the state; resumed from when it exists */
    double checkpoint_seconds; /* 0 = 120 */
    const char *
        curve_csv; /* step,tokens,seconds,lr,loss,val_loss,grad_norm,tok_per_s; rewritten from the checkpoint on resume */
    const char *out_gguf; /* F16 */
    double max_minutes;   /* fixes the token budget at the first start when recipe and tokens give none */
    uint64_t tokens;      /* overrides the recipe, and on resume the checkpoint's number; 0 = theirs */
    uint64_t
        stop_after_steps; /* test hook: EW_ECANCELLED after this many steps in this process, without a checkpoint; 0 = off */
    ew_progress progress;
} ew_pretrain_opt;

typedef struct ew_pretrain_report {
    uint64_t steps, tokens;
    double seconds, tok_per_s;
    float loss, val_loss;
    uint64_t n_params;
    bool resumed;
} ew_pretrain_report;

/* EW_ECANCELLED: progress said stop; the checkpoint is on disk. */
ew_status ew_pretrain(const ew_pretrain_opt *opt, ew_pretrain_report *ret_report, ew_error *reterr) EW_MUST_CHECK;

#endif
