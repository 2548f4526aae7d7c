/* What the files of the backward pass share: a layer's pass, its linears and bottlenecks. */
#ifndef EW_TRAIN_BACKWARD_INT_H
#define EW_TRAIN_BACKWARD_INT_H

#include "train/backward.h"

#define EW__ROWS 64u /* of `masked` and `again` */

/* One call of a layer. Pointers to what hangs or is wanted on this layer; NULL: nothing. */
typedef struct layer_pass {
    const ew_exec *e;
    const ew_model_config *cfg;
    const ew_layer_weights *w;
    uint32_t il;
    const ew_hooks *hooks;
    const ew_linear_hook *linear;         /* [EW_LINEAR_COUNT] */
    const ew_bottleneck_hook *bottleneck; /* [2] */
    const ew_train_batch *b;
    size_t row, T; /* T rows from this one of the batch on */
    ew_train_acts *acts;
    ew_train_work *work;
    /* backward */
    const ew_hook_grads *g;
    const ew_layer_floats *gw;
    const ew_linear_grad *gl;     /* [EW_LINEAR_COUNT] */
    const ew_bottleneck_grad *gb; /* [2] */
} layer_pass;

/* y[T,F] of linear l with all that hangs on it, of x[T,C]. With in_scale work->wide is used up; x may be it. */
void ew__linear_forward(const layer_pass *p, ew_linear l, const float *x, float *y);
/* Does its backward read x? */
bool ew__linear_reads_input(const layer_pass *p, ew_linear l);
/* Does it change dy? */
bool ew__linear_scales(const layer_pass *p, ew_linear l);
/* Gradients of ew__linear_forward. dx[T,C] (+)= …, not computed when dx is NULL; dx may be x. dy is changed by ew__linear_scales. With
 * in_scale (O, Down) dx is overwritten. */
void ew__linear_backward(const layer_pass *p, ew_linear l, const float *x, float *dy, float *dx, bool accumulate);

/* o += Up act(Down o + down_b) + up_b of bottleneck `which`, o[T,C]. */
void ew__bottleneck_forward(const layer_pass *p, int which, float *o);
/* d[T,C], the gradient of its output, becomes that of its input o; adds to the bottleneck's. */
void ew__bottleneck_backward(const layer_pass *p, int which, const float *o, float *d);

/* y = act(gate) * up of rows [row, row + n). */
void ew__hidden_rows(const layer_pass *p, size_t row, size_t n, float *y);

static inline bool ew__has_bottleneck(const layer_pass *p, int which)
{
    return p->bottleneck != NULL && p->bottleneck[which].width > 0;
}

#endif
