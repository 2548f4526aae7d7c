#include "prop.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/str.h"

static bool run_case(ew_prop *p, uint64_t seed, size_t size, ew_prop_fn fn, void *ctx)
{
    *p = (ew_prop){.max = size};
    ew_rng_init(&p->rng, seed, 0x70726f70);
    bool held = fn(p, ctx);
    for (size_t i = 0; i < p->n_mem; i++) {
        ew_free(p->mem[i]);
    }
    return held;
}

static uint64_t number_from(const char *name, uint64_t fallback)
{
    const char *text = getenv(name);
    uint64_t n = fallback;
    if (text != NULL && !ew_str_to_u64(text, UINT64_MAX, &n)) {
        fprintf(stderr, "%s is not a number\n", name);
        exit(99);
    }
    return n;
}

bool ew_prop_check(const char *name, unsigned n_cases, size_t max_size, ew_prop_fn fn, void *ctx)
{
    uint64_t base = number_from("EW_PROP_SEED", 1);
    uint64_t n = number_from("EW_PROP_CASES", n_cases);
    ew_prop p;
    for (uint64_t i = 0; i < n; i++) {
        size_t size = n > 1 ? (size_t)((double)max_size * (double)i / (double)(n - 1)) : max_size;
        if (run_case(&p, base + i, size, fn, ctx)) {
            continue;
        }
        size_t smallest = size;
        for (size_t step = size - size / 2; step > 0 && smallest > 0;) {
            size_t smaller = smallest > step ? smallest - step : 0;
            ew_prop q;
            if (!run_case(&q, base + i, smaller, fn, ctx)) {
                smallest = smaller;
                p = q;
                step = EW_MIN(step, smallest - smallest / 2);
            } else {
                step /= 2;
            }
        }
        fprintf(stderr, "property '%s' does not hold: size %zu (found at %zu), %s\n  repeat: EW_PROP_SEED=%llu\n", name,
                smallest, size, p.why[0] != '\0' ? p.why : "no reason given", (unsigned long long)(base + i));
        return false;
    }
    return true;
}

bool ew_prop_that(ew_prop *p, bool cond, const char *fmt, ...)
{
    if (!cond) {
        va_list args;
        va_start(args, fmt);
        (void)vsnprintf(p->why, sizeof(p->why), fmt, args);
        va_end(args);
    }
    return cond;
}

size_t ew_prop_size(ew_prop *p)
{
    size_t pick = (size_t)ew_rng_below(&p->rng, 8);
    if (pick == 0) {
        return ew_rng_below(&p->rng, 2) == 0 ? 0 : EW_MIN(p->max, (size_t)1);
    }
    if (pick == 1) {
        return p->max;
    }
    if (pick < 5) {
        size_t power = (size_t)1 << ew_rng_below(&p->rng, 13);
        return EW_MIN(power - 1 + (size_t)ew_rng_below(&p->rng, 3), p->max);
    }
    return (size_t)ew_rng_below(&p->rng, (uint64_t)p->max + 1);
}

void *ew_prop_alloc(ew_prop *p, size_t n, size_t size)
{
    EW_ASSERT(p->n_mem < EW_COUNT(p->mem));
    void *mem = ew_malloc(n, size);
    EW_ASSERT(mem != NULL);
    p->mem[p->n_mem++] = mem;
    return mem;
}

unsigned char *ew_prop_bytes(ew_prop *p, size_t n)
{
    unsigned char *b = ew_prop_alloc(p, n, 1);
    for (size_t i = 0; i < n; i++) {
        b[i] = (unsigned char)ew_rng_u64(&p->rng);
    }
    return b;
}

float *ew_prop_f32(ew_prop *p, size_t n)
{
    float *f = ew_prop_alloc(p, n, sizeof(*f));
    for (size_t i = 0; i < n; i++) {
        uint64_t kind = ew_rng_below(&p->rng, 32);
        double v = ew_rng_normal(&p->rng);
        f[i] = kind == 0 ? 0.0f : (float)(kind == 1 ? v * 1000 : v);
    }
    return f;
}

char *ew_prop_utf8(ew_prop *p, size_t n)
{
    static const uint32_t ranges[][2] = {{0x20, 0x7E},     {0x20, 0x7E},     {0x61, 0x7A},      {0x09, 0x0D},
                                         {0xA0, 0x17F},    {0x370, 0x3FF},   {0x5D0, 0x5EA},    {0x3040, 0x30FF},
                                         {0x4E00, 0x4FFF}, {0x300, 0x36F},   {0x2000, 0x206F},  {0x1F600, 0x1F64F},
                                         {0xAC00, 0xACFF}, {0xFFF0, 0xFFFD}, {0x10000, 0x100FF}};
    char *s = ew_prop_alloc(p, n + 1, 4);
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t *range = ranges[ew_rng_below(&p->rng, EW_COUNT(ranges))];
        uint32_t cp = range[0] + (uint32_t)ew_rng_below(&p->rng, range[1] - range[0] + 1);
        if (cp < 0x80) {
            s[used++] = (char)cp;
        } else if (cp < 0x800) {
            s[used++] = (char)(0xC0 | (cp >> 6));
            s[used++] = (char)(0x80 | (cp & 0x3F));
        } else if (cp < 0x10000) {
            s[used++] = (char)(0xE0 | (cp >> 12));
            s[used++] = (char)(0x80 | ((cp >> 6) & 0x3F));
            s[used++] = (char)(0x80 | (cp & 0x3F));
        } else {
            s[used++] = (char)(0xF0 | (cp >> 18));
            s[used++] = (char)(0x80 | ((cp >> 12) & 0x3F));
            s[used++] = (char)(0x80 | ((cp >> 6) & 0x3F));
            s[used++] = (char)(0x80 | (cp & 0x3F));
        }
    }
    s[used] = '\0';
    return s;
}
