#include "tmpdir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sys/file.h"

static char dir[512];
static pid_t owner;

static void remove_dir(void)
{
    if (getpid() == owner) { /* not in a forked child */
        (void)!ew_dir_remove_tree(dir, NULL);
    }
}

const char *ew_test_tmpdir(void)
{
    if (dir[0] == '\0') {
        ew_error err = EW_ERROR_INIT;
        const char *root = getenv("TMPDIR");
        char prefix[256];
        (void)snprintf(prefix, sizeof(prefix), "%s/ew-test-", root != NULL && root[0] == '/' ? root : "/tmp");
        if (ew_dir_make_temp(prefix, dir, sizeof(dir), &err) != EW_OK) {
            fprintf(stderr, "test: %s\n", err.msg);
            exit(99);
        }
        owner = getpid();
        (void)atexit(remove_dir);
    }
    return dir;
}

const char *ew_test_path(const char *name)
{
    static char paths[16][1024];
    static unsigned next;
    char *path = paths[next++ % 16];
    (void)snprintf(path, sizeof(paths[0]), "%s/%s", ew_test_tmpdir(), name);
    return path;
}

const char *ew_test_file(const char *name, const void *data, size_t size)
{
    const char *path = ew_test_path(name);
    FILE *f = fopen(path, "wb");
    if (f == NULL || fwrite(data, 1, size, f) != size || fclose(f) != 0) {
        fprintf(stderr, "test: cannot write %s\n", path);
        exit(99);
    }
    return path;
}

const char *ew_test_text(const char *name, const char *text)
{
    return ew_test_file(name, text, strlen(text));
}
