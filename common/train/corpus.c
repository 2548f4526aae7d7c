#include "train/corpus.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "sys/file.h"
#include "task/task.h"
#include "token/bpe_train.h"

#define BOS "<|begin_of_text|>"
#define EOS "<|end_of_text|>"
#define N_TASKS 4
#define FILE_MAX (1024u * 1024 * 1024)
#define VAL_SHARE 20 /* one document of so many */

typedef struct val_record {
    ew_item item;
    const ew_task *task;
} val_record;

struct ew_corpus {
    ew_debian *debian; /* NULL: plain files */
    const ew_pretrain_recipe *recipe;
    ew_tokenizer *tok;
    /* debian */
    size_t n_texts;                /* per pass */
    size_t n_records[N_TASKS];     /* per pass */
    const ew_task *task[N_TASKS];  /* section, synopsis, depends, size */
    const uint32_t *pool[N_TASKS]; /* records that can be an example */
    size_t n_pool[N_TASKS];
    val_record *val;
    size_t n_val, val_cap;
    /* files */
    ew_buf text;
    ew_span *piece; /* documents in text */
    size_t n_piece, piece_cap;
    /* scratch of doc */
    ew_buf prompt, answer;
    ew_tokens ids;
    float *weight;
    size_t weight_cap;
};

/* --- rendering --- */

static size_t count_tok(const char *text, size_t size, void *ctx)
{
    ew_corpus *c = ctx;
    ew_tokens t = {0};
    size_t n = size; /* more than it can be: out of memory makes texts shorter, never too long */
    if (ew_tokenizer_encode(c->tok, text, size, 0, &t, NULL) == EW_OK) {
        n = t.n;
    }
    ew_tokens_release(&t);
    return n;
}

/* Room for the prompt: what the context leaves beside BOS, the answer and EOS. */
static ew_task_budget budget_of(ew_corpus *c, const ew_task *task)
{
    const size_t n_ctx = c->recipe->n_ctx, beside = task->max_answer_tok + 2;
    return (ew_task_budget){.max_tok = n_ctx > 2 * beside ? n_ctx - beside : n_ctx / 2, .count = count_tok, .ctx = c};
}

static ew_status start_doc(ew_corpus *c, ew_error *reterr)
{
    c->ids.n = 0;
    ew_buf_clear(&c->prompt);
    ew_buf_clear(&c->answer);
    if (ew_tokens_add(&c->ids, ew_tokenizer_bos(c->tok)) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a document");
    }
    return EW_OK;
}

static ew_status end_doc(ew_corpus *c, size_t n_prompt, float prompt_w, float answer_w, ew_pretrain_doc *ret,
                         ew_error *reterr)
{
    if (ew_tokens_add(&c->ids, ew_tokenizer_eos(c->tok)) != EW_OK ||
        ew_grow((void **)&c->weight, &c->weight_cap, c->ids.n, sizeof(float), SIZE_MAX / sizeof(float)) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a document");
    }
    for (size_t i = 0; i < c->ids.n; i++) {
        c->weight[i] = i < n_prompt ? prompt_w : answer_w;
    }
    *ret = (ew_pretrain_doc){.id = c->ids.id, .weight = c->weight, .n = c->ids.n};
    return EW_OK;
}

static ew_status encode(ew_corpus *c, const ew_buf *b, ew_error *reterr)
{
    EW_TRY(ew_buf_check(b, reterr));
    return ew_tokenizer_encode(c->tok, ew_buf_str(b), b->size, 0, &c->ids, reterr);
}

static ew_status plain_doc(ew_corpus *c, ew_pretrain_doc *ret, ew_error *reterr)
{
    EW_TRY(encode(c, &c->prompt, reterr));
    return end_doc(c, 0, 1.0F, 1.0F, ret, reterr);
}

static ew_status answered_doc(ew_corpus *c, float prompt_w, float answer_w, ew_pretrain_doc *ret, ew_error *reterr)
{
    EW_TRY(encode(c, &c->prompt, reterr));
    const size_t n_prompt = c->ids.n;
    EW_TRY(encode(c, &c->answer, reterr));
    return end_doc(c, n_prompt, prompt_w, answer_w, ret, reterr);
}

/* Element that the index-th of count draws from n shows in a pass: an even stride over all, shifted from pass to pass. */
static size_t stride(size_t index, size_t count, size_t n, uint64_t epoch)
{
    const size_t at = (size_t)((unsigned __int128)index * n / count);
    return (at + (size_t)(epoch * 2654435761u % n)) % n;
}

