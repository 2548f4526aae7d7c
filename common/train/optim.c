#include "train/optim.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "sys/pool.h"

#define BLOCKS_PER_TASK 16u
#define RNG_STREAM 0x8b175a7eu

/* The dynamic map of 256 values in [-1, 1] or [0, 1]: decade i of seven holds 2^i (unsigned 2^(i+1)) values spaced evenly in
 * [0.1, 1] of it, besides 0 and 1. 2110.02861 section 2, figure 1. Ascending. */
static void dynamic_map(bool is_signed, float map[static 256])
{
    float pos[256];
    size_t n = 0;
    for (int i = 0; i < 7; i++) {
        const size_t values = (size_t)1 << (i + (is_signed ? 0 : 1));
        const double unit = pow(10.0, i - 6), width = 0.9 / (double)values;
        for (size_t j = 0; j < values; j++) {
            pos[n++] = (float)(unit * (0.1 + width * ((double)j + 0.5)));
        }
    }
    pos[n++] = 1;
    size_t at = 0;
    for (size_t i = n - 1; is_signed && i-- > 0;) {
        map[at++] = -pos[i];
    }
    map[at++] = 0;
    for (size_t i = 0; i < n; i++) {
        map[at++] = pos[i];
    }
    EW_ASSERT(at == 256);
}

bool ew_optim_take(ew_optim *o, ew_arena *a, size_t n, bool eight_bit, uint64_t seed)
{
    const size_t blocks = (n + EW_OPTIM_BLOCK - 1) / EW_OPTIM_BLOCK;
    *o = (ew_optim){.n = n, .eight_bit = eight_bit, .seed = seed};
    if (eight_bit) {
        o->m8 = ew_arena_take(a, n, 1);
        o->r8 = ew_arena_take(a, n, 1);
        o->m_max = ew_arena_take(a, blocks, sizeof(float));
        o->r_max = ew_arena_take(a, blocks, sizeof(float));
    } else {
        o->m = ew_arena_take(a, n, sizeof(float));
        o->v = ew_arena_take(a, n, sizeof(float));
    }
    return !a->overflow;
}

size_t ew_optim_blocks(ew_optim *o, ew_checkpoint_block ret[static EW_OPTIM_STATE_BLOCKS])
{
    if (!o->eight_bit) {
        ret[0] = (ew_checkpoint_block){"m", o->m, o->n * sizeof(float)};
        ret[1] = (ew_checkpoint_block){"v", o->v, o->n * sizeof(float)};
        return 2;
    }
    const size_t scales = (o->n + EW_OPTIM_BLOCK - 1) / EW_OPTIM_BLOCK * sizeof(float);
    ret[0] = (ew_checkpoint_block){"m8", o->m8, o->n};
    ret[1] = (ew_checkpoint_block){"r8", o->r8, o->n};
    ret[2] = (ew_checkpoint_block){"m8.max", o->m_max, scales};
    ret[3] = (ew_checkpoint_block){"r8.max", o->r_max, scales};
    return 4;
}

void ew_optim_start(ew_optim *o)
{
    ew_checkpoint_block b[EW_OPTIM_STATE_BLOCKS];
    const size_t n = ew_optim_blocks(o, b);
    for (size_t i = 0; i < n; i++) {
        memset(b[i].data, 0, b[i].size);
    }
    dynamic_map(true, o->map_m);
    dynamic_map(false, o->map_r);
}

/* The largest code whose value is not above x, for map[0] <= x. */
static size_t code_below(const float map[static 256], float x)
{
    size_t at = 0;
    for (size_t half = 128; half > 0; half /= 2) {
        at += map[at + half] <= x ? half : 0;
    }
    return at;
}

/* x in [map[0], map[255]] rounded to a neighbour, up with the probability (x - below) / (above - below); u in [0, 1). */
static uint8_t code_of(const float map[static 256], float x, float u)
{
    const size_t low = code_below(map, x);
    if (low == 255) {
        return 255;
    }
    const float width = map[low + 1] - map[low];
    return (uint8_t)(low + (x - map[low] > u * width));
}

