/* The `debian` benchmark: package maintainers as users, package descriptions as their texts.
 *
 * ew_debian_build reads a package index (Packages and Translation-en, uncompressed, as apt keeps them, and the Release file that covers them)
 * and writes a directory:
 *   items.jsonl  one line per source package that is kept: {"id","user","order","section","synopsis","description","size","depends"}
 *   extra.jsonl  other binary packages of the training pool's sources, as plain text: {"id","synopsis","description"}
 *   users.json   {"<hash>": {"role","n","entropy"}}
 *   info.json    counts, release, digest
 * The source's binary of the same name speaks for it, else the one whose name is shortest and has no -dev, -doc, -dbg, -data or -common at its end.
 * Near-duplicates: an item is dropped when an earlier one (order of source names) has the same first 60 characters of normalised description (lower case,
 * runs of anything but a-z0-9 made one space), or shares more than 80 % of its 3-word shingles (Jaccard, candidates by MinHash: 8 bands of 4).
 * User name: first 16 hex digits of HMAC-SHA-256 of the maintainer field with key "edgewise-debian-user-v1". Order within a user: by
 * SHA-256 of "<user>/<source>".
 * Roles: users with 20 to 250 items are held out; DEV when the first byte of SHA-256("split/" + hash) is below 128, else TEST; all others are POOL. A
 * held-out list wins: who is in it has the role it says (NONE below 20 items: neither trained on nor scored), who is not is POOL.
 * Digest: SHA-256 over release (origin, codename, date, architecture), format version and all of items.jsonl and users.json.
 *
 * The tasks: debian-section (description to section), debian-synopsis (description to synopsis), and two whose answers are made here:
 *   debian-depends  "[1] a [2] b: description", which of the two does the package depend on: 1 or 2. The right one is drawn from its
 *                   dependencies without those that more than one record in 50 has (libc6, perl, python3, ...), the wrong one is what another record
 *                   of the pool drew, unless it depends on that too; draws and sides by the id's HMAC-SHA-256. Records without such a dependency
 *                   are no items; users with fewer than 10 do not count.
 *   debian-size     description to the quintile of the installed size among the pool's records, 1 (small) to 5. Users whose labels
 *                   have an entropy below 1 bit do not count.
 * Locking: a handle has one owning thread. */
#ifndef EW_TASK_DEBIAN_H
#define EW_TASK_DEBIAN_H

#include "base/base.h"
#include "base/buf.h"
#include "base/progress.h"
#include "base/status.h"
#include "task/item.h"
#include "task/task.h"

typedef enum ew_debian_role {
    EW_DEBIAN_POOL, /* may be trained on */
    EW_DEBIAN_DEV,  /* to look at while building */
    EW_DEBIAN_TEST, /* for claims */
    EW_DEBIAN_NONE  /* held out by the list, too small to be scored */
} ew_debian_role;
const char *ew_debian_role_name(ew_debian_role r);

typedef struct ew_debian_info {
    char digest[65], codename[64], date[64], arch[32];
    char heldout[65]; /* SHA-256 of the held-out list, "" = none */
    uint64_t n_packages, n_sources, n_items, n_near_duplicates, n_extra;
    uint64_t n_users, n_dev, n_test, n_eval_items, n_section_users /* DEV and TEST with label entropy >= 1 bit */;
    uint64_t n_pool_items, n_pool_chars;
} ew_debian_info;

typedef struct ew_debian_build_opt {
    const char *packages, *translation, *release; /* paths; release: Release or InRelease */
    const char *heldout;                          /* path of the list; NULL = thresholds alone */
    const char *out_dir;                          /* made when absent; files are replaced atomically, info.json last */
    ew_progress progress;
} ew_debian_build_opt;

ew_status ew_debian_build(const ew_debian_build_opt *opt, ew_debian_info *ret_info, ew_error *reterr) EW_MUST_CHECK;
/* True when path is a Release file of Debian itself with this codename. */
bool ew_debian_release_matches(const char *path, const char *codename);

