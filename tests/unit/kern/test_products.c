/* ctest: TIMEOUT=240
 * The products over weights of every type: the reference against dequantised rows in double, and every table against the reference. */
#define _DEFAULT_SOURCE 1 /* MAP_ANONYMOUS */
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "test.h"

#include "base/mem.h"
#include "base/rng.h"
#include "kern/kern_int.h"
#include "sys/pool.h"

static ew_rng rng;

static const struct {
    ew_dtype type;
    size_t half[2]; /* where a block's f16 stand; both the same when there is one */
} types[] = {
    {EW_DTYPE_Q4_0, {0, 0}}, {EW_DTYPE_Q4_1, {0, 2}},     {EW_DTYPE_Q5_0, {0, 0}},     {EW_DTYPE_Q5_1, {0, 2}},
    {EW_DTYPE_Q8_0, {0, 0}}, {EW_DTYPE_Q2_K, {80, 82}},   {EW_DTYPE_Q3_K, {108, 108}}, {EW_DTYPE_Q4_K, {0, 2}},
    {EW_DTYPE_Q5_K, {0, 2}}, {EW_DTYPE_Q6_K, {208, 208}}, {EW_DTYPE_IQ4_NL, {0, 0}},   {EW_DTYPE_IQ4_XS, {0, 0}},
};

typedef struct weights {
    ew_mat m;
    uint8_t *data;
} weights;

/* n bytes that end where a page does, as those of a mapped file may; the page behind cannot be read. */
static void *before_the_end(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = EW_ALIGN_UP(n, page);
    uint8_t *p = mmap(NULL, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    assert_int_equal(mprotect(p + size, page, PROT_NONE), 0);
    return p + size - n;
}

static void unmap(void *p, size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *start = (uint8_t *)p - (EW_ALIGN_UP(n, page) - n);
    assert_int_equal(munmap(start, EW_ALIGN_UP(n, page) + page), 0);
}

static size_t bytes_of(const ew_mat *m)
{
    size_t row = 0;
    assert_true(ew_dtype_row_bytes(m->dtype, m->cols, &row));
    return (m->rows - 1) * m->row_bytes + row;
}

/* Rows of `byte` (< 0: random bits) with the scales `scale` (random ones of a sane size), `extra` bytes between them. */
static weights make_weights(size_t which, size_t rows, size_t cols, size_t extra, int byte, float scale)
{
    const ew_dtype_info *info = ew_dtype_get(types[which].type);
    const size_t row = cols / info->block_elems * info->block_bytes;
    weights w = {.m = {types[which].type, (uint32_t)rows, (uint32_t)cols, NULL, row + extra}};
    w.data = before_the_end(bytes_of(&w.m));
    w.m.data = w.data;
    for (size_t i = 0; i < bytes_of(&w.m); i++) {
        w.data[i] = byte >= 0 ? (uint8_t)byte : (uint8_t)ew_rng_u64(&rng);
    }
    for (size_t i = 0; i < rows * (cols / info->block_elems) * 2; i++) {
        uint8_t *block =
            w.data + i / 2 % rows * w.m.row_bytes + i / 2 / rows * info->block_bytes + types[which].half[i % 2];
        uint16_t h = ew_f32_to_f16(byte >= 0 ? scale : (float)ew_rng_normal(&rng) * 0.01f);
        memcpy(block, &h, sizeof(h));
    }
    return w;
}

static void free_weights(weights *w)
{
    unmap(w->data, bytes_of(&w->m));
}

static weights random_weights(size_t which, size_t rows, size_t cols, size_t extra)
{
    return make_weights(which, rows, cols, extra, -1, 0);
}

static float *randoms(size_t n)
{
    float *p = ew_aligned(n * sizeof(float));
    assert_non_null(p);
    for (size_t i = 0; i < n; i++) {
        p[i] = (float)ew_rng_normal(&rng);
    }
    return p;
}

static void *scratch_of(const ew_mat *m, size_t T)
{
    void *p = ew_aligned(ew_matmul_scratch(m, T));
    assert_non_null(p);
    return p;
}

static void close_to(const char *what, ew_dtype t, const float *a, const float *b, size_t n, double tol)
{
    double top = 1e-30;
    for (size_t i = 0; i < n; i++) {
        top = fmax(top, fabs((double)b[i]));
    }
    for (size_t i = 0; i < n; i++) {
        if (!(fabs((double)a[i] - (double)b[i]) <= tol * top)) {
            fail_msg("%s, %s: element %zu of %zu is %.9g and not %.9g (largest %.3g)", what, ew_dtype_name(t), i, n,
                     (double)a[i], (double)b[i], top);
        }
    }
}

static void blocks_as_integers_are_the_dequantised_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < EW_COUNT(types); i++) {
        ew_dtype t = types[i].type;
        if (!ew_dtype_get(t)->compute) {
            continue;
        }
        weights w = random_weights(i, 1, 512, 0);
        float want[512], got[512];
        ew_dequant_row(t, w.data, want, 512);
        for (size_t b = 0; b < 16; b++) {
            int8_t q[32];
            float s[2], m[2];
            ew__q_block(t, w.data, b, q, s, m);
            for (size_t j = 0; j < 32; j++) {
                const ew_q_form *f = ew__q_form(t);
                assert_in_range(q[j] - f->lo, 0, (1 << f->bits) - 1);
                assert_true(f->groups == 2 || (s[0] == s[1] && m[0] == m[1]));
                got[32 * b + j] = s[j / 16] * (float)q[j] - m[j / 16];
            }
        }
        close_to("blocks", t, got, want, 512, 1e-6);
        free_weights(&w);
    }
}