static ew_status train_doc(void *ctx, uint64_t epoch, size_t index, ew_pretrain_doc *ret, ew_error *reterr)
{
    ew_corpus *c = ctx;
    const ew_pretrain_recipe *r = c->recipe;
    EW_TRY(start_doc(c, reterr));
    if (index < c->n_texts) {
        const size_t n = ew_debian_n_texts(c->debian);
        EW_TRY(ew_debian_text(c->debian, stride(index, c->n_texts, n, epoch), &c->prompt, reterr));
        return plain_doc(c, ret, reterr);
    }
    size_t at = index - c->n_texts;
    size_t which = 0;
    while (which + 1 < N_TASKS && at >= c->n_records[which]) {
        at -= c->n_records[which++];
    }
    ew_rng rng;
    ew_rng_init(&rng, r->seed ^ 0x636f72707573u, epoch * 0x100000000u + index);
    size_t k = 0;
    if (ew_rng_below(&rng, 100) >= r->zero_shot_percent && r->retrieved_max > 0) {
        k = 1 + (size_t)ew_rng_below(&rng, r->retrieved_max);
    }
    const uint32_t record = c->pool[which][stride(at, c->n_records[which], c->n_pool[which], epoch)];
    const ew_task_budget budget = budget_of(c, c->task[which]);
    EW_TRY(ew_debian_example(c->debian, c->task[which], record, k, &budget, &c->prompt, &c->answer, reterr));
    return answered_doc(c, r->prompt_weight, r->answer_weight, ret, reterr);
}

static ew_status val_doc(void *ctx, uint64_t epoch, size_t index, ew_pretrain_doc *ret, ew_error *reterr)
{
    (void)epoch;
    ew_corpus *c = ctx;
    const val_record *v = &c->val[index];
    EW_TRY(start_doc(c, reterr));
    const ew_task_budget budget = budget_of(c, v->task);
    EW_TRY(ew_task_prompt(v->task, v->item.input, NULL, 0, &budget, &c->prompt, NULL, reterr));
    ew_task_answer(v->item.output, &c->answer);
    return answered_doc(c, 0.0F, 1.0F, ret, reterr);
}

static ew_status file_doc(void *ctx, uint64_t epoch, size_t index, ew_pretrain_doc *ret, ew_error *reterr)
{
    (void)epoch;
    ew_corpus *c = ctx;
    EW_TRY(start_doc(c, reterr));
    const size_t i = index + index / (VAL_SHARE - 1);
    ew_buf_add(&c->prompt, c->piece[i].data, c->piece[i].size);
    return plain_doc(c, ret, reterr);
}

static ew_status file_val_doc(void *ctx, uint64_t epoch, size_t index, ew_pretrain_doc *ret, ew_error *reterr)
{
    (void)epoch;
    ew_corpus *c = ctx;
    EW_TRY(start_doc(c, reterr));
    const ew_span p = c->piece[index * VAL_SHARE + VAL_SHARE - 1];
    ew_buf_add(&c->prompt, p.data, p.size);
    return plain_doc(c, ret, reterr);
}

ew_pretrain_source ew_corpus_train(ew_corpus *c)
{
    if (c->debian == NULL) {
        return (ew_pretrain_source){c->n_piece - c->n_piece / VAL_SHARE, file_doc, c};
    }
    size_t n = c->n_texts;
    for (size_t i = 0; i < N_TASKS; i++) {
        n += c->n_records[i];
    }
    return (ew_pretrain_source){n, train_doc, c};
}

ew_pretrain_source ew_corpus_val(ew_corpus *c)
{
    if (c->debian == NULL) {
        return (ew_pretrain_source){c->n_piece / VAL_SHARE, file_val_doc, c};
    }
    return (ew_pretrain_source){c->n_val, val_doc, c};
}

/* --- vocabulary --- */

typedef struct text_cursor {
    const ew_debian *debian;
    const ew_corpus *files;
    size_t next;
    ew_buf buf;
} text_cursor;

static ew_status next_text(void *ctx, ew_span *ret, ew_error *reterr)
{
    text_cursor *t = ctx;
    if (t->files != NULL) {
        *ret = t->next < t->files->n_piece ? t->files->piece[t->next] : (ew_span){"", 0};
        t->next++;
        return EW_OK;
    }
    if (t->next == ew_debian_n_texts(t->debian)) {
        *ret = (ew_span){"", 0};
        return EW_OK;
    }
    ew_buf_clear(&t->buf);
    EW_TRY(ew_debian_text(t->debian, t->next++, &t->buf, reterr));
    EW_TRY(ew_buf_check(&t->buf, reterr));
    *ret = (ew_span){t->buf.data, t->buf.size};
    return EW_OK;
}

