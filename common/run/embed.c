#include "run/embed.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "kern/ops.h"
#include "model/weights.h"
#include "text/utf8.h"
#include "token/tokenizer.h"

#define MAX_TOK_DEFAULT 256u
#define BYTES_PER_TOK 32u /* more of a text is not looked at: a token of words has about 4 */

struct ew_embedder {
    ew_session *session;
    const ew_model *model; /* the session's */
    ew_exec exec;
    uint32_t max_tok;
    ew_tokens ids;
    float *x; /* [max_tok, C] of a decoder */
};

void ew_embedder_free(ew_embedder **e)
{
    if (e != NULL && *e != NULL) {
        ew_session_free(&(*e)->session);
        ew_tokens_release(&(*e)->ids);
        ew_free((*e)->x);
        ew_free(*e);
        *e = NULL;
    }
}

ew_status ew_embedder_new(const ew_model *m, const ew_embed_opt *opt, ew_embedder **ret_embedder, ew_error *reterr)
{
    static const ew_embed_opt none = {{NULL, NULL}, 0};
    const ew_model_config *c = ew_model_config_of(m);
    opt = opt != NULL ? opt : &none;
    if (ew_model_tokenizer(m) == NULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "%s has no tokenizer: it makes no vectors of texts", c->name);
    }
    EW_AUTO(ew_embedder) e = ew_calloc(1, sizeof(*e));
    if (e == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for vectors of texts");
    }
    e->exec = opt->exec;
    e->exec.kern = e->exec.kern != NULL ? e->exec.kern : ew_kern_get(NULL);
    e->max_tok = EW_MIN(opt->max_tok != 0 ? opt->max_tok : MAX_TOK_DEFAULT, c->n_ctx_train);
    e->max_tok = EW_MAX(e->max_tok, 2u); /* an encoder's first and last */
    const ew_session_opt so = {.n_ctx = e->max_tok, .n_batch = e->max_tok, .exec = e->exec, .kv_type = EW_KV_F32};
    EW_TRY(ew_session_new(m, &so, &e->session, reterr));
    e->model = ew_session_model(e->session);
    e->x = ew_malloc((size_t)e->max_tok + 1, c->C * sizeof(*e->x));
    if (e->x == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for vectors of %u numbers", c->C);
    }
    *ret_embedder = e;
    e = NULL;
    return EW_OK;
}

size_t ew_embedder_dim(const ew_embedder *e)
{
    return ew_model_config_of(e->model)->C;
}

const ew_model *ew_embedder_model(const ew_embedder *e)
{
    return e->model;
}

uint64_t ew_embedder_bytes(const ew_embedder *e)
{
    return ew_session_bytes(e->session) + ((uint64_t)e->max_tok + 1) * ew_embedder_dim(e) * sizeof(*e->x);
}

/* The first max_tok tokens; an encoder's closing one stays the last. */
static ew_status tokens_of(ew_embedder *e, const char *text, size_t size, ew_error *reterr)
{
    size_t room = (size_t)e->max_tok * BYTES_PER_TOK;
    if (size > room) {
        for (size = room; size > 0 && ((unsigned char)text[size] & 0xC0) == 0x80;) {
            size--;
        }
    }
    e->ids.n = 0;
    EW_TRY(ew_tokenizer_encode(ew_model_tokenizer(e->model), text, size, EW_ENCODE_BOS | EW_ENCODE_EOS_ASKED, &e->ids,
                               reterr));
    if (e->ids.n > e->max_tok) {
        if (ew_model_config_of(e->model)->encoder) {
            e->ids.id[e->max_tok - 1] = e->ids.id[e->ids.n - 1];
        }
        e->ids.n = e->max_tok;
    }
    if (size == 0 || e->ids.n == 0) {
        return ew_fail(reterr, EW_EINVAL, "an empty text has no vector");
    }
    return EW_OK;
}

/* The mean over tokens of the normed hidden states. */
static ew_status decode(ew_embedder *e, float *ret, ew_error *reterr)
{
    const ew_model_config *c = ew_model_config_of(e->model);
    const float *w = ew_model_output_norm(e->model), *b = ew_model_output_norm_b(e->model);
    size_t n = e->ids.n;
    EW_TRY(ew_session_embed(e->session, e->ids.id, n, 0, e->x, reterr));
    EW_TRY(ew_session_run(e->session, 0, c->L, e->x, n, 0, reterr));
    if (w != NULL && c->norm == EW_NORM_LAYER) {
        ew_layernorm(&e->exec, e->x, w, b, n, c->C, c->norm_eps, e->x);
    } else if (w != NULL) {
        ew_rmsnorm(&e->exec, e->x, w, n, c->C, c->norm_eps, e->x, NULL);
    }
    for (size_t i = 0; i < c->C; i++) {
        double sum = 0;
        for (size_t t = 0; t < n; t++) {
            sum += (double)e->x[t * c->C + i];
        }
        ret[i] = (float)(sum / (double)n);
    }
    return EW_OK;
}

ew_status ew_embed_text(ew_embedder *e, const char *text, size_t size, float *ret, ew_error *reterr)
{
    const ew_model_config *c = ew_model_config_of(e->model);
    EW_TRY(tokens_of(e, text, size, reterr));
    if (c->encoder) {
        ew_pooling pooling = c->pooling != EW_POOLING_NONE ? c->pooling : EW_POOLING_MEAN;
        EW_TRY(ew_session_encode(e->session, e->ids.id, e->ids.n, pooling, e->x, reterr));
    } else {
        float *mean = e->x + (size_t)e->max_tok * c->C;
        EW_TRY(decode(e, mean, reterr));
        memcpy(e->x, mean, c->C * sizeof(*mean));
    }
    double sum = 0;
    for (size_t i = 0; i < c->C; i++) {
        sum += (double)e->x[i] * (double)e->x[i];
    }
    if (!(sum > 0) || !isfinite(sum)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s gives a text no vector that is finite: its weights are damaged",
                       c->name);
    }
    for (size_t i = 0; i < c->C; i++) {
        ret[i] = (float)((double)e->x[i] / sqrt(sum));
    }
    return EW_OK;
}

ew_status ew_embed_texts(ew_embedder *e, const char *const *text, size_t n, const ew_progress *progress, float *ret,
                         ew_error *reterr)
{
    for (size_t i = 0; i < n; i++) {
        const ew_progress_info info = {
            .phase = "embed", .unit = "items", .done = i, .total = n, .loss = (double)NAN, .left_s = (double)NAN};
        if (!ew_progress_tell(progress, &info)) {
            return ew_fail(reterr, EW_ECANCELLED, "stopped after the vectors of %zu of %zu texts", i, n);
        }
        EW_TRY(ew_embed_text(e, text[i], strlen(text[i]), ret + i * ew_embedder_dim(e), reterr));
    }
    return EW_OK;
}
