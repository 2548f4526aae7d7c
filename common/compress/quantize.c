#include "compress/quantize.h"

#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "format/gguf.h"
#include "model/save.h"
#include "sys/file.h"
#include "sys/pool.h"

#define CHUNK_BYTES (4u * 1024 * 1024) /* of f32 rows in memory at once */

typedef struct quantizer {
    const ew_quantize_opt *opt;
    ew_gguf *in;
    ew_gguf_writer *w;
    const ew_tensor_view **tensor;
    ew_dtype *dtype; /* of each tensor in the result */
    ew_quantize_report report;
    double sum_sq;
    uint64_t n_converted, done, total;
} quantizer;

/* A number of the architecture, of its first layer where it is a list. */
static uint32_t arch_u32(const ew_gguf *g, const char *arch, const char *suffix, uint32_t otherwise)
{
    char key[160];
    uint32_t v;
    ew_gguf_array list;
    if (snprintf(key, sizeof(key), "%s.%s", arch, suffix) >= (int)sizeof(key)) {
        return otherwise;
    }
    if (ew_gguf_get_u32(g, key, &v)) {
        return v;
    }
    if (ew_gguf_get_array(g, key, &list) && list.n > 0) {
        int64_t first = ew_gguf_array_i64(&list, 0);
        return first >= 0 && first <= UINT32_MAX ? (uint32_t)first : otherwise;
    }
    return otherwise;
}

static ew_status choose_types(quantizer *q, ew_error *reterr)
{
    char arch[64];
    size_t n = ew_gguf_n_tensors(q->in);
    if (!ew_gguf_get_str_copy(q->in, "general.architecture", arch, sizeof(arch))) {
        arch[0] = '\0';
    }
    ew_mix_model model = {.arch = arch,
                          .n_layers = arch_u32(q->in, arch, "block_count", 0),
                          .n_heads = arch_u32(q->in, arch, "attention.head_count", 0),
                          .n_experts = arch_u32(q->in, arch, "expert_count", 0)};
    model.n_kv_heads = arch_u32(q->in, arch, "attention.head_count_kv", model.n_heads);
    for (size_t i = 0; i < n; i++) {
        q->tensor[i] = ew_gguf_tensor(q->in, i);
    }
    return ew_mix_assign(q->opt->mix, q->opt->pure, &model, q->tensor, n, q->dtype, reterr);
}

static void count_fallback(quantizer *q, const ew_tensor_view *t, ew_dtype to)
{
    uint32_t block = ew_dtype_get(ew_mix_dtype(q->opt->mix))->block_elems;
    if (t->n_dims > 1 && to != EW_DTYPE_F32 && t->dims[0] % block != 0) {
        q->report.n_fallback++;
        q->report.n_fallback_f16 += to == EW_DTYPE_F16;
    }
}

