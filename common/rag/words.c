/* Words of a text, in the two ways of rag.h. */
#include <string.h>
#include <utf8proc.h>

#include "rag/rag_int.h"
#include "text/utf8.h"

void ew__rag_words_init(ew__rag_words *w, bool lamp, const char *text, size_t size)
{
    *w = (ew__rag_words){.at = text, .end = text + size, .lamp = lamp};
}

/* FNV-1a. */
static uint64_t hash_step(uint64_t h, unsigned char c)
{
    return (h ^ c) * UINT64_C(0x100000001b3);
}

#define HASH_START UINT64_C(0xcbf29ce484222325)
#define KEPT (EW__RAG_WORD_BYTES - 16)

typedef struct builder {
    ew__rag_words *w;
    uint64_t hash;
} builder;

static void put(builder *b, const char *s, size_t n)
{
    ew__rag_words *w = b->w;
    for (size_t i = 0; i < n; i++) {
        b->hash = hash_step(b->hash, (unsigned char)s[i]);
        if (w->length < EW__RAG_WORD_BYTES) {
            w->word[w->length] = s[i];
        }
        w->length++;
    }
}

static void put_end(builder *b)
{
    ew__rag_words *w = b->w;
    w->size = w->length;
    if (w->length > EW__RAG_WORD_BYTES) {
        uint64_t length = w->length;
        memcpy(w->word + KEPT, &length, sizeof(length));
        memcpy(w->word + KEPT + sizeof(length), &b->hash, sizeof(b->hash));
        w->size = EW__RAG_WORD_BYTES;
    }
}

/* What Python's str.split takes for white space: Unicode's and the four separators of ASCII. */
static bool is_python_space(uint32_t cp)
{
    return (cp >= 0x1C && cp <= 0x1F) || ew_utf8_is_space(cp);
}

static bool next_lamp(ew__rag_words *w)
{
    builder b = {w, HASH_START};
    uint32_t cp;
    w->length = 0;
    while (w->at < w->end) {
        size_t n = ew_utf8_next(w->at, (size_t)(w->end - w->at), &cp);
        const char *s = w->at;
        w->at += n;
        if (!is_python_space(cp)) {
            put(&b, s, n);
        } else if (w->length != 0) {
            break;
        }
    }
    put_end(&b);
    return w->length != 0;
}

static bool is_mark(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_ME;
}

/* The folded letter or number without its diacritics; 0 = not part of a word. */
static uint32_t fold(uint32_t cp)
{
    if (!ew_utf8_is_letter(cp) && !ew_utf8_is_number(cp) &&
        utf8proc_category((utf8proc_int32_t)cp) != UTF8PROC_CATEGORY_CO) {
        return 0;
    }
    utf8proc_int32_t parts[8];
    int boundary = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char(utf8proc_tolower((utf8proc_int32_t)cp), parts,
                                                 (utf8proc_ssize_t)EW_COUNT(parts), UTF8PROC_DECOMPOSE, &boundary);
    if (n < 2 || parts[0] >= 0x80 || !is_mark((uint32_t)parts[1])) { /* other scripts keep theirs, as in FTS5 */
        return (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
    }
    return (uint32_t)utf8proc_tolower(parts[0]);
}

static bool next_folded(ew__rag_words *w)
{
    builder b = {w, HASH_START};
    w->length = 0;
    while (w->at < w->end) {
        unsigned char c = (unsigned char)*w->at;
        if (c < 0x80) {
            w->at++;
            char lower = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
            if ((lower >= 'a' && lower <= 'z') || (c >= '0' && c <= '9')) {
                put(&b, &lower, 1);
            } else if (w->length != 0) {
                break;
            }
            continue;
        }
        uint32_t cp;
        size_t n = ew_utf8_next(w->at, (size_t)(w->end - w->at), &cp);
        w->at += n;
        uint32_t folded = fold(cp);
        if (folded != 0) {
            char bytes[EW_UTF8_MAX];
            put(&b, bytes, ew_utf8_encode(folded, bytes));
        } else if (w->length != 0 && !is_mark(cp)) {
            break;
        }
    }
    put_end(&b);
    return w->length != 0;
}

bool ew__rag_words_next(ew__rag_words *w)
{
    return w->lamp ? next_lamp(w) : next_folded(w);
}
