/* Activations of a feed-forward layer other than SwiGLU, and soft caps: elementwise, partition over the pool. */
#include <math.h>

#include "kern/ops.h"
#include "sys/pool.h"

#define ELEMS_PER_TASK 2048

typedef struct act_job {
    const float *gate, *up; /* up NULL = 1 */
    float cap;
    float *y;
} act_job;

static void silu_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const act_job *j = ctx;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        float a = j->gate[i];
        j->y[i] = a / (1 + expf(-a));
    }
}

static void gelu_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const act_job *j = ctx;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        float a = j->gate[i];
        float g = 0.5F * a * (1 + erff(a * 0.70710678118654752F));
        j->y[i] = j->up != NULL ? g * j->up[i] : g;
    }
}

static void relu_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const act_job *j = ctx;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        float g = j->gate[i] > 0 ? j->gate[i] : 0;
        j->y[i] = j->up != NULL ? g * j->up[i] : g;
    }
}

void ew_activate(const ew_exec *e, ew_act act, const float *gate, const float *up, size_t n, float *y)
{
    act_job j = {.gate = gate, .up = up, .y = y};
    switch (act) {
    case EW_ACT_SILU:
        if (up != NULL) {
            ew_swiglu(e, gate, up, n, y);
        } else {
            ew_par_for(e->pool, n, ELEMS_PER_TASK, silu_part, &j);
        }
        return;
    case EW_ACT_GELU_TANH:
        ew_geglu(e, gate, up, n, y);
        return;
    case EW_ACT_GELU:
        ew_par_for(e->pool, n, ELEMS_PER_TASK, gelu_part, &j);
        return;
    case EW_ACT_RELU:
        ew_par_for(e->pool, n, ELEMS_PER_TASK, relu_part, &j);
        return;
    }
    EW_ASSERT(!"activation");
}

static void cap_part(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const act_job *j = ctx;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        j->y[i] = j->cap * tanhf(j->y[i] / j->cap);
    }
}

void ew_softcap(const ew_exec *e, float cap, size_t n, float *y)
{
    act_job j = {.cap = cap, .y = y};
    ew_par_for(e->pool, n, ELEMS_PER_TASK, cap_part, &j);
}
