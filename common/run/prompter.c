#include "run/prompter.h"

#include <string.h>

#include "base/mem.h"
#include "domain/trial.h"

#define SEQ_MAX_DEFAULT 512
#define PROMPT_MIN_TOK 32

struct ew_prompter {
    ew_prompter_opt opt;
    const ew_item *sources;
    size_t n_sources;
    ew_rag *rag;            /* NULL without retrieval; keys are indices into sources */
    ew_rag_hit *hits;       /* [rag_k] */
    const ew_item **picked; /* [rag_k] */
    float *vector;          /* [dim] of a query, scratch; NULL without an embedder */
    ew_tokens count;        /* scratch of the token counter */
};

unsigned ew_prompter_fuse(uint32_t rag_rank)
{
    static const unsigned fuse[EW_RAG_RANK_COUNT] = {
        [EW_RAG_RANK_RECENCY] = EW_RAG_RECENCY,
        [EW_RAG_RANK_VECTORS] = EW_RAG_VECTOR,
        [EW_RAG_RANK_FUSED] = EW_RAG_BM25 | EW_RAG_RECENCY | EW_RAG_VECTOR,
    };
    return rag_rank < EW_RAG_RANK_COUNT ? fuse[rag_rank] : 0;
}

bool ew_prompter_embeds(uint32_t rag_rank)
{
    return (ew_prompter_fuse(rag_rank) & EW_RAG_VECTOR) != 0;
}

/* Tokens of a text, for the budget; an estimate of 1 per 3 bytes when it cannot be encoded. */
static size_t count_tokens(const char *text, size_t size, void *ctx)
{
    ew_prompter *p = ctx;
    p->count.n = 0;
    if (ew_tokenizer_encode(p->opt.tokenizer, text, size, 0, &p->count, NULL) != EW_OK) {
        return size / 3 + 1;
    }
    return p->count.n;
}

static ew_status add_vector(ew_prompter *p, size_t i, const char *text, size_t size, ew_error *reterr)
{
    if (p->vector == NULL || size == 0) {
        return EW_OK; /* an empty text has none */
    }
    size_t dim = ew_embedder_dim(p->opt.embedder);
    const float *v = p->opt.vectors != NULL ? p->opt.vectors + i * dim : p->vector;
    if (p->opt.vectors == NULL && p->opt.vector_of != NULL) {
        bool has = false;
        EW_TRY(p->opt.vector_of(p->opt.vector_ctx, i, (ew_span){text, size}, p->vector, &has, reterr));
        return has ? ew_rag_vector_add(p->rag, i, v, dim, reterr) : EW_OK;
    }
    if (p->opt.vectors == NULL) {
        EW_TRY(ew_embed_text(p->opt.embedder, text, size, p->vector, reterr));
    }
    return ew_rag_vector_add(p->rag, i, v, dim, reterr);
}

static ew_status build_index(ew_prompter *p, ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_rag_new(&p->rag, reterr));
    for (size_t i = 0; i < p->n_sources; i++) {
        ew_buf_clear(&text);
        ew_task_corpus(p->opt.task, &p->sources[i], &text);
        EW_TRY(ew_buf_check(&text, reterr));
        EW_TRY(ew_rag_add(p->rag, i, ew_buf_str(&text), text.size, p->sources[i].order, reterr));
        EW_TRY(add_vector(p, i, ew_buf_str(&text), text.size, reterr));
    }
    return EW_OK;
}

static ew_status check_fusion(const ew_prompter_opt *opt, ew_error *reterr)
{
    if ((opt->rag_fuse & EW_RAG_VECTOR) != 0 && opt->embedder == NULL) {
        return ew_fail(reterr, EW_EINVAL, "retrieval by vectors needs a model that makes them");
    }
    return EW_OK;
}

