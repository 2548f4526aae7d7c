#include "token/pretok.h"

#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "text/regex.h"
#include "text/utf8.h"

#define STEPS_MAX 16u

/* clang-format off */
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define LLAMA3_DIGITS(digits) \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define GPT4O \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|" \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|" \
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* The arrays are const as a whole; the pattern member is not const because vocabularies own theirs. */
#define STEP(text) {(char *)(uintptr_t)(text), EW_SPLIT_ISOLATED, false}
static const ew_split gpt2[] = {STEP(GPT2)};
static const ew_split llama3[] = {STEP(LLAMA3_DIGITS("\\p{N}{1,3}"))};
static const ew_split qwen2[] = {STEP(LLAMA3_DIGITS("\\p{N}"))};
static const ew_split gpt4o[] = {STEP(GPT4O)};
static const ew_split smollm[] = {STEP("\\p{N}"), STEP(GPT2)};
static const ew_split falcon[] = {STEP("[\\p{P}\\$\\+<=>\\^~\\|`]+"), STEP(GPT2), STEP("[0-9][0-9][0-9]")};
static const ew_split plain[] = {STEP("[\\p{P}\\$\\+<=>\\^~\\|]+"), STEP(GPT2), STEP("\\p{N}+"), STEP("[0-9][0-9][0-9]")};

/* The first name of a pattern is the one that is written. */
static const struct {
    const char *name;
    const ew_split *splits;
    size_t n;
} known[] = {
    {"gpt-2", gpt2, 1},       {"llama-bpe", llama3, 1}, {"qwen2", qwen2, 1},       {"smollm", smollm, 2},
    {"default", plain, 4},    {"falcon", falcon, 3},    {"gpt-4o", gpt4o, 1},      {"llama3", llama3, 1},
    {"llama-v3", llama3, 1},  {"smaug-bpe", llama3, 1}, {"dbrx", llama3, 1},       {"falcon3", llama3, 1},
    {"pixtral", llama3, 1},   {"lfm2", llama3, 1},      {"deepseek-r1-qwen", qwen2, 1}, {"stablelm2", qwen2, 1},
    {"mpt", gpt2, 1},         {"olmo", gpt2, 1},        {"phi-2", gpt2, 1},        {"roberta-bpe", gpt2, 1},
    {"jais", gpt2, 1},        {"gigachat", gpt2, 1},    {"starcoder", smollm, 2},  {"refact", smollm, 2},
    {"command-r", smollm, 2}, {"codeshell", smollm, 2}, {"exaone", smollm, 2},     {"minerva-7b", smollm, 2},
    {"llama4", gpt4o, 1},
};
/* clang-format on */

struct ew_pretok {
    struct {
        ew_regex *regex;
        ew_split_mode mode;
        bool invert;
    } step[STEPS_MAX];
    size_t n;
};

struct ew_pretok_match {
    const ew_pretok *pretok;
    ew_regex_match *match[STEPS_MAX];
    ew_pretok_fn fn; /* of the run in progress */
    void *ctx;
    ew_error *reterr;
};

ew_status ew_pretok_lookup(const char *name, const ew_split **ret_splits, size_t *ret_n, ew_error *reterr)
{
    for (size_t i = 0; i < EW_COUNT(known); i++) {
        if (strcmp(known[i].name, name) == 0) {
            *ret_splits = known[i].splits;
            *ret_n = known[i].n;
            return EW_OK;
        }
    }
    EW_AUTO_BUF list = {.max = 1024};
    for (size_t i = 0; i < EW_COUNT(known); i++) {
        ew_buf_addf(&list, "%s%s", i == 0 ? "" : " ", known[i].name);
    }
    return ew_fail(reterr, EW_EUNSUPPORTED, "pre-tokenizer '%.64s' is not known to this build; known are: %s", name,
                   ew_buf_str(&list));
}

const char *ew_pretok_name_of(const ew_split *splits, size_t n)
{
    for (size_t i = 0; i < EW_COUNT(known); i++) {
        bool same = known[i].n == n;
        for (size_t k = 0; same && k < n; k++) {
            same = strcmp(known[i].splits[k].pattern, splits[k].pattern) == 0 &&
                   known[i].splits[k].mode == splits[k].mode && known[i].splits[k].invert == splits[k].invert;
        }
        if (same) {
            return known[i].name;
        }
    }
    return NULL;
}

ew_status ew_pretok_new(const ew_split *splits, size_t n, ew_pretok **ret_pretok, ew_error *reterr)
{
    if (n > STEPS_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "a pre-tokenizer of %zu steps; at most %u are possible", n, STEPS_MAX);
    }
    EW_AUTO(ew_pretok) p = ew_calloc(1, sizeof(*p));
    if (p == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a pre-tokenizer");
    }
    for (size_t i = 0; i < n; i++) {
        ew_status st = ew_regex_new(splits[i].pattern, &p->step[i].regex, reterr);
        if (st != EW_OK) {
            return ew_wrap(reterr, st, "pre-tokenizer step %zu", i + 1);
        }
        p->step[i].mode = splits[i].mode;
        p->step[i].invert = splits[i].invert;
        p->n = i + 1;
    }
    *ret_pretok = p;
    p = NULL;
    return EW_OK;
}

