/* The benchmark as read back: everything in memory (about 25 MB), strings borrowed from the parsed lines. */
#include "task/debian.h"

#include <math.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "rag/rag.h"
#include "sys/file.h"
#include "task/debian_int.h"
#include "text/json.h"

#define DEBIAN_RECORDS_MAX 1000000u
#define DEBIAN_NEAR 8 /* neighbours remembered per record */
#define DEBIAN_STRETCH 256
#define DEBIAN_TASKS 4
#define DEBIAN_DEPENDS_MIN 10 /* items of a user who counts for debian-depends */
#define DEBIAN_FILE_BYTES_MAX (512u * 1024 * 1024)

typedef struct extra {
    const char *id, *synopsis, *description;
} extra;

typedef struct near {
    uint32_t record[DEBIAN_NEAR];
    uint8_t n;
    bool known;
} near;

typedef struct pool_list {
    uint32_t *record;
    size_t n;
    bool known;
} pool_list;

struct ew_debian {
    ew_debian_info info;
    ew_debian_record *record;
    size_t n_records, records_cap;
    ew_debian_user *user;
    size_t n_users, users_cap;
    ew_map *user_by_hash; /* index + 1 */
    extra *extra;
    size_t n_extra, extra_cap;
    json_t **line; /* owns the strings of records and extra */
    size_t n_lines, lines_cap;
    ew__debian_derived derived;
    pool_list pool[DEBIAN_TASKS + 1]; /* by task; last: all */
    near *near[DEBIAN_TASKS];         /* [n_records], made at first use */
};

const char *ew_debian_role_name(ew_debian_role r)
{
    static const char *const name[] = {"pool", "dev", "test", "none"};
    return (size_t)r < EW_COUNT(name) ? name[r] : "?";
}

static ew_status no_memory(ew_error *reterr, ew_status st)
{
    return ew_fail(reterr, st, "the benchmark does not fit in memory");
}

void ew_debian_free(ew_debian **d)
{
    ew_debian *x = *d;
    if (x != NULL) {
        for (size_t i = 0; i < x->n_lines; i++) {
            json_decref(x->line[i]);
        }
        ew_free((void *)x->line);
        ew_free(x->record);
        ew_free(x->user);
        ew_free(x->extra);
        ew_map_free(&x->user_by_hash);
        ew__debian_derived_release(&x->derived);
        for (size_t i = 0; i < EW_COUNT(x->pool); i++) {
            ew_free(x->pool[i].record);
        }
        for (size_t i = 0; i < EW_COUNT(x->near); i++) {
            ew_free(x->near[i]);
        }
        ew_free(x);
        *d = NULL;
    }
}

/* Reads a JSON Lines file; each line is kept alive in d->line and given to add. */
static ew_status read_lines(ew_debian *d, const char *dir, const char *name,
                            ew_status (*add)(ew_debian *d, const json_t *j, const char *where, ew_error *reterr),
                            ew_sha256_stream *hash, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_TRY(ew_path_join(path, sizeof(path), dir, name, reterr));
    EW_AUTO(ew_file_map) m = NULL;
    EW_TRY(ew_file_map_open(path, &m, reterr));
    if (hash != NULL) {
        ew_sha256_stream_add(hash, ew_file_map_data(m), ew_file_map_size(m));
    }
    EW_AUTO(ew_jsonl) r = NULL;
    EW_TRY(ew_jsonl_open_mem(path, ew_file_map_data(m), ew_file_map_size(m), &r, reterr));
    for (;;) {
        json_t *j = NULL;
        EW_TRY(ew_jsonl_next(r, &j, reterr));
        if (j == NULL) {
            return EW_OK;
        }
        ew_status st = ew_grow((void **)&d->line, &d->lines_cap, d->n_lines + 1, sizeof(json_t *), DEBIAN_RECORDS_MAX);
        if (st != EW_OK) {
            json_decref(j);
            return no_memory(reterr, st);
        }
        d->line[d->n_lines++] = j;
        EW_TRY(add(d, j, ew_jsonl_where(r), reterr));
    }
}

