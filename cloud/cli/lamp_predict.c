/* `edgewise lamp predict`: a model's answers to LaMP's questions, in its own file format. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "chat/chat.h"
#include "cli/app.h"
#include "cli/lamp.h"
#include "model/generate.h"
#include "model/model.h"
#include "peft/adapter.h"
#include "rag/rag.h"
#include "run/embed.h"
#include "sys/cli.h"
#include "sys/file.h"
#include "sys/signal.h"
#include "sys/term.h"
#include "task/lamp.h"
#include "task/task.h"

#define MAX_LENGTH_DEFAULT 512u
#define N_RETRIEVED_MAX 64
#define CHAT_TOK 256u /* room for a template's own words */

typedef struct predict_args {
    char *model, *questions, *out, *task, *retrieve, *adapter, *outputs, *embedder;
    int64_t k, max_length, limit, threads;
    bool chat, use_date, json;
} predict_args;

typedef enum retrieval {
    RETRIEVE_NONE,
    RETRIEVE_BM25,
    RETRIEVE_RECENCY,
    RETRIEVE_FUSED,
    RETRIEVE_VECTORS
} retrieval;

typedef struct predictor {
    const predict_args *a;
    ew_lamp_task task;
    const ew_task *form; /* how the prompt ends and what an answer is */
    retrieval how;
    const ew_model *model;
    const ew_tokenizer *tok;
    ew_session *session;
    ew_embedder *embedder;
    size_t max_length;
    ew_tokens ids;       /* scratch of the token counter */
    ew_tokens label_ids; /* all labels one after the other */
    ew_label *labels;    /* [form->n_labels] */
    size_t n_special;    /* tokens that encoding adds */
    ew_lamp_answers answers;
    size_t n_personal;
} predictor;

static void predictor_release(predictor *p)
{
    ew_session_free(&p->session);
    ew_embedder_free(&p->embedder);
    ew_tokens_release(&p->ids);
    ew_tokens_release(&p->label_ids);
    ew_free(p->labels);
    ew_lamp_answers_release(&p->answers);
}

/* --- the tokenizer, as LaMP uses its own --- */
static size_t count_tokens(const char *text, size_t size, void *ctx)
{
    predictor *p = ctx;
    p->ids.n = 0;
    return ew_tokenizer_encode(p->tok, text, size, EW_ENCODE_BOS, &p->ids, NULL) == EW_OK ? p->ids.n : size / 3 + 1;
}

static bool cut_tokens(const char *text, size_t size, size_t max_tok, ew_buf *out, void *ctx)
{
    predictor *p = ctx;
    if (max_tok < p->n_special) {
        return false;
    }
    if (count_tokens(text, size, p) <= max_tok) {
        ew_buf_add(out, text, size);
        return true;
    }
    EW_AUTO_BUF kept = {0};
    if (ew_tokenizer_decode(p->tok, p->ids.id, max_tok, 0, &kept, NULL) != EW_OK) {
        return false;
    }
    ew_buf_add(out, ew_buf_str(&kept), kept.size);
    return true;
}

/* --- retrieval --- */
static ew_status rank_vectors(predictor *p, const ew_lamp_question *q, size_t *index, size_t *n, ew_error *reterr)
{
    EW_AUTO(ew_rag) rag = NULL;
    EW_AUTO_BUF text = {0};
    size_t dim = ew_embedder_dim(p->embedder);
    ew_rag_hit hit[N_RETRIEVED_MAX];
    EW_TRY(ew_rag_new(&rag, reterr));
    float *v = ew_calloc(dim, sizeof(*v));
    ew_status st = v != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "no memory for vectors");
    for (size_t i = 0; st == EW_OK && i <= q->n_profile; i++) {
        ew_buf_clear(&text);
        if (i == q->n_profile) {
            st = ew_lamp_query(p->task, q->input, &text, reterr);
        } else {
            ew_lamp_corpus(p->task, &q->profile[i], p->a->use_date, &text);
            st = ew_rag_add(rag, i, "", 0, i, reterr);
        }
        if (st == EW_OK && (i == q->n_profile || text.size != 0)) {
            st = ew_embed_text(p->embedder, ew_buf_str(&text), text.size, v, reterr);
            if (st == EW_OK && i < q->n_profile) {
                st = ew_rag_vector_add(rag, i, v, dim, reterr);
            }
        }
    }
    const ew_rag_query query = {.k = *n, .before_order = UINT64_MAX, .fuse = EW_RAG_VECTOR, .vector = v, .dim = dim};
    st = st == EW_OK ? ew_rag_search(rag, &query, hit, n, reterr) : st;
    for (size_t i = 0; st == EW_OK && i < *n; i++) {
        index[i] = (size_t)hit[i].key;
    }
    ew_free(v);
    return st;
}

