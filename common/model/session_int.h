/* What session.c (memory, chunks) and layer.c (the block) share. */
#ifndef EW_MODEL_SESSION_INT_H
#define EW_MODEL_SESSION_INT_H

#include "base/arena.h"
#include "model/model_int.h"
#include "model/session.h"

#define HEAD_ROWS 8u         /* rows of logits that nll keeps at once */
#define EW_VOTE_EXITS_MAX 8u /* early exits of a session */

/* Workspace of layer evaluation; arrays of n_batch rows. */
typedef struct layer_work {
    float *x;       /* [T,C] hidden states of eval */
    float *xn;      /* [T,C] normalised input */
    float *q;       /* [T,H*D] */
    float *k, *v;   /* [T,K*D] */
    float *att;     /* [T,H*D] */
    float *o;       /* [T,C] output of O and of Down */
    float *gate;    /* [T,F] */
    float *up;      /* [T,F] */
    float *lowrank; /* [T,max_rank] between two small products */
    float *logits;  /* [HEAD_ROWS,V] */
    void *scratch;  /* for products */
} layer_work;

struct ew_session {
    ew_model *m;        /* a reference */
    ew_session_opt opt; /* defaults filled in */
    ew_hooks hooks;     /* copy of what was given */
    bool virtual_ready; /* the cache holds the virtual positions of hooks */
    struct {
        uint32_t a, b;    /* layers [a, b) run by fn; a == b: none do */
        ew_segment_fn fn; /* */
        void *ctx;        /* */
    } segment;
    ew_rope_opt rope[2];  /* with table and factors: of all layers, of local ones with a base of their own */
    uint32_t pos;         /* tokens appended by eval; the first stands behind the virtual positions */
    uint32_t max_rank;    /* of low-rank workspace */
    uint32_t max_virtual; /* rows of the cache beside n_ctx */
    ew_dtype kv_dtype;    /* */
    size_t kv_row_bytes;  /* of one position of one layer's K or V */
    unsigned char *kv;    /* [last-first][K, V][ew__session_rows] rows */
    layer_work w;         /* */
    struct {
        float *stream; /* [max exits][n_batch, C] of the chunk, behind each exit's layer */
        float *xn;     /* [max(HEAD_ROWS, exits + 1), C] */
        float *logits; /* as many rows of V, and two of room */
        void *scratch; /* for the product */
    } vote;            /* NULL without room for exits */
    ew_arena arena;    /* owns kv and workspace */
};

/* Rows of the cache, virtual positions first. */
static inline size_t ew__session_rows(const ew_session *s)
{
    return (size_t)s->opt.n_ctx + s->max_virtual;
}

/* Positions below count the virtual ones, T <= n_batch.
 * x[T,C] of tokens at pos …. */
void ew__embed_chunk(ew_session *s, const int32_t *ids, size_t T, uint32_t pos, float *x);
/* x[T,C] of the prompt's rows pos …. */
void ew__prompt_chunk(ew_session *s, size_t T, uint32_t pos, float *x);
/* Keys and values of a prefix into the cache of the session's layers. */
void ew__store_prefix(ew_session *s);
/* Layers [a,b) on x[T,C] in place, T <= n_batch; writes their cache at pos. Nobody will look at the rows before `keep` (<= T) behind
 * the model's last layer: it leaves them as they come. */
void ew__run_chunk(ew_session *s, uint32_t a, uint32_t b, float *x, size_t T, size_t keep, uint32_t pos);
/* Logits of n <= n_batch rows. */
void ew__head_chunk(ew_session *s, const float *x, size_t n, float *logits);
/* y = the model's norm with w and b (w NULL: y = x), of T rows. */
void ew__norm_rows(const ew_session *s, const float *x, const float *w, const float *b, size_t T, float *y);
/* Output matrix with bias and soft cap on n normalised rows; scratch for n rows. */
void ew__output_rows(const ew_session *s, const float *xn, size_t n, float *logits, void *scratch);

/* Early exits (vote.c), room for opt.max_exits of them. */
void ew__vote_take(ew_session *s, ew_arena *a);
ew_status ew__vote_check(const ew_session *s, const ew_hooks *hooks, ew_error *reterr) EW_MUST_CHECK;
/* Whether an exit stands behind this many layers. */
bool ew__vote_here(const ew_session *s, uint32_t layer);
/* Keeps the stream there for all rows of the chunk. */
void ew__vote_keep(ew_session *s, uint32_t layer, const float *x, size_t T);
/* Logits of rows [first, first + n) of the chunk that is in s->w.x: the vote, or the last head's without exits. */
void ew__vote_chunk(ew_session *s, size_t first, size_t n, float *logits);

#endif