static ew_status add_record(ew_debian *d, const json_t *j, const char *where, ew_error *reterr)
{
    ew_debian_record r = {0};
    const char *hash;
    int64_t order, size_kib;
    EW_TRY(ew_json_get_str(j, where, "id", &r.id, reterr));
    EW_TRY(ew_json_get_str(j, where, "user", &hash, reterr));
    EW_TRY(ew_json_get_str(j, where, "section", &r.section, reterr));
    EW_TRY(ew_json_get_str(j, where, "synopsis", &r.synopsis, reterr));
    EW_TRY(ew_json_get_str(j, where, "description", &r.description, reterr));
    EW_TRY(ew_json_get_str(j, where, "depends", &r.depends, reterr));
    EW_TRY(ew_json_get_i64(j, where, "order", 0, UINT32_MAX, &order, reterr));
    EW_TRY(ew_json_get_i64(j, where, "size", 0, INT64_MAX, &size_kib, reterr));
    uintptr_t u = (uintptr_t)ew_map_get(d->user_by_hash, hash, strlen(hash));
    if (u == 0) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: user '%s' is not in users.json. HINT: edgewise data debian --rebuild",
                       where, hash);
    }
    ew_debian_user *user = &d->user[u - 1];
    if (user->n == 0) {
        user->first = d->n_records;
    }
    if ((uint64_t)order != user->n || user->first + user->n != d->n_records) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: items are not in order. HINT: edgewise data debian --rebuild", where);
    }
    user->n++;
    r.order = (uint32_t)order;
    r.size_kib = (uint64_t)size_kib;
    r.user = (uint32_t)(u - 1);
    ew_status st =
        ew_grow((void **)&d->record, &d->records_cap, d->n_records + 1, sizeof(*d->record), DEBIAN_RECORDS_MAX);
    if (st != EW_OK) {
        return no_memory(reterr, st);
    }
    d->record[d->n_records++] = r;
    return EW_OK;
}

static ew_status add_extra(ew_debian *d, const json_t *j, const char *where, ew_error *reterr)
{
    extra e;
    EW_TRY(ew_json_get_str(j, where, "id", &e.id, reterr));
    EW_TRY(ew_json_get_str(j, where, "synopsis", &e.synopsis, reterr));
    EW_TRY(ew_json_get_str(j, where, "description", &e.description, reterr));
    ew_status st = ew_grow((void **)&d->extra, &d->extra_cap, d->n_extra + 1, sizeof(*d->extra), DEBIAN_RECORDS_MAX);
    if (st != EW_OK) {
        return no_memory(reterr, st);
    }
    d->extra[d->n_extra++] = e;
    return EW_OK;
}

static ew_status role_parse(const char *where, const char *text, ew_debian_role *ret_role, ew_error *reterr)
{
    for (ew_debian_role r = EW_DEBIAN_POOL; r <= EW_DEBIAN_NONE; r++) {
        if (ew_str_eq(text, ew_debian_role_name(r))) {
            *ret_role = r;
            return EW_OK;
        }
    }
    return ew_fail(reterr, EW_ECORRUPT, "%s: unknown role '%s'", where, text);
}

static ew_status add_user(ew_debian *d, const char *where, const char *hash, const json_t *j, ew_error *reterr)
{
    ew_debian_user u = {0};
    const char *role;
    EW_TRY(ew_json_get_str(j, where, "role", &role, reterr));
    EW_TRY(role_parse(where, role, &u.role, reterr));
    EW_TRY(ew_json_get_f64(j, where, "entropy", &u.entropy, reterr));
    if (strlen(hash) != 16) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: '%s' is no user hash", where, hash);
    }
    memcpy(u.hash, hash, 17);
    ew_status st = ew_grow((void **)&d->user, &d->users_cap, d->n_users + 1, sizeof(*d->user), DEBIAN_RECORDS_MAX);
    if (st == EW_OK) {
        st = ew_map_add(d->user_by_hash, hash, 16, (void *)(uintptr_t)(d->n_users + 1));
    }
    if (st != EW_OK) {
        return no_memory(reterr, st);
    }
    d->user[d->n_users++] = u;
    return EW_OK;
}

static ew_status read_users(ew_debian *d, const char *dir, ew_buf *text, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_TRY(ew_path_join(path, sizeof(path), dir, "users.json", reterr));
    text->max = DEBIAN_FILE_BYTES_MAX;
    EW_TRY(ew_file_read(path, DEBIAN_FILE_BYTES_MAX, text, reterr));
    EW_AUTO_JSON j = NULL;
    EW_TRY(ew_json_load(path, ew_buf_str(text), text->size, &j, reterr));
    if (!json_is_object(j)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: should be an object", path);
    }
    const char *hash;
    json_t *value;
    json_object_foreach(j, hash, value)
    {
        EW_TRY(add_user(d, path, hash, value, reterr));
    }
    return EW_OK;
}

