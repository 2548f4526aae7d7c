/* Directories, paths and locks; the rest of sys/file.h. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/file.h"

#define TREE_DEPTH_MAX 128

ew_status ew_path_join(char *dst, size_t size, const char *a, const char *b, ew_error *reterr)
{
    size_t len = strlen(a);
    bool slash = len > 0 && a[len - 1] != '/' && b[0] != '\0';
    while (len > 0 && b[0] == '/') {
        b++;
    }
    int n = snprintf(dst, size, "%s%s%s", a, slash ? "/" : "", b);
    if (n < 0 || (size_t)n >= size) {
        return ew_fail(reterr, EW_ELIMIT, "path '%.64s…/%.64s' is longer than %zu bytes", a, b, size - 1);
    }
    return EW_OK;
}

const char *ew_path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

ew_status ew_dir_make(const char *path, unsigned mode, ew_error *reterr)
{
    char part[EW_PATH_MAX];
    if (path[0] == '\0' || !ew_str_copy(part, sizeof(part), path)) {
        return ew_fail(reterr, EW_EINVAL, "a directory needs a name of 1 to %d bytes", EW_PATH_MAX - 1);
    }
    for (char *p = part + 1;; p++) {
        if (*p != '/' && *p != '\0') {
            continue;
        }
        char kept = *p;
        *p = '\0';
        if (mkdir(part, (mode_t)mode) != 0) {
            int err = errno;
            struct stat st;
            if (stat(part, &st) != 0) {
                return ew_fail_errno(reterr, err, "cannot make directory '%s'", part);
            }
            if (!S_ISDIR(st.st_mode)) {
                return ew_fail(reterr, EW_EEXIST, "cannot make directory '%s': a file of that name is there", part);
            }
        }
        *p = kept;
        if (kept == '\0') {
            return EW_OK;
        }
    }
}

char *ew_path_real(const char *path, char *dst, size_t size)
{
    char *full = realpath(path, NULL);
    (void)ew_str_copy(dst, size, full != NULL ? full : path);
    free(full);
    return dst;
}

bool ew_file_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

bool ew_dir_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

ew_status ew_file_size(const char *path, uint64_t *ret_bytes, ew_error *reterr)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        return ew_fail_errno(reterr, errno, "cannot read the size of '%s'", path);
    }
    *ret_bytes = (uint64_t)st.st_size;
    return EW_OK;
}

ew_status ew_file_remove(const char *path, ew_error *reterr)
{
    if (unlink(path) != 0 && errno != ENOENT) {
        return ew_fail_errno(reterr, errno, "cannot remove '%s'", path);
    }
    return EW_OK;
}

static bool dot_name(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static ew_status remove_at(int parent, const char *name, int depth, ew_error *reterr);

static ew_status remove_children(int fd, const char *name, int depth, ew_error *reterr)
{
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        int err = errno;
        (void)close(fd);
        return ew_fail_errno(reterr, err, "cannot read directory '%s'", name);
    }
    ew_status st = EW_OK;
    const struct dirent *e;
    while (st == EW_OK && (e = readdir(dir)) != NULL) {
        if (!dot_name(e->d_name)) {
            st = remove_at(dirfd(dir), e->d_name, depth + 1, reterr);
        }
    }
    (void)closedir(dir);
    return st;
}

static ew_status remove_at(int parent, const char *name, int depth, ew_error *reterr)
{
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT) {
        return EW_OK;
    }
    if (errno != EISDIR && errno != EPERM) {
        return ew_fail_errno(reterr, errno, "cannot remove '%s'", name);
    }
    if (depth > TREE_DEPTH_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "'%s' lies more than %d directories deep", name, TREE_DEPTH_MAX);
    }
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? EW_OK : ew_fail_errno(reterr, errno, "cannot remove '%s'", name);
    }
    EW_TRY(remove_children(fd, name, depth, reterr));
    if (unlinkat(parent, name, AT_REMOVEDIR) != 0 && errno != ENOENT) {
        return ew_fail_errno(reterr, errno, "cannot remove directory '%s'", name);
    }
    return EW_OK;
}

ew_status ew_dir_remove_tree(const char *path, ew_error *reterr)
{
    if (path[0] == '\0' || strcmp(path, "/") == 0) {
        return ew_fail(reterr, EW_EINVAL, "'%s' is not a directory to remove", path);
    }
    return remove_at(AT_FDCWD, path, 0, reterr);
}

ew_status ew_dir_make_temp(const char *prefix, char *dst, size_t size, ew_error *reterr)
{
    int n = snprintf(dst, size, "%sXXXXXX", prefix);
    if (n < 0 || (size_t)n >= size) {
        return ew_fail(reterr, EW_ELIMIT, "path '%.64s…' is longer than %zu bytes", prefix, size - 1);
    }
    return mkdtemp(dst) != NULL ? EW_OK : ew_fail_errno(reterr, errno, "cannot make a directory '%s'", dst);
}

ew_status ew_dir_free_bytes(const char *path, uint64_t *ret_bytes, ew_error *reterr)
{
    struct statvfs st;
    if (statvfs(path, &st) != 0) {
        return ew_fail_errno(reterr, errno, "cannot read the free space at '%s'", path);
    }
    *ret_bytes = (uint64_t)st.f_bavail * st.f_frsize;
    return EW_OK;
}

/* --- listing --- */

