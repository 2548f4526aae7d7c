#include "train/budget.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/file.h"

#define SAMPLE_S 0.1 /* meters are not read more often */
#define ZONES_MAX 64u
#define COUNTERS_MAX 16u
#define NAME_MAX_BYTES 64u

typedef struct counter { /* of energy, in microjoules */
    char path[EW_PATH_MAX];
    double last, range; /* it starts again from 0 after range */
} counter;

struct ew_budget {
    ew_budget_opt opt;
    char root[EW_PATH_MAX];
    char supply[ZONES_MAX][NAME_MAX_BYTES];
    size_t n_supplies;
    char zone[ZONES_MAX][NAME_MAX_BYTES];
    size_t n_zones;
    counter counter[COUNTERS_MAX];
    size_t n_counters;
    bool has_battery;
    double started, sampled; /* monotonic s */
    ew_budget_use use;       /* as of the last sample */
};

/* --- small files --- */

static bool read_text(const ew_budget *b, const char *class, const char *name, const char *file, char *dst, size_t size)
{
    char path[EW_PATH_MAX];
    const int n = snprintf(path, sizeof(path), "%s/sys/class/%s/%s/%s", b->root, class, name, file);
    if (n < 0 || (size_t)n >= sizeof(path)) {
        return false;
    }
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        return false;
    }
    const size_t got = fread(dst, 1, size - 1, f);
    (void)fclose(f);
    dst[got] = '\0';
    dst[strcspn(dst, "\n")] = '\0';
    return got > 0;
}

static double read_number(const ew_budget *b, const char *class, const char *name, const char *file)
{
    char text[48], *end = NULL;
    if (!read_text(b, class, name, file, text, sizeof(text))) {
        return NAN;
    }
    const double x = strtod(text, &end);
    return end != text ? x : (double)NAN;
}

/* Names under a class that start with prefix. */
static size_t list_names(const ew_budget *b, const char *class, const char *prefix, char (*dst)[NAME_MAX_BYTES],
                         size_t max)
{
    char path[EW_PATH_MAX];
    ew_dir_list list = {0};
    size_t n = 0;
    const int len = snprintf(path, sizeof(path), "%s/sys/class/%s", b->root, class);
    if (len < 0 || (size_t)len >= sizeof(path) || ew_dir_read(path, &list, NULL) != EW_OK) {
        return 0;
    }
    for (size_t i = 0; i < list.n && n < max; i++) {
        const char *name = list.entry[i].name;
        if (ew_str_starts(name, prefix) && strlen(name) < NAME_MAX_BYTES) {
            ew_str_copy(dst[n++], NAME_MAX_BYTES, name);
        }
    }
    ew_dir_list_release(&list);
    return n;
}

/* --- meters --- */

/* Zones "intel-rapl:N" are packages (or the whole platform, "psys"); "intel-rapl:N:M" are parts of them. */
static void find_counters(ew_budget *b)
{
    char names[ZONES_MAX][NAME_MAX_BYTES];
    const size_t n = list_names(b, "powercap", "", names, ZONES_MAX);
    for (int psys = 1; psys >= 0 && b->n_counters == 0; psys--) {
        for (size_t i = 0; i < n && b->n_counters < COUNTERS_MAX; i++) {
            const char *colon = strchr(names[i], ':');
            char kind[48];
            if (colon == NULL || strchr(colon + 1, ':') != NULL ||
                !read_text(b, "powercap", names[i], "name", kind, sizeof(kind)) ||
                (strcmp(kind, "psys") == 0) != (psys == 1) || (psys == 0 && !ew_str_starts(kind, "package"))) {
                continue;
            }
            counter *c = &b->counter[b->n_counters];
            c->last = read_number(b, "powercap", names[i], "energy_uj");
            c->range = read_number(b, "powercap", names[i], "max_energy_range_uj");
            if (isfinite(c->last)) {
                ew_str_copy(c->path, sizeof(c->path), names[i]);
                b->n_counters++;
            }
        }
    }
}

/* Joules since the last reading, NAN when a counter has gone. */
static double counted(ew_budget *b)
{
    double sum = 0;
    for (size_t i = 0; i < b->n_counters; i++) {
        counter *c = &b->counter[i];
        const double x = read_number(b, "powercap", c->path, "energy_uj");
        double d = x - c->last;
        if (d < 0 && isfinite(c->range)) {
            d += c->range;
        }
        sum += d >= 0 ? d * 1e-6 : isnan(x) ? (double)NAN : 0;
        c->last = isnan(x) ? c->last : x;
    }
    return b->n_counters > 0 ? sum : (double)NAN;
}

static bool is_kind(const ew_budget *b, const char *supply, const char *kind)
{
    char text[32];
    return read_text(b, "power_supply", supply, "type", text, sizeof(text)) && strcmp(text, kind) == 0;
}

/* A battery of a mouse or a headset powers no machine. */
static bool is_battery(const ew_budget *b, const char *supply)
{
    char scope[32];
    return is_kind(b, supply, "Battery") &&
           !(read_text(b, "power_supply", supply, "scope", scope, sizeof(scope)) && strcmp(scope, "Device") == 0);
}

