#include "compress/quantize.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "format/gguf.h"
#include "sys/pool.h"

#define CHUNK_BYTES (4u * 1024 * 1024) /* of f32 rows in memory at once */

typedef struct quantizer {
    const ew_quantize_opt *opt;
    ew_gguf *in;
    ew_gguf_writer *w;
    bool tied;
    ew_dtype *dtype; /* of each tensor in the result */
    ew_quantize_report report;
    double sum_sq;
    uint64_t n_converted, done, total;
} quantizer;

static ew_dtype choose(quantizer *q, const ew_tensor_view *t)
{
    size_t bytes;
    ew_dtype target = q->opt->target;
    bool vector = t->dims[1] == 1 && t->dims[2] == 1 && t->dims[3] == 1;
    if (vector || ew_str_ends(t->name, "_norm.weight")) {
        return EW_DTYPE_F32;
    }
    if (target == EW_DTYPE_Q4_0 && !q->opt->pure && !q->tied && ew_str_eq(t->name, "output.weight")) {
        target = EW_DTYPE_Q8_0;
    }
    if (!ew_dtype_row_bytes(target, (size_t)t->dims[0], &bytes)) {
        q->report.n_fallback_f16++;
        return EW_DTYPE_F16;
    }
    return target;
}

/* llama.cpp's LLAMA_FTYPE numbers. */
static uint32_t file_type(ew_dtype t)
{
    switch (t) {
    case EW_DTYPE_F16:
        return 1;
    case EW_DTYPE_Q4_0:
        return 2;
    case EW_DTYPE_Q8_0:
        return 7;
    case EW_DTYPE_BF16:
        return 32;
    default:
        return 0;
    }
}

static ew_status declare(quantizer *q, ew_error *reterr)
{
    static const char *const skip[] = {"general.file_type", "general.quantization_version", NULL};
    ew_gguf_add_all_from(q->w, q->in, skip);
    ew_gguf_add_u32(q->w, "general.file_type", file_type(q->opt->target));
    ew_gguf_add_u32(q->w, "general.quantization_version", 2);
    for (size_t i = 0; i < ew_gguf_n_tensors(q->in); i++) {
        const ew_tensor_view *t = ew_gguf_tensor(q->in, i);
        const ew_dtype_info *info = ew_dtype_get(t->dtype);
        q->dtype[i] = choose(q, t);
        if (!info->compute && q->dtype[i] != t->dtype) {
            return ew_fail(
                reterr, EW_EUNSUPPORTED,
                "%s: tensor '%s' is %s, which cannot be converted. HINT: start from an F16, BF16 or Q8_0 file.",
                ew_gguf_path(q->in), t->name, info->name);
        }
        EW_TRY(ew_gguf_add_tensor(q->w, t->name, q->dtype[i], t->n_dims, t->dims, reterr));
        q->total += t->bytes;
    }
    q->report.bytes_in = q->total;
    q->report.n_tensors = (uint32_t)ew_gguf_n_tensors(q->in);
    return ew_gguf_writer_begin(q->w, reterr);
}

typedef struct row_job {
    ew_mat from;
    ew_dtype to;
    float *f32;       /* [n, C] */
    uint8_t *out;     /* [n] rows of out_bytes */
    double *sum_sq;   /* [n] */
    size_t out_bytes; /* of a row */
} row_job;

static void convert_rows(size_t begin, size_t end, unsigned thread, void *ctx)
{
    const row_job *j = ctx;
    size_t C = j->from.cols;
    float back[256];
    (void)thread;
    for (size_t r = begin; r < end; r++) {
        float *x = j->f32 + r * C;
        uint8_t *to = j->out + r * j->out_bytes;
        const ew_dtype_info *info = ew_dtype_get(j->to);
        ew_dequant_row(j->from.dtype, (const uint8_t *)j->from.data + r * j->from.row_bytes, x, C);
        ew_quant_row(j->to, x, to, C);
        double s = 0.0;
        for (size_t i = 0; i < C; i += EW_COUNT(back)) {
            size_t n = EW_MIN(EW_COUNT(back), C - i);
            ew_dequant_row(j->to, to + i / info->block_elems * info->block_bytes, back, n);
            for (size_t k = 0; k < n; k++) {
                double d = (double)back[k] - (double)x[i + k];
                s += d * d;
            }
        }
        j->sum_sq[r] = s;
    }
}

