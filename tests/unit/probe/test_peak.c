/* The machine's limits come out as rates that a machine can have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "probe/peak.h"

static void both_limits_are_plausible_for_any_number_of_threads(void **state)
{
    (void)state;
    for (unsigned n = 1; n <= 2; n++) {
        ew_pool *pool = NULL;
        ew_error err = EW_ERROR_INIT;
        double read = 0;
        assert_int_equal(ew_pool_new(n, &pool, &err), EW_OK);
        assert_int_equal(ew_peak_read(pool, &read, &err), EW_OK);
        double int8 = ew_peak_int8(pool);
        assert_true(read > 1e6 && read < 1e13);
        assert_true(int8 == 0 || (int8 > 1e6 && int8 < 1e16));
        ew_pool_free(&pool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(both_limits_are_plausible_for_any_number_of_threads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
