/* Builds the benchmark directory from the index: choice of the package that speaks for a source, near-duplicates, users, roles, files.
 * Memory: the index is mapped; about 60 MB of texts and shingles for Debian 12. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "sys/file.h"
#include "task/debian_int.h"
#include "text/json.h"

#define BUILD_SOURCES_MAX 1000000u
#define BUILD_HELDOUT_BYTES_MAX (1024u * 1024)
#define BUILD_FILE_BYTES_MAX (512u * 1024 * 1024)

typedef struct source {
    ew_span name;
    const ew__debian_pkg *pkg; /* that speaks for it */
    char *synopsis, *description;
    uint32_t user; /* index */
    bool kept;
    char order_key[65]; /* hash that gives its place within the user */
} source;

typedef struct user {
    char hash[17];
    ew_span maintainer;
    ew_debian_role role;
    uint32_t n; /* kept items */
    double entropy;
    uint32_t label[64]; /* kept items per section label */
} user;

typedef struct build {
    const ew_debian_build_opt *opt;
    ew__debian_index *index;
    ew__debian_release release;
    ew__dedup *dedup;
    ew_map *source_by_name; /* index + 1 */
    source *sources;
    size_t n_sources, sources_cap;
    ew_map *user_by_maintainer; /* index + 1 */
    user *users;
    size_t n_users, users_cap;
    ew_map *heldout; /* hash -> role + 1; NULL = no list */
    ew_debian_info info;
} build;

static void build_release(build *b)
{
    for (size_t i = 0; i < b->n_sources; i++) {
        ew_free(b->sources[i].synopsis);
        ew_free(b->sources[i].description);
    }
    ew_free(b->sources);
    ew_free(b->users);
    ew_map_free(&b->source_by_name);
    ew_map_free(&b->user_by_maintainer);
    ew_map_free(&b->heldout);
    ew__dedup_free(&b->dedup);
    ew__debian_index_free(&b->index);
}

static ew_status tell(const build *b, const char *phase, uint64_t done, uint64_t total, ew_error *reterr)
{
    const ew_progress_info info = {
        .phase = phase, .unit = "packages", .done = done, .total = total, .loss = (double)NAN, .left_s = (double)NAN};
    if ((done & 255u) == 0 && !ew_progress_tell(&b->opt->progress, &info)) {
        return ew_fail(reterr, EW_ECANCELLED, "stopped while building the benchmark");
    }
    return EW_OK;
}

static ew_status no_memory(ew_error *reterr, ew_status st)
{
    return ew_fail(reterr, st, "the benchmark does not fit in memory");
}

static int span_cmp(ew_span a, ew_span b)
{
    int c = memcmp(a.data, b.data, EW_MIN(a.size, b.size));
    return c != 0 ? c : (a.size > b.size) - (a.size < b.size);
}

static bool span_ends(ew_span s, const char *suffix)
{
    size_t n = strlen(suffix);
    return s.size >= n && memcmp((const char *)s.data + s.size - n, suffix, n) == 0;
}

/* 0 = named like the source, 1 = a main package, 2 = an auxiliary one. */
static int rank_of(const ew__debian_pkg *p)
{
    if (span_cmp(p->name, p->source) == 0) {
        return 0;
    }
    static const char *const aux[] = {"-dev", "-doc", "-dbg", "-data", "-common"};
    for (size_t i = 0; i < EW_COUNT(aux); i++) {
        if (span_ends(p->name, aux[i])) {
            return 2;
        }
    }
    return 1;
}

static bool speaks_better(const ew__debian_pkg *a, const ew__debian_pkg *b)
{
    int ra = rank_of(a), rb = rank_of(b);
    if (ra != rb) {
        return ra < rb;
    }
    if (a->name.size != b->name.size) {
        return a->name.size < b->name.size;
    }
    return span_cmp(a->name, b->name) < 0;
}

static int by_source_name(const void *a, const void *b)
{
    return span_cmp(((const source *)a)->name, ((const source *)b)->name);
}

