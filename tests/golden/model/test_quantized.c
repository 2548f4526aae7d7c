/* Two wide models (all widths multiples of 256) in every quantized type against
 * llama.cpp: each tensor's bits, and the logits within the rounding of
 * activations that llama.cpp has itself (README.md of this directory). Weights
 * are made, not stored. */
#include "../../unit/model/tiny.h"

#include "compress/quantize.h"
#include "crypt/hash.h"
#include "format/gguf.h"
#include "model/session.h"
#include "sys/file.h"

#define DIR EW_TEST_SOURCE_DIR "/tests/golden/model/quantized/"
enum {
    C = 256,
    H = 8,
    K = 4,
    D = 32,
    F = 512,
    V = 64,
    L = 2,
    N = 16
};

static const ew_dtype types[] = {EW_DTYPE_Q4_0, EW_DTYPE_Q4_1, EW_DTYPE_Q5_0,   EW_DTYPE_Q5_1,
                                 EW_DTYPE_Q8_0, EW_DTYPE_Q2_K, EW_DTYPE_Q3_K,   EW_DTYPE_Q4_K,
                                 EW_DTYPE_Q5_K, EW_DTYPE_Q6_K, EW_DTYPE_IQ4_NL, EW_DTYPE_IQ4_XS};
#define N_TYPES (sizeof(types) / sizeof(types[0]))

static const char *const archs[] = {"llama",
                                    "phi3"}; /* the second has fused matrices, whose rows are taken in slices */

static char tmp[EW_PATH_MAX];
static char sums[65536];
static int32_t ids[N];

static int setup(void **state)
{
    (void)state;
    EW_AUTO_BUF text = {0};
    EW_AUTO_BUF s = {0};
    if (ew_file_read(DIR "ids.txt", 4096, &text, NULL) != EW_OK ||
        ew_dir_make_temp("/tmp/ew-quant-", tmp, sizeof(tmp), NULL) != EW_OK ||
        ew_file_read(DIR "sums.txt", sizeof(sums) - 1, &s, NULL) != EW_OK) {
        return -1;
    }
    memcpy(sums, s.data, s.size);
    const char *p = text.data;
    for (int i = 0; i < N; i++) {
        int used = 0;
        if (sscanf(p, "%d%n", &ids[i], &used) != 1) {
            return -1;
        }
        p += used;
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return ew_dir_remove_tree(tmp, NULL) == EW_OK ? 0 : -1;
}

static const char *path_of(const char *arch, const char *what)
{
    static char paths[4][2 * EW_PATH_MAX];
    static unsigned at;
    char *p = paths[at++ % 4];
    (void)snprintf(p, sizeof(paths[0]), "%s/%s-%s.gguf", tmp, arch, what);
    return p;
}

/* ---- the weights: splitmix64 from the FNV-1a of the tensor's name, four
 * 16-bit draws summed; the same in quantized.py ---- */
static float *make_tensor(const char *name, size_t rows, size_t cols)
{
    uint64_t state = 0xCBF29CE484222325U;
    for (const char *p = name; *p != '\0'; p++) {
        state = (state ^ (unsigned char)*p) * 0x100000001B3U;
    }
    float scale = rows == 1                                ? 0x1p-18F
                  : strcmp(name, "token_embd.weight") == 0 ? 0x1p-15F
                  : cols == F                              ? 0.75F * 0x1p-19F
                                                           : 0x1p-19F;
    float *x = ew_calloc(rows * cols, sizeof(float));
    assert_non_null(x);
    for (size_t i = 0; i < rows * cols; i++) {
        uint64_t z = state += 0x9E3779B97F4A7C15U;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
        z ^= z >> 31;
        int32_t s = (int32_t)((z & 0xFFFF) + (z >> 16 & 0xFFFF) + (z >> 32 & 0xFFFF) + (z >> 48)) - 131070;
        float v = (float)s * scale;
        x[i] = rows == 1 ? 1.0F + v : v;
    }
    return x;
}

typedef struct shape {
    char name[48];
    uint64_t dims[2]; /* as GGUF orders them */
} shape;

static size_t shapes_of(bool fused, shape *ret)
{
    size_t n = 0;
    const struct {
        const char *name;
        uint64_t rows, cols;
        int only; /* 1 = fused models, 2 = others */
    } layer[] = {{"attn_norm", 1, C, 0},
                 {"attn_qkv", H * D + 2 * K * D, C, 1},
                 {"attn_q", H * D, C, 2},
                 {"attn_k", K * D, C, 2},
                 {"attn_v", K * D, C, 2},
                 {"attn_output", C, H * D, 0},
                 {"ffn_norm", 1, C, 0},
                 {"ffn_gate", F, C, 2},
                 {"ffn_up", fused ? 2 * F : F, C, 0},
                 {"ffn_down", C, F, 0}};
    ret[n++] = (shape){"token_embd.weight", {C, V}};
    for (int l = 0; l < L; l++) {
        for (size_t k = 0; k < sizeof(layer) / sizeof(layer[0]); k++) {
            if (layer[k].only != (fused ? 2 : 1)) {
                ret[n].dims[0] = layer[k].cols;
                ret[n].dims[1] = layer[k].rows;
                (void)snprintf(ret[n++].name, sizeof(ret->name), "blk.%d.%s.weight", l, layer[k].name);
            }
        }
    }
    ret[n++] = (shape){"output_norm.weight", {C, 1}};
    ret[n++] = (shape){"output.weight", {C, V}};
    return n;
}

static void add_keys(ew_gguf_writer *w, const char *arch)
{
    const struct {
        const char *key;
        uint32_t value;
    } keys[] = {{"context_length", 64},      {"embedding_length", C},
                {"block_count", L},          {"feed_forward_length", F},
                {"attention.head_count", H}, {"attention.head_count_kv", K},
                {"rope.dimension_count", D}, {"vocab_size", V}};
    char key[64];
    ew_gguf_add_str(w, "general.architecture", arch);
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        (void)snprintf(key, sizeof(key), "%s.%s", arch, keys[i].key);
        ew_gguf_add_u32(w, key, keys[i].value);
    }
    (void)snprintf(key, sizeof(key), "%s.rope.freq_base", arch);
    ew_gguf_add_f32(w, key, 10000.0F);
    (void)snprintf(key, sizeof(key), "%s.attention.layer_norm_rms_epsilon", arch);
    ew_gguf_add_f32(w, key, 1e-5F);
}

