#include "base/clock.h"

#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

static atomic_uint_fast64_t fake_mono_ns;
static atomic_uint_fast64_t fake_wall_ms;

uint64_t ew_mono_ns(void)
{
    uint64_t fake = atomic_load_explicit(&fake_mono_ns, memory_order_relaxed);
    if (fake != 0) {
        return fake;
    }
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t ew_mono_ms(void)
{
    return ew_mono_ns() / 1000000u;
}

double ew_mono_s(void)
{
    return (double)ew_mono_ns() * 1e-9;
}

uint64_t ew_wall_ms(void)
{
    uint64_t fake = atomic_load_explicit(&fake_wall_ms, memory_order_relaxed);
    if (fake != 0) {
        return fake;
    }
    struct timespec ts;
    (void)clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

char *ew_wall_iso(char dst[static 25], uint64_t unix_ms)
{
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm tm = {0};
    char date[24];
    if (gmtime_r(&seconds, &tm) == NULL || strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm) != 19) {
        (void)snprintf(dst, 25, "?");
        return dst;
    }
    (void)snprintf(dst, 25, "%.19s.%03uZ", date, (unsigned)(unix_ms % 1000));
    return dst;
}

void ew_clock_fake(uint64_t mono_ns, uint64_t wall_ms)
{
    atomic_store(&fake_mono_ns, mono_ns);
    atomic_store(&fake_wall_ms, wall_ms);
}