static ew_status get_count(const json_t *j, const char *where, const char *key, uint64_t *ret, ew_error *reterr)
{
    int64_t v;
    EW_TRY(ew_json_get_i64(j, where, key, 0, INT64_MAX, &v, reterr));
    *ret = (uint64_t)v;
    return EW_OK;
}

static ew_status get_text(const json_t *j, const char *where, const char *key, char *dst, size_t size, ew_error *reterr)
{
    const char *s;
    EW_TRY(ew_json_get_str(j, where, key, &s, reterr));
    if (!ew_str_copy(dst, size, s)) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: '%s' is too long", where, key);
    }
    return EW_OK;
}

ew_status ew_debian_default_dir(const char *xdg_cache_home, const char *home, char *dst, size_t size, ew_error *reterr)
{
    if (xdg_cache_home != NULL && xdg_cache_home[0] == '/') {
        return ew_path_join(dst, size, xdg_cache_home, "edgewise/debian", reterr);
    }
    if (home != NULL && home[0] == '/') {
        return ew_path_join(dst, size, home, ".cache/edgewise/debian", reterr);
    }
    return ew_fail(reterr, EW_EINVAL, "neither XDG_CACHE_HOME nor HOME is set: give the benchmark's directory (--dir)");
}

static ew_status read_info(ew_debian_info *i, const char *dir, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_TRY(ew_path_join(path, sizeof(path), dir, "info.json", reterr));
    if (!ew_file_exists(path)) {
        return ew_fail(reterr, EW_ENOENT, "%s is not there. HINT: edgewise data debian", path);
    }
    EW_AUTO_JSON j = NULL;
    EW_TRY(ew_json_load_file(path, 0, &j, reterr));
    int64_t format;
    EW_TRY(ew_json_get_i64(j, path, "format", 0, 1000000, &format, reterr));
    if (format != EW__DEBIAN_FORMAT) {
        return ew_fail(reterr, EW_EUNSUPPORTED,
                       "%s: format %lld, this program reads %d. HINT: edgewise data debian "
                       "--rebuild",
                       path, (long long)format, EW__DEBIAN_FORMAT);
    }
    EW_TRY(get_text(j, path, "digest", i->digest, sizeof(i->digest), reterr));
    EW_TRY(get_text(j, path, "codename", i->codename, sizeof(i->codename), reterr));
    EW_TRY(get_text(j, path, "date", i->date, sizeof(i->date), reterr));
    EW_TRY(get_text(j, path, "arch", i->arch, sizeof(i->arch), reterr));
    EW_TRY(get_text(j, path, "heldout", i->heldout, sizeof(i->heldout), reterr));
    struct {
        const char *key;
        uint64_t *value;
    } counts[] = {{"packages", &i->n_packages},
                  {"sources", &i->n_sources},
                  {"items", &i->n_items},
                  {"near_duplicates", &i->n_near_duplicates},
                  {"extra", &i->n_extra},
                  {"users", &i->n_users},
                  {"dev", &i->n_dev},
                  {"test", &i->n_test},
                  {"eval_items", &i->n_eval_items},
                  {"section_users", &i->n_section_users},
                  {"pool_items", &i->n_pool_items},
                  {"pool_chars", &i->n_pool_chars}};
    for (size_t k = 0; k < EW_COUNT(counts); k++) {
        EW_TRY(get_count(j, path, counts[k].key, counts[k].value, reterr));
    }
    return EW_OK;
}

ew_status ew_debian_read_info(const char *dir, ew_debian_info *ret_info, ew_error *reterr)
{
    ew_debian_info info = {0};
    EW_TRY(read_info(&info, dir, reterr));
    *ret_info = info;
    return EW_OK;
}

static ew_status open_files(ew_debian *d, const char *dir, ew_sha256_stream *hash, ew_error *reterr)
{
    EW_TRY(read_info(&d->info, dir, reterr));
    EW_AUTO_BUF head = {0};
    ew_buf_addf(&head, "edgewise-debian\n%d\nDebian\n%s\n%s\n%s\n", EW__DEBIAN_FORMAT, d->info.codename, d->info.date,
                d->info.arch);
    ew_sha256_stream_add(hash, ew_buf_str(&head), head.size);
    EW_AUTO_BUF users = {0};
    EW_TRY(read_users(d, dir, &users, reterr));
    EW_TRY(read_lines(d, dir, "items.jsonl", add_record, hash, reterr));
    ew_sha256_stream_add(hash, ew_buf_str(&users), users.size);
    uint8_t digest[EW_SHA256_SIZE];
    char hex[EW_SHA256_HEX_SIZE];
    ew_sha256_stream_end(hash, digest);
    ew_hex_encode(digest, sizeof(digest), hex);
    if (!ew_str_eq(hex, d->info.digest)) {
        return ew_fail(reterr, EW_ECORRUPT,
                       "%s: the files do not match the digest in info.json. HINT: edgewise data "
                       "debian --rebuild",
                       dir);
    }
    return read_lines(d, dir, "extra.jsonl", add_extra, NULL, reterr);
}