static ew_status collect_sources(build *b, ew_error *reterr)
{
    for (size_t i = 0; i < ew__debian_index_n(b->index); i++) {
        const ew__debian_pkg *p = ew__debian_index_at(b->index, i);
        uintptr_t at = (uintptr_t)ew_map_get(b->source_by_name, p->source.data, p->source.size);
        if (at != 0) {
            source *s = &b->sources[at - 1];
            s->pkg = speaks_better(p, s->pkg) ? p : s->pkg;
            continue;
        }
        ew_status st =
            ew_grow((void **)&b->sources, &b->sources_cap, b->n_sources + 1, sizeof(*b->sources), BUILD_SOURCES_MAX);
        if (st == EW_OK) {
            st = ew_map_add(b->source_by_name, p->source.data, p->source.size, (void *)(uintptr_t)(b->n_sources + 1));
        }
        if (st != EW_OK) {
            return no_memory(reterr, st);
        }
        b->sources[b->n_sources++] = (source){.name = p->source, .pkg = p};
    }
    qsort(b->sources, b->n_sources, sizeof(*b->sources), by_source_name);
    /* The map's numbers are from before the sort. */
    ew_map_free(&b->source_by_name);
    ew_status st = ew_map_new(&b->source_by_name);
    for (size_t i = 0; st == EW_OK && i < b->n_sources; i++) {
        st =
            ew_map_add(b->source_by_name, b->sources[i].name.data, b->sources[i].name.size, (void *)(uintptr_t)(i + 1));
    }
    return st == EW_OK ? EW_OK : no_memory(reterr, st);
}

static ew_status split_texts(build *b, ew_error *reterr)
{
    EW_AUTO_BUF synopsis = {0};
    EW_AUTO_BUF description = {0};
    for (size_t i = 0; i < b->n_sources; i++) {
        EW_TRY(tell(b, "texts", i, b->n_sources, reterr));
        source *s = &b->sources[i];
        ew_buf_clear(&synopsis);
        ew_buf_clear(&description);
        ew__debian_text_split(s->pkg->text, &synopsis, &description);
        EW_TRY(ew_buf_check(&synopsis, reterr));
        EW_TRY(ew_buf_check(&description, reterr));
        if (synopsis.size == 0 || description.size == 0) {
            continue;
        }
        bool fresh;
        EW_TRY(ew__dedup_add(b->dedup, description.data, description.size, &fresh, reterr));
        if (!fresh) {
            b->info.n_near_duplicates++;
            continue;
        }
        s->kept = true;
        s->synopsis = ew_str_dup(synopsis.data);
        s->description = ew_str_dup(description.data);
        if (s->synopsis == NULL || s->description == NULL) {
            return no_memory(reterr, EW_ENOMEM);
        }
    }
    return EW_OK;
}

static void user_hash(ew_span maintainer, char hash[static 17])
{
    uint8_t mac[EW_SHA256_SIZE];
    ew_hmac_sha256(EW__DEBIAN_USER_KEY, strlen(EW__DEBIAN_USER_KEY), maintainer.data, maintainer.size, mac);
    ew_hex_encode(mac, 8, hash);
}

static ew_status assign_users(build *b, ew_error *reterr)
{
    const ew_task *section = ew_task_find("debian-section");
    for (size_t i = 0; i < b->n_sources; i++) {
        source *s = &b->sources[i];
        ew_span m = s->pkg->maintainer;
        uintptr_t at = (uintptr_t)ew_map_get(b->user_by_maintainer, m.data, m.size);
        if (at == 0) {
            ew_status st =
                ew_grow((void **)&b->users, &b->users_cap, b->n_users + 1, sizeof(*b->users), BUILD_SOURCES_MAX);
            at = b->n_users + 1;
            if (st == EW_OK) {
                st = ew_map_add(b->user_by_maintainer, m.data, m.size, (void *)at);
            }
            if (st != EW_OK) {
                return no_memory(reterr, st);
            }
            b->users[b->n_users] = (user){.maintainer = m};
            user_hash(m, b->users[b->n_users++].hash);
        }
        s->user = (uint32_t)(at - 1);
        if (!s->kept) {
            continue;
        }
        user *u = &b->users[at - 1];
        u->n++;
        for (size_t l = 0; l < section->n_labels && l < EW_COUNT(u->label); l++) {
            ew_span name = {section->labels[l], strlen(section->labels[l])};
            u->label[l] += span_cmp(name, s->pkg->section) == 0;
        }
        EW_AUTO_BUF key = {0};
        ew_buf_adds(&key, u->hash);
        ew_buf_addc(&key, '/');
        ew_buf_add(&key, s->name.data, s->name.size);
        EW_TRY(ew_buf_check(&key, reterr));
        ew_sha256_hex(key.data, key.size, s->order_key);
    }
    return EW_OK;
}

