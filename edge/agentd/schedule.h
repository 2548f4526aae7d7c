/* When the agent learns by itself: once a night, or every so often, when there is enough that is new and nobody is in the way. Pure: the caller
 * brings clocks, power and counts.
 *
 * Clocks jump, so two are used. A time of day belongs to the wall clock: a slot begins at that minute of a local day, is open for EW_SCHEDULE_WINDOW_MIN
 * and is used once, remembered by its day. Where summer time leaves the minute out the slot begins with the next minute that exists; an hour that
 * comes twice begins no second slot. A wall clock that was set back by up to a day cannot begin the same slot twice; a remembered day that lies
 * further ahead is no memory but an error of the clock: then EW_SCHEDULE_DISTRUST_MS of this process have to pass first. Intervals are of the monotonic clock
 * as far as this process knows, of the wall clock only across a restart, and then never longer than the interval.
 * What must be learned anew (an adapter was flagged, a learning was cut off) waits for no slot, only for power, quiet, and longer after each failure. */
#ifndef EW_AGENTD_SCHEDULE_H
#define EW_AGENTD_SCHEDULE_H

#include <time.h>

#include "base/base.h"
#include "base/status.h"

#define EW_SCHEDULE_WINDOW_MIN 360
#define EW_SCHEDULE_DISTRUST_MS (12u * 3600 * 1000)
#define EW_SCHEDULE_RETRY_MS (5u * 60 * 1000)       /* after the first failure, then twice as long, … */
#define EW_SCHEDULE_RETRY_MAX_MS (6u * 3600 * 1000) /* … up to this */

typedef struct ew_schedule {
    int32_t at_min;     /* minute of the local day, 0 … 1439; -1 = no slot */
    double every_s;     /* 0 = no interval */
    uint32_t min_new;   /* items that were not learned from yet; 0 = 1 */
    bool only_on_mains; /* of learning by itself */
    double quiet_s;     /* since the last answer ended */
} ew_schedule;

/* "03:30" = 210; "" = -1. EW_EINVAL. */
ew_status ew_schedule_parse_time(const char *text, int32_t *ret_min, ew_error *reterr) EW_MUST_CHECK;
/* Days from 1970-01-01 to the calendar day of tm. */
int32_t ew_schedule_day(const struct tm *local);

/* Kept between processes. */
typedef struct ew_schedule_memory {
    int32_t day;      /* of the last slot used; 0 = none */
    uint64_t wall_ms; /* when learning last began; 0 = never */
} ew_schedule_memory;

typedef struct ew_schedule_now {
    uint64_t mono_ms;
    uint64_t start_mono_ms; /* of this process */
    uint64_t wall_ms;
    int32_t day, minute;     /* local */
    uint64_t began_mono_ms;  /* when this process last began to learn; 0 = not yet */
    uint64_t failed_mono_ms; /* when it last failed */
    uint32_t n_failed;       /* in a row */
    bool answering;          /* an answer is being given, or work is being done */
    uint64_t quiet_mono_ms;  /* when the last answer ended; 0 = none yet */
    bool on_mains;
    size_t n_new; /* items that the adapter which is served does not know */
    bool must;    /* see above */
} ew_schedule_now;

typedef enum ew_schedule_verdict {
    EW_SCHEDULE_LEARN,
    EW_SCHEDULE_NOT_YET,     /* no slot is open */
    EW_SCHEDULE_NOTHING_NEW, /* fewer new items than asked for */
    EW_SCHEDULE_NO_MAINS,
    EW_SCHEDULE_BUSY,  /* answering, or not quiet for long enough */
    EW_SCHEDULE_FAILED /* waits after a failure */
} ew_schedule_verdict;

ew_schedule_verdict ew_schedule_decide(const ew_schedule *s, const ew_schedule_memory *memory,
                                       const ew_schedule_now *now);
/* Words for people. */
const char *ew_schedule_verdict_text(ew_schedule_verdict v);
/* The memory after a learning that the schedule began now. */
void ew_schedule_remember(const ew_schedule *s, const ew_schedule_now *now, ew_schedule_memory *memory);

#endif
