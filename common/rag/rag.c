#include "rag/rag.h"

#include <math.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"

#define RAG_QUERY_BYTES 16384
#define RAG_QUERY_TERMS 64
#define RAG_TERM_BYTES 64
#define RAG_HALF_LIFE 50.0

struct ew_rag {
    sqlite3 *db;
    sqlite3_stmt *add, *get, *remove;
    sqlite3_stmt *best;   /* k best by BM25 */
    sqlite3_stmt *all;    /* every match, for ranking with recency */
    sqlite3_stmt *latest; /* newest items */
    size_t n;
};

static ew_status fail(const ew_rag *r, const char *what, ew_error *reterr)
{
    int code = r->db != NULL ? sqlite3_errcode(r->db) : SQLITE_NOMEM;
    return ew_fail(reterr, code == SQLITE_NOMEM ? EW_ENOMEM : EW_EINTERNAL, "retrieval index, %s: %s", what,
                   r->db != NULL ? sqlite3_errmsg(r->db) : "no memory");
}

void ew_rag_free(ew_rag **r)
{
    if (*r != NULL) {
        sqlite3_stmt *all[] = {(*r)->add, (*r)->get, (*r)->remove, (*r)->best, (*r)->all, (*r)->latest};
        for (size_t i = 0; i < EW_COUNT(all); i++) {
            sqlite3_finalize(all[i]);
        }
        sqlite3_close((*r)->db);
        ew_free(*r);
        *r = NULL;
    }
}

ew_status ew_rag_new(ew_rag **ret_rag, ew_error *reterr)
{
    EW_AUTO(ew_rag) r = ew_calloc(1, sizeof(*r));
    if (r == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the retrieval index");
    }
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_MEMORY | SQLITE_OPEN_NOMUTEX;
    static const char *const schema =
        "PRAGMA temp_store=MEMORY; PRAGMA journal_mode=OFF;"
        "CREATE VIRTUAL TABLE doc USING fts5(text, tokenize='unicode61 remove_diacritics 2', columnsize=1);"
        "CREATE TABLE pos(key INTEGER PRIMARY KEY, ord INTEGER NOT NULL);"
        "CREATE INDEX pos_ord ON pos(ord);";
    if (sqlite3_open_v2(":memory:", &r->db, flags, NULL) != SQLITE_OK ||
        sqlite3_exec(r->db, schema, NULL, NULL, NULL) != SQLITE_OK) {
        return fail(r, "create", reterr);
    }
    struct {
        const char *sql;
        sqlite3_stmt **stmt;
    } texts[] = {
        {"INSERT INTO doc(rowid, text) VALUES(?1, ?2)", &r->add},
        {"SELECT ord FROM pos WHERE key = ?1", &r->get},
        {"DELETE FROM doc WHERE rowid = ?1", &r->remove},
        {"SELECT doc.rowid, pos.ord, -bm25(doc) AS s FROM doc JOIN pos ON pos.key = doc.rowid WHERE doc MATCH ?1 AND "
         "pos.ord < ?2 ORDER BY s DESC, pos.ord DESC LIMIT ?3",
         &r->best},
        {"SELECT doc.rowid, pos.ord, -bm25(doc) FROM doc JOIN pos ON pos.key = doc.rowid WHERE doc MATCH ?1 AND "
         "pos.ord < ?2",
         &r->all},
        {"SELECT key, ord FROM pos WHERE ord < ?1 ORDER BY ord DESC LIMIT ?2", &r->latest},
    };
    for (size_t i = 0; i < EW_COUNT(texts); i++) {
        if (sqlite3_prepare_v3(r->db, texts[i].sql, -1, SQLITE_PREPARE_PERSISTENT, texts[i].stmt, NULL) != SQLITE_OK) {
            return fail(r, "prepare", reterr);
        }
    }
    *ret_rag = r;
    r = NULL;
    return EW_OK;
}

size_t ew_rag_count(const ew_rag *r)
{
    return r->n;
}

/* SQLite's integers are signed; keys and orders keep their order when the top half is cut. */
static sqlite3_int64 to_i64(uint64_t v)
{
    return v > INT64_MAX ? INT64_MAX : (sqlite3_int64)v;
}

static bool has(ew_rag *r, uint64_t key)
{
    sqlite3_bind_int64(r->get, 1, to_i64(key));
    bool found = sqlite3_step(r->get) == SQLITE_ROW;
    sqlite3_reset(r->get);
    return found;
}

static ew_status pos_change(ew_rag *r, const char *sql, uint64_t key, uint64_t order, ew_error *reterr)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(r->db, sql, -1, &st, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_bind_int64(st, 1, to_i64(key));
        if (sqlite3_bind_parameter_count(st) > 1) {
            sqlite3_bind_int64(st, 2, to_i64(order));
        }
        rc = sqlite3_step(st);
    }
    sqlite3_finalize(st);
    return rc == SQLITE_DONE ? EW_OK : fail(r, "change", reterr);
}