/* "<16 hex digits> dev|test" per line; "#" starts a comment. */
static ew_status heldout_read(build *b, ew_error *reterr)
{
    if (b->opt->heldout == NULL) {
        return EW_OK;
    }
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_file_read(b->opt->heldout, BUILD_HELDOUT_BYTES_MAX, &text, reterr));
    ew_sha256_hex(ew_buf_str(&text), text.size, b->info.heldout);
    ew_status st = ew_map_new(&b->heldout);
    size_t line = 0;
    for (char *p = text.data; st == EW_OK && p != NULL && *p != '\0';) {
        char *eol = strchr(p, '\n');
        char *next = eol != NULL ? eol + 1 : p + strlen(p);
        line++;
        p[(eol != NULL ? eol : next) - p] = '\0';
        if (*p != '\0' && *p != '#') {
            uint8_t raw[8];
            char hash[17] = {0};
            uintptr_t role = ew_str_ends(p, " dev")    ? EW_DEBIAN_DEV + 1u
                             : ew_str_ends(p, " test") ? EW_DEBIAN_TEST + 1u
                                                       : 0;
            ew_str_copy(hash, sizeof(hash), p);
            if (role == 0 || strlen(p) != 17 + (role == EW_DEBIAN_DEV + 1u ? 3u : 4u) ||
                !ew_hex_decode(hash, raw, sizeof(raw))) {
                return ew_fail(reterr, EW_ECORRUPT, "%s:%zu: not \"<16 hex digits> dev\" or \"… test\"",
                               b->opt->heldout, line);
            }
            st = ew_map_add(b->heldout, hash, 16, (void *)role);
        }
        p = next;
    }
    if (st != EW_OK) {
        return ew_fail(reterr, st, "%s: %s", b->opt->heldout,
                       st == EW_EEXIST ? "a user is listed twice" : "the list does not fit in memory");
    }
    return EW_OK;
}

static ew_debian_role role_of(const build *b, const user *u)
{
    bool scored = u->n >= EW__DEBIAN_MIN_ITEMS;
    if (b->heldout != NULL) {
        uintptr_t listed = (uintptr_t)ew_map_get(b->heldout, u->hash, 16);
        if (listed == 0) {
            return EW_DEBIAN_POOL;
        }
        return scored ? (ew_debian_role)(listed - 1) : EW_DEBIAN_NONE;
    }
    if (!scored || u->n > EW__DEBIAN_MAX_ITEMS) {
        return EW_DEBIAN_POOL;
    }
    char text[32] = "split/";
    uint8_t digest[EW_SHA256_SIZE];
    memcpy(text + 6, u->hash, 17);
    ew_sha256(text, strlen(text), digest);
    return digest[0] < 128 ? EW_DEBIAN_DEV : EW_DEBIAN_TEST;
}

static void assign_roles(build *b)
{
    for (size_t i = 0; i < b->n_users; i++) {
        user *u = &b->users[i];
        u->role = role_of(b, u);
        uint64_t total = 0;
        for (size_t l = 0; l < EW_COUNT(u->label); l++) {
            total += u->label[l];
        }
        for (size_t l = 0; l < EW_COUNT(u->label); l++) {
            if (u->label[l] != 0) {
                double p = (double)u->label[l] / (double)total;
                u->entropy -= p * log2(p);
            }
        }
        bool eval = u->role == EW_DEBIAN_DEV || u->role == EW_DEBIAN_TEST;
        b->info.n_users += u->n != 0;
        b->info.n_dev += u->role == EW_DEBIAN_DEV;
        b->info.n_test += u->role == EW_DEBIAN_TEST;
        b->info.n_eval_items += eval ? u->n : 0;
        b->info.n_section_users += eval && u->entropy >= 1.0;
        b->info.n_pool_items += u->role == EW_DEBIAN_POOL ? u->n : 0;
    }
}

