#include "train/grow.h"

#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "train/backward.h"

#define SHARE_DEV 0.5
#define COPIES_MAX 64u

static ew_status check_multiple(const char *what, uint32_t from, uint32_t to, ew_error *reterr)
{
    if (from == 0 || to < from || to % from != 0 || to / from > COPIES_MAX) {
        return ew_fail(reterr, EW_EINVAL, "cannot grow %s from %u to %u: a whole multiple is needed", what, from, to);
    }
    return EW_OK;
}

static ew_status check_same(const char *what, double from, double to, ew_error *reterr)
{
    if (from < to || from > to) {
        return ew_fail(reterr, EW_EINVAL, "the model to grow has %s %g, the recipe says %g", what, from, to);
    }
    return EW_OK;
}

ew_status ew_grow_check(const ew_model *from, const ew_model_config *to, ew_error *reterr)
{
    const ew_model_config *f = ew_model_config_of(from);
    EW_TRY(ew_model_check_plain(f, reterr));
    const ew_layer_weights *w = ew_model_layer(from, 0);
    if (strcmp(f->arch, "llama") != 0 || !f->tied_head || w->bias[EW_LINEAR_Q] != NULL ||
        ew_model_rope_factors(from) != NULL) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "only a Llama block with a tied head can be grown, not '%s'", f->arch);
    }
    EW_TRY(check_same("layers", f->L, to->L, reterr));
    EW_TRY(check_same("vocabulary", f->V, to->V, reterr));
    EW_TRY(check_same("head size", f->D, to->D, reterr));
    EW_TRY(check_same("rotated dimensions", f->n_rot, to->n_rot, reterr));
    EW_TRY(check_same("rope_theta", (double)f->rope_theta, (double)to->rope_theta, reterr));
    EW_TRY(check_same("norm_eps", (double)f->norm_eps, (double)to->norm_eps, reterr));
    EW_TRY(check_same("kind of rotation", f->rope_kind, to->rope_kind, reterr));
    EW_TRY(check_multiple("dim", f->C, to->C, reterr));
    EW_TRY(check_multiple("ffn", f->F, to->F, reterr));
    EW_TRY(check_multiple("heads", f->H, to->H, reterr));
    EW_TRY(check_same("heads per dim", (double)f->H / f->C, (double)to->H / to->C, reterr));
    return check_same("heads per kv head", (double)f->H / f->K, (double)to->H / to->K, reterr);
}

/* Shares of r copies of one input: they sum to 1. */
static void draw_shares(ew_rng *rng, size_t r, double *share)
{
    double mean = 0;
    for (size_t j = 0; j < r; j++) {
        share[j] = r > 1 ? SHARE_DEV * ew_rng_normal(rng) : 0;
        mean += share[j] / (double)r;
    }
    for (size_t j = 0; j < r; j++) {
        share[j] += 1.0 / (double)r - mean;
    }
}

/* dst[rows, cols] from w[rows / a, cols / b]. row is room for w->cols floats. */
static void grow_matrix(const ew_mat *w, size_t rows, size_t cols, ew_rng *rng, float *row, float *dst)
{
    const size_t n = w->cols, r = cols / n;
    double share[COPIES_MAX];
    for (size_t o = 0; o < rows; o++) {
        ew_dequant_row(w->dtype, (const uint8_t *)w->data + (o % w->rows) * w->row_bytes, row, n);
        for (size_t c = 0; c < n; c++) {
            draw_shares(rng, r, share);
            for (size_t j = 0; j < r; j++) {
                dst[o * cols + j * n + c] = (float)(share[j] * (double)row[c]);
            }
        }
    }
}

static void grow_vector(const float *src, size_t n, size_t to, float scale, float *dst)
{
    for (size_t i = 0; i < to; i++) {
        dst[i] = scale * src[i % n];
    }
}

ew_status ew_grow_fill(const ew_model *from, const ew_model_config *to, uint64_t seed, const ew_grow_target *target,
                       ew_error *reterr)
{
    const ew_model_config *f = ew_model_config_of(from);
    float *row = ew_calloc(EW_MAX(EW_MAX(f->C, f->F), f->H * f->D), sizeof(float));
    if (row == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for a row of the model to grow");
    }
    ew_rng rng;
    ew_rng_init(&rng, seed, 77);
    const ew_mat *embd = ew_model_token_embd(from);
    for (size_t v = 0; v < f->V; v++) {
        ew_dequant_row(embd->dtype, (const uint8_t *)embd->data + v * embd->row_bytes, row, f->C);
        grow_vector(row, f->C, to->C, 1.0F, target->token_embd + v * to->C);
    }
    grow_vector(ew_model_output_norm(from), f->C, to->C, (float)f->C / (float)to->C, target->output_norm);
    for (uint32_t il = 0; il < f->L; il++) {
        const ew_layer_weights *w = ew_model_layer(from, il);
        const ew_grow_layer *g = &target->layer[il];
        for (int i = 0; i < EW_LINEAR_COUNT; i++) {
            uint32_t rows, cols;
            ew_linear_shape(to, (ew_linear)i, &rows, &cols);
            grow_matrix(&w->linear[i], rows, cols, &rng, row, g->linear[i]);
        }
        grow_vector(w->attn_norm, f->C, to->C, 1.0F, g->attn_norm);
        grow_vector(w->ffn_norm, f->C, to->C, 1.0F, g->ffn_norm);
    }
    ew_free(row);
    return EW_OK;
}