ew_status ew_rag_add(ew_rag *r, uint64_t key, const char *text, size_t size, uint64_t order, ew_error *reterr)
{
    if (key > INT64_MAX || size > INT32_MAX) {
        return ew_fail(reterr, EW_EINVAL, "retrieval index: key or text out of range");
    }
    if (has(r, key)) {
        return ew_fail(reterr, EW_EEXIST, "retrieval index: item %llu is there already", (unsigned long long)key);
    }
    EW_TRY(pos_change(r, "INSERT INTO pos(key, ord) VALUES(?1, ?2)", key, order, reterr));
    sqlite3_bind_int64(r->add, 1, to_i64(key));
    sqlite3_bind_text(r->add, 2, text != NULL ? text : "", (int)size, SQLITE_STATIC);
    int rc = sqlite3_step(r->add);
    sqlite3_reset(r->add);
    sqlite3_clear_bindings(r->add);
    if (rc != SQLITE_DONE) {
        ew_status st = fail(r, "add", reterr);
        ew_status undo = pos_change(r, "DELETE FROM pos WHERE key = ?1", key, 0, NULL);
        (void)undo;
        return st;
    }
    r->n++;
    return EW_OK;
}

ew_status ew_rag_remove(ew_rag *r, uint64_t key, ew_error *reterr)
{
    if (key > INT64_MAX || !has(r, key)) {
        return ew_fail(reterr, EW_ENOENT, "retrieval index: no item %llu", (unsigned long long)key);
    }
    sqlite3_bind_int64(r->remove, 1, to_i64(key));
    int rc = sqlite3_step(r->remove);
    sqlite3_reset(r->remove);
    if (rc != SQLITE_DONE) {
        return fail(r, "remove", reterr);
    }
    EW_TRY(pos_change(r, "DELETE FROM pos WHERE key = ?1", key, 0, reterr));
    r->n--;
    return EW_OK;
}

/* --- query text --- */
typedef struct term {
    char text[RAG_TERM_BYTES]; /* lower-case ASCII, other bytes as they are */
    size_t size;
} term;

static bool term_byte(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c >= 0x80;
}

static bool term_known(const term *t, size_t n, const term *x)
{
    for (size_t i = 0; i < n; i++) {
        if (t[i].size == x->size && memcmp(t[i].text, x->text, x->size) == 0) {
            return true;
        }
    }
    return false;
}

/* Puts x among the longest RAG_QUERY_TERMS, longest first; the earlier one stays on equal length. */
static void term_keep(term *t, size_t *n, const term *x)
{
    if (term_known(t, *n, x) || (*n == RAG_QUERY_TERMS && t[*n - 1].size >= x->size)) {
        return;
    }
    size_t i = *n < RAG_QUERY_TERMS ? (*n)++ : RAG_QUERY_TERMS - 1;
    while (i > 0 && t[i - 1].size < x->size) {
        t[i] = t[i - 1];
        i--;
    }
    t[i] = *x;
}

/* "one" OR "two" …: quoted strings hold no quote, so nothing in them is syntax. Empty when there is no term. */
static void query_text(const char *text, size_t size, ew_buf *out)
{
    term t[RAG_QUERY_TERMS];
    size_t n = 0;
    size = EW_MIN(size, (size_t)RAG_QUERY_BYTES);
    for (size_t i = 0; i < size;) {
        if (!term_byte((unsigned char)text[i])) {
            i++;
            continue;
        }
        term x = {.size = 0};
        for (; i < size && term_byte((unsigned char)text[i]); i++) {
            if (x.size < sizeof(x.text)) {
                char c = text[i];
                x.text[x.size++] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
            }
        }
        if (x.size > 1) {
            term_keep(t, &n, &x);
        }
    }
    for (size_t i = 0; i < n; i++) {
        ew_buf_adds(out, i != 0 ? " OR \"" : "\"");
        ew_buf_add(out, t[i].text, t[i].size);
        ew_buf_addc(out, '"');
    }
}

/* --- search --- */
static int by_score(const void *a, const void *b)
{
    const ew_rag_hit *x = a, *y = b;
    if (x->score != y->score) {
        return x->score < y->score ? 1 : -1;
    }
    return x->order < y->order ? 1 : x->order > y->order ? -1 : 0;
}

static ew_rag_hit row_hit(sqlite3_stmt *st)
{
    double bm25 = sqlite3_column_double(st, 2);
    bm25 = bm25 > 0.0 ? bm25 : 0.0;
    return (ew_rag_hit){(uint64_t)sqlite3_column_int64(st, 0), (uint64_t)sqlite3_column_int64(st, 1), bm25, bm25};
}

