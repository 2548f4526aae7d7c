#include "sys/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/str.h"

#define WRITER_BUF (256 * 1024)
#define READ_MORE ((size_t)4096) /* beyond the size that fstat told */

/* --- fault hook --- */

static atomic_uint_fast64_t fail_at; /* 0 = off, 1 = failing, n = n - 1 writes still pass */

void ew_file_fail_at(uint64_t n)
{
    atomic_store(&fail_at, n);
}

static bool write_admitted(void)
{
    uint64_t n = atomic_load_explicit(&fail_at, memory_order_relaxed);
    if (EW_LIKELY(n == 0)) {
        return true;
    }
    while (n > 1) {
        if (atomic_compare_exchange_weak(&fail_at, &n, n - 1)) {
            return true;
        }
    }
    errno = ENOSPC;
    return n == 0;
}

/* --- maps --- */

struct ew_file_map {
    unsigned char *data; /* the map, or a static byte when size is 0 */
    size_t size;         /* bytes */
    char *path;          /* as given */
};

/* Opens a regular file for reading; *ret_size is its size. */
static ew_status open_regular(const char *path, int *ret_fd, uint64_t *ret_size, ew_error *reterr)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return ew_fail_errno(reterr, errno, "cannot open '%s'", path);
    }
    struct stat st;
    if (fstat(fd, &st) != 0) {
        int err = errno;
        (void)close(fd);
        return ew_fail_errno(reterr, err, "cannot read the size of '%s'", path);
    }
    if (!S_ISREG(st.st_mode)) {
        (void)close(fd);
        return ew_fail(reterr, EW_EINVAL, "'%s' is %s, not a regular file", path,
                       S_ISDIR(st.st_mode) ? "a directory" : "a device, pipe or socket");
    }
    *ret_fd = fd;
    *ret_size = (uint64_t)st.st_size;
    return EW_OK;
}

ew_status ew_file_map_open(const char *path, ew_file_map **ret_map, ew_error *reterr)
{
    static unsigned char empty[1];
    int fd = -1;
    uint64_t size = 0;
    EW_TRY(open_regular(path, &fd, &size, reterr));
    EW_AUTO(ew_file_map) m = ew_calloc(1, sizeof(*m));
    if (m != NULL) {
        m->path = ew_str_dup(path);
    }
    if (m == NULL || m->path == NULL || size > SIZE_MAX / 2) {
        (void)close(fd);
        return ew_fail(reterr, EW_ENOMEM, "no memory to map '%s' (%llu bytes)", path, (unsigned long long)size);
    }
    m->data = empty;
    if (size > 0) {
        void *p = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            int err = errno;
            (void)close(fd);
            return ew_fail_errno(reterr, err, "cannot map '%s' (%llu bytes)", path, (unsigned long long)size);
        }
        m->data = p;
        m->size = (size_t)size;
    }
    (void)close(fd);
    *ret_map = m;
    m = NULL;
    return EW_OK;
}

void ew_file_map_free(ew_file_map **map)
{
    ew_file_map *m = *map;
    if (m == NULL) {
        return;
    }
    if (m->size > 0) {
        (void)munmap(m->data, m->size);
    }
    ew_free(m->path);
    ew_free(m);
    *map = NULL;
}

const unsigned char *ew_file_map_data(const ew_file_map *m)
{
    return m->data;
}

size_t ew_file_map_size(const ew_file_map *m)
{
    return m->size;
}

const char *ew_file_map_path(const ew_file_map *m)
{
    return m->path;
}

bool ew_file_map_holds(const ew_file_map *m, const void *data, size_t size)
{
    const uintptr_t begin = (uintptr_t)m->data, at = (uintptr_t)data;
    return at >= begin && at - begin <= m->size && size <= m->size - (at - begin);
}

void ew_file_map_advise(const ew_file_map *m, size_t offset, size_t size, ew_file_advice advice)
{
    static const int values[] = {MADV_NORMAL, MADV_SEQUENTIAL, MADV_RANDOM, MADV_WILLNEED, MADV_DONTNEED};
    if (offset >= m->size) {
        return;
    }
    size = EW_MIN(size, m->size - offset);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t begin = offset & ~(page - 1);
    size_t end = offset + size;
    if (advice == EW_FILE_DONTNEED) { /* only whole pages: the neighbours' stay */
        begin = EW_ALIGN_UP(offset, page);
        end = end == m->size ? end : end & ~(page - 1);
    }
    if (begin < end) {
        (void)madvise(m->data + begin, end - begin, values[advice]);
    }
}

/* --- whole files --- */

