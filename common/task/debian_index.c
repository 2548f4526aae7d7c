/* Reads apt's index files (deb822 stanzas). The files are mapped, values are spans into the maps. Source of the format: deb-control(5),
 * Debian policy chapter 5; Translation files: one stanza per description, keyed by the MD5 that Packages names. */
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/file.h"
#include "task/debian_int.h"
#include "text/utf8.h"

#define INDEX_PACKAGES_MAX 2000000u

struct ew__debian_index {
    ew_file_map *packages, *translation;
    ew__debian_pkg *pkg;
    size_t n, cap;
    uint64_t n_stanzas;
};

typedef struct deb_cursor {
    const char *p, *end, *begin;
    const char *path;
} deb_cursor;

typedef enum deb_event {
    DEB_FIELD,
    DEB_STANZA_END,
    DEB_END
} deb_event;

static const char *line_end(const char *p, const char *end)
{
    const char *nl = memchr(p, '\n', (size_t)(end - p));
    return nl != NULL ? nl : end;
}

/* The next field with its continuation lines, or the end of a stanza (blank lines), or of the file. */
static ew_status deb_next(deb_cursor *c, ew_span *name, ew_span *value, deb_event *ret_event, ew_error *reterr)
{
    if (c->p >= c->end) {
        *ret_event = DEB_END;
        return EW_OK;
    }
    if (*c->p == '\n') {
        while (c->p < c->end && *c->p == '\n') {
            c->p++;
        }
        *ret_event = DEB_STANZA_END;
        return EW_OK;
    }
    const char *eol = line_end(c->p, c->end);
    const char *colon = memchr(c->p, ':', (size_t)(eol - c->p));
    if (colon == NULL || colon == c->p) {
        return ew_fail(reterr, EW_ECORRUPT, "%s: no field name at byte %zu: this is not an index file of apt", c->path,
                       (size_t)(c->p - c->begin));
    }
    *name = (ew_span){c->p, (size_t)(colon - c->p)};
    const char *v = colon + 1;
    while (v < eol && (*v == ' ' || *v == '\t')) {
        v++;
    }
    while (eol + 1 < c->end && (eol[1] == ' ' || eol[1] == '\t')) {
        eol = line_end(eol + 1, c->end);
    }
    *value = (ew_span){v, (size_t)(eol - v)};
    c->p = eol < c->end ? eol + 1 : eol;
    *ret_event = DEB_FIELD;
    return EW_OK;
}

static bool span_is(ew_span s, const char *name)
{
    return s.size == strlen(name) && memcmp(s.data, name, s.size) == 0;
}

static deb_cursor cursor_of(const ew_file_map *m)
{
    const char *data = (const char *)ew_file_map_data(m);
    return (deb_cursor){data, data + ew_file_map_size(m), data, ew_file_map_path(m)};
}

/* md5 -> offset + 1 of the value, and the spans in a side array. */
typedef struct texts {
    ew_map *by_md5; /* value: index + 1 into span */
    ew_span *span;
    size_t n, cap;
} texts;

static void texts_release(texts *t)
{
    ew_map_free(&t->by_md5);
    ew_free(t->span);
}

static ew_status texts_add(texts *t, ew_span md5, ew_span text, ew_error *reterr)
{
    if (md5.size == 0 || text.size == 0) {
        return EW_OK;
    }
    ew_status st = ew_grow((void **)&t->span, &t->cap, t->n + 1, sizeof(*t->span), INDEX_PACKAGES_MAX);
    if (st == EW_OK) {
        st = ew_map_add(t->by_md5, md5.data, md5.size, (void *)(uintptr_t)(t->n + 1));
    }
    if (st == EW_EEXIST) {
        return EW_OK;
    }
    if (st != EW_OK) {
        return ew_fail(reterr, st, "the descriptions of the package index do not fit in memory");
    }
    t->span[t->n++] = text;
    return EW_OK;
}

