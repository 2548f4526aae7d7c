#include "train/mezo.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "sys/pool.h"

#define TAG 0x6d657a6fu      /* "mezo": no other user of the seed has this stream */
#define ELEMS_PER_TASK 4096u /* a multiple of the block of four */

float ew_mezo_default_eps(ew_mezo_kind kind)
{
    return kind == EW_MEZO_LORA ? 1e-2F : kind == EW_MEZO_PREFIX ? 1e-1F : 1e-3F;
}

float ew_mezo_default_lr(ew_mezo_kind kind)
{
    return kind == EW_MEZO_LORA ? 1e-4F : kind == EW_MEZO_PREFIX ? 1e-2F : 1e-6F;
}

ew_status ew_mezo_check(const ew_mezo_opt *o, ew_error *reterr)
{
    if (!(o->eps > 0) || !isfinite(o->eps)) {
        return ew_fail(reterr, EW_EINVAL, "MeZO: eps %g is not a positive number", (double)o->eps);
    }
    if (o->n_spsa > EW_MEZO_SPSA_MAX) {
        return ew_fail(reterr, EW_EINVAL, "MeZO: %u directions per step are more than %u", o->n_spsa, EW_MEZO_SPSA_MAX);
    }
    if (!(o->weight_decay >= 0) || !isfinite(o->weight_decay) || !(o->clip >= 0)) {
        return ew_fail(reterr, EW_EINVAL, "MeZO: weight decay or clip is negative or no number");
    }
    return EW_OK;
}

/* Four standard normals from four words: Box-Muller on two pairs. */
static void normals(const uint32_t u[static 4], float z[static 4])
{
    for (int i = 0; i < 4; i += 2) {
        const float r = sqrtf(-2.0F * logf((float)((u[i] >> 8) + 1) * 0x1p-24F)); /* of (0, 1] */
        const float angle = 6.28318531F * ((float)(u[i + 1] >> 8) * 0x1p-24F);
        z[i] = r * cosf(angle);
        z[i + 1] = r * sinf(angle);
    }
}

typedef struct along_job {
    uint64_t seed, stream;
    float a, keep;
    const float *base;
    float *y;
} along_job;

static void along_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const along_job *j = ctx;
    (void)thread;
    for (size_t i = begin; i < end; i += 4) {
        uint32_t u[4];
        float z[4];
        ew_rng_block(j->seed, j->stream, i / 4, u);
        normals(u, z);
        const size_t n = EW_MIN((size_t)4, end - i);
        for (size_t k = 0; k < n; k++) {
            j->y[i + k] = j->base[i + k] * j->keep + j->a * z[k];
        }
    }
}

void ew_mezo_along(const ew_exec *e, const ew_mezo_opt *o, uint64_t step, uint32_t dir, float a, float shrink,
                   const float *base, size_t n, float *y)
{
    /* Step and direction in the stream, the tag in the key: distinct for 2^58 steps. */
    along_job j = {.seed = o->seed ^ ((uint64_t)TAG << 32 | TAG),
                   .stream = step * EW_MEZO_SPSA_MAX + dir,
                   .a = a,
                   .keep = 1.0F - shrink,
                   .base = base,
                   .y = y};
    ew_par_for(e->pool, n, ELEMS_PER_TASK, along_part, &j);
}

/* Losses at both ends of direction dir; p is back at its place afterwards (at kept's bits, where there is one). */
static double slope(const ew_exec *e, const ew_mezo_opt *o, uint64_t step, uint32_t dir, float *p, const float *kept,
                    size_t n, ew_step_loss_fn loss, void *ctx, double *sum)
{
    const float *from = kept != NULL ? kept : p;
    ew_mezo_along(e, o, step, dir, o->eps, 0, from, n, p);
    const double plus = loss(ctx);
    ew_mezo_along(e, o, step, dir, kept != NULL ? -o->eps : -2 * o->eps, 0, from, n, p);
    const double minus = loss(ctx);
    if (kept != NULL) {
        memcpy(p, kept, n * sizeof(float));
    } else {
        ew_mezo_along(e, o, step, dir, o->eps, 0, p, n, p);
    }
    *sum += plus + minus;
    return (plus - minus) / (2 * (double)o->eps);
}

void ew_mezo_step(const ew_exec *e, const ew_mezo_opt *o, uint64_t step, float lr, float *p, float *kept, size_t n,
                  ew_step_loss_fn loss, void *ctx, ew_mezo_result *ret)
{
    const uint32_t dirs = o->n_spsa != 0 ? o->n_spsa : 1;
    double g[EW_MEZO_SPSA_MAX], sum = 0, squares = 0;
    if (kept != NULL) {
        memcpy(kept, p, n * sizeof(float));
    }
    *ret = (ew_mezo_result){.finite = true};
    for (uint32_t j = 0; j < dirs && ret->finite; j++) {
        g[j] = slope(e, o, step, j, p, kept, n, loss, ctx, &sum);
        squares += g[j] * g[j];
        ret->finite = isfinite(g[j]) && isfinite(sum);
    }
    ret->loss = sum / (2 * dirs);
    ret->slope_rms = sqrt(squares / dirs);
    for (uint32_t j = 0; j < dirs && ret->finite; j++) {
        const double clip = (double)o->clip;
        const double cut = clip > 0 && fabs(g[j]) > clip ? copysign(clip, g[j]) : g[j];
        ew_mezo_along(e, o, step, j, (float)(-(double)lr * cut / dirs), j == 0 ? lr * o->weight_decay : 0, p, n, p);
    }
}