ew_status ew_prompter_new(const ew_prompter_opt *opt, const ew_item *sources, size_t n_sources,
                          ew_prompter **ret_prompter, ew_error *reterr)
{
    EW_AUTO(ew_prompter) p = ew_calloc(1, sizeof(*p));
    if (p == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "out of memory for prompts");
    }
    p->opt = *opt;
    p->opt.seq_max_tok = opt->seq_max_tok != 0 ? opt->seq_max_tok : SEQ_MAX_DEFAULT;
    if (p->opt.seq_max_tok < opt->task->max_answer_tok + PROMPT_MIN_TOK) {
        return ew_fail(reterr, EW_EINVAL, "sequences of %u tokens leave no room for a prompt before an answer of %zu",
                       p->opt.seq_max_tok, opt->task->max_answer_tok);
    }
    if (opt->rag_k > 0) {
        EW_TRY(check_fusion(opt, reterr));
        p->sources = sources;
        p->n_sources = n_sources;
        p->hits = ew_calloc(opt->rag_k, sizeof(*p->hits));
        p->picked = ew_calloc(opt->rag_k, sizeof(*p->picked));
        bool vectors = (opt->rag_fuse & EW_RAG_VECTOR) != 0;
        p->vector = vectors ? ew_calloc(ew_embedder_dim(opt->embedder), sizeof(*p->vector)) : NULL;
        if (p->hits == NULL || p->picked == NULL || (vectors && p->vector == NULL)) {
            return ew_fail(reterr, EW_ENOMEM, "out of memory for prompts");
        }
        EW_TRY(build_index(p, reterr));
    }
    *ret_prompter = p;
    p = NULL;
    return EW_OK;
}

void ew_prompter_free(ew_prompter **p)
{
    if (p != NULL && *p != NULL) {
        ew_rag_free(&(*p)->rag);
        ew_free((*p)->hits);
        ew_free((*p)->picked);
        ew_free((*p)->vector);
        ew_tokens_release(&(*p)->count);
        ew_free(*p);
        *p = NULL;
    }
}

ew_status ew_prompter_prompt(ew_prompter *p, const char *input, uint64_t before, ew_tokens *out, ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    size_t n = 0;
    if (p->rag != NULL) {
        ew_rag_query query = {.text = input,
                              .size = strlen(input),
                              .k = p->opt.rag_k,
                              .before_order = before,
                              .recency = p->opt.rag_recency,
                              .fuse = p->opt.rag_fuse,
                              .vector = p->vector,
                              .dim = p->vector != NULL ? ew_embedder_dim(p->opt.embedder) : 0};
        if (*input == '\0') {
            query.vector = NULL;
        } else if (p->vector != NULL) {
            EW_TRY(ew_embed_text(p->opt.embedder, input, strlen(input), p->vector, reterr));
        }
        EW_TRY(ew_rag_search(p->rag, &query, p->hits, &n, reterr));
        for (size_t i = 0; i < n; i++) {
            p->picked[i] = &p->sources[p->hits[i].key];
        }
    }
    const ew_task_budget budget = {
        .max_tok = p->opt.seq_max_tok - p->opt.task->max_answer_tok - 2, .count = count_tokens, .ctx = p};
    EW_TRY(ew_task_prompt(p->opt.task, input, p->picked, n, &budget, &text, NULL, reterr));
    EW_TRY(ew_buf_check(&text, reterr));
    return ew_tokenizer_encode(p->opt.tokenizer, ew_buf_str(&text), text.size, EW_ENCODE_BOS, out, reterr);
}

ew_status ew_prompter_answer(const ew_prompter *p, const char *output, ew_tokens *out, ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    size_t start = out->n;
    ew_task_answer(output, &text);
    EW_TRY(ew_buf_check(&text, reterr));
    EW_TRY(ew_tokenizer_encode(p->opt.tokenizer, ew_buf_str(&text), text.size, 0, out, reterr));
    /* A long answer is judged on its beginning, like a generated one. */
    out->n = EW_MIN(out->n, start + p->opt.task->max_answer_tok);
    int32_t eos = ew_tokenizer_eos(p->opt.tokenizer);
    return eos >= 0 ? ew_tokens_add(out, eos) : EW_OK;
}