static ew_status texts_read(const ew_file_map *file, texts *t, ew_error *reterr)
{
    deb_cursor c = cursor_of(file);
    ew_span md5 = {0}, text = {0};
    for (;;) {
        ew_span name, value;
        deb_event ev;
        EW_TRY(deb_next(&c, &name, &value, &ev, reterr));
        if (ev == DEB_FIELD) {
            if (span_is(name, "Description-md5")) {
                md5 = value;
            } else if (span_is(name, "Description-en")) {
                text = value;
            }
            continue;
        }
        EW_TRY(texts_add(t, md5, text, reterr));
        md5 = text = (ew_span){0};
        if (ev == DEB_END) {
            return EW_OK;
        }
    }
}

static uint64_t span_u64(ew_span s)
{
    char digits[24];
    uint64_t v = 0;
    if (s.size < sizeof(digits)) {
        memcpy(digits, s.data, s.size);
        digits[s.size] = '\0';
        if (!ew_str_to_u64(digits, UINT64_C(1) << 40, &v)) {
            v = 0;
        }
    }
    return v;
}

/* "glibc (2.36-9)" -> "glibc" */
static ew_span first_word(ew_span s)
{
    const char *p = s.data;
    size_t n = 0;
    while (n < s.size && p[n] != ' ') {
        n++;
    }
    return (ew_span){p, n};
}

static ew_status pkg_add(ew__debian_index *x, const ew__debian_pkg *pkg, ew_span md5, const texts *t, ew_error *reterr)
{
    if (pkg->name.size == 0) {
        return EW_OK;
    }
    x->n_stanzas++;
    uintptr_t i_text = md5.size != 0 ? (uintptr_t)ew_map_get(t->by_md5, md5.data, md5.size) : 0;
    if (i_text == 0 || pkg->maintainer.size == 0) {
        return EW_OK;
    }
    ew_status st = ew_grow((void **)&x->pkg, &x->cap, x->n + 1, sizeof(*x->pkg), INDEX_PACKAGES_MAX);
    if (st != EW_OK) {
        return ew_fail(reterr, st, "the package index has more than %u packages or does not fit in memory",
                       INDEX_PACKAGES_MAX);
    }
    ew__debian_pkg *dst = &x->pkg[x->n++];
    *dst = *pkg;
    dst->text = t->span[i_text - 1];
    dst->source = first_word(pkg->source.size != 0 ? pkg->source : pkg->name);
    return EW_OK;
}

static ew_status packages_read(ew__debian_index *x, const texts *t, ew_error *reterr)
{
    deb_cursor c = cursor_of(x->packages);
    ew__debian_pkg pkg = {0};
    ew_span md5 = {0};
    for (;;) {
        ew_span name, value;
        deb_event ev;
        EW_TRY(deb_next(&c, &name, &value, &ev, reterr));
        if (ev != DEB_FIELD) {
            EW_TRY(pkg_add(x, &pkg, md5, t, reterr));
            pkg = (ew__debian_pkg){0};
            md5 = (ew_span){0};
            if (ev == DEB_END) {
                return EW_OK;
            }
        } else if (span_is(name, "Package")) {
            pkg.name = value;
        } else if (span_is(name, "Source")) {
            pkg.source = value;
        } else if (span_is(name, "Maintainer")) {
            pkg.maintainer = value;
        } else if (span_is(name, "Section")) {
            pkg.section = value;
        } else if (span_is(name, "Depends")) {
            pkg.depends = value;
        } else if (span_is(name, "Installed-Size")) {
            pkg.size_kib = span_u64(value);
        } else if (span_is(name, "Description-md5")) {
            md5 = value;
        }
    }
}

void ew__debian_index_free(ew__debian_index **x)
{
    if (*x != NULL) {
        ew_file_map_free(&(*x)->packages);
        ew_file_map_free(&(*x)->translation);
        ew_free((*x)->pkg);
        ew_free(*x);
        *x = NULL;
    }
}