ew_status ew_file_read(const char *path, size_t max, ew_buf *out, ew_error *reterr)
{
    int fd = -1;
    uint64_t size = 0;
    EW_TRY(open_regular(path, &fd, &size, reterr));
    if (size > max) {
        (void)close(fd);
        return ew_fail(reterr, EW_ELIMIT, "'%s' has %llu bytes, the limit is %zu", path, (unsigned long long)size, max);
    }
    size_t start = out->size;
    ew_status st = EW_OK;
    if (out->max == 0) { /* the caller's limit counts, not the buffer's default */
        out->max = EW_MAX((size_t)EW_BUF_MAX_DEFAULT, start + EW_MIN(max, SIZE_MAX / 4)) + 2 * READ_MORE;
    }
    /* Files of /proc and growing ones have more than fstat says: read until the end, within max. */
    size_t room = (size_t)size + 1;
    for (;;) {
        char *dst = ew_buf_extend(out, room);
        if (dst == NULL) {
            st = ew_buf_check(out, reterr);
            break;
        }
        ssize_t n = read(fd, dst, room);
        int err = errno;
        out->size -= room - (n > 0 ? (size_t)n : 0);
        if (n < 0 && err == EINTR) {
            continue;
        }
        if (n < 0) {
            st = ew_fail_errno(reterr, err, "cannot read '%s'", path);
        } else if (out->size - start > max) {
            st = ew_fail(reterr, EW_ELIMIT, "'%s' has more than %zu bytes, the limit", path, max);
        }
        if (n <= 0 || st != EW_OK) {
            break;
        }
        room = READ_MORE;
    }
    (void)close(fd);
    if (out->data != NULL && out->status == EW_OK) {
        out->data[out->size] = '\0';
    }
    return st;
}

/* --- descriptors --- */

static ew_status write_full(int fd, const char *name, const void *data, size_t size, ew_error *reterr)
{
    const char *p = data;
    while (size > 0) {
        ssize_t n = write_admitted() ? write(fd, p, size) : -1;
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return ew_fail_errno(reterr, errno, "cannot write '%s'", name);
        }
        p += n;
        size -= (size_t)n;
    }
    return EW_OK;
}

ew_status ew_file_pwrite(int fd, const char *name, uint64_t offset, const void *data, size_t size, ew_error *reterr)
{
    const char *p = data;
    while (size > 0) {
        ssize_t n = write_admitted() ? pwrite(fd, p, size, (off_t)offset) : -1;
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return ew_fail_errno(reterr, errno, "cannot write '%s'", name);
        }
        p += n;
        offset += (uint64_t)n;
        size -= (size_t)n;
    }
    return EW_OK;
}

ew_status ew_file_sync(int fd, const char *name, ew_error *reterr)
{
    int rc;
    do {
        rc = write_admitted() ? fsync(fd) : -1;
    } while (rc != 0 && errno == EINTR);
    return rc == 0 ? EW_OK : ew_fail_errno(reterr, errno, "cannot write '%s' to the disk", name);
}

ew_status ew_file_sync_parent(const char *path, ew_error *reterr)
{
    char dir[EW_PATH_MAX];
    if (!ew_str_copy(dir, sizeof(dir), path)) {
        return ew_fail(reterr, EW_ELIMIT, "path '%.64s…' is longer than %d bytes", path, EW_PATH_MAX - 1);
    }
    char *slash = strrchr(dir, '/');
    if (slash == NULL) {
        (void)ew_str_copy(dir, sizeof(dir), ".");
    } else {
        slash[slash == dir] = '\0';
    }
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return ew_fail_errno(reterr, errno, "cannot open directory '%s'", dir);
    }
    int rc = fsync(fd);
    int err = errno;
    (void)close(fd);
    /* Some file systems cannot sync a directory and say so with EINVAL. */
    return rc == 0 || err == EINVAL ? EW_OK
                                    : ew_fail_errno(reterr, err, "cannot write directory '%s' to the disk", dir);
}

ew_status ew_file_rename(const char *from, const char *to, ew_error *reterr)
{
    if (rename(from, to) != 0) {
        return ew_fail_errno(reterr, errno, "cannot rename '%s' to '%s'", from, to);
    }
    return ew_file_sync_parent(to, reterr);
}

/* --- atomic writer --- */

struct ew_file_writer {
    int fd;             /* of tmp_path, -1 once committed or failed */
    char *path;         /* target */
    char *tmp_path;     /* beside it; removed by free unless committed */
    bool committed;     /* tmp_path is gone */
    unsigned char *buf; /* WRITER_BUF bytes not yet written */
    size_t n_buf;       /* bytes in buf */
    uint64_t n_written; /* bytes in the file */
    ew_status status;   /* of the first failure: a broken writer never commits */
};

static ew_status writer_make(const char *path, unsigned mode, ew_file_writer *w, ew_error *reterr)
{
    static atomic_uint counter;
    size_t size = strlen(path) + 48;
    w->path = ew_str_dup(path);
    w->tmp_path = ew_calloc(1, size);
    w->buf = ew_malloc(1, WRITER_BUF);
    if (w->path == NULL || w->tmp_path == NULL || w->buf == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory to write '%s'", path);
    }
    for (int tries = 0; tries < 64; tries++) {
        (void)snprintf(w->tmp_path, size, "%s.tmp-%ld-%u", path, (long)getpid(), atomic_fetch_add(&counter, 1u));
        w->fd = open(w->tmp_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, (mode_t)mode);
        if (w->fd >= 0 || errno != EEXIST) {
            break;
        }
    }
    if (w->fd < 0) {
        return ew_fail_errno(reterr, errno, "cannot create '%s'", path);
    }
    if (fchmod(w->fd, (mode_t)mode) != 0) { /* whatever the umask says */
        return ew_fail_errno(reterr, errno, "cannot set the mode of '%s'", path);
    }
    return EW_OK;
}

