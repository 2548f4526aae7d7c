#include "agentd/schedule.h"

#include <string.h>

#include "base/mem.h"

#define DAY_MIN 1440

ew_status ew_schedule_parse_time(const char *text, int32_t *ret_min, ew_error *reterr)
{
    if (text[0] == '\0') {
        *ret_min = -1;
        return EW_OK;
    }
    bool form = strlen(text) == 5 && text[2] == ':';
    for (size_t i = 0; form && i < 5; i++) {
        form = i == 2 || (text[i] >= '0' && text[i] <= '9');
    }
    int32_t hour = form ? (text[0] - '0') * 10 + (text[1] - '0') : 24;
    int32_t minute = form ? (text[3] - '0') * 10 + (text[4] - '0') : 60;
    if (hour > 23 || minute > 59) {
        return ew_fail(reterr, EW_EINVAL, "'%.16s' is no time of day. HINT: HH:MM, such as 03:30", text);
    }
    *ret_min = hour * 60 + minute;
    return EW_OK;
}

/* Howard Hinnant's days_from_civil, for years after 0. */
int32_t ew_schedule_day(const struct tm *local)
{
    int32_t m = local->tm_mon + 1;
    int32_t y = local->tm_year + 1900 - (m <= 2);
    int32_t era = y / 400;
    int32_t yoe = y - era * 400;
    int32_t doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + local->tm_mday - 1;
    int32_t doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    return era * 146097 + doe - 719468;
}

/* The day of the slot that is open now; false when none is. */
static bool open_slot(const ew_schedule *s, const ew_schedule_now *now, int32_t *ret_day)
{
    if (s->at_min < 0) {
        return false;
    }
    int32_t since = now->minute - s->at_min;
    *ret_day = since >= 0 ? now->day : now->day - 1; /* it began before midnight */
    since = since >= 0 ? since : since + DAY_MIN;
    return since < EW_SCHEDULE_WINDOW_MIN;
}

static bool slot_is_free(const ew_schedule *s, const ew_schedule_memory *memory, const ew_schedule_now *now)
{
    int32_t day = 0;
    if (!open_slot(s, now, &day)) {
        return false;
    }
    if (memory->day == 0 || memory->day < day) {
        return true;
    }
    if (memory->day <= day + 1) {
        return false;
    }
    uint64_t known_since = EW_MAX(now->start_mono_ms, now->began_mono_ms);
    return now->mono_ms - EW_MIN(known_since, now->mono_ms) >= EW_SCHEDULE_DISTRUST_MS;
}

static bool interval_is_over(const ew_schedule *s, const ew_schedule_memory *memory, const ew_schedule_now *now)
{
    if (!(s->every_s > 0)) {
        return false;
    }
    uint64_t every_ms = (uint64_t)(s->every_s * 1e3);
    if (now->began_mono_ms != 0) {
        return now->mono_ms - now->began_mono_ms >= every_ms;
    }
    if (memory->wall_ms == 0) {
        return true;
    }
    /* Across a restart: what the wall clock says, but no longer than the interval of our own time. */
    return (now->wall_ms >= memory->wall_ms && now->wall_ms - memory->wall_ms >= every_ms) ||
           now->mono_ms - now->start_mono_ms >= every_ms;
}

static bool waits_after_failure(const ew_schedule_now *now)
{
    uint64_t wait = EW_SCHEDULE_RETRY_MS;
    for (uint32_t i = 1; i < now->n_failed && wait < EW_SCHEDULE_RETRY_MAX_MS; i++) {
        wait *= 2;
    }
    wait = EW_MIN(wait, (uint64_t)EW_SCHEDULE_RETRY_MAX_MS);
    return now->n_failed > 0 && now->mono_ms - now->failed_mono_ms < wait;
}

ew_schedule_verdict ew_schedule_decide(const ew_schedule *s, const ew_schedule_memory *memory,
                                       const ew_schedule_now *now)
{
    if (!now->must) {
        if (!slot_is_free(s, memory, now) && !interval_is_over(s, memory, now)) {
            return EW_SCHEDULE_NOT_YET;
        }
        if (now->n_new < EW_MAX(s->min_new, 1u)) {
            return EW_SCHEDULE_NOTHING_NEW;
        }
    }
    if (waits_after_failure(now)) {
        return EW_SCHEDULE_FAILED;
    }
    if (s->only_on_mains && !now->on_mains) {
        return EW_SCHEDULE_NO_MAINS;
    }
    if (now->answering || (now->quiet_mono_ms != 0 && (double)(now->mono_ms - now->quiet_mono_ms) < s->quiet_s * 1e3)) {
        return EW_SCHEDULE_BUSY;
    }
    return EW_SCHEDULE_LEARN;
}

const char *ew_schedule_verdict_text(ew_schedule_verdict v)
{
    switch (v) {
    case EW_SCHEDULE_LEARN:
        return "learns now";
    case EW_SCHEDULE_NOT_YET:
        return "waits for its time";
    case EW_SCHEDULE_NOTHING_NEW:
        return "waits for new items";
    case EW_SCHEDULE_NO_MAINS:
        return "waits for mains power";
    case EW_SCHEDULE_BUSY:
        return "waits until nobody asks";
    default:
        return "waits after a failure";
    }
}

void ew_schedule_remember(const ew_schedule *s, const ew_schedule_now *now, ew_schedule_memory *memory)
{
    int32_t day = 0;
    if (open_slot(s, now, &day)) {
        memory->day = day;
    }
    memory->wall_ms = now->wall_ms;
}
