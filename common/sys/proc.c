#include "sys/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/str.h"

#define CGROUP_PATH_MAX 1024

/* The file's first size - 1 bytes as text; false when it cannot be read. */
static bool read_text(const char *path, char *dst, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    size_t used = 0;
    while (used < size - 1) {
        ssize_t n = read(fd, dst + used, size - 1 - used);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            break;
        }
        used += (size_t)n;
    }
    (void)close(fd);
    dst[used] = '\0';
    return used > 0;
}

/* "Key:   123 kB" -> bytes; 0 when absent. */
static uint64_t kb_field(const char *text, const char *key)
{
    size_t key_size = strlen(key);
    for (const char *line = text; line != NULL && *line != '\0';) {
        if (strncmp(line, key, key_size) == 0 && line[key_size] == ':') {
            return (uint64_t)strtoull(line + key_size + 1, NULL, 10) * 1024u;
        }
        line = strchr(line, '\n');
        line = line != NULL ? line + 1 : NULL;
    }
    return 0;
}

ew_status ew_proc_mem_read(ew_proc_mem *ret_mem, ew_error *reterr)
{
    char text[4096];
    if (!read_text("/proc/self/status", text, sizeof(text))) {
        return ew_fail_errno(reterr, errno, "cannot read /proc/self/status");
    }
    *ret_mem = (ew_proc_mem){.rss_bytes = kb_field(text, "VmRSS"),
                             .rss_peak_bytes = kb_field(text, "VmHWM"),
                             .anon_bytes = kb_field(text, "RssAnon")};
    return EW_OK;
}

ew_status ew_proc_mem_reset_peak(ew_error *reterr)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return ew_fail(reterr, EW_EDENIED, "cannot reset the peak of memory use: %s", strerror(errno));
    }
    bool ok = write(fd, "5", 1) == 1;
    (void)close(fd);
    return ok ? EW_OK : ew_fail(reterr, EW_EDENIED, "cannot reset the peak of memory use");
}

/* Directory of this process's cgroup for a controller: "" (v2) or "memory", "cpu" (v1). False when there is none. */
static bool cgroup_dir(const char *controller, char *dst, size_t size)
{
    char text[4096];
    if (!read_text("/proc/self/cgroup", text, sizeof(text))) {
        return false;
    }
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save)) {
        char *names = strchr(line, ':');
        char *path = names != NULL ? strchr(names + 1, ':') : NULL;
        if (path == NULL) {
            continue;
        }
        *path++ = '\0';
        names++;
        bool found = *controller == '\0' ? *names == '\0' : strstr(names, controller) != NULL;
        if (found) {
            int n = snprintf(dst, size, "/sys/fs/cgroup%s%s%s", *controller == '\0' ? "" : "/", controller, path);
            return n > 0 && (size_t)n < size;
        }
    }
    return false;
}

/* Calls fn for the cgroup's directory and each parent up to the root: a limit may stand at any level. */
static void cgroup_each(const char *controller, void (*fn)(const char *dir, void *ctx), void *ctx)
{
    char dir[CGROUP_PATH_MAX];
    const char *root = "/sys/fs/cgroup";
    if (!cgroup_dir(controller, dir, sizeof(dir))) {
        return;
    }
    size_t min = strlen(root);
    while (strlen(dir) >= min) {
        fn(dir, ctx);
        char *slash = strrchr(dir, '/');
        if (slash == NULL || strlen(dir) == min) {
            break;
        }
        *slash = '\0';
    }
}

static bool read_u64(const char *dir, const char *name, uint64_t *out)
{
    char path[CGROUP_PATH_MAX + 64];
    char text[64];
    int n = snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= sizeof(path) || !read_text(path, text, sizeof(text))) {
        return false;
    }
    text[strcspn(text, " \n")] = '\0';
    return ew_str_to_u64(text, UINT64_MAX, out); /* "max" is not a number */
}

struct mem_limit {
    uint64_t total, available;
};

/* The page cache that the kernel would give back counts as free, as in MemAvailable. */
static uint64_t reclaimable(const char *dir)
{
    char path[CGROUP_PATH_MAX + 64];
    char text[8192];
    int n = snprintf(path, sizeof(path), "%s/memory.stat", dir);
    if (n < 0 || (size_t)n >= sizeof(path) || !read_text(path, text, sizeof(text))) {
        return 0;
    }
    const char *field = strstr(text, "\ninactive_file ");
    return field != NULL ? strtoull(field + strlen("\ninactive_file "), NULL, 10) : 0;
}

static void mem_apply(struct mem_limit *m, const char *dir, uint64_t limit, uint64_t used)
{
    uint64_t cache = reclaimable(dir);
    used -= EW_MIN(used, cache);
    m->total = EW_MIN(m->total, limit);
    m->available = EW_MIN(m->available, limit - EW_MIN(limit, used));
}

