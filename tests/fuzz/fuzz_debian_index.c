/* Any bytes as a package index: input up to the first NUL is Packages, the rest Translation-en. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "task/debian_int.h"

static const char *put(char path[64], int slot, const uint8_t *data, size_t size)
{
    snprintf(path, 64, "/dev/shm/fuzz-index-%ld-%d", (long)getpid(), slot);
    FILE *f = fopen(path, "w");
    EW_ASSERT(f != NULL && fwrite(data, 1, size, f) == size && fclose(f) == 0);
    return path;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *cut = size != 0 ? memchr(data, 0, size) : NULL;
    size_t n = cut != NULL ? (size_t)(cut - data) : size;
    char packages[64], translation[64];
    put(packages, 0, data, n);
    put(translation, 1, cut != NULL ? cut + 1 : data, cut != NULL ? size - n - 1 : 0);
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew__debian_index) x = NULL;
    ew__debian_release release;
    ew_status st = ew__debian_release_read(packages, &release, &err);
    EW_ASSERT(st == EW_OK || err.msg[0] != '\0');
    if (ew__debian_index_open(packages, translation, &x, &err) == EW_OK) {
        EW_AUTO(ew__dedup) d = NULL;
        EW_ASSERT(ew__dedup_new(&d) == EW_OK);
        for (size_t i = 0; i < ew__debian_index_n(x); i++) {
            EW_AUTO_BUF synopsis = {0};
            EW_AUTO_BUF description = {0};
            bool fresh;
            ew__debian_text_split(ew__debian_index_at(x, i)->text, &synopsis, &description);
            EW_ASSERT(ew__dedup_add(d, ew_buf_str(&description), description.size, &fresh, &err) == EW_OK);
        }
    }
    unlink(packages);
    unlink(translation);
    return 0;
}