ew_status ew__debian_index_open(const char *packages, const char *translation, ew__debian_index **ret_index,
                                ew_error *reterr)
{
    EW_AUTO(ew__debian_index) x = ew_calloc(1, sizeof(*x));
    if (x == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the package index");
    }
    EW_TRY(ew_file_map_open(packages, &x->packages, reterr));
    EW_TRY(ew_file_map_open(translation, &x->translation, reterr));
    EW_CLEANUP(texts_release) texts t = {0};
    ew_status st = ew_map_new(&t.by_md5);
    if (st != EW_OK) {
        return ew_fail(reterr, st, "no memory for the package index");
    }
    EW_TRY(texts_read(x->translation, &t, reterr));
    EW_TRY(packages_read(x, &t, reterr));
    if (x->n == 0) {
        return ew_fail(reterr, EW_ECORRUPT,
                       "%s and %s have no package in common with an English description: do they belong together?",
                       packages, translation);
    }
    *ret_index = x;
    x = NULL;
    return EW_OK;
}

size_t ew__debian_index_n(const ew__debian_index *x)
{
    return x->n;
}

const ew__debian_pkg *ew__debian_index_at(const ew__debian_index *x, size_t i)
{
    EW_ASSERT(i < x->n);
    return &x->pkg[i];
}

uint64_t ew__debian_index_packages(const ew__debian_index *x)
{
    return x->n_stanzas;
}

static void copy_field(char *dst, size_t size, ew_span value)
{
    size_t n = EW_MIN(value.size, size - 1);
    memcpy(dst, value.data, n);
    dst[n] = '\0';
}

ew_status ew__debian_release_read(const char *path, ew__debian_release *ret_release, ew_error *reterr)
{
    EW_AUTO(ew_file_map) m = NULL;
    EW_TRY(ew_file_map_open(path, &m, reterr));
    ew__debian_release r = {{0}, {0}, {0}, {0}};
    const char *p = (const char *)ew_file_map_data(m);
    const char *end = p + ew_file_map_size(m);
    /* An InRelease file wraps the fields in an OpenPGP clear-text frame: read lines, not stanzas. */
    while (p < end) {
        const char *eol = line_end(p, end);
        const char *colon = memchr(p, ':', (size_t)(eol - p));
        if (colon != NULL && colon + 1 < eol && colon[1] == ' ') {
            ew_span name = {p, (size_t)(colon - p)};
            ew_span value = {colon + 2, (size_t)(eol - colon - 2)};
            if (span_is(name, "Origin")) {
                copy_field(r.origin, sizeof(r.origin), value);
            } else if (span_is(name, "Codename")) {
                copy_field(r.codename, sizeof(r.codename), value);
            } else if (span_is(name, "Date")) {
                copy_field(r.date, sizeof(r.date), value);
            }
        }
        p = eol < end ? eol + 1 : end;
    }
    if (r.codename[0] == '\0' || r.date[0] == '\0') {
        return ew_fail(reterr, EW_ECORRUPT, "%s: no Codename and Date: this is not a Release file", path);
    }
    *ret_release = r;
    return EW_OK;
}

bool ew_debian_release_matches(const char *path, const char *codename)
{
    ew__debian_release r;
    return ew__debian_release_read(path, &r, NULL) == EW_OK && ew_str_eq(r.origin, "Debian") &&
           ew_str_eq(r.codename, codename);
}

/* Appends the line with runs of blanks made one and none at its ends. */
static void add_words(const char *p, const char *end, ew_buf *out)
{
    while (p < end) {
        while (p < end && (*p == ' ' || *p == '\t' || *p == '\r')) {
            p++;
        }
        const char *word = p;
        while (p < end && *p != ' ' && *p != '\t' && *p != '\r') {
            p++;
        }
        if (p > word) {
            if (out->size != 0) {
                ew_buf_addc(out, ' ');
            }
            ew_utf8_sanitize(word, (size_t)(p - word), out);
        }
    }
}

void ew__debian_text_split(ew_span text, ew_buf *synopsis, ew_buf *description)
{
    const char *p = text.data;
    const char *end = p + text.size;
    const char *eol = line_end(p, end);
    add_words(p, eol, synopsis);
    while (eol < end) {
        p = eol + 1;
        eol = line_end(p, end);
        const char *q = p;
        while (q < eol && (*q == ' ' || *q == '\t')) {
            q++;
        }
        if (!(eol - q == 1 && *q == '.')) { /* " ." stands for an empty line */
            add_words(q, eol, description);
        }
    }
}