void ew_dir_list_release(ew_dir_list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        ew_free(list->entry[i].name);
    }
    ew_free(list->entry);
    *list = (ew_dir_list){0};
}

static int entry_order(const void *a, const void *b)
{
    return strcmp(((const ew_dir_entry *)a)->name, ((const ew_dir_entry *)b)->name);
}

static ew_status list_add(ew_dir_list *list, int dir_fd, const char *name)
{
    struct stat st;
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
        return EW_OK; /* gone meanwhile */
    }
    if (S_ISLNK(st.st_mode) && fstatat(dir_fd, name, &st, 0) != 0) {
        return EW_OK; /* leads nowhere */
    }
    EW_TRY(ew_grow((void **)&list->entry, &list->cap, list->n + 1, sizeof(*list->entry), EW_LIMIT_DIR_ENTRIES));
    char *copy = ew_str_dup(name);
    if (copy == NULL) {
        return EW_ENOMEM;
    }
    list->entry[list->n++] = (ew_dir_entry){.name = copy,
                                            .size = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0,
                                            .is_dir = S_ISDIR(st.st_mode),
                                            .is_file = S_ISREG(st.st_mode)};
    return EW_OK;
}

ew_status ew_dir_read(const char *path, ew_dir_list *ret_list, ew_error *reterr)
{
    DIR *dir = opendir(path);
    if (dir == NULL) {
        return ew_fail_errno(reterr, errno, "cannot read directory '%s'", path);
    }
    ew_dir_list list = {0};
    ew_status st = EW_OK;
    const struct dirent *e;
    while (st == EW_OK && (e = readdir(dir)) != NULL) {
        if (!dot_name(e->d_name)) {
            st = list_add(&list, dirfd(dir), e->d_name);
        }
    }
    (void)closedir(dir);
    if (st != EW_OK) {
        ew_dir_list_release(&list);
        return ew_fail(reterr, st, "cannot list '%s': more than %u entries, or no memory", path, EW_LIMIT_DIR_ENTRIES);
    }
    if (list.n > 1) {
        qsort(list.entry, list.n, sizeof(*list.entry), entry_order);
    }
    *ret_list = list;
    return EW_OK;
}

/* "x.tmp-12-0" */
static bool temp_name(const char *name)
{
    const char *p = strstr(name, ".tmp-");
    if (p == NULL) {
        return false;
    }
    p += strlen(".tmp-");
    size_t pid = strspn(p, "0123456789");
    if (pid == 0 || p[pid] != '-') {
        return false;
    }
    p += pid + 1;
    size_t counter = strspn(p, "0123456789");
    return counter > 0 && p[counter] == '\0';
}

ew_status ew_dir_sweep_temp(const char *path, ew_error *reterr)
{
    ew_dir_list list = {0};
    EW_TRY(ew_dir_read(path, &list, reterr));
    ew_status st = EW_OK;
    for (size_t i = 0; i < list.n && st == EW_OK; i++) {
        char file[EW_PATH_MAX];
        if (list.entry[i].is_file && temp_name(list.entry[i].name)) {
            st = ew_path_join(file, sizeof(file), path, list.entry[i].name, reterr);
            st = st == EW_OK ? ew_file_remove(file, reterr) : st;
        }
    }
    ew_dir_list_release(&list);
    return st;
}

/* --- lock --- */

struct ew_dir_lock {
    int fd; /* of PATH/.lock, locked */
};

static ew_status lock_fd(int fd, const char *path, ew_error *reterr)
{
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) {
            return ew_fail_errno(reterr, errno, "cannot lock '%s'", path);
        }
        char pid[24] = "";
        ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);
        pid[n > 0 ? n : 0] = '\0';
        pid[strcspn(pid, "\n")] = '\0';
        return ew_fail(reterr, EW_ECONFLICT, "'%s' is in use by process %s; stop that one first", path,
                       pid[0] != '\0' ? pid : "unknown");
    }
    char text[24];
    int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    /* The pid only helps the message: a full disk must not stop the lock. */
    if (ftruncate(fd, 0) == 0 && pwrite(fd, text, (size_t)n, 0) != n) {
        (void)!ftruncate(fd, 0);
    }
    return EW_OK;
}

ew_status ew_dir_lock_take(const char *path, ew_dir_lock **ret_lock, ew_error *reterr)
{
    char file[EW_PATH_MAX];
    EW_TRY(ew_path_join(file, sizeof(file), path, ".lock", reterr));
    EW_AUTO(ew_dir_lock) l = ew_calloc(1, sizeof(*l));
    if (l == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory to lock '%s'", path);
    }
    l->fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (l->fd < 0) {
        return ew_fail_errno(reterr, errno, "cannot lock directory '%s'", path);
    }
    EW_TRY(lock_fd(l->fd, path, reterr));
    *ret_lock = l;
    l = NULL;
    return EW_OK;
}

void ew_dir_lock_free(ew_dir_lock **lock)
{
    if (*lock != NULL) {
        if ((*lock)->fd >= 0) {
            (void)close((*lock)->fd); /* the file stays: removing it would race with the next owner */
        }
        ew_free(*lock);
        *lock = NULL;
    }
}
