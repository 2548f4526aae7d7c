#include "token/pretok.h"

#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "text/regex.h"
#include "text/utf8.h"
#include "token/token_int.h"

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

#define QWEN35 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}" \
    "| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TEKKEN \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*|" \
    "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define CJK "[\xE4\xB8\x80-\xE9\xBE\xA5\xE0\xA0\x80-\xE4\xB8\x80\xEA\xB0\x80-\xED\x9F\xBF]+" /* as DeepSeek has it */
#define KANA_HAN "[\xE4\xB8\x80-\xE9\xBE\xA5\xE3\x81\x80-\xE3\x82\x9F\xE3\x82\xA0-\xE3\x83\xBF]+"
#define DEEPSEEK3 \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|" \
    " ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
/* The letters of the bicameral scripts, as listed in DeepSeek's tokenizer.json. */
#define DEEPSEEK_LETTERS \
    "\\s?[\\x{41}-\\x{5A}\\x{61}-\\x{7A}\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}" \
    "\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}" \
    "\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}" \
    "\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}" \
    "\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}" \
    "\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}" \
    "\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}" \
    "\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}" \
    "\\x{2107}\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}" \
    "\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}" \
    "\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}" \
    "\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}" \
    "\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}" \
    "\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}" \
    "\\x{1E900}-\\x{1E943}]+"
#define DEEPSEEK_PUNCT \
    "\\s?[!-/:-~\xEF\xBC\x81-\xEF\xBC\x8F\xEF\xBC\x9A-\xEF\xBD\x9E\xE2\x80\x98-\xE2\x80\x9F\xE3\x80\x80-\xE3\x80\x82]+"
#define BLOOM \
    " ?[^(\\s|.,!?\xE2\x80\xA6\xE3\x80\x82\xEF\xBC\x8C\xE3\x80\x81\xE0\xA5\xA4\xDB\x94\xD8\x8C)]+"
#define BAILING \
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]" \
    "|\\s+(?!\\S)|\\s+"
#define SEED \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+" \
    "|\\s+(?!\\S)|\\s+"

/* The arrays are const as a whole; the pattern member is not const because vocabularies own theirs. */
#define STEP(text) {(char *)(uintptr_t)(text), EW_SPLIT_ISOLATED, false}
static const ew_split gpt2[] = {STEP(GPT2)};
static const ew_split llama3[] = {STEP(LLAMA3_DIGITS("\\p{N}{1,3}"))};
static const ew_split qwen2[] = {STEP(LLAMA3_DIGITS("\\p{N}"))};
static const ew_split gpt4o[] = {STEP(GPT4O)};
static const ew_split smollm[] = {STEP("\\p{N}"), STEP(GPT2)};
static const ew_split falcon[] = {STEP("[\\p{P}\\$\\+<=>\\^~\\|`]+"), STEP(GPT2), STEP("[0-9][0-9][0-9]")};
static const ew_split plain[] = {STEP("[\\p{P}\\$\\+<=>\\^~\\|]+"), STEP(GPT2), STEP("\\p{N}+"), STEP("[0-9][0-9][0-9]")};

static const ew_split qwen35[] = {STEP(QWEN35)};
static const ew_split tekken[] = {STEP(TEKKEN)};
static const ew_split deepseek_llm[] = {STEP("[\r\n]"), STEP(DEEPSEEK_LETTERS), STEP(DEEPSEEK_PUNCT), STEP("\\s+$"), STEP(CJK), STEP("\\p{N}+")};
static const ew_split deepseek_coder[] = {STEP("[\r\n]"), STEP("\\s?\\p{L}+"), STEP("\\s?\\p{P}+"), STEP(CJK), STEP("\\p{N}")};
static const ew_split deepseek3[] = {STEP("\\p{N}{1,3}"), STEP(KANA_HAN), STEP(DEEPSEEK3)};
static const ew_split bloom[] = {STEP(BLOOM)};
static const ew_split viking[] = {STEP(BLOOM), STEP("\\p{N}")};
static const ew_split bailing[] = {STEP(BAILING)};
static const ew_split seed[] = {STEP(SEED)};

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
    {"llama4", gpt4o, 1},     {"tekken", tekken, 1},      {"deepseek-llm", deepseek_llm, 6},
    {"deepseek-coder", deepseek_coder, 5}, {"deepseek-v3", deepseek3, 3}, {"qwen35", qwen35, 1},
    {"bloom", bloom, 1},      {"viking", viking, 2},      {"bailingmoe", bailing, 1}, {"seed-coder", seed, 1},
    {"falcon-h1", llama3, 1}, {"midm-2.0", llama3, 1},    {"jina-v5-nano", llama3, 1}, {"glm4", llama3, 1},
    {"chatglm-bpe", llama3, 1}, {"kormo", qwen2, 1},      {"megrez", qwen2, 1},     {"grok-2", qwen2, 1},
    {"hunyuan", qwen2, 1},    {"solar-open", qwen2, 1},   {"hunyuan-dense", deepseek3, 3}, {"joyai-llm", deepseek3, 3},
    {"trillion", gpt2, 1},    {"granite-docling", gpt2, 1}, {"exaone4", gpt2, 1},   {"modern-bert", gpt2, 1},
    {"mellum", gpt2, 1},      {"a.x-4.0", gpt2, 1},       {"jina-es", gpt2, 1},     {"jina-de", gpt2, 1},
    {"jina-v2-es", gpt2, 1},  {"jina-v2-de", gpt2, 1},    {"jina-v1-en", gpt2, 1},  {"jina-v2-code", gpt2, 1},
    {"mellum2", smollm, 2},   {"kanana2", gpt4o, 1},      {"minimax-m2", gpt4o, 1}, {"poro-chat", bloom, 1},
    {"gpt3-finnish", bloom, 1}, {"bailingmoe2", bailing, 1}, {"llada-moe", bailing, 1},
};
/* clang-format on */

