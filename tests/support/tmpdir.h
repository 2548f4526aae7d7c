/* A directory of the test program's own, made at first use and removed when it exits. */
#ifndef EW_TESTS_SUPPORT_TMPDIR_H
#define EW_TESTS_SUPPORT_TMPDIR_H

#include <stddef.h>

/* Under $TMPDIR or /tmp. Ends the program when it cannot be made. */
const char *ew_test_tmpdir(void);
/* "TMPDIR/name" in one of 16 buffers that are used in turn. */
const char *ew_test_path(const char *name);
/* Writes a file there and returns its path as above. */
const char *ew_test_file(const char *name, const void *data, size_t size);
/* As above with text. */
const char *ew_test_text(const char *name, const char *text);

#endif