typedef struct job {
    ew_exec e; /* serial */
    ew_optim *o;
    ew_adamw_opt opt;
    float *p;
    const float *g;
    size_t first, end; /* parameters */
    size_t block0;     /* that holds first */
    uint64_t step;
} job;

static float largest(const float *x, size_t n)
{
    float most = 0;
    for (size_t i = 0; i < n; i++) {
        most = fmaxf(most, fabsf(x[i]));
    }
    return most;
}

/* Values that are not finite would make no code; the caller skips such steps, so here they only must not go wild. */
static void encode(const job *j, size_t block, const float *m, float *r, size_t n)
{
    ew_optim *o = j->o;
    const size_t at = block * EW_OPTIM_BLOCK;
    const float m_max = largest(m, n), r_max = largest(r, n);
    const float m_inv = m_max > 0 ? 1.0F / m_max : 0, r_inv = r_max > 0 ? 1.0F / r_max : 0;
    o->m_max[block] = m_max;
    o->r_max[block] = r_max;
    for (size_t i = 0; i < n; i += 4) {
        uint32_t bits[4];
        ew_rng_block(o->seed ^ RNG_STREAM, j->step, (at + i) / 4, bits);
        for (size_t k = i; k < EW_MIN(i + 4, n); k++) {
            const uint32_t w = bits[k - i];
            const float um = (float)(w & 0xffffu) * 0x1p-16F, ur = (float)(w >> 16) * 0x1p-16F;
            o->m8[at + k] = code_of(o->map_m, fmaxf(-1.0F, fminf(m[k] * m_inv, 1.0F)), um);
            const uint8_t c = code_of(o->map_r, fminf(r[k] * r_inv, 1.0F), ur);
            o->r8[at + k] = c == 0 && r[k] > 0 ? 1 : c; /* never a zero under a moment that is not */
        }
    }
}

static void step_blocks(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const job *j = ctx;
    ew_optim *o = j->o;
    (void)thread;
    for (size_t b = j->block0 + begin; b < j->block0 + end; b++) {
        const size_t at = b * EW_OPTIM_BLOCK, n = EW_MIN(o->n - at, (size_t)EW_OPTIM_BLOCK);
        const size_t lo = EW_MAX(at, j->first) - at,
                     hi = EW_MIN(at + n, j->end) - at; /* at the ends a part of the block */
        float m[EW_OPTIM_BLOCK], v[EW_OPTIM_BLOCK];
        for (size_t i = 0; i < n; i++) {
            const float r = o->map_r[o->r8[at + i]] * o->r_max[b];
            m[i] = o->map_m[o->m8[at + i]] * o->m_max[b];
            v[i] = r * r;
        }
        ew_adamw(&j->e, &j->opt, j->p + at + lo, j->g + at + lo, m + lo, v + lo, hi - lo, j->step);
        for (size_t i = 0; i < n; i++) {
            v[i] = sqrtf(v[i]);
        }
        encode(j, b, m, v, n);
    }
}

void ew_optim_step(const ew_exec *e, ew_optim *o, const ew_adamw_opt *opt, float *p, const float *g, size_t at,
                   size_t n, uint64_t step)
{
    EW_ASSERT(at <= o->n && n <= o->n - at);
    if (n == 0) {
        return;
    }
    if (!o->eight_bit) {
        ew_adamw(e, opt, p + at, g + at, o->m + at, o->v + at, n, step);
        return;
    }
    job j = {.e = {e->kern, NULL}, .o = o, .opt = *opt, .p = p, .g = g, .first = at, .end = at + n, .step = step};
    j.block0 = at / EW_OPTIM_BLOCK;
    const size_t blocks = (at + n + EW_OPTIM_BLOCK - 1) / EW_OPTIM_BLOCK - j.block0;
    ew_par_for(e->pool, blocks, BLOCKS_PER_TASK, step_blocks, &j);
}