/* "$XDG_CACHE_HOME/edgewise/debian" or "$HOME/.cache/edgewise/debian"; the caller passes the two variables (NULL or "" = not set).
 * EW_EINVAL when neither is. */
ew_status ew_debian_default_dir(const char *xdg_cache_home, const char *home, char *dst, size_t size,
                                ew_error *reterr) EW_MUST_CHECK;
/* Only what info.json says, unchecked: fast. */
ew_status ew_debian_read_info(const char *dir, ew_debian_info *ret_info, ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_debian ew_debian; /* an open benchmark directory, all in memory */

typedef struct ew_debian_record {
    const char *id, *section, *synopsis, *description; /* description: one line, blanks single */
    const char *depends;                               /* package names, comma separated */
    uint64_t size_kib;                                 /* installed */
    uint32_t user;                                     /* index of the user */
    uint32_t order;                                    /* position within the user */
} ew_debian_record;

typedef struct ew_debian_user {
    char hash[17];
    ew_debian_role role;
    double entropy;  /* bits, of debian-section's labels over this user's items with one */
    size_t first, n; /* records [first, first + n) in order */
} ew_debian_user;

/* EW_ENOENT with HINT `edgewise data debian`; EW_ECORRUPT when files do not belong together. */
ew_status ew_debian_open(const char *dir, ew_debian **ret_debian, ew_error *reterr) EW_MUST_CHECK;
void ew_debian_free(ew_debian **d);
const ew_debian_info *ew_debian_info_of(const ew_debian *d);
size_t ew_debian_n_records(const ew_debian *d);
const ew_debian_record *ew_debian_record_at(const ew_debian *d, size_t i);
size_t ew_debian_n_users(const ew_debian *d);
const ew_debian_user *ew_debian_user_at(const ew_debian *d, size_t i);
/* NULL = no such user. */
const ew_debian_user *ew_debian_user_find(const ew_debian *d, const char *hash);

/* The items of a user for a task (debian-section: only records whose section is a label), order = position in hash order. To be split by
 * ew_split_user(…, EW_SPLIT_HASH), which gives the same order. */
ew_status ew_debian_items(const ew_debian *d, const ew_task *t, const ew_debian_user *user, ew_items *ret_items,
                          ew_error *reterr) EW_MUST_CHECK;
/* Users of the role that count for the task (debian-section, debian-size: entropy >= 1 bit), in order of their hashes: *ret_users is freed by ew_free. */
ew_status ew_debian_users(const ew_debian *d, const ew_task *t, ew_debian_role role, const ew_debian_user ***ret_users,
                          size_t *ret_n, ew_error *reterr) EW_MUST_CHECK;

/* --- pre-training: random access, so that a source of documents can be replayed --- */
/* Plain texts of the POOL: first its records, then the extra packages. */
size_t ew_debian_n_texts(const ew_debian *d);
/* Appends "<id>: <synopsis>\n<description>". */
ew_status ew_debian_text(const ew_debian *d, size_t i, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
/* The same of one record of a DEV user, for validation curves. EW_EDENIED for all others. */
ew_status ew_debian_dev_text(const ew_debian *d, uint32_t record, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
/* Record numbers of the pool (borrowed), those that can be an example of the task. t NULL = all. */
ew_status ew_debian_pool(ew_debian *d, const ew_task *t, const uint32_t **ret_records, size_t *ret_n,
                         ew_error *reterr) EW_MUST_CHECK;
/* Appends prompt and answer (without end-of-text) of a record with up to k (at most 8) retrieved items of the same user and lower order, BM25
 * among the 256 records around it; found once and remembered (seconds for the whole pool). POOL records for training, DEV
 * records for validation curves; EW_EDENIED for all others. */
ew_status ew_debian_example(ew_debian *d, const ew_task *t, uint32_t record, size_t k, const ew_task_budget *budget,
                            ew_buf *prompt, ew_buf *answer, ew_error *reterr) EW_MUST_CHECK;

#endif