static bool tell(quantizer *q, size_t bytes)
{
    q->done += bytes;
    ew_progress_info info = {
        .phase = "quantize", .unit = "B", .done = q->done, .total = q->total, .loss = NAN, .left_s = NAN};
    return ew_progress_tell(&q->opt->progress, &info);
}

static ew_status convert_chunks(quantizer *q, const ew_mat *m, row_job *j, size_t step, ew_error *reterr)
{
    for (size_t r = 0; r < m->rows; r += step) {
        size_t n = EW_MIN(step, m->rows - r);
        j->from = ew_mat_rows(m, r, n);
        ew_par_for(q->opt->pool, n, 1 + 4096 / m->cols, convert_rows, j);
        for (size_t i = 0; i < n; i++) {
            q->sum_sq += j->sum_sq[i];
        }
        q->n_converted += n * m->cols;
        EW_TRY(ew_gguf_write(q->w, j->out, n * j->out_bytes, reterr));
        q->report.bytes_out += n * j->out_bytes;
        if (!tell(q, n * m->row_bytes)) {
            return ew_fail(reterr, EW_ECANCELLED, "quantisation was stopped");
        }
    }
    return EW_OK;
}

static ew_status convert_tensor(quantizer *q, const ew_tensor_view *t, ew_dtype to, ew_error *reterr)
{
    ew_mat m;
    row_job j = {.to = to};
    if (!ew_tensor_mat(t, &m) || !ew_dtype_row_bytes(to, m.cols, &j.out_bytes)) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "%s: tensor '%s' cannot be converted", ew_gguf_path(q->in), t->name);
    }
    size_t step = EW_MIN((size_t)m.rows, EW_MAX((size_t)1, CHUNK_BYTES / 4 / m.cols));
    j.f32 = ew_malloc(step * m.cols, sizeof(float));
    j.out = ew_malloc(step, j.out_bytes);
    j.sum_sq = ew_malloc(step, sizeof(double));
    ew_status st = EW_OK;
    if (j.f32 == NULL || j.out == NULL || j.sum_sq == NULL) {
        st = ew_fail(reterr, EW_ENOMEM, "%s: no memory to convert '%s'", ew_gguf_path(q->in), t->name);
    } else {
        st = convert_chunks(q, &m, &j, step, reterr);
    }
    ew_free(j.f32);
    ew_free(j.out);
    ew_free(j.sum_sq);
    return st;
}

static ew_status run(quantizer *q, ew_error *reterr)
{
    EW_TRY(declare(q, reterr));
    for (size_t i = 0; i < ew_gguf_n_tensors(q->in); i++) {
        const ew_tensor_view *t = ew_gguf_tensor(q->in, i);
        if (q->dtype[i] != t->dtype) {
            EW_TRY(convert_tensor(q, t, q->dtype[i], reterr));
            continue;
        }
        EW_TRY(ew_gguf_write(q->w, t->data, t->bytes, reterr));
        q->report.bytes_out += t->bytes;
        if (!tell(q, t->bytes)) {
            return ew_fail(reterr, EW_ECANCELLED, "quantisation was stopped");
        }
    }
    return ew_gguf_writer_commit(q->w, reterr);
}

ew_status ew_quantize_file(const char *in, const char *out, const ew_quantize_opt *opt, ew_quantize_report *ret_report,
                           ew_error *reterr)
{
    const ew_dtype_info *info = ew_dtype_get(opt->target);
    if (info == NULL || !info->quantize) {
        return ew_fail(reterr, EW_EINVAL, "%s is no type to quantise to; use F32, F16, BF16, Q8_0 or Q4_0",
                       ew_dtype_name(opt->target));
    }
    EW_AUTO(ew_gguf) g = NULL;
    EW_AUTO(ew_gguf_writer) w = NULL;
    EW_TRY(ew_gguf_open(in, &g, reterr));
    EW_TRY(ew_gguf_writer_new(out, &w, reterr));
    quantizer q = {.opt = opt, .in = g, .w = w, .tied = ew_gguf_find(g, "output.weight") == NULL};
    q.dtype = ew_calloc(ew_gguf_n_tensors(g), sizeof(*q.dtype));
    ew_status st = q.dtype != NULL ? run(&q, reterr) : ew_fail(reterr, EW_ENOMEM, "%s: out of memory", in);
    ew_free(q.dtype);
    if (st == EW_OK && ret_report != NULL) {
        q.report.rmse = q.n_converted > 0 ? sqrt(q.sum_sq / (double)q.n_converted) : 0.0;
        *ret_report = q.report;
    }
    return st;
}