void ew_pretok_free(ew_pretok **pp)
{
    if (*pp != NULL) {
        for (size_t i = 0; i < STEPS_MAX; i++) {
            ew_regex_free(&(*pp)->step[i].regex);
        }
        ew_free(*pp);
        *pp = NULL;
    }
}

ew_status ew_pretok_match_new(const ew_pretok *p, ew_pretok_match **ret_match, ew_error *reterr)
{
    EW_AUTO(ew_pretok_match) m = ew_calloc(1, sizeof(*m));
    if (m == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a pre-tokenizer");
    }
    m->pretok = p;
    for (size_t i = 0; i < p->n; i++) {
        EW_TRY(ew_regex_match_new(p->step[i].regex, &m->match[i], reterr));
    }
    *ret_match = m;
    m = NULL;
    return EW_OK;
}

void ew_pretok_match_free(ew_pretok_match **mp)
{
    if (*mp != NULL) {
        for (size_t i = 0; i < STEPS_MAX; i++) {
            ew_regex_match_free(&(*mp)->match[i]);
        }
        ew_free(*mp);
        *mp = NULL;
    }
}

/* The piece that waits to be completed by what follows it. */
typedef struct cut {
    size_t begin, end;
    bool have;      /* a piece waits */
    bool delimiter; /* what came last is one */
} cut;

static ew_status run_step(ew_pretok_match *m, size_t level, const char *s, size_t size);

static ew_status cut_flush(ew_pretok_match *m, size_t level, const char *s, cut *c)
{
    if (!c->have || c->end == c->begin) {
        return EW_OK;
    }
    c->have = false;
    return run_step(m, level + 1, s + c->begin, c->end - c->begin);
}

/* Takes [begin, end), a match or a gap, by the rules of SplitDelimiterBehavior. */
static ew_status cut_add(ew_pretok_match *m, size_t level, const char *s, cut *c, size_t begin, size_t end,
                         bool is_match)
{
    bool delimiter = is_match != m->pretok->step[level].invert;
    ew_split_mode mode = m->pretok->step[level].mode;
    bool extend = false;
    if (begin == end) {
        return EW_OK;
    }
    if (c->have) {
        extend = (mode == EW_SPLIT_MERGED_PREVIOUS && delimiter && !c->delimiter) ||
                 (mode == EW_SPLIT_MERGED_NEXT && !delimiter && c->delimiter) ||
                 (mode == EW_SPLIT_CONTIGUOUS && delimiter == c->delimiter);
    }
    c->delimiter = delimiter;
    if (extend) {
        c->end = end;
        return EW_OK;
    }
    EW_TRY(cut_flush(m, level, s, c));
    if (mode == EW_SPLIT_REMOVED && delimiter) {
        return EW_OK;
    }
    c->begin = begin;
    c->end = end;
    c->have = true;
    return EW_OK;
}

static ew_status run_step(ew_pretok_match *m, size_t level, const char *s, size_t size)
{
    if (level == m->pretok->n) {
        return m->fn(s, size, m->ctx, m->reterr);
    }
    cut c = {0};
    size_t done = 0;
    size_t from = 0;
    while (from < size) {
        size_t begin;
        size_t end;
        ew_status st = ew_regex_find(m->match[level], s, size, from, &begin, &end, m->reterr);
        if (st == EW_ENOENT) {
            break;
        }
        EW_TRY(st);
        if (begin == end) {
            from = begin < size ? begin + ew_utf8_next(s + begin, size - begin, NULL) : size;
            continue;
        }
        EW_TRY(cut_add(m, level, s, &c, done, begin, false));
        EW_TRY(cut_add(m, level, s, &c, begin, end, true));
        done = from = end;
    }
    EW_TRY(cut_add(m, level, s, &c, done, size, false));
    return cut_flush(m, level, s, &c);
}

ew_status ew_pretok_run(ew_pretok_match *m, const char *text, size_t size, ew_pretok_fn fn, void *ctx, ew_error *reterr)
{
    m->fn = fn;
    m->ctx = ctx;
    m->reterr = reterr;
    size_t at = 0;
    while (at < size) {
        size_t good = ew_utf8_valid_prefix(text + at, size - at);
        if (good > 0) {
            EW_TRY(run_step(m, 0, text + at, good));
            at += good;
        }
        size_t bad = 0;
        while (at + bad < size && ew_utf8_decode(text + at + bad, size - at - bad, NULL) == 0) {
            bad++;
        }
        if (bad > 0) {
            EW_TRY(fn(text + at, bad, ctx, reterr));
            at += bad;
        }
    }
    return EW_OK;
}