/* Sources sorted by user hash and place within the user. qsort has no context: the users are reached through a file-local pointer. */
typedef struct sort_entry {
    const user *u;
    const source *s;
} sort_entry;

static int by_user_and_order(const void *a, const void *b)
{
    const sort_entry *x = a, *y = b;
    int c = strcmp(x->u->hash, y->u->hash);
    return c != 0 ? c : strcmp(x->s->order_key, y->s->order_key);
}

/* "libc6 (>= 2.36), foo | bar" -> "libc6,foo" */
static void add_depends(ew_span depends, ew_buf *out)
{
    const char *p = depends.data;
    const char *end = p + depends.size;
    bool first = true;
    while (p < end) {
        while (p < end && (*p == ' ' || *p == ',')) {
            p++;
        }
        const char *name = p;
        while (p < end && *p != ' ' && *p != ',' && *p != ':' && *p != '(') {
            p++;
        }
        if (p > name) {
            if (!first) {
                ew_buf_addc(out, ',');
            }
            first = false;
            ew_buf_add(out, name, (size_t)(p - name));
        }
        while (p < end && *p != ',') {
            p++;
        }
    }
}

static void add_quoted_field(ew_buf *out, const char *name, const void *data, size_t size)
{
    ew_buf_addf(out, ",\"%s\":", name);
    ew_json_quote(data, size, out);
}

static ew_status items_text(build *b, ew_buf *out, ew_error *reterr)
{
    sort_entry *entry = ew_calloc(b->n_sources + 1, sizeof(*entry));
    if (entry == NULL) {
        return no_memory(reterr, EW_ENOMEM);
    }
    size_t n = 0;
    for (size_t i = 0; i < b->n_sources; i++) {
        if (b->sources[i].kept) {
            entry[n++] = (sort_entry){&b->users[b->sources[i].user], &b->sources[i]};
        }
    }
    qsort(entry, n, sizeof(*entry), by_user_and_order);
    uint32_t order = 0;
    EW_AUTO_BUF depends = {0};
    for (size_t i = 0; i < n; i++) {
        const source *s = entry[i].s;
        order = i != 0 && entry[i - 1].u == entry[i].u ? order + 1 : 0;
        ew_buf_clear(&depends);
        add_depends(s->pkg->depends, &depends);
        ew_buf_adds(out, "{\"id\":");
        ew_json_quote(s->name.data, s->name.size, out);
        ew_buf_addf(out, ",\"user\":\"%s\",\"order\":%u", entry[i].u->hash, order);
        add_quoted_field(out, "section", s->pkg->section.data, s->pkg->section.size);
        add_quoted_field(out, "synopsis", s->synopsis, strlen(s->synopsis));
        add_quoted_field(out, "description", s->description, strlen(s->description));
        ew_buf_addf(out, ",\"size\":%llu", (unsigned long long)s->pkg->size_kib);
        add_quoted_field(out, "depends", ew_buf_str(&depends), depends.size);
        ew_buf_adds(out, "}\n");
        if (entry[i].u->role == EW_DEBIAN_POOL) {
            b->info.n_pool_chars += strlen(s->synopsis) + strlen(s->description);
        }
    }
    ew_free(entry);
    b->info.n_items = n;
    return ew_buf_check(out, reterr);
}