static ew_status personal_input(predictor *p, const ew_lamp_question *q, ew_buf *out, ew_error *reterr)
{
    size_t index[N_RETRIEVED_MAX], n = p->how == RETRIEVE_NONE ? 0 : EW_MIN((size_t)p->a->k, q->n_profile);
    const ew_lamp_record *record[N_RETRIEVED_MAX];
    const ew_lamp_tokens tokens = {count_tokens, cut_tokens, p};
    if (n != 0 && p->how == RETRIEVE_VECTORS) {
        EW_TRY(rank_vectors(p, q, index, &n, reterr));
    } else if (n != 0) {
        ew_lamp_ranker ranker = p->how == RETRIEVE_BM25      ? EW_LAMP_BM25
                                : p->how == RETRIEVE_RECENCY ? EW_LAMP_RECENCY
                                                             : EW_LAMP_FUSED;
        EW_TRY(ew_lamp_rank(p->task, q, ranker, p->a->use_date, n, index, &n, reterr));
    }
    for (size_t i = 0; i < n; i++) {
        record[i] = &q->profile[index[i]];
    }
    bool personal = false;
    EW_AUTO_BUF whole = {0};
    EW_TRY(ew_lamp_prompt(p->task, q->input, record, n, p->max_length, &tokens, &whole, &personal, reterr));
    p->n_personal += personal;
    /* LaMP cuts what is still too long at its end. */
    if (!cut_tokens(ew_buf_str(&whole), whole.size, p->max_length, out, p)) {
        return ew_fail(reterr, EW_EINVAL, "question %s: the input cannot be cut to %zu tokens", q->id, p->max_length);
    }
    return ew_buf_check(out, reterr);
}

/* --- answers --- */
static ew_status prompt_of(predictor *p, const char *input, ew_tokens *out, ew_error *reterr)
{
    if (p->a->chat) {
        const ew_chat_message message = {.role = "user", .content = input};
        const ew_chat_render_opt opt = {.add_generation_prompt = true};
        return ew_chat_prompt(p->tok, ew_model_chat_template(p->model), &message, 1, &opt, out, reterr);
    }
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_task_prompt(p->form, input, NULL, 0, NULL, &text, NULL, reterr));
    return ew_tokenizer_encode(p->tok, ew_buf_str(&text), text.size, EW_ENCODE_BOS, out, reterr);
}

static ew_status add_label(predictor *p, const char *label, ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    if (p->a->chat) {
        ew_buf_adds(&text, label);
    } else {
        ew_task_answer(label, &text);
    }
    EW_TRY(ew_buf_check(&text, reterr));
    EW_TRY(ew_tokenizer_encode(p->tok, ew_buf_str(&text), text.size, 0, &p->label_ids, reterr));
    int32_t eos = ew_tokenizer_eos(p->tok);
    return eos >= 0 && !p->a->chat ? ew_tokens_add(&p->label_ids, eos) : EW_OK;
}

static ew_status prepare_labels(predictor *p, ew_error *reterr)
{
    size_t n = p->form->n_labels;
    p->labels = ew_calloc(n + 1, sizeof(*p->labels));
    if (p->labels == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for %zu labels", n);
    }
    for (size_t i = 0; i < n; i++) {
        size_t start = p->label_ids.n;
        EW_TRY(add_label(p, p->form->labels[i], reterr));
        p->labels[i].n = p->label_ids.n - start;
    }
    for (size_t i = 0, at = 0; i < n; i++) { /* now that the array has stopped moving */
        p->labels[i].ids = p->label_ids.id + at;
        at += p->labels[i].n;
    }
    return EW_OK;
}

