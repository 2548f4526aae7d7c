/* Text out of a session: generation with stop rules and streaming, and scoring of a fixed set of labels.
 * Locking: runs in the session's thread; callbacks are called from it. */
#ifndef EW_MODEL_GENERATE_H
#define EW_MODEL_GENERATE_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"
#include "model/sampler.h"
#include "model/session.h"
#include "model/speculative.h"
#include "token/tokenizer.h"

/* New text, as it continues the prompt (a leading space is part of it): whole UTF-8 characters that cannot belong to a stop string any more. Returns false to end the generation. */
typedef bool (*ew_generate_fn)(const char *text, size_t size, void *ctx);

typedef enum ew_stop_reason {
    EW_STOP_LENGTH,  /* max_tok reached */
    EW_STOP_EOG,     /* the model ended its text */
    EW_STOP_STRING,  /* one of the stop strings appeared (it is not part of the text) */
    EW_STOP_CONTEXT, /* the context is full */
    EW_STOP_CALLER   /* on_text returned false */
} ew_stop_reason;

const char *ew_stop_reason_name(ew_stop_reason r); /* "length", "eog", "stop", "context", "caller" */

#define EW_GENERATE_STOPS_MAX 16

typedef struct ew_generate_opt {
    uint32_t max_tok;        /* 0 = to the end of the context */
    const char *const *stop; /* [n_stop] texts that end the generation, at most EW_GENERATE_STOPS_MAX, none empty */
    size_t n_stop;
    const int32_t *stop_ids; /* [n_stop_ids] further ids that end it, besides the vocabulary's */
    size_t n_stop_ids;
    bool ignore_eog; /* go on after an end-of-text token */
    bool special;    /* special tokens appear as text */
    ew_sampler_opt sampler;
    ew_session
        *draft; /* speculative decoding (speculative.h): a small model's session at the same position; NULL = none */
    uint32_t n_draft;       /* most tokens drafted at once; 0 = EW_DRAFT_DEFAULT */
    ew_generate_fn on_text; /* NULL = no streaming */
    void *ctx;
} ew_generate_opt;

typedef struct ew_generate_stats {
    size_t n_prompt_tok, n_gen_tok;
    double prompt_s, gen_s;     /* seconds of evaluation */
    uint64_t n_drafted, n_kept; /* tokens of the draft, and how many the model kept */
    ew_stop_reason stop;
} ew_generate_stats;

/* Appends the prompt at the session's present position, then up to max_tok tokens. out_ids (NULL = not wanted) gets the generated ids
 * appended, out_text (NULL = not wanted) the text. stats may be NULL. The session is left after the last evaluated token; a draft's too, or before it.
 * EW_ECORRUPT when the logits are no numbers. */
ew_status ew_generate(ew_session *s, const int32_t *prompt, size_t n_prompt, const ew_generate_opt *opt,
                      ew_tokens *out_ids, ew_buf *out_text, ew_generate_stats *stats, ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_label {
    const int32_t *ids; /* [n], n > 0 */
    size_t n;
} ew_label;

/* Log-probability (nats, summed over the label's tokens) of each label as the continuation of the prompt: ret_log_prob[n_labels]. The prompt
 * is evaluated once at position 0; every label shares its cache, and labels that share leading tokens share those too when they are
 * neighbours. The session is left after the prompt. */
ew_status ew_score_labels(ew_session *s, const int32_t *prompt, size_t n_prompt, const ew_label *labels,
                          size_t n_labels, double *ret_log_prob, ew_error *reterr) EW_MUST_CHECK;

#endif