/* The other packages of the pool's kept sources, as far as they say something new. */
static ew_status extra_text(build *b, ew_buf *out, ew_error *reterr)
{
    EW_AUTO_BUF synopsis = {0};
    EW_AUTO_BUF description = {0};
    size_t n = ew__debian_index_n(b->index);
    for (size_t i = 0; i < n; i++) {
        EW_TRY(tell(b, "more texts", i, n, reterr));
        const ew__debian_pkg *p = ew__debian_index_at(b->index, i);
        uintptr_t at = (uintptr_t)ew_map_get(b->source_by_name, p->source.data, p->source.size);
        const source *s = &b->sources[at - 1];
        /* Both names must be free of held-out users: a package may name another maintainer than the one that speaks. */
        uintptr_t own = (uintptr_t)ew_map_get(b->user_by_maintainer, p->maintainer.data, p->maintainer.size);
        if (!s->kept || s->pkg == p || b->users[s->user].role != EW_DEBIAN_POOL || own == 0 ||
            b->users[own - 1].role != EW_DEBIAN_POOL) {
            continue;
        }
        ew_buf_clear(&synopsis);
        ew_buf_clear(&description);
        ew__debian_text_split(p->text, &synopsis, &description);
        EW_TRY(ew_buf_check(&synopsis, reterr));
        EW_TRY(ew_buf_check(&description, reterr));
        bool fresh = false;
        if (description.size != 0) {
            EW_TRY(ew__dedup_add(b->dedup, description.data, description.size, &fresh, reterr));
        }
        if (fresh) {
            b->info.n_extra++;
            ew_buf_adds(out, "{\"id\":");
            ew_json_quote(p->name.data, p->name.size, out);
            add_quoted_field(out, "synopsis", synopsis.data, synopsis.size);
            add_quoted_field(out, "description", description.data, description.size);
            ew_buf_adds(out, "}\n");
        }
    }
    return ew_buf_check(out, reterr);
}

static int by_hash(const void *a, const void *b)
{
    return strcmp((*(const user *const *)a)->hash, (*(const user *const *)b)->hash);
}

static ew_status users_text(const build *b, ew_buf *out, ew_error *reterr)
{
    const user **sorted = ew_calloc(b->n_users + 1, sizeof(*sorted));
    if (sorted == NULL) {
        return no_memory(reterr, EW_ENOMEM);
    }
    size_t n = 0;
    for (size_t i = 0; i < b->n_users; i++) {
        if (b->users[i].n != 0) {
            sorted[n++] = &b->users[i];
        }
    }
    qsort((void *)sorted, n, sizeof(*sorted), by_hash);
    ew_buf_adds(out, "{");
    for (size_t i = 0; i < n; i++) {
        ew_buf_addf(out, "%s\n\"%s\":{\"role\":\"%s\",\"n\":%u,\"entropy\":%.6f}", i != 0 ? "," : "", sorted[i]->hash,
                    ew_debian_role_name(sorted[i]->role), sorted[i]->n, sorted[i]->entropy);
    }
    ew_buf_adds(out, "\n}\n");
    ew_free((void *)sorted);
    return ew_buf_check(out, reterr);
}

static ew_status write_file(const build *b, const char *name, const ew_buf *text, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_TRY(ew_path_join(path, sizeof(path), b->opt->out_dir, name, reterr));
    return ew_file_replace(path, ew_buf_str(text), text->size, 0644, reterr);
}

static void digest_of(build *b, const ew_buf *items, const ew_buf *users)
{
    EW_AUTO_BUF head = {0};
    ew_buf_addf(&head, "edgewise-debian\n%d\n%s\n%s\n%s\n%s\n", EW__DEBIAN_FORMAT, b->release.origin,
                b->release.codename, b->release.date, b->info.arch);
    ew_sha256_stream *h = ew_sha256_stream_new();
    uint8_t digest[EW_SHA256_SIZE];
    ew_sha256_stream_add(h, ew_buf_str(&head), head.size);
    ew_sha256_stream_add(h, ew_buf_str(items), items->size);
    ew_sha256_stream_add(h, ew_buf_str(users), users->size);
    ew_sha256_stream_end(h, digest);
    ew_sha256_stream_free(&h);
    ew_hex_encode(digest, sizeof(digest), b->info.digest);
}

