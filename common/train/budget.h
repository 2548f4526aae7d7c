/* What a run may use of the machine, and what it has used: wall time, energy, heat, the socket.
 *
 * Energy is read where there is a meter: RAPL (/sys/class/powercap, the whole platform where the machine counts it, else its packages),
 * or the battery while it discharges (/sys/class/power_supply, power integrated between samples). These count the machine, not the
 * process: what others do meanwhile is in the figure. Where there is none, joules = seconds x watts with the watts the caller has
 * calibrated, or EW_BUDGET_WATTS_PER_THREAD for each thread; a figure that holds any such part is marked as estimated.
 * A machine without power supplies in sysfs is on mains; one without thermal zones has no temperature (NAN) and no limit.
 * Locking: one owner. */
#ifndef EW_TRAIN_BUDGET_H
#define EW_TRAIN_BUDGET_H

#include "base/base.h"
#include "base/status.h"

/* A core of a small board or a laptop at work, with its share of memory and supply: an order of magnitude, no measurement. */
#define EW_BUDGET_WATTS_PER_THREAD 4.0

typedef struct ew_budget_opt {
    double max_seconds; /* wall; 0 = no limit, as for all */
    double max_joules;
    double max_temperature_c; /* the hottest zone */
    bool only_on_mains;
    double watts;         /* while it trains, calibrated; 0 = threads x EW_BUDGET_WATTS_PER_THREAD */
    unsigned threads;     /* 0 = 1 */
    const char *sys_root; /* what stands before /sys/class; NULL = "" (tests give a directory) */
} ew_budget_opt;

typedef enum ew_budget_meter {
    EW_BUDGET_MODEL,
    EW_BUDGET_RAPL,
    EW_BUDGET_BATTERY
} ew_budget_meter;

typedef struct ew_budget_use {
    double seconds;       /* since new */
    double joules;        /* since new */
    bool estimated;       /* some of joules is seconds x watts */
    double temperature_c; /* NAN = none known */
    bool on_mains;
} ew_budget_use;

/* Which limit is reached. */
typedef enum ew_budget_limit {
    EW_BUDGET_FREE,
    EW_BUDGET_TIME,
    EW_BUDGET_ENERGY,
    EW_BUDGET_HEAT,
    EW_BUDGET_MAINS
} ew_budget_limit;

typedef struct ew_budget ew_budget;

/* Looks for meters and starts to count. EW_EINVAL (negative or not finite), EW_ENOMEM. */
ew_status ew_budget_new(const ew_budget_opt *opt, ew_budget **ret_budget, ew_error *reterr) EW_MUST_CHECK;
void ew_budget_free(ew_budget **b);
ew_budget_meter ew_budget_meter_of(const ew_budget *b);
/* Reads the meters now. Cheap enough for every step (a few small files, at most ten times a second). */
void ew_budget_sample(ew_budget *b, ew_budget_use *ret_use);
/* Samples, and says whether another stretch of next_s seconds would pass a limit. */
ew_budget_limit ew_budget_check(ew_budget *b, double next_s, ew_budget_use *ret_use);

#endif