static ew_status derive(ew_debian *d, ew_error *reterr)
{
    bool *in_pool = ew_calloc(d->n_records + 1, sizeof(*in_pool));
    if (in_pool == NULL) {
        return no_memory(reterr, EW_ENOMEM);
    }
    for (size_t i = 0; i < d->n_records; i++) {
        in_pool[i] = d->user[d->record[i].user].role == EW_DEBIAN_POOL;
    }
    const ew_status st = ew__debian_derive(d->record, d->n_records, in_pool, &d->derived, reterr);
    ew_free(in_pool);
    return st;
}

ew_status ew_debian_open(const char *dir, ew_debian **ret_debian, ew_error *reterr)
{
    EW_AUTO(ew_debian) d = ew_calloc(1, sizeof(*d));
    if (d == NULL || ew_map_new(&d->user_by_hash) != EW_OK) {
        return no_memory(reterr, EW_ENOMEM);
    }
    ew_sha256_stream *hash = ew_sha256_stream_new();
    ew_status st = open_files(d, dir, hash, reterr);
    ew_sha256_stream_free(&hash);
    EW_TRY(st);
    EW_TRY(derive(d, reterr));
    const uint32_t *record;
    size_t n;
    EW_TRY(ew_debian_pool(d, NULL, &record, &n, reterr)); /* texts are numbered by it */
    *ret_debian = d;
    d = NULL;
    return EW_OK;
}

const ew_debian_info *ew_debian_info_of(const ew_debian *d)
{
    return &d->info;
}

size_t ew_debian_n_records(const ew_debian *d)
{
    return d->n_records;
}

const ew_debian_record *ew_debian_record_at(const ew_debian *d, size_t i)
{
    EW_ASSERT(i < d->n_records);
    return &d->record[i];
}

size_t ew_debian_n_users(const ew_debian *d)
{
    return d->n_users;
}

const ew_debian_user *ew_debian_user_at(const ew_debian *d, size_t i)
{
    EW_ASSERT(i < d->n_users);
    return &d->user[i];
}

const ew_debian_user *ew_debian_user_find(const ew_debian *d, const char *hash)
{
    uintptr_t at = (uintptr_t)ew_map_get(d->user_by_hash, hash, strlen(hash));
    return at != 0 ? &d->user[at - 1] : NULL;
}

enum {
    SECTION,
    SYNOPSIS,
    DEPENDS,
    SIZE
};

/* -1 = none of the benchmark's. */
static int task_index(const ew_task *t)
{
    static const char *const name[DEBIAN_TASKS] = {[SECTION] = "debian-section",
                                                   [SYNOPSIS] = "debian-synopsis",
                                                   [DEPENDS] = "debian-depends",
                                                   [SIZE] = "debian-size"};
    for (int i = 0; i < DEBIAN_TASKS; i++) {
        if (ew_str_eq(t->name, name[i])) {
            return i;
        }
    }
    return -1;
}

static bool fits_task(const ew_debian *d, size_t record, const ew_task *t)
{
    const int task = task_index(t);
    return task == SECTION ? ew_task_label(t, d->record[record].section) >= 0
                           : task != DEPENDS || d->derived.pair[record] != 0;
}

/* The record as an item whose strings are borrowed (read only). */
static ew_item item_of(const ew_debian *d, size_t record, const ew_task *t)
{
    static const char *const digit[] = {"0", "1", "2", "3", "4", "5"};
    const ew_debian_record *r = &d->record[record];
    const int task = task_index(t);
    const char *in = task == DEPENDS ? d->derived.text.data + d->derived.pair[record] : r->description;
    const char *out = task == SECTION    ? r->section
                      : task == SYNOPSIS ? r->synopsis
                      : task == DEPENDS  ? digit[d->derived.answer[record]]
                                         : digit[d->derived.quintile[record]];
    union {
        const char *in;
        char *out;
    } id = {r->id}, user = {d->user[r->user].hash}, input = {in}, output = {out};
    return (ew_item){id.out, user.out, input.out, output.out, r->order};
}

