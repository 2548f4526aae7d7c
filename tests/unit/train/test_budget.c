/* Budgets against a made-up /sys: meters, their wrap, what is estimated, heat, mains. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "sys/file.h"
#include "test.h"
#include "train/budget.h"

static char root[EW_PATH_MAX];

static void put(const char *path, const char *text)
{
    ew_error err = EW_ERROR_INIT;
    char full[EW_PATH_MAX * 2], dir[EW_PATH_MAX * 2];
    (void)snprintf(full, sizeof(full), "%s/sys/class/%s", root, path);
    (void)snprintf(dir, sizeof(dir), "%s", full);
    *strrchr(dir, '/') = '\0';
    assert_ok(ew_dir_make(dir, 0700, &err), &err);
    assert_ok(ew_file_replace(full, text, strlen(text), 0600, &err), &err);
}

/* A new empty machine. */
static void new_root(const char *name)
{
    ew_error err = EW_ERROR_INIT;
    (void)snprintf(root, sizeof(root), "%s", ew_test_path(name));
    assert_ok(ew_dir_make(root, 0700, &err), &err);
}

static void near(double a, double b, double tol)
{
    if (!(fabs(a - b) <= tol)) {
        fail_msg("%g is not %g", a, b);
    }
}

static void at(double s)
{
    ew_clock_fake((uint64_t)(s * 1e9), 1);
}

static ew_budget *budget(ew_budget_opt opt)
{
    ew_error err = EW_ERROR_INIT;
    ew_budget *b = NULL;
    opt.sys_root = root;
    at(1000);
    assert_ok(ew_budget_new(&opt, &b, &err), &err);
    return b;
}

static int reset_clock(void **state)
{
    (void)state;
    ew_clock_fake(0, 0);
    return 0;
}

static void without_meters_joules_are_seconds_times_watts_and_say_so(void **state)
{
    (void)state;
    new_root("none");
    EW_AUTO(ew_budget) b = budget((ew_budget_opt){.max_joules = 100, .watts = 5});
    ew_budget_use u;
    assert_int_equal(ew_budget_meter_of(b), EW_BUDGET_MODEL);
    assert_int_equal(ew_budget_check(b, 1, &u), EW_BUDGET_FREE);
    at(1010);
    assert_int_equal(ew_budget_check(b, 1, &u), EW_BUDGET_FREE);
    near(u.joules, 50, 1e-6);
    assert_true(u.estimated && u.on_mains && isnan(u.temperature_c));
    at(1018);
    assert_int_equal(ew_budget_check(b, 1, &u), EW_BUDGET_FREE);
    assert_int_equal(ew_budget_check(b, 3, &u), EW_BUDGET_ENERGY); /* 90 J spent, 15 more would pass it */
    EW_AUTO(ew_budget) two = budget((ew_budget_opt){.threads = 2});
    at(1001);
    ew_budget_sample(two, &u);
    near(u.joules, 2 * EW_BUDGET_WATTS_PER_THREAD, 1e-6);
}

static void rapl_packages_are_summed_and_may_wrap(void **state)
{
    (void)state;
    new_root("rapl");
    put("powercap/intel-rapl:0/name", "package-0\n");
    put("powercap/intel-rapl:0/energy_uj", "9000000\n");
    put("powercap/intel-rapl:0/max_energy_range_uj", "10000000\n");
    put("powercap/intel-rapl:1/name", "package-1\n");
    put("powercap/intel-rapl:1/energy_uj", "1000000\n");
    put("powercap/intel-rapl:1/max_energy_range_uj", "10000000\n");
    put("powercap/intel-rapl:0:0/name", "core\n");
    put("powercap/intel-rapl:0:0/energy_uj", "500\n");
    EW_AUTO(ew_budget) b = budget((ew_budget_opt){.max_joules = 6});
    ew_budget_use u;
    assert_int_equal(ew_budget_meter_of(b), EW_BUDGET_RAPL);
    put("powercap/intel-rapl:0/energy_uj", "1000000\n"); /* around: 2 J */
    put("powercap/intel-rapl:1/energy_uj", "2500000\n"); /* 1.5 J */
    at(1002);
    assert_int_equal(ew_budget_check(b, 1, &u), EW_BUDGET_FREE);
    near(u.joules, 3.5, 1e-6);
    assert_false(u.estimated);
    assert_int_equal(ew_budget_check(b, 2, &u), EW_BUDGET_ENERGY); /* at 1.75 W as measured */
    put("powercap/intel-rapl:9/name", "psys\n");
    put("powercap/intel-rapl:9/energy_uj", "0\n");
    EW_AUTO(ew_budget) whole = budget((ew_budget_opt){0});
    put("powercap/intel-rapl:9/energy_uj", "7000000\n");
    at(1001);
    ew_budget_sample(whole, &u);
    near(u.joules, 7, 1e-6);
}