static ew_status answer_of(predictor *p, const ew_tokens *prompt, ew_buf *out, ew_error *reterr)
{
    if (p->form->n_labels != 0) {
        double log_prob[EW_TASK_LABELS_MAX];
        size_t best = 0;
        EW_TRY(ew_score_labels(p->session, prompt->id, prompt->n, p->labels, p->form->n_labels, log_prob, reterr));
        for (size_t i = 1; i < p->form->n_labels; i++) {
            best = log_prob[i] > log_prob[best] ? i : best;
        }
        ew_buf_adds(out, p->form->labels[best]);
        return ew_buf_check(out, reterr);
    }
    static const char *const stop[] = {"\n"};
    const ew_generate_opt opt = {.max_tok = (uint32_t)p->form->max_answer_tok, .stop = stop, .n_stop = EW_COUNT(stop)};
    EW_AUTO_BUF text = {0};
    ew_session_reset(p->session);
    EW_TRY(ew_generate(p->session, prompt->id, prompt->n, &opt, NULL, &text, NULL, reterr));
    ew_task_clean(p->form, ew_buf_str(&text), text.size, out);
    return ew_buf_check(out, reterr);
}

static ew_status answer_question(predictor *p, const ew_lamp_question *q, ew_error *reterr)
{
    EW_AUTO_BUF input = {0};
    EW_AUTO_BUF answer = {0};
    EW_AUTO_TOKENS prompt = {0};
    EW_TRY(personal_input(p, q, &input, reterr));
    EW_TRY(prompt_of(p, ew_buf_str(&input), &prompt, reterr));
    ew_status st = answer_of(p, &prompt, &answer, reterr);
    if (st != EW_OK) {
        return ew_wrap(reterr, st, "question %s", q->id);
    }
    return ew_lamp_answers_add(&p->answers, q->id, ew_buf_str(&answer), reterr);
}

/* --- set-up --- */
static ew_status parse_retrieval(const char *text, retrieval *ret, ew_error *reterr)
{
    static const char *const names[] = {"none", "bm25", "recency", "fused", "vectors"};
    for (size_t i = 0; i < EW_COUNT(names); i++) {
        if (text != NULL && ew_str_eq(text, names[i])) {
            *ret = (retrieval)i;
            return EW_OK;
        }
    }
    *ret = RETRIEVE_BM25;
    return text == NULL
               ? EW_OK
               : ew_fail(reterr, EW_EINVAL, "--retrieve '%s' is not one of none, bm25, recency, fused, vectors", text);
}

static ew_status open_embedder(predictor *p, const ew_model *m, const ew_exec *exec, ew_error *reterr)
{
    if (p->how != RETRIEVE_VECTORS) {
        return EW_OK;
    }
    ew_model *own = NULL;
    if (p->a->embedder != NULL) {
        EW_TRY(ew_model_open(p->a->embedder, NULL, &own, reterr));
    }
    ew_status st = ew_embedder_new(own != NULL ? own : m, &(ew_embed_opt){.exec = *exec}, &p->embedder, reterr);
    ew_model_unref(&own);
    return st;
}

static ew_status open_session(predictor *p, const ew_model *m, const ew_adapter *adapter, const ew_exec *exec,
                              ew_error *reterr)
{
    uint32_t ctx = ew_model_config_of(m)->n_ctx_train, extra = p->a->chat ? CHAT_TOK : 16;
    uint32_t answer = (uint32_t)p->form->max_answer_tok + extra;
    uint32_t most = ctx > answer + 16 ? ctx - answer : 0;
    uint32_t wanted = p->a->max_length != 0 ? (uint32_t)p->a->max_length : EW_MIN(MAX_LENGTH_DEFAULT, most);
    if (wanted == 0 || wanted > most) {
        return ew_fail(reterr, EW_EINVAL, "the model reads %u tokens: a prompt may have %u of them beside the answer",
                       ctx, most);
    }
    if (p->a->chat && ew_model_chat_template(m) == NULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "%s has no chat template. HINT: leave out --chat", p->a->model);
    }
    p->max_length = wanted;
    const ew_hooks *hooks = adapter != NULL ? ew_adapter_hooks(adapter) : NULL;
    const ew_session_opt so = {.n_ctx = wanted + answer, .exec = *exec, .hooks = hooks};
    return ew_session_new(m, &so, &p->session, reterr);
}