static void mem_limit_v2(const char *dir, void *ctx)
{
    uint64_t limit, used = 0;
    if (read_u64(dir, "memory.max", &limit)) {
        (void)!read_u64(dir, "memory.current", &used);
        mem_apply(ctx, dir, limit, used);
    }
}

static void mem_limit_v1(const char *dir, void *ctx)
{
    uint64_t limit, used = 0;
    if (read_u64(dir, "memory.limit_in_bytes", &limit)) {
        (void)!read_u64(dir, "memory.usage_in_bytes", &used);
        mem_apply(ctx, dir, limit, used);
    }
}

static void cpu_limit_v2(const char *dir, void *ctx)
{
    double *quota = ctx;
    char path[CGROUP_PATH_MAX + 64];
    char text[64];
    int n = snprintf(path, sizeof(path), "%s/cpu.max", dir);
    if (n < 0 || (size_t)n >= sizeof(path) || !read_text(path, text, sizeof(text))) {
        return;
    }
    char *end = NULL;
    double used = strtod(text, &end);
    double period = end != text ? strtod(end, NULL) : 0;
    if (used > 0 && period > 0) {
        *quota = fmin(*quota, used / period);
    }
}

static void cpu_limit_v1(const char *dir, void *ctx)
{
    double *quota = ctx;
    uint64_t used, period;
    if (read_u64(dir, "cpu.cfs_quota_us", &used) && read_u64(dir, "cpu.cfs_period_us", &period) && period > 0) {
        *quota = fmin(*quota, (double)used / (double)period);
    }
}

static double cores_quota(void)
{
    cpu_set_t set;
    double quota = 1;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) == 0) {
        quota = CPU_COUNT(&set);
    } else {
        quota = (double)EW_MAX(sysconf(_SC_NPROCESSORS_ONLN), 1L);
    }
    cgroup_each("", cpu_limit_v2, &quota);
    cgroup_each("cpu", cpu_limit_v1, &quota);
    return quota;
}

static unsigned cores_of(double quota)
{
    return (unsigned)EW_MAX(ceil(quota - 0.01), 1.0);
}

unsigned ew_proc_cores(void)
{
    return cores_of(cores_quota());
}

ew_status ew_machine_read(ew_machine *ret_machine, ew_error *reterr)
{
    char text[4096];
    if (!read_text("/proc/meminfo", text, sizeof(text))) {
        return ew_fail_errno(reterr, errno, "cannot read /proc/meminfo");
    }
    struct mem_limit m = {kb_field(text, "MemTotal"), kb_field(text, "MemAvailable")};
    cgroup_each("", mem_limit_v2, &m);
    cgroup_each("memory", mem_limit_v1, &m);
    ew_machine machine = {.ram_bytes = m.total, .ram_available_bytes = m.available, .cores_quota = cores_quota()};
    machine.n_cores = cores_of(machine.cores_quota);
    if (read_text("/proc/loadavg", text, sizeof(text))) {
        machine.load_1min = strtod(text, NULL);
    }
    if (read_text("/proc/uptime", text, sizeof(text))) {
        machine.uptime_s = strtod(text, NULL);
    }
    *ret_machine = machine;
    return EW_OK;
}

double ew_proc_cpu_s(void)
{
    struct timespec ts = {0};
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

double ew_machine_temperature_c(void)
{
    double highest = NAN;
    for (int i = 0; i < 32; i++) {
        char path[64], text[32];
        (void)snprintf(path, sizeof(path), "/sys/class/thermal/thermal_zone%d/temp", i);
        if (read_text(path, text, sizeof(text))) {
            double t = strtod(text, NULL) / 1000;
            highest = isnan(highest) ? t : fmax(highest, t);
        }
    }
    return highest;
}

bool ew_machine_on_power(void)
{
    static const char *const mains[] = {"AC", "AC0", "ACAD", "ADP0", "ADP1", "axp20x-ac"};
    for (size_t i = 0; i < EW_COUNT(mains); i++) {
        char path[96], text[8];
        (void)snprintf(path, sizeof(path), "/sys/class/power_supply/%s/online", mains[i]);
        if (read_text(path, text, sizeof(text))) {
            return text[0] == '1';
        }
    }
    for (int i = 0; i < 4; i++) {
        char path[96], text[32];
        (void)snprintf(path, sizeof(path), "/sys/class/power_supply/BAT%d/status", i);
        if (read_text(path, text, sizeof(text))) {
            return !ew_str_starts(text, "Discharging");
        }
    }
    return true;
}

void ew_proc_background(void)
{
    enum {
        NICE = 10,
        WHO_PROCESS = 1,
        CLASS_BEST_EFFORT = 2,
        CLASS_SHIFT = 13,
        LAST = 7
    };
    /* Both are wishes. */
    (void)setpriority(PRIO_PROCESS, 0, NICE);
    (void)syscall(SYS_ioprio_set, WHO_PROCESS, 0, (CLASS_BEST_EFFORT << CLASS_SHIFT) | LAST);
}