struct ew_pretok {
    ew__bytes alphabet;
    struct {
        ew_regex *regex;
        ew_split_mode mode;
        bool invert;
        bool first; /* METASPACE: only at the start of the text */
    } step[STEPS_MAX];
    size_t n;
};

struct ew_pretok_match {
    const ew_pretok *pretok;
    ew_regex_match *match[STEPS_MAX];
    ew_buf changed[STEPS_MAX]; /* METASPACE: the piece at hand as the step makes it */
    ew_buf unspelled;
    bool is_spelled; /* the pieces at hand are */
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
    EW_AUTO_BUF list = {.max = 4096};
    for (size_t i = 0; i < EW_COUNT(known); i++) {
        ew_buf_addf(&list, "%s%s", i == 0 ? "" : " ", known[i].name);
    }
    return ew_fail(
        reterr, EW_EUNSUPPORTED,
        "pre-tokenizer '%.64s' is not known. HINT: use the model's Hugging Face directory, whose tokenizer.json spells "
        "the pattern. Known: %s",
        name, ew_buf_str(&list));
}

/* Equal but for how a line end is written: as itself or as an escape. */
static bool same_pattern(const char *a, const char *b)
{
    while (*a != '\0' && *b != '\0') {
        bool cr = *a == '\r' || *b == '\r';
        if (*a != *b && (cr || *a == '\n' || *b == '\n')) {
            const char *other = *a == '\r' || *a == '\n' ? b : a;
            if (other[0] != '\\' || other[1] != (cr ? 'r' : 'n')) {
                return false;
            }
            a += other == a;
            b += other == b;
        } else if (*a != *b) {
            return false;
        }
        a++;
        b++;
    }
    return *a == *b;
}

const char *ew_pretok_name_of(const ew_split *splits, size_t n)
{
    for (size_t i = 0; i < EW_COUNT(known); i++) {
        bool same = known[i].n == n;
        for (size_t k = 0; same && k < n; k++) {
            same = same_pattern(known[i].splits[k].pattern, splits[k].pattern) &&
                   known[i].splits[k].mode == splits[k].mode && known[i].splits[k].invert == splits[k].invert;
        }
        if (same) {
            return known[i].name;
        }
    }
    return NULL;
}

/* What PCRE2 reads otherwise than Oniguruma: its \s also holds U+180E, which has been no white space since Unicode 6.3; a bracket within a
 * set stands for itself there and not for a set to be joined. */
static void write_pattern(const char *pattern, ew_buf *out)
{
    unsigned depth = 0;
    for (const char *p = pattern; *p != '\0'; p++) {
        if (p[0] == '\\' && (p[1] == 's' || p[1] == 'S')) {
            ew_buf_adds(out, *++p == 's' ? "\\p{White_Space}" : "\\P{White_Space}");
            continue;
        }
        if (p[0] == '[' && p[1] != ':' && p[1] != '^' && depth > 0) {
            depth++;
            continue;
        }
        if (p[0] == ']' && depth > 1) {
            depth--;
            continue;
        }
        depth = p[0] == '[' && depth == 0 ? 1 : p[0] == ']' ? 0 : depth;
        ew_buf_addc(out, *p);
        if (p[0] == '\\' && p[1] != '\0') {
            ew_buf_addc(out, *++p);
        }
    }
}

static ew_status make_regex(const ew_split *split, ew_regex **ret, ew_error *reterr)
{
    EW_AUTO_BUF pattern = {0};
    const char *text = split->mode == EW_SPLIT_METASPACE ? EW__SPACE : split->pattern;
    write_pattern(split->mode == EW_SPLIT_SPELLED ? "x" : text, &pattern);
    EW_TRY(ew_buf_check(&pattern, reterr));
    return ew_regex_new(ew_buf_str(&pattern), ret, reterr);
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
    ew__bytes_init(&p->alphabet);
    for (size_t i = 0; i < n; i++) {
        ew_status st = make_regex(&splits[i], &p->step[i].regex, reterr);
        if (st != EW_OK) {
            return ew_wrap(reterr, st, "pre-tokenizer step %zu", i + 1);
        }
        p->step[i].mode = splits[i].mode;
        p->step[i].invert = splits[i].invert;
        p->step[i].first = strcmp(splits[i].pattern, "first") == 0;
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
            ew_buf_release(&(*mp)->changed[i]);
        }
        ew_buf_release(&(*mp)->unspelled);
        ew_free(*mp);
        *mp = NULL;
    }
}