static ew_status train_vocab(text_cursor *t, const ew_pretrain_recipe *recipe, const ew_progress *progress,
                             ew_vocab **ret_vocab, ew_error *reterr)
{
    static const char *const specials[] = {BOS, EOS};
    const ew_bpe_train_opt opt = {.vocab_size = recipe->vocab_size,
                                  .pre = "gpt-2",
                                  .specials = specials,
                                  .n_specials = EW_COUNT(specials),
                                  .bos = BOS,
                                  .eos = EOS,
                                  .max_bytes_per_token = 24,
                                  .min_count = 2,
                                  .progress = progress != NULL ? *progress : (ew_progress){0}};
    const ew_status st = ew_bpe_train(&opt, next_text, t, ret_vocab, reterr);
    ew_buf_release(&t->buf);
    return st;
}

ew_status ew_corpus_vocab(const ew_debian *d, const ew_pretrain_recipe *recipe, const ew_progress *progress,
                          ew_vocab **ret_vocab, ew_error *reterr)
{
    text_cursor t = {.debian = d};
    return train_vocab(&t, recipe, progress, ret_vocab, reterr);
}

/* --- debian --- */

/* Every item of every DEV user in turn, the users interleaved, until n_val of the task are there. */
static ew_status take_val(ew_corpus *c, const ew_task *task, size_t n_val, ew_error *reterr)
{
    const ew_debian_user **users = NULL;
    size_t n_users = 0, taken = 0;
    EW_TRY(ew_debian_users(c->debian, task, EW_DEBIAN_DEV, &users, &n_users, reterr));
    ew_status st = EW_OK;
    const size_t per_user = n_users > 0 ? (n_val + n_users - 1) / n_users : 0;
    for (size_t u = 0; st == EW_OK && u < n_users && taken < n_val; u++) {
        EW_AUTO_ITEMS items = {0};
        st = ew_debian_items(c->debian, task, users[u], &items, reterr);
        for (size_t i = 0; st == EW_OK && i < items.n && i < per_user && taken < n_val; i++) {
            st = ew_grow((void **)&c->val, &c->val_cap, c->n_val + 1, sizeof(*c->val), 1u << 20);
            if (st != EW_OK) {
                st = ew_fail(reterr, EW_ENOMEM, "no memory for the validation items");
                break;
            }
            c->val[c->n_val++] = (val_record){items.item[i], task};
            memset(&items.item[i], 0, sizeof(items.item[i]));
            taken++;
        }
    }
    ew_free(users);
    return st;
}

static ew_status corpus_make(const ew_pretrain_recipe *recipe, const ew_vocab *vocab, ew_corpus **ret, ew_error *reterr)
{
    EW_AUTO(ew_corpus) c = ew_calloc(1, sizeof(*c));
    if (c == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the corpus");
    }
    c->recipe = recipe;
    if (vocab != NULL) {
        EW_TRY(ew_tokenizer_new(vocab, &c->tok, reterr));
    }
    *ret = c;
    c = NULL;
    return EW_OK;
}

/* Neighbours are found when a record is first asked for: ask here, so that training does not stumble. */
static ew_status find_neighbours(ew_corpus *c, const ew_progress *progress, ew_error *reterr)
{
    if (c->recipe->retrieved_max == 0 || c->recipe->zero_shot_percent == 100) {
        return EW_OK;
    }
    size_t done = 0, total = 0;
    for (size_t w = 0; w < N_TASKS; w++) {
        total += c->n_records[w] > 0 ? c->n_pool[w] : 0;
    }
    for (size_t w = 0; w < N_TASKS; w++) {
        for (size_t i = 0; c->n_records[w] > 0 && i < c->n_pool[w]; i++, done++) {
            ew_buf_clear(&c->prompt);
            ew_buf_clear(&c->answer);
            EW_TRY(ew_debian_example(c->debian, c->task[w], c->pool[w][i], 1, NULL, &c->prompt, &c->answer, reterr));
            const ew_progress_info info = {.phase = "neighbours",
                                           .unit = "items",
                                           .done = done,
                                           .total = total,
                                           .loss = (double)NAN,
                                           .left_s = (double)NAN};
            if (!ew_progress_tell(progress, &info)) {
                return ew_fail(reterr, EW_ECANCELLED, "stopped while the corpus was prepared");
            }
        }
    }
    return EW_OK;
}