static void make_model(const char *arch)
{
    shape s[64];
    size_t n = shapes_of(strcmp(arch, "phi3") == 0, s);
    ew_gguf_writer *w = NULL;
    assert_ok(ew_gguf_writer_new(path_of(arch, "F32"), &w, err));
    add_keys(w, arch);
    for (size_t i = 0; i < n; i++) {
        assert_ok(ew_gguf_add_tensor(w, s[i].name, EW_DTYPE_F32, s[i].dims[1] == 1 ? 1 : 2, s[i].dims, err));
    }
    assert_ok(ew_gguf_writer_begin(w, err));
    for (size_t i = 0; i < n; i++) {
        float *x = make_tensor(s[i].name, s[i].dims[1], s[i].dims[0]);
        assert_ok(ew_gguf_write_tensor(w, i, x, err));
        ew_free(x);
    }
    assert_ok(ew_gguf_writer_commit(w, err));
    ew_gguf_writer_free(&w);
}

/* Every matrix of the file has the type and the bits that llama-quantize gave
 * it. */
static void check_sums(const char *path, const char *arch, const char *mix)
{
    ew_gguf *g = NULL;
    assert_ok(ew_gguf_open(path, &g, err));
    for (size_t i = 0; i < ew_gguf_n_tensors(g); i++) {
        const ew_tensor_view *t = ew_gguf_tensor(g, i);
        char hex[EW_SHA256_HEX_SIZE];
        char line[160];
        if (t->n_dims == 1) {
            assert_int_equal(t->dtype, EW_DTYPE_F32);
            continue;
        }
        ew_sha256_hex(t->data, t->bytes, hex);
        (void)snprintf(line, sizeof(line), "%s %s %s %s %.16s\n", arch, mix, t->name, ew_dtype_name(t->dtype), hex);
        if (strstr(sums, line) == NULL) {
            fail_msg("other bits than llama.cpp's: %s", line);
        }
    }
    ew_gguf_free(&g);
}

static void logits_of(const char *path, const ew_kern *kern, ew_kv_type kv, float *ret)
{
    EW_AUTO(ew_model) m = NULL;
    ew_session *s = NULL;
    assert_ok(ew_model_open(path, &(ew_model_opt){.no_tokenizer = true}, &m, err));
    assert_ok(ew_session_new(m, &(ew_session_opt){.n_ctx = 64, .exec.kern = kern, .kv_type = kv}, &s, err));
    assert_ok(ew_session_eval_all(s, ids, N, ret, err));
    ew_session_free(&s);
}

/* Root mean square of a - b over that of scale. */
static double rms(const float *a, const float *b, const float *scale)
{
    double d = 0;
    double q = 0;
    for (size_t i = 0; i < N * V; i++) {
        d += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        q += (double)scale[i] * (double)scale[i];
    }
    return isnan(d) ? HUGE_VAL : sqrt(d / q);
}

/* exact: the same quantized weights with f32 activations. llama.cpp's logits
 * are off by what it rounds of the activations; ours may be off by a quarter
 * more, and the two, whose roundings are independent, differ by no more than
 * twice as much. */