static ew_status check_task(const ew_task *t, ew_error *reterr)
{
    if (task_index(t) < 0) {
        return ew_fail(reterr, EW_EINVAL, "task '%s' is not one of the debian benchmark", t->name);
    }
    return EW_OK;
}

ew_status ew_debian_items(const ew_debian *d, const ew_task *t, const ew_debian_user *user, ew_items *ret_items,
                          ew_error *reterr)
{
    EW_TRY(check_task(t, reterr));
    EW_AUTO_ITEMS items = {0};
    for (size_t i = user->first; i < user->first + user->n; i++) {
        if (fits_task(d, i, t)) {
            ew_item item = item_of(d, i, t);
            item.order = items.n;
            EW_TRY(ew_items_add(&items, &item, reterr));
        }
    }
    *ret_items = items;
    items = (ew_items){0};
    return EW_OK;
}

/* A user whose labels are nearly all the same says nothing. */
static bool counts(const ew_debian *d, const ew_debian_user *u, const ew_task *t)
{
    size_t n = 0, of[6] = {0};
    switch (task_index(t)) {
    case SECTION:
        return u->entropy >= 1.0;
    case DEPENDS:
        for (size_t i = u->first; i < u->first + u->n; i++) {
            n += d->derived.pair[i] != 0;
        }
        return n >= DEBIAN_DEPENDS_MIN;
    case SIZE: {
        double h = 0;
        for (size_t i = u->first; i < u->first + u->n; i++) {
            of[d->derived.quintile[i]]++;
        }
        for (size_t k = 1; k < EW_COUNT(of); k++) {
            const double p = (double)of[k] / (double)u->n;
            h -= p > 0 ? p * log2(p) : 0;
        }
        return h >= 1.0;
    }
    default:
        return true;
    }
}

ew_status ew_debian_users(const ew_debian *d, const ew_task *t, ew_debian_role role, const ew_debian_user ***ret_users,
                          size_t *ret_n, ew_error *reterr)
{
    EW_TRY(check_task(t, reterr));
    const ew_debian_user **users = ew_calloc(d->n_users + 1, sizeof(*users));
    if (users == NULL) {
        return no_memory(reterr, EW_ENOMEM);
    }
    size_t n = 0;
    for (size_t i = 0; i < d->n_users; i++) { /* users.json is sorted by hash */
        if (d->user[i].role == role && counts(d, &d->user[i], t)) {
            users[n++] = &d->user[i];
        }
    }
    *ret_users = users;
    *ret_n = n;
    return EW_OK;
}

/* --- pre-training --- */
ew_status ew_debian_pool(ew_debian *d, const ew_task *t, const uint32_t **ret_records, size_t *ret_n, ew_error *reterr)
{
    if (t != NULL) {
        EW_TRY(check_task(t, reterr));
    }
    pool_list *p = &d->pool[t != NULL ? task_index(t) : DEBIAN_TASKS];
    if (!p->known) {
        p->record = ew_calloc(d->n_records + 1, sizeof(*p->record));
        if (p->record == NULL) {
            return no_memory(reterr, EW_ENOMEM);
        }
        for (size_t i = 0; i < d->n_records; i++) {
            const ew_debian_record *r = &d->record[i];
            if (d->user[r->user].role == EW_DEBIAN_POOL && (t == NULL || fits_task(d, i, t))) {
                p->record[p->n++] = (uint32_t)i;
            }
        }
        p->known = true;
    }
    *ret_records = p->record;
    *ret_n = p->n;
    return EW_OK;
}

size_t ew_debian_n_texts(const ew_debian *d)
{
    return d->pool[DEBIAN_TASKS].n + d->n_extra;
}

static void add_text(const char *id, const char *synopsis, const char *description, ew_buf *out)
{
    ew_buf_addf(out, "%s: %s\n", id, synopsis);
    ew_buf_adds(out, description);
}

ew_status ew_debian_text(const ew_debian *d, size_t i, ew_buf *out, ew_error *reterr)
{
    const pool_list *pool = &d->pool[DEBIAN_TASKS];
    size_t n = pool->n;
    if (i < n) {
        const ew_debian_record *r = &d->record[pool->record[i]];
        add_text(r->id, r->synopsis, r->description, out);
    } else {
        EW_ASSERT(i - n < d->n_extra);
        const extra *e = &d->extra[i - n];
        add_text(e->id, e->synopsis, e->description, out);
    }
    return ew_buf_check(out, reterr);
}

