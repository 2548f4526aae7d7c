/* Lists of items by word (rag_int.h says how they are written).
 *
 * Words: an open hash table of numbers into an array of `word`s; their bytes, behind a byte for the size, in a pool. A word of one item has no list but
 * its item in the word. Blocks are numbered in units of 8 bytes; chunks of 256 KiB are taken as needed and never move, so growing copies no list. A chain
 * is a ring: the last block's link is the first one. Blocks that become free are cleared and kept by size. */
#include <string.h>

#include "base/mem.h"
#include "rag/rag_int.h"

#define UNIT 8u
#define CHUNK_BYTES (256u * 1024)
#define CHUNK_UNITS (CHUNK_BYTES / UNIT)
#define CHUNKS_MAX 65536u
#define LINK 4u /* bytes of a block's link to the next */
#define SIZES 5 /* 16, 32, … 256 bytes */
#define WORDS_MAX (1u << 28)

typedef struct word {
    uint32_t text;    /* offset into the pool; of a free one: the next free one */
    uint32_t df;      /* items; 0 = free */
    uint32_t last;    /* 1 + the last item */
    uint32_t tail;    /* the last block; with df 1: the count in that item */
    uint16_t used;    /* bytes of the tail, link included */
    uint8_t n_blocks; /* stays at 255 */
} word;

struct ew__rag_lists {
    word *word;
    size_t n_words, words_cap;
    uint32_t free_word; /* EW__RAG_NONE = none */
    uint32_t *slot;     /* [n_slots] word + 1; 0 = empty, EW__RAG_NONE = was removed */
    size_t n_slots, slots_used;
    uint8_t *text;
    size_t text_size, text_cap;
    uint8_t **chunk;
    size_t n_chunks, chunks_cap;
    uint32_t next_unit;         /* in the last chunk */
    uint32_t free_block[SIZES]; /* 0 = none */
};

ew_status ew__rag_lists_new(ew__rag_lists **ret_lists)
{
    ew__rag_lists *l = ew_calloc(1, sizeof(*l));
    if (l == NULL) {
        return EW_ENOMEM;
    }
    l->free_word = EW__RAG_NONE;
    l->next_unit = CHUNK_UNITS;
    *ret_lists = l;
    return EW_OK;
}

void ew__rag_lists_free(ew__rag_lists **l)
{
    if (*l != NULL) {
        for (size_t i = 0; i < (*l)->n_chunks; i++) {
            ew_free((*l)->chunk[i]);
        }
        ew_free((void *)(*l)->chunk);
        ew_free((*l)->word);
        ew_free((*l)->slot);
        ew_free((*l)->text);
        ew_free(*l);
        *l = NULL;
    }
}

void ew__rag_lists_memory(const ew__rag_lists *l, ew_rag_size *ret_size)
{
    ret_size->words_bytes = l->words_cap * sizeof(*l->word) + l->n_slots * sizeof(*l->slot) + l->text_cap;
    ret_size->lists_bytes = l->n_chunks * CHUNK_BYTES + l->chunks_cap * sizeof(*l->chunk);
}

uint32_t ew__rag_lists_df(const ew__rag_lists *l, uint32_t w)
{
    return l->word[w].df;
}

uint32_t ew__rag_lists_end(const ew__rag_lists *l)
{
    return (uint32_t)l->n_words;
}

/* --- words --- */
static uint64_t hash_of(const void *data, size_t size)
{
    const uint8_t *p = data;
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < size; i++) {
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    }
    return h ^ (h >> 29);
}

static bool is_word(const ew__rag_lists *l, uint32_t w, const void *text, size_t size)
{
    const uint8_t *t = l->text + l->word[w].text;
    return t[0] == size && memcmp(t + 1, text, size) == 0;
}

/* The slot of the word, or the one where it would go. */
static size_t slot_of(const ew__rag_lists *l, const void *text, size_t size, bool *ret_found)
{
    size_t mask = l->n_slots - 1;
    size_t i = (size_t)hash_of(text, size) & mask;
    size_t free_slot = SIZE_MAX;
    for (; l->slot[i] != 0; i = (i + 1) & mask) {
        if (l->slot[i] == EW__RAG_NONE) {
            free_slot = EW_MIN(free_slot, i);
        } else if (is_word(l, l->slot[i] - 1, text, size)) {
            *ret_found = true;
            return i;
        }
    }
    *ret_found = false;
    return free_slot != SIZE_MAX ? free_slot : i;
}

uint32_t ew__rag_lists_find(const ew__rag_lists *l, const char *text, size_t size)
{
    bool found = false;
    size_t i = l->n_slots != 0 ? slot_of(l, text, size, &found) : 0;
    return found ? l->slot[i] - 1 : EW__RAG_NONE;
}