/* The reference is the product of the dequantised weight with the dequantised activations. */
static void the_reference_is_the_formula(void **state)
{
    (void)state;
    const ew_exec ref = {ew_kern_get("ref"), NULL};
    enum {
        F = 3,
        C = 256,
        T = 4
    };
    for (size_t i = 0; i < EW_COUNT(types); i++) {
        ew_dtype t = types[i].type;
        if (!ew_dtype_get(t)->compute) {
            continue;
        }
        weights w = random_weights(i, F, C, 0);
        float *x = randoms(T * C), y[T * F], want[T * F], row[C];
        void *scratch = scratch_of(&w.m, T);
        ew_matmul(&ref, &w.m, x, T, y, scratch);
        for (size_t f = 0; f < F; f++) {
            ew_dequant_row(t, w.data + f * w.m.row_bytes, row, C);
            for (size_t k = 0; k < T; k++) {
                double sum = 0.0;
                for (size_t c = 0; c < C; c++) {
                    float top = 0.0f;
                    for (size_t j = 0; j < 32; j++) {
                        top = fmaxf(top, fabsf(x[k * C + c / 32 * 32 + j]));
                    }
                    sum += (double)row[c] * (double)(top / 127.0f) * (double)rintf(x[k * C + c] * (127.0f / top));
                }
                want[k * F + f] = (float)sum;
            }
        }
        close_to("ref", t, y, want, T * F, 1e-5);
        ew_free(x), ew_free(scratch), free_weights(&w);
    }
}

static void activations_are_quantised_the_same_by_every_table(void **state)
{
    (void)state;
    enum {
        C = 320,
        B = C / 32
    };
    float *x = randoms(C);
    memset(x, 0, 32 * sizeof(float));
    x[40] = NAN;
    for (size_t i = 64; i < 96; i++) {
        x[i] = (float)i * 0.5f - 40.25f; /* ties */
    }
    x[64] = 127.0f;
    for (size_t i = 96; i < 128; i++) {
        x[i] = 1e-42f;
    }
    struct {
        _Alignas(64) int8_t q[C];
        float d[B], m32[B], m16[2 * B];
        int32_t c32[B], c16[2 * B];
    } out[2];
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        memset(&out[i > 0], 0, sizeof(out[0]));
        ew_xq dst = {.C = C,
                     .q = out[i > 0].q,
                     .d = out[i > 0].d,
                     .c32 = out[i > 0].c32,
                     .c16 = out[i > 0].c16,
                     .m32 = out[i > 0].m32,
                     .m16 = out[i > 0].m16};
        ew_kern_at(i)->q->quant_x(x, &dst);
        assert_memory_equal(&out[0], &out[i > 0], sizeof(out[0]));
    }
    assert_int_equal(out[0].q[0], 0);
    assert_int_equal(out[0].q[40], 0);
    assert_true(isnan(out[0].d[1]) && isnan(out[0].m32[1]) && isfinite(out[0].d[2]));
    ew_free(x);
}

