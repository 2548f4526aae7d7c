/* What this process and this machine have: memory, cores, load. All numbers come from /proc and the cgroup (v2, v1 as a
 * fallback), so that a limit set by systemd or a container counts as the machine's. Locking: any thread. */
#ifndef EW_SYS_PROC_H
#define EW_SYS_PROC_H

#include "base/base.h"
#include "base/status.h"

typedef struct ew_proc_mem {
    uint64_t rss_bytes;      /* VmRSS */
    uint64_t rss_peak_bytes; /* VmHWM: highest since start or the last reset */
    uint64_t anon_bytes;     /* RssAnon: without mapped files */
} ew_proc_mem;

ew_status ew_proc_mem_read(ew_proc_mem *ret_mem, ew_error *reterr) EW_MUST_CHECK;
/* Sets VmHWM back to VmRSS (/proc/self/clear_refs); EW_EDENIED where the kernel does not allow it. */
ew_status ew_proc_mem_reset_peak(ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_machine {
    uint64_t ram_bytes;           /* the smaller of MemTotal and the cgroup's limit */
    uint64_t ram_available_bytes; /* the smaller of MemAvailable and what the cgroup leaves */
    unsigned n_cores;             /* usable: affinity, and cgroup cpu.max rounded up; at least 1 */
    double cores_quota;           /* as n_cores but not rounded, e.g. 1.5 */
    double load_1min;
    double uptime_s;
} ew_machine;

ew_status ew_machine_read(ew_machine *ret_machine, ew_error *reterr) EW_MUST_CHECK;
unsigned ew_proc_cores(void); /* n_cores of the above, 1 when unknown */
/* Processor seconds (user + system) of this process so far. */
double ew_proc_cpu_s(void);
/* Highest temperature of any thermal zone in degrees Celsius, NAN when there is none. */
double ew_machine_temperature_c(void);
/* 1 on mains or without a battery, 0 on battery. */
bool ew_machine_on_power(void);

/* This process and the threads it will start give way to others: nice +10 and the last best-effort priority for I/O (not the idle
 * classes, in which a busy machine lets nothing be done at all). */
void ew_proc_background(void);

#endif