static ew_status slots_grow(ew__rag_lists *l)
{
    if (l->slots_used * 8 < l->n_slots * 7) {
        return EW_OK;
    }
    size_t n = EW_MAX(l->n_slots, (size_t)128);
    while (l->n_words * 3 / 2 > n) {
        n *= 2;
    }
    uint32_t *slot = ew_calloc(n, sizeof(*slot));
    if (slot == NULL) {
        return EW_ENOMEM;
    }
    l->slots_used = 0;
    for (size_t w = 0; w < l->n_words; w++) {
        if (l->word[w].df != 0) {
            const uint8_t *t = l->text + l->word[w].text;
            size_t i = (size_t)hash_of(t + 1, t[0]) & (n - 1);
            while (slot[i] != 0) {
                i = (i + 1) & (n - 1);
            }
            slot[i] = (uint32_t)w + 1;
            l->slots_used++;
        }
    }
    ew_free(l->slot);
    l->slot = slot;
    l->n_slots = n;
    return EW_OK;
}

/* A word without items; it is not in the table until it has one. */
static ew_status new_word(ew__rag_lists *l, const char *text, size_t size, uint32_t *ret_word)
{
    EW_TRY(ew_grow((void **)&l->text, &l->text_cap, l->text_size + 1 + size, 1, UINT32_MAX));
    uint32_t w = l->free_word;
    if (w != EW__RAG_NONE) {
        l->free_word = l->word[w].text;
    } else {
        EW_TRY(ew_grow((void **)&l->word, &l->words_cap, l->n_words + 1, sizeof(*l->word), WORDS_MAX));
        w = (uint32_t)l->n_words++;
    }
    l->word[w] = (word){.text = (uint32_t)l->text_size};
    l->text[l->text_size++] = (uint8_t)size;
    memcpy(l->text + l->text_size, text, size);
    l->text_size += size;
    *ret_word = w;
    return EW_OK;
}

static void drop_word(ew__rag_lists *l, uint32_t w)
{
    uint8_t *t = l->text + l->word[w].text;
    memset(t + 1, 0, t[0]);
    l->word[w] = (word){.text = l->free_word};
    l->free_word = w;
}

/* --- blocks --- */
static uint8_t *at_unit(const ew__rag_lists *l, uint32_t unit)
{
    return l->chunk[(unit - 1) / CHUNK_UNITS] + (size_t)((unit - 1) % CHUNK_UNITS) * UNIT;
}

/* Sizes grow along a chain: 16, 16, 32, 32, … 256. */
static unsigned size_class(uint32_t step)
{
    return EW_MIN(step / 2, SIZES - 1u);
}

static uint32_t block_bytes(uint32_t step)
{
    return UNIT * 2 << size_class(step);
}

static uint32_t link_of(const uint8_t *block)
{
    uint32_t v;
    memcpy(&v, block, sizeof(v));
    return v;
}

/* Cleared. */
static ew_status new_block(ew__rag_lists *l, uint32_t step, uint32_t *ret_block)
{
    uint32_t *list = &l->free_block[size_class(step)];
    if (*list != 0) {
        *ret_block = *list;
        *list = link_of(at_unit(l, *list));
        memset(at_unit(l, *ret_block), 0, LINK);
        return EW_OK;
    }
    uint32_t units = block_bytes(step) / UNIT;
    if (l->next_unit + units > CHUNK_UNITS) {
        EW_TRY(ew_grow((void **)&l->chunk, &l->chunks_cap, l->n_chunks + 1, sizeof(*l->chunk), CHUNKS_MAX));
        l->chunk[l->n_chunks] = ew_calloc(CHUNK_BYTES, 1);
        if (l->chunk[l->n_chunks] == NULL) {
            return EW_ENOMEM;
        }
        l->n_chunks++;
        l->next_unit = 0;
    }
    *ret_block = (uint32_t)(l->n_chunks - 1) * CHUNK_UNITS + l->next_unit + 1;
    l->next_unit += units;
    return EW_OK;
}

static void free_block(ew__rag_lists *l, uint32_t block, uint32_t step)
{
    uint8_t *p = at_unit(l, block);
    uint32_t *list = &l->free_block[size_class(step)];
    memset(p, 0, block_bytes(step));
    memcpy(p, list, LINK);
    *list = block;
}

static uint32_t next_step(uint32_t step)
{
    return step < UINT8_MAX ? step + 1 : step; /* by then all are of the largest size */
}

static size_t put_varint(uint8_t *dst, uint64_t v)
{
    size_t n = 0;
    for (; v >= 0x80; v >>= 7) {
        dst[n++] = (uint8_t)(v | 0x80);
    }
    dst[n++] = (uint8_t)v;
    return n;
}

static size_t put_item(uint8_t *dst, uint32_t delta, uint32_t count)
{
    size_t n = put_varint(dst, (uint64_t)delta * 2 + (count > 1));
    return count > 1 ? n + put_varint(dst + n, count) : n;
}