static ew_status declare(quantizer *q, ew_error *reterr)
{
    static const char *const skip[] = {"general.file_type", "general.quantization_version", NULL};
    EW_TRY(choose_types(q, reterr));
    if (q->opt->name != NULL) {
        ew_gguf_add_str(q->w, "general.name", q->opt->name);
    }
    ew_gguf_add_all_from(q->w, q->in, skip);
    ew_gguf_add_u32(q->w, "general.file_type", (uint32_t)q->opt->mix);
    ew_gguf_add_u32(q->w, "general.quantization_version", 2);
    for (size_t i = 0; i < ew_gguf_n_tensors(q->in); i++) {
        const ew_tensor_view *t = q->tensor[i];
        const ew_dtype_info *info = ew_dtype_get(t->dtype);
        if (!info->compute && q->dtype[i] != t->dtype) {
            return ew_fail(
                reterr, EW_EUNSUPPORTED,
                "%s: tensor '%s' is %s, which cannot be converted. HINT: start from an F16, BF16 or Q8_0 file.",
                ew_gguf_path(q->in), t->name, info->name);
        }
        EW_TRY(ew_gguf_add_tensor(q->w, t->name, q->dtype[i], t->n_dims, t->dims, reterr));
        count_fallback(q, t, q->dtype[i]);
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

static ew_status convert_chunks(quantizer *q, const char *name, const ew_mat *m, row_job *j, size_t step,
                                ew_error *reterr)
{
    for (size_t r = 0; r < m->rows; r += step) {
        size_t n = EW_MIN(step, m->rows - r);
        j->from = ew_mat_rows(m, r, n);
        ew_par_for(q->opt->pool, n, 1 + 4096 / m->cols, convert_rows, j);
        for (size_t i = 0; i < n; i++) {
            if (!isfinite(j->sum_sq[i]) && (isinf(j->sum_sq[i]) || ew_dtype_get(j->to)->block_elems > 1)) {
                return ew_fail(reterr, EW_ECORRUPT,
                               "%s: tensor '%s' has values that are not finite or too large for %s (row %zu)",
                               ew_gguf_path(q->in), name, ew_dtype_name(j->to), r + i);
            }
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
        st = convert_chunks(q, t->name, &m, &j, step, reterr);
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
    EW_AUTO(ew_gguf) g = NULL;
    EW_AUTO(ew_gguf_writer) w = NULL;
    EW_TRY(ew_gguf_open(in, &g, reterr));
    EW_TRY(ew_gguf_writer_new(out, &w, reterr));
    quantizer q = {.opt = opt, .in = g, .w = w};
    size_t n = EW_MAX((size_t)1, ew_gguf_n_tensors(g));
    q.dtype = ew_calloc(n, sizeof(*q.dtype));
    q.tensor = ew_calloc(n, sizeof(*q.tensor));
    ew_status st =
        q.dtype != NULL && q.tensor != NULL ? run(&q, reterr) : ew_fail(reterr, EW_ENOMEM, "%s: out of memory", in);
    ew_free(q.dtype);
    ew_free(q.tensor);
    if (st == EW_OK && ret_report != NULL) {
        q.report.rmse = q.n_converted > 0 ? sqrt(q.sum_sq / (double)q.n_converted) : 0.0;
        *ret_report = q.report;
    }
    return st;
}

/* The weights of a directory, as they are or converted. */
static ew_status save_dir(const char *in, const char *out, const ew_quantize_opt *opt, bool convert, ew_error *reterr)
{
    EW_AUTO(ew_model) m = NULL;
    EW_TRY(ew_model_open(in, NULL, &m, reterr));
    ew_save_opt save = {
        .convert = convert, .dtype = ew_mix_dtype(opt->mix), .name = opt->name, .progress = opt->progress};
    return ew_model_save_gguf(m, out, &save, reterr);
}

ew_status ew_quantize_model(const char *in, const char *out, const ew_quantize_opt *opt, ew_quantize_report *ret_report,
                            ew_error *reterr)
{
    if (!ew_dir_exists(in)) {
        return ew_quantize_file(in, out, opt, ret_report, reterr);
    }
    if (ret_report != NULL) {
        *ret_report = (ew_quantize_report){0};
    }
    if (ew_dtype_get(ew_mix_dtype(opt->mix))->block_elems == 1) {
        return save_dir(in, out, opt, true, reterr);
    }
    char whole[EW_PATH_MAX];
    if (snprintf(whole, sizeof(whole), "%s.whole", out) >= (int)sizeof(whole)) {
        return ew_fail(reterr, EW_EINVAL, "%s: the path is too long", out);
    }
    EW_TRY(save_dir(in, whole, opt, false, reterr));
    ew_status st = ew_quantize_file(whole, out, opt, ret_report, reterr);
    ew_error ignored = EW_ERROR_INIT;
    if (ew_file_remove(whole, &ignored) != EW_OK && st == EW_OK) {
        st = ew_fail(reterr, ignored.code, "%s", ignored.msg);
    }
    return st;
}
