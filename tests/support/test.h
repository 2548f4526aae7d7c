/* What every C test includes: cmocka with what it needs, checks for ew_status, a directory for files.
 *
 *   static void file_read_names_the_missing_file(void **state)
 *   {
 *       (void)state;
 *       ew_error err = EW_ERROR_INIT;
 *       EW_AUTO_BUF b = {0};
 *       assert_fails(EW_ENOENT, ew_file_read("/nowhere/x", 10, &b, &err), &err, "/nowhere/x");
 *   }
 */
#ifndef EW_TESTS_SUPPORT_TEST_H
#define EW_TESTS_SUPPORT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tmpdir.h"

#include "base/status.h"

/* expr is an ew_status call that was given err. */
#define assert_ok(expr, err)                                                                                           \
    do {                                                                                                               \
        ew_status test_st_ = (expr);                                                                                   \
        if (test_st_ != EW_OK) {                                                                                       \
            fail_msg("%s: %s: %s", #expr, ew_status_name(test_st_), (err)->msg);                                       \
        }                                                                                                              \
    } while (0)

/* It fails with this code, and the message holds text ("" = any). */
#define assert_fails(expected, expr, err, text)                                                                        \
    do {                                                                                                               \
        ew_status test_st_ = (expr);                                                                                   \
        if (test_st_ != (expected) || strstr((err)->msg, (text)) == NULL) {                                            \
            fail_msg("%s: got %s '%s', expected %s with '%s'", #expr, ew_status_name(test_st_), (err)->msg,            \
                     ew_status_name(expected), (text));                                                                \
        }                                                                                                              \
    } while (0)

/* Ends the case as skipped where the programs of a cross build run under an emulator, which cannot do what it needs. */
#define skip_emulated(why)                                                                                             \
    do {                                                                                                               \
        if (getenv("EW_EMULATED") != NULL) {                                                                           \
            print_message("skipped under an emulator: %s\n", (why));                                                   \
            skip();                                                                                                    \
        }                                                                                                              \
    } while (0)

#endif