/* The piece that waits to be completed by what follows it. */
typedef struct cut {
    size_t begin, end;
    bool have;      /* a piece waits */
    bool delimiter; /* what came last is one */
    bool at_start;  /* the stretch is the start of the text */
} cut;

static ew_status run_step(ew_pretok_match *m, size_t level, const char *s, size_t size, bool at_start);

static ew_status cut_flush(ew_pretok_match *m, size_t level, const char *s, cut *c)
{
    if (!c->have || c->end == c->begin) {
        return EW_OK;
    }
    c->have = false;
    return run_step(m, level + 1, s + c->begin, c->end - c->begin, c->at_start && c->begin == 0);
}

/* Takes [begin, end), a match or a gap, by the rules of SplitDelimiterBehavior. */
static ew_status cut_add(ew_pretok_match *m, size_t level, const char *s, cut *c, size_t begin, size_t end,
                         bool is_match)
{
    bool delimiter = is_match != m->pretok->step[level].invert;
    ew_split_mode mode = m->pretok->step[level].mode;
    mode = mode == EW_SPLIT_METASPACE ? EW_SPLIT_MERGED_NEXT : mode;
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

/* Spaces become U+2581, one comes in front. */
static ew_status metaspace(ew_pretok_match *m, size_t level, const char **s, size_t *size, bool at_start)
{
    ew_buf *to = &m->changed[level];
    const char *p = *s;
    bool begins = *p == ' ' || (*size >= 3 && memcmp(p, EW__SPACE, 3) == 0);
    ew_buf_clear(to);
    to->max = SIZE_MAX / 2;
    if (!begins && (at_start || !m->pretok->step[level].first)) {
        ew_buf_adds(to, EW__SPACE);
    }
    for (size_t i = 0; i < *size; i++) {
        if (p[i] == ' ') {
            ew_buf_adds(to, EW__SPACE);
        } else {
            ew_buf_addc(to, p[i]);
        }
    }
    *s = ew_buf_str(to);
    *size = to->size;
    return ew_buf_check(to, m->reterr);
}

static ew_status spelled(ew_pretok_match *m, size_t level, const char *s, size_t size)
{
    ew_buf *to = &m->changed[level];
    ew_buf_clear(to);
    to->max = SIZE_MAX / 2;
    for (size_t i = 0; i < size; i++) {
        char c[2];
        ew_buf_add(to, c, ew__bytes_spell(&m->pretok->alphabet, (uint8_t)s[i], c));
    }
    EW_TRY(ew_buf_check(to, m->reterr));
    m->is_spelled = true;
    ew_status st = run_step(m, level + 1, ew_buf_str(to), to->size, false);
    m->is_spelled = false;
    return st;
}

/* A piece that no step is left for. */
static ew_status hand_out(ew_pretok_match *m, const char *s, size_t size)
{
    if (!m->is_spelled) {
        return m->fn(s, size, m->ctx, m->reterr);
    }
    ew_buf *to = &m->unspelled;
    ew_buf_clear(to);
    to->max = SIZE_MAX / 2;
    for (size_t i = 0; i < size;) {
        uint32_t cp;
        i += ew_utf8_next(s + i, size - i, &cp);
        ew_buf_addc(to, (char)(unsigned char)m->pretok->alphabet.byte_of[cp & 511]);
    }
    EW_TRY(ew_buf_check(to, m->reterr));
    return m->fn(ew_buf_str(to), to->size, m->ctx, m->reterr);
}

static ew_status run_step(ew_pretok_match *m, size_t level, const char *s, size_t size, bool at_start)
{
    if (level == m->pretok->n) {
        return hand_out(m, s, size);
    }
    if (m->pretok->step[level].mode == EW_SPLIT_SPELLED) {
        return spelled(m, level, s, size);
    }
    cut c = {.at_start = at_start};
    if (m->pretok->step[level].mode == EW_SPLIT_METASPACE) {
        EW_TRY(metaspace(m, level, &s, &size, at_start));
        if (m->pretok->step[level].invert) {
            return run_step(m, level + 1, s, size, at_start);
        }
    }
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

ew_status ew_pretok_run(ew_pretok_match *m, const char *text, size_t size, bool at_start, ew_pretok_fn fn, void *ctx,
                        ew_error *reterr)
{
    m->fn = fn;
    m->ctx = ctx;
    m->reterr = reterr;
    size_t at = 0;
    while (at < size) {
        size_t good = ew_utf8_valid_prefix(text + at, size - at);
        if (good > 0) {
            EW_TRY(run_step(m, 0, text + at, good, at_start && at == 0));
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
