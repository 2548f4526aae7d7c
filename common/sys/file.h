/* Files and directories: read-only maps, bounded reads, atomic replacement, locks.
 *
 * Every error names the path. Writing is all or nothing: the new content stands under a temporary name in the same
 * directory ("NAME.tmp-PID-COUNTER") until it is on the disk, then takes the place of the old one by rename.
 * Locking: handles have one owning thread; a map may be read by all. */
#ifndef EW_SYS_FILE_H
#define EW_SYS_FILE_H

#include <stdio.h>

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"

#define EW_PATH_MAX 4096

/* --- read-only maps --- */
typedef struct ew_file_map ew_file_map;

typedef enum ew_file_advice {
    EW_FILE_NORMAL,
    EW_FILE_SEQUENTIAL, /* will be read once from front to back */
    EW_FILE_RANDOM,
    EW_FILE_WILLNEED, /* start reading now */
    EW_FILE_DONTNEED  /* pages may be dropped; they come back from the file */
} ew_file_advice;

/* Maps a regular file (an empty one gives size 0 and a non-NULL data). Refuses directories, devices, pipes: EW_EINVAL. The file must not
 * be truncated while mapped (artifacts are replaced by rename, never rewritten). */
ew_status ew_file_map_open(const char *path, ew_file_map **ret_map, ew_error *reterr) EW_MUST_CHECK;
void ew_file_map_free(ew_file_map **m);
const unsigned char *ew_file_map_data(const ew_file_map *m);
size_t ew_file_map_size(const ew_file_map *m);
const char *ew_file_map_path(const ew_file_map *m);
/* Whether [data, data + size) lies in the map. */
bool ew_file_map_holds(const ew_file_map *m, const void *data, size_t size);
/* Advice on [offset, offset + size), clipped to the map and to whole pages. */
void ew_file_map_advise(const ew_file_map *m, size_t offset, size_t size, ew_file_advice advice);

/* --- whole files --- */
/* Appends the content of a regular file of at most max bytes to out. EW_ELIMIT names the limit. */
ew_status ew_file_read(const char *path, size_t max, ew_buf *out, ew_error *reterr) EW_MUST_CHECK;
/* Atomic and durable: temporary file, fsync, rename, fsync of the directory. mode as for open(2), e.g. 0600. */
ew_status ew_file_replace(const char *path, const void *data, size_t size, unsigned mode,
                          ew_error *reterr) EW_MUST_CHECK;

/* --- streaming atomic writer --- */
typedef struct ew_file_writer ew_file_writer;

/* The target is untouched until commit; freeing without commit removes the temporary file. Buffered (256 KiB). */
ew_status ew_file_writer_open(const char *path, unsigned mode, ew_file_writer **ret_writer,
                              ew_error *reterr) EW_MUST_CHECK;
ew_status ew_file_writer_write(ew_file_writer *w, const void *data, size_t size, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_file_writer_printf(ew_file_writer *w, ew_error *reterr, const char *fmt, ...)
    EW_PRINTF(3, 4) EW_MUST_CHECK;
/* Bytes written so far. */
uint64_t ew_file_writer_size(const ew_file_writer *w);
/* Overwrites bytes that were written before (a header whose numbers are known last). */
ew_status ew_file_writer_patch(ew_file_writer *w, uint64_t offset, const void *data, size_t size,
                               ew_error *reterr) EW_MUST_CHECK;
/* After it, success or not, only ew_file_writer_free is allowed. */
ew_status ew_file_writer_commit(ew_file_writer *w, ew_error *reterr) EW_MUST_CHECK;
void ew_file_writer_free(ew_file_writer **w);

/* --- appending at an offset (resumable downloads, journals) --- */
/* pwrite in full with the fault hook; fd is the caller's. name is for the error. */
ew_status ew_file_pwrite(int fd, const char *name, uint64_t offset, const void *data, size_t size,
                         ew_error *reterr) EW_MUST_CHECK;
/* fsync; EW_EIO, EW_ENOSPC. */
ew_status ew_file_sync(int fd, const char *name, ew_error *reterr) EW_MUST_CHECK;
/* fsync of the directory that holds path. */
ew_status ew_file_sync_parent(const char *path, ew_error *reterr) EW_MUST_CHECK;
/* rename and fsync of the directory. */
ew_status ew_file_rename(const char *from, const char *to, ew_error *reterr) EW_MUST_CHECK;

/* --- directories and paths --- */
/* dst = "a/b" ("b" when a is "" , one slash in between). EW_ELIMIT when it does not fit. */
ew_status ew_path_join(char *dst, size_t size, const char *a, const char *b, ew_error *reterr) EW_MUST_CHECK;
/* The part after the last slash, borrowed from path. */
const char *ew_path_base(const char *path);
/* Makes path and missing parents; existing directories are fine. mode applies to what is made. */
ew_status ew_dir_make(const char *path, unsigned mode, ew_error *reterr) EW_MUST_CHECK;
/* The absolute name without links, "." and ".."; path itself when there is none (it does not exist). Returns dst. */
char *ew_path_real(const char *path, char *dst, size_t size);
bool ew_file_exists(const char *path); /* anything, also a directory */
bool ew_dir_exists(const char *path);
ew_status ew_file_size(const char *path, uint64_t *ret_bytes, ew_error *reterr) EW_MUST_CHECK;
/* Success when it is not there. */
ew_status ew_file_remove(const char *path, ew_error *reterr) EW_MUST_CHECK;
/* Removes a tree without following links. Success when it is not there. */
ew_status ew_dir_remove_tree(const char *path, ew_error *reterr) EW_MUST_CHECK;
/* A new directory of mode 0700 "PREFIXxxxxxx" (prefix is a path); its name is written to dst. */
ew_status ew_dir_make_temp(const char *prefix, char *dst, size_t size, ew_error *reterr) EW_MUST_CHECK;
/* Free bytes on the file system of path. */
ew_status ew_dir_free_bytes(const char *path, uint64_t *ret_bytes, ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_dir_entry {
    char *name;
    uint64_t size; /* bytes, regular files only */
    bool is_dir;
    bool is_file; /* regular */
} ew_dir_entry;

typedef struct ew_dir_list {
    ew_dir_entry *entry; /* sorted by name, without "." and ".." */
    size_t n, cap;
} ew_dir_list;

/* At most EW_LIMIT_DIR_ENTRIES. */
ew_status ew_dir_read(const char *path, ew_dir_list *ret_list, ew_error *reterr) EW_MUST_CHECK;
void ew_dir_list_release(ew_dir_list *list);

/* --- one process per directory --- */
typedef struct ew_dir_lock ew_dir_lock;

/* Takes the advisory lock PATH/.lock without waiting: EW_ECONFLICT when another process holds it (the message names its pid). */
ew_status ew_dir_lock_take(const char *path, ew_dir_lock **ret_lock, ew_error *reterr) EW_MUST_CHECK;
void ew_dir_lock_free(ew_dir_lock **l);

/* Removes what killed writers left behind in a directory: regular files named "*.tmp-PID-COUNTER". Call at start, with the
 * directory's lock held. */
ew_status ew_dir_sweep_temp(const char *path, ew_error *reterr) EW_MUST_CHECK;

/* Test hook: the n-th write or sync of this module from now (1 = the next) fails with ENOSPC, and all later ones until 0. */
void ew_file_fail_at(uint64_t n);

#endif