static ew_status answer_all(predictor *p, const ew_progress *progress, ew_error *reterr)
{
    EW_AUTO(ew_lamp_reader) r = NULL;
    EW_TRY(ew_lamp_open(p->a->questions, p->task, &r, reterr));
    for (size_t n = 0; p->a->limit == 0 || n < (size_t)p->a->limit; n++) {
        EW_CLEANUP(ew_lamp_question_release) ew_lamp_question q = {0};
        bool more = false;
        const ew_progress_info info = {.phase = "predict",
                                       .unit = "questions",
                                       .done = n,
                                       .total = (uint64_t)p->a->limit,
                                       .loss = (double)NAN,
                                       .left_s = (double)NAN};
        if (!ew_progress_tell(progress, &info)) {
            return ew_fail(reterr, EW_ECANCELLED, "stopped after %zu questions", n);
        }
        EW_TRY(ew_lamp_next(r, &q, &more, reterr));
        if (!more) {
            break;
        }
        EW_TRY(answer_question(p, &q, reterr));
    }
    return EW_OK;
}

static ew_status write_answers(predictor *p, ew_error *reterr)
{
    EW_AUTO_BUF text = {.max = (size_t)1 << 30};
    ew_lamp_answers_write(&p->answers, &text);
    EW_TRY(ew_buf_check(&text, reterr));
    return ew_file_replace(p->a->out, ew_buf_str(&text), text.size, 0600, reterr);
}

/* Scored on the questions that were asked: with --limit the golds of the others are left out. */
static ew_status score(predictor *p, ew_error *reterr)
{
    EW_CLEANUP(ew_lamp_answers_release) ew_lamp_answers all = {0};
    EW_CLEANUP(ew_lamp_answers_release) ew_lamp_answers asked = {0};
    ew_lamp_scores s;
    EW_TRY(ew_lamp_answers_read(p->a->outputs, &all, reterr));
    asked.task = all.task;
    for (size_t i = 0; i < p->answers.n; i++) {
        const char *id = p->answers.answer[i].id, *output = ew_lamp_answer_of(&all, id);
        if (output == NULL) {
            return ew_fail(reterr, EW_EINVAL, "%s has no output for question %s", p->a->outputs, id);
        }
        EW_TRY(ew_lamp_answers_add(&asked, id, output, reterr));
    }
    EW_TRY(ew_lamp_score(&asked, &p->answers, &s, reterr));
    ew_cli_lamp_print_scores(&asked, &s, p->a->json);
    return EW_OK;
}

static ew_status predict(predictor *p, const ew_exec *exec, const ew_progress *progress, ew_error *reterr)
{
    EW_AUTO(ew_model) base = NULL;
    EW_AUTO(ew_adapter) adapter = NULL;
    EW_AUTO(ew_model) m = NULL;
    EW_TRY(parse_retrieval(p->a->retrieve, &p->how, reterr));
    EW_TRY(ew_cli_lamp_task(p->a->task, p->a->questions, &p->task, reterr));
    p->form = ew_task_find(ew_lamp_info_of(p->task)->name);
    p->answers.task = p->task;
    EW_TRY(ew_model_open(p->a->model, NULL, &base, reterr));
    if (p->a->adapter != NULL) {
        EW_TRY(ew_adapter_load(p->a->adapter, base, &adapter, reterr));
        EW_TRY(ew_adapter_model(adapter, base, &m, reterr));
    } else {
        m = ew_model_ref(base);
    }
    p->model = m;
    p->tok = ew_model_tokenizer(m);
    if (p->tok == NULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "%s has no tokenizer", p->a->model);
    }
    p->n_special = count_tokens("", 0, p);
    ew_status st = open_session(p, m, adapter, exec, reterr);
    st = st == EW_OK ? open_embedder(p, base, exec, reterr) : st;
    st = st == EW_OK ? prepare_labels(p, reterr) : st;
    st = st == EW_OK ? answer_all(p, progress, reterr) : st;
    ew_session_free(&p->session); /* before the adapter that it looks into */
    EW_TRY(st);
    EW_TRY(write_answers(p, reterr));
    return p->a->outputs != NULL ? score(p, reterr) : EW_OK;
}