ew_status ew_file_writer_open(const char *path, unsigned mode, ew_file_writer **ret_writer, ew_error *reterr)
{
    EW_AUTO(ew_file_writer) w = ew_calloc(1, sizeof(*w));
    if (w == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory to write '%s'", path);
    }
    w->fd = -1;
    EW_TRY(writer_make(path, mode, w, reterr));
    *ret_writer = w;
    w = NULL;
    return EW_OK;
}

static ew_status writer_note(ew_file_writer *w, ew_status st)
{
    if (st != EW_OK && w->status == EW_OK) {
        w->status = st;
    }
    return st;
}

static ew_status writer_flush(ew_file_writer *w, ew_error *reterr)
{
    if (w->status != EW_OK) {
        return ew_fail(reterr, w->status, "'%s' was not written: an earlier write failed", w->path);
    }
    ew_status st = write_full(w->fd, w->path, w->buf, w->n_buf, reterr);
    if (st == EW_OK) {
        w->n_written += w->n_buf;
        w->n_buf = 0;
    }
    return writer_note(w, st);
}

ew_status ew_file_writer_write(ew_file_writer *w, const void *data, size_t size, ew_error *reterr)
{
    if (w->status == EW_OK && size <= WRITER_BUF - w->n_buf) {
        if (size > 0) {
            memcpy(w->buf + w->n_buf, data, size);
            w->n_buf += size;
        }
        return EW_OK;
    }
    EW_TRY(writer_flush(w, reterr));
    if (size < WRITER_BUF) {
        memcpy(w->buf, data, size);
        w->n_buf = size;
        return EW_OK;
    }
    EW_TRY(writer_note(w, write_full(w->fd, w->path, data, size, reterr)));
    w->n_written += size;
    return EW_OK;
}

ew_status ew_file_writer_printf(ew_file_writer *w, ew_error *reterr, const char *fmt, ...)
{
    char text[4096];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof(text)) {
        return writer_note(w, ew_fail(reterr, EW_ELIMIT, "'%s': a formatted line is longer than %zu bytes", w->path,
                                      sizeof(text) - 1));
    }
    return ew_file_writer_write(w, text, (size_t)n, reterr);
}

uint64_t ew_file_writer_size(const ew_file_writer *w)
{
    return w->n_written + w->n_buf;
}

ew_status ew_file_writer_patch(ew_file_writer *w, uint64_t offset, const void *data, size_t size, ew_error *reterr)
{
    EW_TRY(writer_flush(w, reterr));
    if (offset > w->n_written || size > w->n_written - offset) {
        return writer_note(w, ew_fail(reterr, EW_EINVAL, "'%s': patch of %zu bytes at %llu lies past the end", w->path,
                                      size, (unsigned long long)offset));
    }
    return writer_note(w, ew_file_pwrite(w->fd, w->path, offset, data, size, reterr));
}

ew_status ew_file_writer_commit(ew_file_writer *w, ew_error *reterr)
{
    EW_TRY(writer_flush(w, reterr));
    EW_TRY(writer_note(w, ew_file_sync(w->fd, w->path, reterr)));
    int rc = close(w->fd);
    w->fd = -1;
    if (rc != 0) {
        return writer_note(w, ew_fail_errno(reterr, errno, "cannot write '%s'", w->path));
    }
    if (rename(w->tmp_path, w->path) != 0) {
        return writer_note(w, ew_fail_errno(reterr, errno, "cannot put '%s' in its place", w->path));
    }
    w->committed = true;
    return writer_note(w, ew_file_sync_parent(w->path, reterr));
}

void ew_file_writer_free(ew_file_writer **writer)
{
    ew_file_writer *w = *writer;
    if (w == NULL) {
        return;
    }
    if (w->fd >= 0) {
        (void)close(w->fd);
    }
    if (!w->committed && w->tmp_path != NULL && w->tmp_path[0] != '\0') {
        (void)unlink(w->tmp_path);
    }
    ew_free(w->path);
    ew_free(w->tmp_path);
    ew_free(w->buf);
    ew_free(w);
    *writer = NULL;
}

ew_status ew_file_replace(const char *path, const void *data, size_t size, unsigned mode, ew_error *reterr)
{
    EW_AUTO(ew_file_writer) w = NULL;
    EW_TRY(ew_file_writer_open(path, mode, &w, reterr));
    EW_TRY(ew_file_writer_write(w, data, size, reterr));
    return ew_file_writer_commit(w, reterr);
}