ew_status ew_corpus_new(ew_debian *d, const ew_pretrain_recipe *recipe, const ew_vocab *vocab, size_t n_val,
                        const ew_progress *progress, ew_corpus **ret_corpus, ew_error *reterr)
{
    EW_AUTO(ew_corpus) c = NULL;
    EW_TRY(corpus_make(recipe, vocab, &c, reterr));
    c->debian = d;
    static const char *const name[N_TASKS] = {"debian-section", "debian-synopsis", "debian-depends", "debian-size"};
    const uint32_t percent[N_TASKS] = {recipe->section_percent, recipe->synopsis_percent, recipe->depends_percent,
                                       recipe->size_percent};
    for (size_t i = 0; i < N_TASKS; i++) {
        c->task[i] = ew_task_find(name[i]);
        EW_TRY(ew_debian_pool(d, c->task[i], &c->pool[i], &c->n_pool[i], reterr));
        c->n_records[i] = c->n_pool[i] * percent[i] / 100;
        if (c->n_records[i] > 0) {
            EW_TRY(take_val(c, c->task[i], n_val, reterr));
        }
    }
    c->n_texts = ew_debian_n_texts(d) * recipe->text_percent / 100;
    EW_TRY(find_neighbours(c, progress, reterr));
    *ret_corpus = c;
    c = NULL;
    return EW_OK;
}

void ew_corpus_free(ew_corpus **c)
{
    ew_corpus *p = *c;
    *c = NULL;
    if (p == NULL) {
        return;
    }
    for (size_t i = 0; i < p->n_val; i++) {
        ew_item_release(&p->val[i].item);
    }
    ew_free(p->val);
    ew_free(p->piece);
    ew_free(p->weight);
    ew_buf_release(&p->text);
    ew_buf_release(&p->prompt);
    ew_buf_release(&p->answer);
    ew_tokens_release(&p->ids);
    ew_tokenizer_free(&p->tok);
    ew_free(p);
}

/* --- files --- */

static ew_status read_texts(ew_corpus *c, const char *path, ew_error *reterr)
{
    c->text.max = FILE_MAX;
    if (!ew_dir_exists(path)) {
        return ew_file_read(path, FILE_MAX, &c->text, reterr);
    }
    ew_dir_list list = {0};
    EW_TRY(ew_dir_read(path, &list, reterr));
    ew_status st = EW_OK;
    for (size_t i = 0; st == EW_OK && i < list.n; i++) {
        char file[EW_PATH_MAX];
        if (!list.entry[i].is_file || !ew_str_ends(list.entry[i].name, ".txt")) {
            continue;
        }
        st = ew_path_join(file, sizeof(file), path, list.entry[i].name, reterr);
        if (st == EW_OK) {
            st = ew_file_read(file, FILE_MAX, &c->text, reterr);
            ew_buf_adds(&c->text, "\n\n");
        }
    }
    ew_dir_list_release(&list);
    return st;
}

/* Paragraphs are gathered to documents of about 2 KiB. */
static ew_status cut_texts(ew_corpus *c, ew_error *reterr)
{
    EW_TRY(ew_buf_check(&c->text, reterr));
    const char *p = ew_buf_str(&c->text), *end = p + c->text.size;
    while (p < end) {
        const char *stop = (size_t)(end - p) > 2048 ? p + 2048 : end;
        while (stop < end && !(stop[0] == '\n' && stop + 1 < end && stop[1] == '\n')) {
            stop++;
        }
        if (ew_grow((void **)&c->piece, &c->piece_cap, c->n_piece + 1, sizeof(*c->piece), UINT32_MAX) != EW_OK) {
            return ew_fail(reterr, EW_ENOMEM, "no memory for the corpus");
        }
        c->piece[c->n_piece++] = (ew_span){p, (size_t)(stop - p)};
        p = stop;
        while (p < end && *p == '\n') {
            p++;
        }
    }
    if (c->n_piece == 0) {
        return ew_fail(reterr, EW_EINVAL, "there is no text to learn from (a .txt file, or a directory of them)");
    }
    return EW_OK;
}

ew_status ew_corpus_new_files(const char *path, const ew_pretrain_recipe *recipe, const ew_vocab *vocab,
                              ew_corpus **ret_corpus, ew_error *reterr)
{
    EW_AUTO(ew_corpus) c = NULL;
    EW_TRY(corpus_make(recipe, vocab, &c, reterr));
    EW_TRY(read_texts(c, path, reterr));
    EW_TRY(cut_texts(c, reterr));
    *ret_corpus = c;
    c = NULL;
    return EW_OK;
}

ew_status ew_corpus_vocab_files(const char *path, const ew_pretrain_recipe *recipe, const ew_progress *progress,
                                ew_vocab **ret_vocab, ew_error *reterr)
{
    EW_AUTO(ew_corpus) c = NULL;
    EW_TRY(ew_corpus_new_files(path, recipe, NULL, &c, reterr));
    text_cursor t = {.files = c};
    return train_vocab(&t, recipe, progress, ret_vocab, reterr);
}