static void print_done(const predictor *p)
{
    if (p->a->outputs != NULL) {
        return; /* the scores are what was asked for */
    }
    if (p->a->json) {
        printf("{\"task\":\"%s\",\"n\":%zu,\"personal\":%zu}\n", ew_lamp_info_of(p->task)->name, p->answers.n,
               p->n_personal);
    } else {
        printf("%s: %zu answers, %zu of them with records of the profile in the prompt\n", p->a->out, p->answers.n,
               p->n_personal);
    }
}

static int parse(int argc, char **argv, predict_args *a)
{
    const ew_cli_opt opts[] = {
        {"out", 'o', "FILE", EW_CLI_STRING, &a->out, .help = "predictions, in LaMP's format"},
        {"task", 't', "TASK", EW_CLI_STRING, &a->task,
         .help = "lamp-1 to lamp-7, lamp-2n (default: told by the first question)"},
        {"retrieve", 'r', "HOW", EW_CLI_STRING, &a->retrieve,
         .help = "none, bm25 (default), recency, fused (both by reciprocal ranks), vectors"},
        {"retrieved", 'k', "N", EW_CLI_I64, &a->k, .help = "records of the profile in a prompt (4)", .min = 1,
         .max = N_RETRIEVED_MAX},
        {"embedder", 0, "PATH", EW_CLI_STRING, &a->embedder,
         .help = "model of the vectors: a BERT-family encoder or a decoder (default: MODEL)"},
        {"use-date", 0, NULL, EW_CLI_FLAG, &a->use_date, .help = "dates are part of what is searched"},
        {"max-length", 'l', "N", EW_CLI_I64, &a->max_length,
         .help = "tokens of a prompt (512, or what the model reads)", .min = 16, .max = 1e6},
        {"adapter", 'a', "PATH", EW_CLI_STRING, &a->adapter, .help = "PEFT directory or GGUF adapter"},
        {"chat", 0, NULL, EW_CLI_FLAG, &a->chat, .help = "the prompt is a message in the model's chat template"},
        {"limit", 'n', "N", EW_CLI_I64, &a->limit, .help = "the first N questions alone", .min = 1, .max = 1e9},
        {"outputs", 0, "FILE", EW_CLI_STRING, &a->outputs, .help = "golds: print the scores too"},
        {"threads", 'j', "N", EW_CLI_I64, &a->threads, .help = "default: all cores", .min = 1, .max = 256},
        {"json", 0, NULL, EW_CLI_FLAG, &a->json, .help = "print JSON"}};
    const ew_cli_pos pos[] = {{"MODEL", EW_CLI_STRING, &a->model, .help = "GGUF file or directory"},
                              {"QUESTIONS", EW_CLI_STRING, &a->questions, .help = "questions file of LaMP"}};
    const int status = ew_cli_parse(
        &(ew_cli_spec){
            "lamp predict",
            "Answers LaMP's questions. The prompt is LaMP's own: records of the profile that fit the question, in its "
            "words and within its length budget, before the question. Labels and ratings are the likeliest of their "
            "set, texts are greedy up to the end of the line.",
            "  edgewise lamp predict qwen2.5-0.5b.gguf dev_questions.json --chat -k 4 --out predictions.json\n"
            "  edgewise lamp predict M dev_questions.json --retrieve none --out plain.json --outputs "
            "dev_outputs.json\n",
            opts, EW_COUNT(opts), pos, EW_COUNT(pos)},
        argc, argv);
    if (status == EW_CLI_GO && a->out == NULL) {
        fprintf(stderr, EW_CLI_PROG ": --out FILE is needed; see --help\n");
        return EW_CLI_USAGE;
    }
    return status;
}

int ew_cli_lamp_predict(int argc, char **argv, void *ctx)
{
    predict_args a = {.k = 4};
    const int status = parse(argc, argv, &a);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_COMPUTE c = {0};
    ew_term_progress *term = NULL;
    predictor p = {.a = &a};
    ew_status st = ew_cli_compute_open(ctx, a.threads, NULL, &c, &err);
    if (st == EW_OK) {
        st = ew_term_progress_new(stderr, "predict", ew_signal_stop, &term);
    }
    if (st == EW_OK) {
        st = predict(&p, &c.exec, ew_term_progress_get(term), &err);
    }
    ew_term_progress_free(&term);
    if (st == EW_OK) {
        print_done(&p);
    }
    predictor_release(&p);
    return st == EW_OK ? 0 : ew_cli_fail(EW_CLI_PROG, st, &err);
}