static void check_type(const char *arch, size_t i_type, const float *golden)
{
    ew_dtype type = types[i_type];
    const float *theirs = golden + i_type * N * V;
    float exact[N * V];
    float ours[N * V];
    ew_quantize_opt to_type = {.pure = true};
    assert_true(ew_mix_of_dtype(type, &to_type.mix));
    assert_ok(ew_quantize_file(path_of(arch, "F32"), path_of(arch, ew_dtype_name(type)), &to_type, NULL, err));
    check_sums(path_of(arch, ew_dtype_name(type)), arch, "pure");
    assert_ok(ew_quantize_file(path_of(arch, ew_dtype_name(type)), path_of(arch, "exact"),
                               &(ew_quantize_opt){.mix = EW_MIX_F32}, NULL, err));
    logits_of(path_of(arch, "exact"), ew_kern_get("ref"), EW_KV_F32, exact);
    double e_theirs = rms(theirs, exact, exact);
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        logits_of(path_of(arch, ew_dtype_name(type)), ew_kern_at(i), EW_KV_F32, ours);
        double e_ours = rms(ours, exact, exact);
        double apart = rms(ours, theirs, exact);
        if (!(e_ours <= 1.25 * e_theirs && apart <= 2 * e_theirs)) {
            fail_msg("%s %s %s: ours %.4f, apart %.4f, llama.cpp %.4f", arch, ew_dtype_name(type),
                     ew_kern_name(ew_kern_at(i)), e_ours, apart, e_theirs);
        }
    }
}

static void every_type_has_llama_cpps_bits_and_logits(void **state)
{
    const char *arch = *state;
    static float golden[N_TYPES * N * V];
    char path[512];
    EW_AUTO_BUF b = {0};
    (void)snprintf(path, sizeof(path), DIR "%s.logits.f32", arch);
    assert_ok(ew_file_read(path, sizeof(golden), &b, err));
    assert_int_equal(b.size, sizeof(golden));
    memcpy(golden, b.data, b.size);
    make_model(arch);
    for (size_t i = 0; i < N_TYPES; i++) {
        check_type(arch, i, golden);
    }
}

/* Which tensor gets which type, and its bits, without --pure. */
static void every_mix_is_llama_quantizes(void **state)
{
    const char *arch = *state;
    const ew_mix mixes[] = {EW_MIX_Q4_0,   EW_MIX_Q8_0,   EW_MIX_Q2_K,   EW_MIX_Q3_K_S, EW_MIX_Q3_K_M,
                            EW_MIX_Q3_K_L, EW_MIX_Q4_K_S, EW_MIX_Q4_K_M, EW_MIX_Q5_K_S, EW_MIX_Q5_K_M,
                            EW_MIX_Q6_K,   EW_MIX_IQ4_NL, EW_MIX_IQ4_XS};
    make_model(arch);
    for (size_t i = 0; i < sizeof(mixes) / sizeof(mixes[0]); i++) {
        const char *path = path_of(arch, "mix");
        assert_ok(ew_quantize_file(path_of(arch, "F32"), path, &(ew_quantize_opt){.mix = mixes[i]}, NULL, err));
        check_sums(path, arch, ew_mix_name(mixes[i]));
    }
}

/* Keys and values rounded to 8 bits in blocks of 32: within 2 % of the F32
 * cache; F16 within 0.1 %. */
static void a_q8_0_cache_stays_close(void **state)
{
    const char *arch = *state;
    float f32[N * V];
    float f16[N * V];
    float q8[N * V];
    make_model(arch);
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        logits_of(path_of(arch, "F32"), ew_kern_at(i), EW_KV_F32, f32);
        logits_of(path_of(arch, "F32"), ew_kern_at(i), EW_KV_F16, f16);
        logits_of(path_of(arch, "F32"), ew_kern_at(i), EW_KV_Q8_0, q8);
        assert_true(rms(f16, f32, f32) < 1e-3);
        assert_true(rms(q8, f32, f32) < 2e-2);
        assert_true(rms(q8, f32, f32) > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(every_type_has_llama_cpps_bits_and_logits, (void *)(uintptr_t)archs[0]),
        cmocka_unit_test_prestate(every_type_has_llama_cpps_bits_and_logits, (void *)(uintptr_t)archs[1]),
        cmocka_unit_test_prestate(every_mix_is_llama_quantizes, (void *)(uintptr_t)archs[0]),
        cmocka_unit_test_prestate(every_mix_is_llama_quantizes, (void *)(uintptr_t)archs[1]),
        cmocka_unit_test_prestate(a_q8_0_cache_stays_close, (void *)(uintptr_t)archs[0]),
        cmocka_unit_test_prestate(a_q8_0_cache_stays_close, (void *)(uintptr_t)archs[1]),
    };
    return cmocka_run_group_tests_name("quantized", tests, setup, teardown);
}