static void check(size_t which, size_t F, size_t C, size_t T, size_t extra)
{
    ew_dtype t = types[which].type;
    weights w = random_weights(which, F, C, extra);
    float *some = randoms(T * C), *want = randoms(T * F + 8), *got = randoms(T * F + 8);
    float *x = before_the_end(T * C * sizeof(float));
    memcpy(x, some, T * C * sizeof(float));
    void *scratch = scratch_of(&w.m, T);
    memcpy(want, got, (T * F + 8) * sizeof(float));
    ew_matmul(&(ew_exec){ew_kern_get("ref"), NULL}, &w.m, x, T, want, scratch);
    for (size_t i = 1; ew_kern_at(i) != NULL; i++) {
        ew_matmul(&(ew_exec){ew_kern_at(i), NULL}, &w.m, x, T, got, scratch);
        close_to(ew_kern_name(ew_kern_at(i)), t, got, want, T * F, 2e-6 * sqrt((double)C));
        assert_memory_equal(got + T * F, want + T * F, 8 * sizeof(float));
    }
    unmap(x, T * C * sizeof(float));
    ew_free(some), ew_free(want), ew_free(got), ew_free(scratch), free_weights(&w);
}

static void every_type_on_every_table_agrees_with_ref(void **state)
{
    (void)state;
    const size_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17, 130};
    const size_t rows[] = {1, 7, 15, 16, 17, 33, 70};
    for (size_t i = 0; i < EW_COUNT(types); i++) {
        size_t block = ew_dtype_get(types[i].type)->block_elems;
        for (size_t k = 0; k < EW_COUNT(tokens); k++) {
            for (size_t f = 0; f < EW_COUNT(rows); f++) {
                check(i, rows[f], block * (1 + (f + k) % 3), tokens[k], 2 * (f % 2));
            }
        }
        check(i, 3, 32 * 8 * 9, 11, 6);
        check(i, 35, block == 32 ? 576 : 512, 19, 0);
        check(i, 5, block == 32 ? 32 * 33 : 256 * 17, 1, 10);
    }
}

/* Activations that become 127 or -127 everywhere, in four patterns of signs. */
static float *full_scale(size_t T, size_t C)
{
    float *x = ew_aligned(T * C * sizeof(float));
    assert_non_null(x);
    for (size_t i = 0; i < T * C; i++) {
        size_t t = i / C, c = i % C;
        const bool down[] = {false, true, c % 2 != 0, c % 4 >= 2};
        x[i] = down[t % 4] ? -3.0f : 3.0f;
    }
    return x;
}