static uint32_t tail_step(const word *w)
{
    return w->n_blocks == UINT8_MAX ? UINT8_MAX : w->n_blocks - 1u;
}

static bool tail_full(const word *w)
{
    return w->n_blocks == 0 || w->used == block_bytes(tail_step(w));
}

/* A new block at the end of w's chain. */
static ew_status extend(ew__rag_lists *l, word *w)
{
    uint32_t block;
    EW_TRY(new_block(l, w->n_blocks, &block));
    uint32_t head = block;
    if (w->n_blocks != 0) {
        head = link_of(at_unit(l, w->tail));
        memcpy(at_unit(l, w->tail), &block, LINK);
    }
    memcpy(at_unit(l, block), &head, LINK);
    w->tail = block;
    w->used = LINK;
    w->n_blocks = (uint8_t)next_step(w->n_blocks);
    return EW_OK;
}

/* Room for n more bytes is made first, so that a failure leaves all as it was. n is less than a block holds: one new block is enough. */
static ew_status append(ew__rag_lists *l, word *w, const uint8_t *data, size_t n)
{
    const word saved = *w;
    size_t first = tail_full(w) ? 0 : EW_MIN(n, (size_t)(block_bytes(tail_step(w)) - w->used));
    if (first < n) {
        EW_TRY(extend(l, w));
        memcpy(at_unit(l, w->tail) + LINK, data + first, n - first);
        w->used = (uint16_t)(LINK + n - first);
    } else {
        w->used = (uint16_t)(w->used + n);
    }
    if (first != 0) {
        memcpy(at_unit(l, saved.tail) + saved.used, data, first);
    }
    return EW_OK;
}

/* The second item of a word: both go into a list. */
static ew_status start_list(ew__rag_lists *l, word *w)
{
    uint8_t bytes[16];
    word out = *w;
    out.n_blocks = 0;
    EW_TRY(append(l, &out, bytes, put_item(bytes, w->last, w->tail)));
    *w = out;
    return EW_OK;
}

static ew_status add_item(ew__rag_lists *l, word *w, uint32_t item, uint32_t count)
{
    if (w->df == 0) {
        w->tail = count;
    } else {
        uint8_t bytes[16];
        word out = *w;
        if (w->df == 1) {
            EW_TRY(start_list(l, &out));
        }
        ew_status st = append(l, &out, bytes, put_item(bytes, item + 1 - w->last, count));
        if (st != EW_OK) {
            if (w->df == 1) {
                free_block(l, out.tail, 0);
            }
            return st;
        }
        *w = out;
    }
    w->last = item + 1;
    w->df++;
    return EW_OK;
}

ew_status ew__rag_lists_add(ew__rag_lists *l, const char *text, size_t size, uint32_t item, uint32_t count)
{
    bool found = false;
    EW_TRY(slots_grow(l));
    size_t i = slot_of(l, text, size, &found);
    uint32_t at = 0;
    if (found) {
        at = l->slot[i] - 1;
    } else {
        EW_TRY(new_word(l, text, size, &at));
    }
    ew_status st = add_item(l, &l->word[at], item, count);
    if (st != EW_OK) {
        if (!found) {
            drop_word(l, at);
        }
        return st;
    }
    if (!found) {
        l->slots_used += l->slot[i] == 0;
        l->slot[i] = at + 1;
    }
    return EW_OK;
}

/* --- walking --- */
static void enter(ew__rag_walk *w, uint32_t block)
{
    const uint8_t *p = at_unit(w->lists, block);
    w->block = block;
    w->at = p + LINK;
    w->end = p + block_bytes(w->step); /* the last one is not full, but then left ends the walk */
}

void ew__rag_walk_init(ew__rag_walk *w, const ew__rag_lists *l, uint32_t number)
{
    const word *x = &l->word[number];
    *w = (ew__rag_walk){.lists = l, .left = x->df, .item = EW__RAG_NONE};
    if (x->df == 1) {
        w->item = x->last - 1;
        w->count = x->tail;
    } else if (x->df > 1) {
        enter(w, link_of(at_unit(l, x->tail)));
    }
}

static uint8_t get_byte(ew__rag_walk *w)
{
    if (EW_UNLIKELY(w->at == w->end)) {
        uint32_t next = link_of(at_unit(w->lists, w->block));
        w->step = next_step(w->step);
        enter(w, next);
    }
    return *w->at++;
}

static uint32_t get_varint(ew__rag_walk *w)
{
    uint32_t c = get_byte(w);
    if (EW_LIKELY(c < 0x80)) {
        return c;
    }
    uint32_t v = c & 0x7F;
    for (unsigned shift = 7; c >= 0x80; shift += 7) {
        c = get_byte(w);
        v |= (c & 0x7F) << shift;
    }
    return v;
}

