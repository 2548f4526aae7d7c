/* Internals of the debian benchmark's builder: the index as read, and the near-duplicate filter. */
#ifndef EW_TASK_DEBIAN_INT_H
#define EW_TASK_DEBIAN_INT_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"
#include "task/debian.h"

#define EW__DEBIAN_FORMAT 1
#define EW__DEBIAN_USER_KEY "edgewise-debian-user-v1"
#define EW__DEBIAN_MIN_ITEMS 20
#define EW__DEBIAN_MAX_ITEMS 250

/* One binary package; spans point into the mapped files. */
typedef struct ew__debian_pkg {
    ew_span name, source, maintainer, section, depends;
    ew_span text; /* Description-en: synopsis, newline, indented lines */
    uint64_t size_kib;
} ew__debian_pkg;

typedef struct ew__debian_index ew__debian_index;

/* Maps both files and joins them by Description-md5; packages without an English long description are left out. */
ew_status ew__debian_index_open(const char *packages, const char *translation, ew__debian_index **ret_index,
                                ew_error *reterr) EW_MUST_CHECK;
void ew__debian_index_free(ew__debian_index **x);
size_t ew__debian_index_n(const ew__debian_index *x);
const ew__debian_pkg *ew__debian_index_at(const ew__debian_index *x, size_t i);
/* Number of stanzas, also of those without a description. */
uint64_t ew__debian_index_packages(const ew__debian_index *x);

typedef struct ew__debian_release {
    char origin[64], codename[64], date[64], architecture[32]; /* architecture is not filled by read */
} ew__debian_release;
ew_status ew__debian_release_read(const char *path, ew__debian_release *ret_release, ew_error *reterr) EW_MUST_CHECK;

/* Splits a Description value: synopsis (trimmed) and description (lines joined, blanks single). Both appended, cleaned to valid UTF-8. */
void ew__debian_text_split(ew_span text, ew_buf *synopsis, ew_buf *description);

typedef struct ew__dedup ew__dedup;
ew_status ew__dedup_new(ew__dedup **ret_dedup) EW_MUST_CHECK;
void ew__dedup_free(ew__dedup **d);
/* *ret_new false: a near-duplicate of a text that was added before; else the text is now known. */
ew_status ew__dedup_add(ew__dedup *d, const char *text, size_t size, bool *ret_new, ew_error *reterr) EW_MUST_CHECK;

/* What debian-depends and debian-size ask of the records (their rules are in debian.h). */
typedef struct ew__debian_derived {
    ew_buf text;  /* "[1] a [2] b: description" of every record that has a dependency to ask for, each with its NUL */
    size_t *pair; /* [n] offset in text, 0 = none */
    uint8_t *answer;   /* [n] 1 or 2 */
    uint8_t *quintile; /* [n] 1 to 5 */
} ew__debian_derived;
/* in_pool[i]: record i is of the training pool. */
ew_status ew__debian_derive(const ew_debian_record *r, size_t n, const bool *in_pool, ew__debian_derived *ret,
                            ew_error *reterr) EW_MUST_CHECK;
void ew__debian_derived_release(ew__debian_derived *x);

#endif