/* The largest codes against the largest activations: no sum on the way may overflow or saturate. */
static void extreme_codes_and_activations_overflow_nothing(void **state)
{
    (void)state;
    enum {
        F = 19,
        C = 1536,
        T_MAX = 21
    };
    const int bytes[] = {0x00, 0xff, 0x80, 0x7f, 0x08, 0xf0, 0x0f, 0x81};
    const size_t tokens[] = {1, 2, 4, 8, T_MAX};
    float *x = full_scale(T_MAX, C), *got = randoms(T_MAX * F), *want = randoms(T_MAX * F), row[C];
    for (size_t i = 0; i < EW_COUNT(types) * EW_COUNT(bytes) * 2; i++) {
        size_t which = i % EW_COUNT(types), byte = i / EW_COUNT(types) % EW_COUNT(bytes);
        weights w = make_weights(which, F, C, 0, bytes[byte], i % 2 == 0 ? 0.5f : -60000.0f);
        ew_dequant_row(w.m.dtype, w.data, row, C); /* all rows are the same */
        double most = 0.0;
        for (size_t t = 0; t < T_MAX; t++) {
            double sum = 0.0, magnitudes = 0.0;
            for (size_t c = 0; c < C; c++) {
                sum += (double)row[c] * (double)x[t * C + c];
                magnitudes += fabs((double)row[c] * (double)x[t * C + c]);
            }
            most = fmax(most, magnitudes);
            for (size_t f = 0; f < F; f++) {
                want[t * F + f] = (float)sum;
            }
        }
        void *scratch = scratch_of(&w.m, T_MAX);
        for (size_t k = 0; k < EW_COUNT(tokens) * 8 && ew_kern_at(k / EW_COUNT(tokens)) != NULL; k++) {
            size_t T = tokens[k % EW_COUNT(tokens)];
            const ew_exec e = {ew_kern_at(k / EW_COUNT(tokens)), NULL};
            ew_matmul(&e, &w.m, x, T, got, scratch);
            for (size_t j = 0; j < T * F; j++) {
                if (!(fabs((double)got[j] - (double)want[j]) <= 1e-5 * most)) {
                    fail_msg("%s, %s, bytes %02x, %zu tokens: element %zu is %.9g and not %.9g", ew_kern_name(e.kern),
                             ew_dtype_name(w.m.dtype), (unsigned)bytes[byte], T, j, (double)got[j], (double)want[j]);
                }
            }
        }
        ew_free(scratch), free_weights(&w);
    }
    ew_free(x), ew_free(got), ew_free(want);
}

/* What is broken shows: a number that is none is not taken for 0, and spoils its own token only. */
static void a_token_with_a_nan_or_an_infinity_has_no_product(void **state)
{
    (void)state;
    enum {
        F = 18,
        C = 512,
        T_MAX = 11
    };
    const size_t tokens[] = {1, 3, T_MAX};
    const float odd[] = {NAN, INFINITY, -INFINITY, -NAN};
    for (size_t i = 0; i < EW_COUNT(types) * EW_COUNT(tokens); i++) {
        size_t which = i % EW_COUNT(types), T = tokens[i / EW_COUNT(types)], bad = T / 2;
        weights w = random_weights(which, F, C, 0);
        float *x = randoms(T * C), *y = randoms(T * F);
        void *scratch = scratch_of(&w.m, T);
        x[bad * C + 300 + i % 7] = odd[i % EW_COUNT(odd)];
        for (size_t k = 0; ew_kern_at(k) != NULL; k++) {
            ew_matmul(&(ew_exec){ew_kern_at(k), NULL}, &w.m, x, T, y, scratch);
            for (size_t j = 0; j < T * F; j++) {
                if ((j / F == bad) == (bool)isfinite(y[j])) {
                    fail_msg("%s, %s, %zu tokens: element %zu is %g", ew_kern_name(ew_kern_at(k)),
                             ew_dtype_name(w.m.dtype), T, j, (double)y[j]);
                }
            }
        }
        ew_free(x), ew_free(y), ew_free(scratch), free_weights(&w);
    }
}

static void few_agree(const ew_mat *m)
{
    enum {
        T = EW_MATMUL_FEW
    };
    float *x = randoms(T * m->cols), *one = randoms(T * m->rows), *all = randoms(T * m->rows);
    void *scratch = ew_aligned(ew_matmul_scratch(m, T) + 1);
    for (size_t k = 0; ew_kern_at(k) != NULL; k++) {
        const ew_exec e = {ew_kern_at(k), NULL};
        for (size_t t = 0; t < T; t++) {
            ew_matmul(&e, m, x + t * m->cols, 1, one + t * m->rows, scratch);
        }
        for (size_t n = 2; n <= T; n++) {
            ew_matmul(&e, m, x, n, all, scratch);
            assert_memory_equal(one, all, n * m->rows * sizeof(float));
        }
    }
    ew_free(x), ew_free(one), ew_free(all), ew_free(scratch);
}

