/* Products whose input is made on the way: a row of it lives in the first-level cache from the residual sum over the norm or the
 * gate to its quantised form, instead of going out to memory between the steps. */
#include "kern/kern_int.h"

/* Rows that are made but not wanted stand in a thread's buffer. */
#define WIDTH_MAX (sizeof(((ew_work *)0)->unpacked) / sizeof(float))

typedef struct fused {
    const ew_kern *k;
    const ew_input *in;
    size_t C;
} fused;

static const float *make_row(const void *ctx, size_t t)
{
    const fused *f = ctx;
    const ew_input *in = f->in;
    const size_t C = f->C;
    float *x = in->x + t * C, *out = in->keep ? in->out + t * C : ew__work()->unpacked;
    if (in->kind == EW_INPUT_SWIGLU) {
        f->k->swiglu(x, in->add + t * C, C, out);
        return out;
    }
    if (in->add != NULL) {
        f->k->axpy(1.0f, in->add + t * C, C, x);
    }
    f->k->rmsnorm(x, in->w, C, in->eps, out, NULL);
    return out;
}

void ew_matmul_input(const ew_exec *e, const ew_input *in, const ew_mat *const *w, size_t n, size_t T, float *const *y,
                     void *scratch)
{
    EW_ASSERT(n > 0);
    const size_t C = w[0]->cols;
    if (in->kind == EW_INPUT_ROWS) {
        ew_matmul_multi(e, w, n, in->x, T, y, scratch);
        return;
    }
    const fused f = {e->kern, in, C};
    if (T > 0 && C <= WIDTH_MAX && ew__matmul_rows(e, w, n, make_row, &f, T, y, scratch)) {
        return;
    }
    if (in->kind == EW_INPUT_SWIGLU) {
        ew_swiglu(e, in->x, in->add, T * C, in->out);
    } else {
        if (in->add != NULL) {
            ew_vec_add(e, in->x, in->add, T * C);
        }
        ew_rmsnorm(e, in->x, in->w, T, C, in->eps, in->out, NULL);
    }
    ew_matmul_multi(e, w, n, in->out, T, y, scratch);
}
