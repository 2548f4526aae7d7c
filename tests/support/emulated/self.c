/* Preloaded into the programs of a cross build when the tests run them under qemu's user emulation. A program that starts
 * itself again asks /proc/self/exe for its own path and would get a file that this machine cannot execute: it gets the
 * path of the script that runs it under the emulator instead (EW_EMULATED_SELF). Nothing else is changed. */
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

long syscall(long number, ...);
ssize_t ew__readlink_chk(const char *path, char *dst, size_t size, size_t room) __asm__("__readlink_chk");

/* The emulator and the scripts are programs of this machine: they must not be told to load this. */
__attribute__((constructor)) static void begin(void)
{
    (void)unsetenv("LD_PRELOAD");
}

ssize_t readlink(const char *restrict path, char *restrict dst, size_t size)
{
    const char *self = getenv("EW_EMULATED_SELF");
    if (self == NULL || strcmp(path, "/proc/self/exe") != 0) {
        return (ssize_t)syscall(SYS_readlinkat, -100 /* AT_FDCWD */, path, dst, size);
    }
    size_t n = strlen(self) < size ? strlen(self) : size;
    memcpy(dst, self, n);
    return (ssize_t)n;
}

/* What fortified callers call. */
ssize_t ew__readlink_chk(const char *path, char *dst, size_t size, size_t room)
{
    if (size > room) {
        abort();
    }
    return readlink(path, dst, size);
}