static bool discharging(const ew_budget *b, const char *supply)
{
    char text[32];
    return read_text(b, "power_supply", supply, "status", text, sizeof(text)) && strcmp(text, "Discharging") == 0;
}

/* Watts drawn from the batteries, NAN when none says. */
static double battery_watts(const ew_budget *b)
{
    double sum = NAN;
    for (size_t i = 0; i < b->n_supplies; i++) {
        const char *s = b->supply[i];
        if (!is_battery(b, s) || !discharging(b, s)) {
            continue;
        }
        double w = read_number(b, "power_supply", s, "power_now") * 1e-6;
        if (isnan(w)) {
            w = read_number(b, "power_supply", s, "current_now") * read_number(b, "power_supply", s, "voltage_now") *
                1e-12;
        }
        if (!isnan(w)) {
            sum = (isnan(sum) ? 0 : sum) + fabs(w);
        }
    }
    return sum;
}

static bool mains(const ew_budget *b)
{
    bool battery = false, feeds = false;
    for (size_t i = 0; i < b->n_supplies; i++) {
        const char *s = b->supply[i];
        if (is_battery(b, s)) {
            battery = true;
            feeds = feeds || discharging(b, s);
        } else if (read_number(b, "power_supply", s, "online") >= 1) {
            return true;
        }
    }
    return !battery || !feeds;
}

static double hottest(const ew_budget *b)
{
    double most = NAN;
    for (size_t i = 0; i < b->n_zones; i++) {
        const double t = read_number(b, "thermal", b->zone[i], "temp") / 1000;
        if (!isnan(t) && t > -60 && t < 200) { /* some sensors say nonsense while they sleep */
            most = isnan(most) ? t : fmax(most, t);
        }
    }
    return most;
}

/* --- the budget --- */

static bool sane(double x)
{
    return x >= 0 && isfinite(x);
}

ew_status ew_budget_new(const ew_budget_opt *opt, ew_budget **ret_budget, ew_error *reterr)
{
    if (!sane(opt->max_seconds) || !sane(opt->max_joules) || !sane(opt->max_temperature_c) || !sane(opt->watts)) {
        return ew_fail(reterr, EW_EINVAL, "budgets of time, energy, temperature and watts are numbers from 0 on");
    }
    EW_AUTO(ew_budget) b = ew_calloc(1, sizeof(*b));
    if (b == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the budget");
    }
    b->opt = *opt;
    ew_str_copy(b->root, sizeof(b->root), opt->sys_root != NULL ? opt->sys_root : "");
    b->opt.sys_root = NULL;
    if (b->opt.watts <= 0) {
        b->opt.watts = EW_BUDGET_WATTS_PER_THREAD * EW_MAX(1u, opt->threads);
    }
    b->n_supplies = list_names(b, "power_supply", "", b->supply, ZONES_MAX);
    b->n_zones = list_names(b, "thermal", "thermal_zone", b->zone, ZONES_MAX);
    find_counters(b);
    b->has_battery = !isnan(battery_watts(b));
    b->started = b->sampled = ew_mono_s();
    b->use = (ew_budget_use){.temperature_c = hottest(b), .on_mains = mains(b)};
    *ret_budget = b;
    b = NULL;
    return EW_OK;
}

void ew_budget_free(ew_budget **b)
{
    if (*b != NULL) {
        ew_free(*b);
        *b = NULL;
    }
}

ew_budget_meter ew_budget_meter_of(const ew_budget *b)
{
    return b->n_counters > 0 ? EW_BUDGET_RAPL : b->has_battery ? EW_BUDGET_BATTERY : EW_BUDGET_MODEL;
}

void ew_budget_sample(ew_budget *b, ew_budget_use *ret_use)
{
    const double now = ew_mono_s(), dt = now - b->sampled;
    b->use.seconds = now - b->started;
    if (dt >= SAMPLE_S) {
        double j = counted(b);
        if (isnan(j) && b->has_battery) {
            j = battery_watts(b) * dt;
        }
        if (isnan(j)) {
            j = b->opt.watts * dt;
            b->use.estimated = true;
        }
        b->use.joules += j;
        b->use.temperature_c = hottest(b);
        b->use.on_mains = mains(b);
        b->sampled = now;
    }
    *ret_use = b->use;
}

ew_budget_limit ew_budget_check(ew_budget *b, double next_s, ew_budget_use *ret_use)
{
    const ew_budget_opt *o = &b->opt;
    ew_budget_sample(b, ret_use);
    const ew_budget_use *u = ret_use;
    const double watts = u->seconds > 1 && u->joules > 0 ? u->joules / u->seconds : o->watts;
    if (o->only_on_mains && !u->on_mains) {
        return EW_BUDGET_MAINS;
    }
    if (o->max_temperature_c > 0 && u->temperature_c > o->max_temperature_c) {
        return EW_BUDGET_HEAT;
    }
    if (o->max_seconds > 0 && u->seconds + next_s > o->max_seconds) {
        return EW_BUDGET_TIME;
    }
    if (o->max_joules > 0 && u->joules + watts * next_s > o->max_joules) {
        return EW_BUDGET_ENERGY;
    }
    return EW_BUDGET_FREE;
}