bool ew__rag_walk_next(ew__rag_walk *w)
{
    if (w->left == 0) {
        return false;
    }
    w->left--;
    if (w->at == NULL) { /* a single one */
        return true;
    }
    uint32_t v = get_varint(w);
    w->item += v >> 1; /* starts at -1 */
    w->count = (v & 1) != 0 ? get_varint(w) : 1;
    return true;
}

/* --- removal --- */
/* Clears what follows byte `used` of the block at `step`, which becomes the last, and gives the rest of the chain back. used 0: the block too. */
static void cut_chain(ew__rag_lists *l, word *w, uint32_t block, uint32_t step, uint32_t used)
{
    uint32_t head = link_of(at_unit(l, w->tail));
    uint32_t rest = block == w->tail ? head : link_of(at_unit(l, block));
    for (uint32_t s = next_step(step); rest != head; s = next_step(s)) {
        uint32_t next = link_of(at_unit(l, rest));
        free_block(l, rest, s);
        rest = next;
    }
    if (used == 0) {
        EW_ASSERT(block == head);
        free_block(l, block, step);
        w->n_blocks = 0;
        return;
    }
    uint8_t *p = at_unit(l, block);
    memset(p + used, 0, block_bytes(step) - used);
    memcpy(p, &head, LINK);
    w->tail = block;
    w->used = (uint16_t)used;
    w->n_blocks = (uint8_t)next_step(step);
}

/* New numbers of items. */
typedef struct renumbering {
    const uint32_t *map; /* NULL: all stay but drop */
    uint32_t drop;
} renumbering;

static uint32_t new_number(const renumbering *r, uint32_t item)
{
    return r->map != NULL ? r->map[item] : item == r->drop ? EW__RAG_NONE : item;
}

/* Where rewriting is in a chain: never before what is still to be read. */
typedef struct writer {
    ew__rag_lists *l;
    uint32_t block, step, used;
} writer;

static void write_bytes(writer *w, const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (w->used == block_bytes(w->step)) {
            w->block = link_of(at_unit(w->l, w->block));
            w->step = next_step(w->step);
            w->used = LINK;
        }
        at_unit(w->l, w->block)[w->used++] = bytes[i];
    }
}

static void rewrite_list(ew__rag_lists *l, word *w, uint32_t number, const renumbering *r)
{
    const uint32_t head = link_of(at_unit(l, w->tail));
    writer to = {l, head, 0, LINK};
    uint32_t df = 0, last = 0, count = 0;
    ew__rag_walk from;
    ew__rag_walk_init(&from, l, number);
    while (ew__rag_walk_next(&from)) {
        uint32_t item = new_number(r, from.item);
        if (item != EW__RAG_NONE) {
            uint8_t bytes[16];
            write_bytes(&to, bytes, put_item(bytes, item + 1 - last, from.count));
            last = item + 1;
            count = from.count;
            df++;
        }
    }
    if (df < 2) {
        cut_chain(l, w, head, 0, 0);
        w->tail = count;
    } else {
        cut_chain(l, w, to.block, to.step, to.used);
    }
    w->df = df;
    w->last = last;
}

static void rewrite(ew__rag_lists *l, uint32_t number, const renumbering *r)
{
    word *w = &l->word[number];
    if (w->df > 1) {
        rewrite_list(l, w, number, r);
        return;
    }
    uint32_t item = new_number(r, w->last - 1);
    w->df = item != EW__RAG_NONE;
    w->last = item + 1;
}

static bool has_item(const ew__rag_lists *l, uint32_t number, uint32_t item)
{
    ew__rag_walk w;
    ew__rag_walk_init(&w, l, number);
    while (ew__rag_walk_next(&w)) {
        if (w.item >= item) {
            return w.item == item;
        }
    }
    return false;
}

static void rewrite_all(ew__rag_lists *l, const renumbering *r)
{
    for (uint32_t w = 0; w < l->n_words; w++) {
        const word *x = &l->word[w];
        if (x->df == 0 || (r->map == NULL && (x->last <= r->drop || !has_item(l, w, r->drop)))) {
            continue;
        }
        rewrite(l, w, r);
        if (x->df == 0) {
            bool found = false;
            const uint8_t *t = l->text + x->text;
            size_t i = slot_of(l, t + 1, t[0], &found);
            l->slot[i] = EW__RAG_NONE;
            drop_word(l, w);
        }
    }
}

void ew__rag_lists_map(ew__rag_lists *l, const uint32_t *map)
{
    rewrite_all(l, &(renumbering){.map = map});
}

void ew__rag_lists_drop(ew__rag_lists *l, uint32_t item)
{
    rewrite_all(l, &(renumbering){.drop = item});
}