static void battery_is_integrated_while_it_discharges(void **state)
{
    (void)state;
    new_root("battery");
    put("power_supply/BAT0/type", "Battery\n");
    put("power_supply/BAT0/status", "Discharging\n");
    put("power_supply/BAT0/current_now", "2000000\n");
    put("power_supply/BAT0/voltage_now", "10000000\n");
    put("power_supply/AC/type", "Mains\n");
    put("power_supply/AC/online", "0\n");
    put("power_supply/mouse/type", "Battery\n");
    put("power_supply/mouse/scope", "Device\n");
    put("power_supply/mouse/status", "Discharging\n");
    put("power_supply/mouse/power_now", "90000000\n");
    EW_AUTO(ew_budget) b = budget((ew_budget_opt){.watts = 1});
    ew_budget_use u;
    assert_int_equal(ew_budget_meter_of(b), EW_BUDGET_BATTERY);
    at(1003);
    ew_budget_sample(b, &u);
    near(u.joules, 60, 1e-6);
    assert_false(u.estimated || u.on_mains);
    put("power_supply/AC/online", "1\n");
    put("power_supply/BAT0/status", "Charging\n");
    at(1005); /* on mains the battery tells nothing */
    ew_budget_sample(b, &u);
    near(u.joules, 62, 1e-6);
    assert_true(u.estimated && u.on_mains);
}

static void heat_mains_and_time_stop_it(void **state)
{
    (void)state;
    new_root("limits");
    put("thermal/thermal_zone0/temp", "41000\n");
    put("thermal/thermal_zone1/temp", "69500\n");
    put("thermal/thermal_zone2/temp", "-274000\n");
    put("power_supply/BAT1/type", "Battery\n");
    put("power_supply/BAT1/status", "Full\n");
    EW_AUTO(ew_budget) b = budget((ew_budget_opt){.max_temperature_c = 70, .only_on_mains = true, .max_seconds = 60});
    ew_budget_use u;
    assert_int_equal(ew_budget_check(b, 1, &u), EW_BUDGET_FREE);
    near(u.temperature_c, 69.5, 1e-6);
    at(1001);
    put("thermal/thermal_zone0/temp", "70500\n");
    assert_int_equal(ew_budget_check(b, 1, &u), EW_BUDGET_HEAT);
    at(1002);
    put("thermal/thermal_zone0/temp", "50000\n");
    put("power_supply/BAT1/status", "Discharging\n");
    assert_int_equal(ew_budget_check(b, 1, &u), EW_BUDGET_MAINS);
    at(1058);
    put("power_supply/BAT1/status", "Charging\n");
    assert_int_equal(ew_budget_check(b, 1, &u), EW_BUDGET_FREE);
    assert_int_equal(ew_budget_check(b, 3, &u), EW_BUDGET_TIME);
}

static void nonsense_is_refused(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_budget *b = NULL;
    assert_fails(EW_EINVAL, ew_budget_new(&(ew_budget_opt){.max_joules = -1}, &b, &err), &err, "from 0 on");
    assert_fails(EW_EINVAL, ew_budget_new(&(ew_budget_opt){.max_seconds = (double)NAN}, &b, &err), &err, "from 0 on");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(without_meters_joules_are_seconds_times_watts_and_say_so, reset_clock),
        cmocka_unit_test_teardown(rapl_packages_are_summed_and_may_wrap, reset_clock),
        cmocka_unit_test_teardown(battery_is_integrated_while_it_discharges, reset_clock),
        cmocka_unit_test_teardown(heat_mains_and_time_stop_it, reset_clock),
        cmocka_unit_test(nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