static ew_status search_best(ew_rag *r, const ew_rag_query *q, const ew_buf *match, ew_rag_hit *ret_hits, size_t *ret_n,
                             ew_error *reterr)
{
    sqlite3_bind_text(r->best, 1, match->data, (int)match->size, SQLITE_STATIC);
    sqlite3_bind_int64(r->best, 2, to_i64(q->before_order));
    sqlite3_bind_int64(r->best, 3, to_i64(q->k));
    size_t n = 0;
    int rc;
    while ((rc = sqlite3_step(r->best)) == SQLITE_ROW && n < q->k) {
        ret_hits[n++] = row_hit(r->best);
    }
    sqlite3_reset(r->best);
    sqlite3_clear_bindings(r->best);
    if (rc != SQLITE_DONE && rc != SQLITE_ROW) {
        return fail(r, "search", reterr);
    }
    *ret_n = n;
    return EW_OK;
}

typedef struct hits {
    ew_rag_hit *hit;
    size_t n, cap;
} hits;

static void hits_release(hits *h)
{
    ew_free(h->hit);
}

static ew_status hits_add(hits *h, ew_rag_hit hit)
{
    EW_TRY(ew_grow((void **)&h->hit, &h->cap, h->n + 1, sizeof(*h->hit), SIZE_MAX / sizeof(*h->hit)));
    h->hit[h->n++] = hit;
    return EW_OK;
}

/* Every match, and the k newest items, which recency alone may bring in. */
static ew_status collect(ew_rag *r, const ew_rag_query *q, const ew_buf *match, hits *h, ew_error *reterr)
{
    int rc = SQLITE_DONE;
    ew_status st = EW_OK;
    if (match->size != 0) {
        sqlite3_bind_text(r->all, 1, match->data, (int)match->size, SQLITE_STATIC);
        sqlite3_bind_int64(r->all, 2, to_i64(q->before_order));
        while (st == EW_OK && (rc = sqlite3_step(r->all)) == SQLITE_ROW) {
            st = hits_add(h, row_hit(r->all));
        }
        sqlite3_reset(r->all);
        sqlite3_clear_bindings(r->all);
    }
    size_t n_match = h->n;
    if (st == EW_OK && rc == SQLITE_DONE) {
        sqlite3_bind_int64(r->latest, 1, to_i64(q->before_order));
        sqlite3_bind_int64(r->latest, 2, to_i64(q->k));
        while (st == EW_OK && (rc = sqlite3_step(r->latest)) == SQLITE_ROW) {
            uint64_t key = (uint64_t)sqlite3_column_int64(r->latest, 0);
            bool known = false;
            for (size_t i = 0; i < n_match && !known; i++) {
                known = h->hit[i].key == key;
            }
            if (!known) {
                st = hits_add(h, (ew_rag_hit){key, (uint64_t)sqlite3_column_int64(r->latest, 1), 0.0, 0.0});
            }
        }
        sqlite3_reset(r->latest);
    }
    if (st != EW_OK) {
        return ew_fail(reterr, st, "no memory to rank the matches of a query");
    }
    return rc == SQLITE_DONE ? EW_OK : fail(r, "search", reterr);
}

static ew_status search_recent(ew_rag *r, const ew_rag_query *q, const ew_buf *match, ew_rag_hit *ret_hits,
                               size_t *ret_n, ew_error *reterr)
{
    EW_CLEANUP(hits_release) hits h = {0};
    EW_TRY(collect(r, q, match, &h, reterr));
    double best = 0.0;
    uint64_t newest = 0;
    for (size_t i = 0; i < h.n; i++) {
        best = EW_MAX(best, h.hit[i].bm25);
        newest = EW_MAX(newest, h.hit[i].order);
    }
    double half_life = q->half_life > 0.0 ? q->half_life : RAG_HALF_LIFE;
    double w = EW_MIN(q->recency, 1.0);
    for (size_t i = 0; i < h.n; i++) {
        double age = (double)(newest - h.hit[i].order);
        double text = best > 0.0 ? h.hit[i].bm25 / best : 0.0;
        h.hit[i].score = (1.0 - w) * text + w * exp2(-age / half_life);
    }
    if (h.n != 0) {
        qsort(h.hit, h.n, sizeof(*h.hit), by_score);
    }
    size_t n = EW_MIN(h.n, q->k);
    if (n != 0) {
        memcpy(ret_hits, h.hit, n * sizeof(*h.hit));
    }
    *ret_n = n;
    return EW_OK;
}

ew_status ew_rag_search(ew_rag *r, const ew_rag_query *query, ew_rag_hit *ret_hits, size_t *ret_n, ew_error *reterr)
{
    EW_AUTO_BUF match = {0};
    query_text(query->text, query->size, &match);
    EW_TRY(ew_buf_check(&match, reterr));
    if (query->k == 0 || (match.size == 0 && !(query->recency > 0.0))) {
        *ret_n = 0;
        return EW_OK;
    }
    if (query->recency > 0.0) {
        return search_recent(r, query, &match, ret_hits, ret_n, reterr);
    }
    return search_best(r, query, &match, ret_hits, ret_n, reterr);
}