ew_status ew_debian_dev_text(const ew_debian *d, uint32_t record, ew_buf *out, ew_error *reterr)
{
    EW_ASSERT(record < d->n_records);
    const ew_debian_record *r = &d->record[record];
    if (d->user[r->user].role != EW_DEBIAN_DEV) {
        return ew_fail(reterr, EW_EDENIED, "record %s belongs to a %s user: only dev users serve for validation", r->id,
                       ew_debian_role_name(d->user[r->user].role));
    }
    add_text(r->id, r->synopsis, r->description, out);
    return ew_buf_check(out, reterr);
}

/* Big users are cut into stretches of DEBIAN_STRETCH records, about the history of an evaluated user: what a query sees has the same
 * size in training as in evaluation. Fills the neighbours of the whole stretch that holds the record. */
static ew_status near_fill(ew_debian *d, const ew_task *t, uint32_t record, near *all, ew_error *reterr)
{
    const ew_debian_user *u = &d->user[d->record[record].user];
    size_t first = u->first + (record - u->first) / DEBIAN_STRETCH * DEBIAN_STRETCH;
    size_t end = EW_MIN(first + DEBIAN_STRETCH, u->first + u->n);
    EW_AUTO(ew_rag) rag = NULL;
    EW_TRY(ew_rag_new(&rag, reterr));
    EW_AUTO_BUF text = {0};
    for (size_t i = first; i < end; i++) {
        if (fits_task(d, i, t)) {
            ew_item item = item_of(d, i, t);
            ew_buf_clear(&text);
            ew_task_corpus(t, &item, &text);
            EW_TRY(ew_buf_check(&text, reterr));
            EW_TRY(ew_rag_add(rag, i, text.data, text.size, i, reterr));
        }
    }
    for (size_t i = first; i < end; i++) {
        if (!fits_task(d, i, t)) {
            all[i].known = true;
            continue;
        }
        const char *query = item_of(d, i, t).input;
        const ew_rag_query q = {.text = query, .size = strlen(query), .k = DEBIAN_NEAR, .before_order = i};
        ew_rag_hit hit[DEBIAN_NEAR];
        size_t n;
        EW_TRY(ew_rag_search(rag, &q, hit, &n, reterr));
        near *x = &all[i];
        for (size_t k = 0; k < n; k++) {
            x->record[k] = (uint32_t)hit[k].key;
        }
        x->n = (uint8_t)n;
        x->known = true;
    }
    return EW_OK;
}

static ew_status near_of(ew_debian *d, const ew_task *t, uint32_t record, const near **ret_near, ew_error *reterr)
{
    near **all = &d->near[task_index(t)];
    if (*all == NULL) {
        *all = ew_calloc(d->n_records + 1, sizeof(**all));
        if (*all == NULL) {
            return no_memory(reterr, EW_ENOMEM);
        }
    }
    if (!(*all)[record].known) {
        EW_TRY(near_fill(d, t, record, *all, reterr));
    }
    *ret_near = &(*all)[record];
    return EW_OK;
}

ew_status ew_debian_example(ew_debian *d, const ew_task *t, uint32_t record, size_t k, const ew_task_budget *budget,
                            ew_buf *prompt, ew_buf *answer, ew_error *reterr)
{
    EW_TRY(check_task(t, reterr));
    EW_ASSERT(record < d->n_records);
    const ew_debian_record *r = &d->record[record];
    ew_debian_role role = d->user[r->user].role;
    if (role != EW_DEBIAN_POOL && role != EW_DEBIAN_DEV) {
        return ew_fail(reterr, EW_EDENIED, "record %s belongs to a held-out user: it is not for training", r->id);
    }
    if (!fits_task(d, record, t)) {
        return ew_fail(reterr, EW_EINVAL, "record %s is no item of %s", r->id, t->name);
    }
    ew_item item[DEBIAN_NEAR];
    const ew_item *retrieved[DEBIAN_NEAR];
    size_t n = 0;
    if (k != 0) {
        const near *x = NULL;
        EW_TRY(near_of(d, t, record, &x, reterr));
        for (; n < EW_MIN(k, (size_t)x->n); n++) {
            item[n] = item_of(d, x->record[n], t);
            retrieved[n] = &item[n];
        }
    }
    ew_item own = item_of(d, record, t);
    EW_TRY(ew_task_prompt(t, own.input, retrieved, n, budget, prompt, NULL, reterr));
    ew_task_answer(own.output, answer);
    return ew_buf_check(answer, reterr);
}