static void one_token_and_few_agree_bit_for_bit(void **state)
{
    (void)state;
    for (size_t i = 0; i < EW_COUNT(types); i++) {
        weights w = random_weights(i, 37, 768, 0);
        few_agree(&w.m);
        free_weights(&w);
    }
    const ew_dtype floats[] = {EW_DTYPE_F32, EW_DTYPE_F16, EW_DTYPE_BF16};
    for (size_t i = 0; i < EW_COUNT(floats); i++) {
        const size_t F = 37, C = 333;
        weights w = {.m = ew_mat_make(floats[i], F, C, NULL)};
        w.m.data = w.data = before_the_end(bytes_of(&w.m));
        float *some = randoms(F * C);
        ew_quant_row(floats[i], some, w.data, F * C);
        few_agree(&w.m);
        ew_free(some), free_weights(&w);
    }
}

/* In batches that go through panels, the size of the batch does not matter either; nor do threads, nor several weights at once. */
static void batches_threads_and_groups_of_weights_change_no_bit(void **state)
{
    (void)state;
    enum {
        T = 70,
        C = 512,
        F0 = 130,
        F1 = 41
    };
    ew_pool *pool[2];
    ew_error err = EW_ERROR_INIT;
    assert_ok(ew_pool_new(2, &pool[0], &err), &err);
    assert_ok(ew_pool_new(4, &pool[1], &err), &err);
    for (size_t i = 0; i < EW_COUNT(types); i++) {
        size_t other = (i + 5) % EW_COUNT(types);
        weights w[2] = {random_weights(i, F0, C, 0), random_weights(other, F1, C, 4)};
        float *x = randoms(T * C), *y0 = randoms(T * F0), *y1 = randoms(T * F1), *z0 = randoms(T * F0),
              *z1 = randoms(T * F1);
        void *scratch = scratch_of(&w[0].m, T);
        for (size_t k = 0; ew_kern_at(k) != NULL; k++) {
            ew_exec e = {ew_kern_at(k), NULL};
            ew_matmul(&e, &w[0].m, x, T, y0, scratch);
            ew_matmul(&e, &w[1].m, x, T, y1, scratch);
            for (size_t p = 0; p < 2; p++) {
                e.pool = pool[p];
                ew_matmul_multi(&e, (const ew_mat *[]){&w[0].m, &w[1].m}, 2, x, T, (float *[]){z0, z1}, scratch);
                assert_memory_equal(y0, z0, T * F0 * sizeof(float));
                assert_memory_equal(y1, z1, T * F1 * sizeof(float));
            }
            ew_matmul(&e, &w[0].m, x + 3 * C, T - 3, z0, scratch);
            assert_memory_equal(y0 + 3 * F0, z0, (T - 3) * F0 * sizeof(float));
        }
        ew_free(x), ew_free(y0), ew_free(y1), ew_free(z0), ew_free(z1), ew_free(scratch);
        free_weights(&w[0]), free_weights(&w[1]);
    }
    ew_pool_free(&pool[0]);
    ew_pool_free(&pool[1]);
}

int main(void)
{
    ew_rng_init(&rng, 7, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_as_integers_are_the_dequantised_values),
        cmocka_unit_test(the_reference_is_the_formula),
        cmocka_unit_test(activations_are_quantised_the_same_by_every_table),
        cmocka_unit_test(every_type_on_every_table_agrees_with_ref),
        cmocka_unit_test(extreme_codes_and_activations_overflow_nothing),
        cmocka_unit_test(a_token_with_a_nan_or_an_infinity_has_no_product),
        cmocka_unit_test(one_token_and_few_agree_bit_for_bit),
        cmocka_unit_test(batches_threads_and_groups_of_weights_change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