static ew_status info_text(const build *b, ew_buf *out, ew_error *reterr)
{
    const ew_debian_info *i = &b->info;
    EW_AUTO_JSON j = json_pack(
        "{s:i, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "format",
        EW__DEBIAN_FORMAT, "digest", i->digest, "codename", i->codename, "date", i->date, "arch", i->arch, "heldout",
        i->heldout, "packages", (json_int_t)i->n_packages, "sources", (json_int_t)i->n_sources, "items",
        (json_int_t)i->n_items, "near_duplicates", (json_int_t)i->n_near_duplicates, "extra", (json_int_t)i->n_extra,
        "users", (json_int_t)i->n_users, "dev", (json_int_t)i->n_dev, "test", (json_int_t)i->n_test, "eval_items",
        (json_int_t)i->n_eval_items, "section_users", (json_int_t)i->n_section_users, "pool_items",
        (json_int_t)i->n_pool_items, "pool_chars", (json_int_t)i->n_pool_chars);
    if (j == NULL) {
        return no_memory(reterr, EW_ENOMEM);
    }
    return ew_json_dump(j, EW_JSON_PRETTY, out, reterr);
}

static ew_status write_all(build *b, ew_error *reterr)
{
    EW_AUTO_BUF items = {.max = BUILD_FILE_BYTES_MAX};
    EW_AUTO_BUF extra = {.max = BUILD_FILE_BYTES_MAX};
    EW_AUTO_BUF users = {.max = BUILD_FILE_BYTES_MAX};
    EW_AUTO_BUF info = {0};
    EW_TRY(items_text(b, &items, reterr));
    EW_TRY(extra_text(b, &extra, reterr));
    EW_TRY(users_text(b, &users, reterr));
    digest_of(b, &items, &users);
    EW_TRY(info_text(b, &info, reterr));
    EW_TRY(ew_dir_make(b->opt->out_dir, 0755, reterr));
    /* info.json names the digest of the others: it goes first away and comes last. */
    char path[EW_PATH_MAX];
    EW_TRY(ew_path_join(path, sizeof(path), b->opt->out_dir, "info.json", reterr));
    EW_TRY(ew_file_remove(path, reterr));
    EW_TRY(write_file(b, "items.jsonl", &items, reterr));
    EW_TRY(write_file(b, "extra.jsonl", &extra, reterr));
    EW_TRY(write_file(b, "users.json", &users, reterr));
    return write_file(b, "info.json", &info, reterr);
}

/* The architecture stands in the name of the index file: …_binary-amd64_Packages. */
static void arch_of(const char *path, char *dst, size_t size)
{
    const char *p = strstr(ew_path_base(path), "binary-");
    size_t n = 0;
    if (p != NULL) {
        for (p += strlen("binary-"); p[n] != '\0' && p[n] != '_' && n + 1 < size; n++) {
            dst[n] = p[n];
        }
    }
    dst[n] = '\0';
}

ew_status ew_debian_build(const ew_debian_build_opt *opt, ew_debian_info *ret_info, ew_error *reterr)
{
    EW_CLEANUP(build_release) build b = {.opt = opt};
    EW_TRY(ew__debian_release_read(opt->release, &b.release, reterr));
    ew_str_copy(b.info.codename, sizeof(b.info.codename), b.release.codename);
    ew_str_copy(b.info.date, sizeof(b.info.date), b.release.date);
    arch_of(opt->packages, b.info.arch, sizeof(b.info.arch));
    EW_TRY(heldout_read(&b, reterr));
    EW_TRY(ew__debian_index_open(opt->packages, opt->translation, &b.index, reterr));
    b.info.n_packages = ew__debian_index_packages(b.index);
    ew_status st = ew_map_new(&b.source_by_name);
    if (st == EW_OK) {
        st = ew_map_new(&b.user_by_maintainer);
    }
    if (st == EW_OK) {
        st = ew__dedup_new(&b.dedup);
    }
    if (st != EW_OK) {
        return no_memory(reterr, st);
    }
    EW_TRY(collect_sources(&b, reterr));
    b.info.n_sources = b.n_sources;
    EW_TRY(split_texts(&b, reterr));
    EW_TRY(assign_users(&b, reterr));
    assign_roles(&b);
    EW_TRY(write_all(&b, reterr));
    *ret_info = b.info;
    return EW_OK;
}
