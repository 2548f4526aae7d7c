/* Every family against transformers' logits (README.md of this directory), from
 * the Hugging Face directory and from the GGUF that llama.cpp's converter made
 * of it, with every kernel table that runs here; and what must hold for each of
 * them. */
#include "../../unit/model/tiny.h"

#include "model/save.h"
#include "model/session.h"
#include "sys/file.h"
#include "sys/pool.h"

#define DIR EW_TEST_SOURCE_DIR "/tests/golden/model/families/"
#define N 40
#define V 96
#define MAX_C 96
#define BOUND 2e-4

typedef struct family {
    const char *name;
    unsigned flags;
} family;

#define ENCODER (1u << 0) /* hidden states instead of logits */
#define NO_GGUF                                                                                                        \
    (1u << 1) /* llama.cpp has no such architecture (or not this variant of it)  \
             */
#define NO_SAVE                                                                                                        \
    (1u << 2) /* and so we write none: refused, with no file left                \
             */
#define NO_WINDOW                                                                                                      \
    (1u << 3) /* llama.cpp's converter loses the window: its GGUF belongs to the \
               logits without */

static const family families[] = {
    {"llama3", 0},
    {"llama-linear", 0},
    {"llama-bias", 0},
    {"smollm2", 0},
    {"mistral", NO_WINDOW},
    {"qwen2", 0},
    {"qwen2-yarn", 0},
    {"qwen3", 0},
    {"phi2", 0},
    {"phi3", 0},
    {"phi3-window", 0},
    {"phi3-partial", 0},
    {"phi3-long", 0},
    {"phi3-short", 0},
    {"gemma", 0},
    {"gemma2", 0},
    {"gemma2-scale", NO_GGUF | NO_SAVE},
    {"gemma3", 0},
    {"gemma3-v5", NO_GGUF | NO_SAVE},
    {"stablelm", 0},
    {"stablelm-bias", 0},
    {"stablelm-12b", 0},
    {"gptneox", 0},
    {"gptneox-serial", 0},
    {"gpt2", 0},
    {"gpt2-prefix", 0},
    {"gptneo", NO_GGUF | NO_SAVE},
    {"opt", NO_GGUF | NO_SAVE},
    {"bert", ENCODER},
    {"minilm", ENCODER},
};
#define N_FAMILIES (sizeof(families) / sizeof(families[0]))

static int32_t ids[2][N]; /* of decoders and of encoders */
static char tmp[EW_PATH_MAX];

static int read_ids(const char *path, int32_t *ret)
{
    EW_AUTO_BUF text = {0};
    if (ew_file_read(path, 4096, &text, NULL) != EW_OK) {
        return -1;
    }
    const char *p = text.data;
    for (int i = 0; i < N; i++) {
        int used = 0;
        if (sscanf(p, "%d%n", &ret[i], &used) != 1) {
            return -1;
        }
        p += used;
    }
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return read_ids(DIR "ids.txt", ids[0]) == 0 && read_ids(DIR "ids-encoder.txt", ids[1]) == 0 &&
                   ew_dir_make_temp("/tmp/ew-families-", tmp, sizeof(tmp), NULL) == EW_OK
               ? 0
               : -1;
}

static int teardown(void **state)
{
    (void)state;
    return ew_dir_remove_tree(tmp, NULL) == EW_OK ? 0 : -1;
}

static const int32_t *ids_of(const family *f)
{
    return ids[(f->flags & ENCODER) != 0];
}

static size_t width_of(const family *f, const ew_model *m)
{
    return (f->flags & ENCODER) != 0 ? ew_model_config_of(m)->C : V;
}

static void read_floats(const family *f, const char *what, float *ret, size_t n)
{
    char path[512];
    EW_AUTO_BUF b = {0};
    (void)snprintf(path, sizeof(path), DIR "%s/%s.f32", f->name, what);
    assert_ok(ew_file_read(path, 65536, &b, err));
    assert_int_equal(b.size, n * sizeof(float));
    memcpy(ret, b.data, b.size);
}

/* Largest difference over the largest figure; NaN counts as infinite. */
static double rel(const float *got, const float *want, size_t n)
{
    double diff = 0;
    double scale = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        diff = d > diff || isnan(d) ? d : diff;
        scale = fmax(scale, fabs((double)want[i]));
    }
    return isnan(diff) ? HUGE_VAL : diff / scale;
}

static ew_session *session(const family *f, const ew_model *m, ew_session_opt opt)
{
    ew_session *s = NULL;
    opt.n_ctx = 48;
    opt.kv_type = EW_KV_F32;
    if ((f->flags & ENCODER) != 0) {
        opt.n_batch = N; /* an encoder sees all tokens at once */
    }
    assert_ok(ew_session_new(m, &opt, &s, err));
    return s;
}

/* Logits of all positions (an encoder: hidden states), step tokens at a time.
 */
static void evaluate(const family *f, ew_session *s, float *ret, size_t step)
{
    if ((f->flags & ENCODER) != 0) {
        assert_ok(ew_session_encode(s, ids_of(f), N, EW_POOLING_NONE, ret, err));
        return;
    }
    for (size_t i = 0; i < N; i += step) {
        assert_ok(ew_session_eval_all(s, ids_of(f) + i, EW_MIN(step, N - i), ret + i * V, err));
    }
}

static void check(const family *f, const ew_model *m, const float *want, const char *what)
{
    float got[N * MAX_C];
    ew_pool *pool = NULL;
    assert_ok(ew_pool_new(2, &pool, err));
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        ew_session *s = session(f, m, (ew_session_opt){.n_batch = 10, .exec = {ew_kern_at(i), i > 0 ? pool : NULL}});
        evaluate(f, s, got, N);
        ew_session_free(&s);
        double e = rel(got, want, N * width_of(f, m));
        if (!(e <= BOUND)) {
            ew_pool_free(&pool);
            fail_msg("%s, %s with %s: %g > %g", f->name, what, ew_kern_name(ew_kern_at(i)), e, BOUND);
        }
    }
    ew_pool_free(&pool);
}

static ew_model *open_hf(const family *f)
{
    char path[512];
    ew_model *m = NULL;
    (void)snprintf(path, sizeof(path), DIR "%s/hf", f->name);
    assert_ok(ew_model_open(path, NULL, &m, err));
    return m;
}

static void the_directory_matches_transformers(void **state)
{
    const family *f = *state;
    float want[N * MAX_C];
    EW_AUTO(ew_model) m = open_hf(f);
    read_floats(f, "logits", want, N * width_of(f, m));
    check(f, m, want, "directory");
}

static void the_converted_gguf_matches_transformers(void **state)
{
    const family *f = *state;
    char path[512];
    float want[N * MAX_C];
    EW_AUTO(ew_model) m = NULL;
    (void)snprintf(path, sizeof(path), DIR "%s/model.gguf", f->name);
    assert_ok(ew_model_open(path, NULL, &m, err));
    read_floats(f, (f->flags & NO_WINDOW) != 0 ? "logits-nowindow" : "logits", want, N * width_of(f, m));
    check(f, m, want, "GGUF");
}

/* Means of the hidden states; pooling is known where the directory says so. */
static void an_encoder_pools(void **state)
{
    const family *f = *state;
    float want[MAX_C];
    float got[MAX_C];
    float hidden[N * MAX_C];
    EW_AUTO(ew_model) m = open_hf(f);
    const ew_model_config *c = ew_model_config_of(m);
    read_floats(f, "mean", want, c->C);
    read_floats(f, "logits", hidden, (size_t)N * c->C);
    assert_int_equal(c->pooling, strcmp(f->name, "minilm") == 0 ? EW_POOLING_MEAN : EW_POOLING_NONE);
    ew_session *s = session(f, m, (ew_session_opt){0});
    assert_ok(ew_session_encode(s, ids_of(f), N, EW_POOLING_MEAN, got, err));
    assert_true(rel(got, want, c->C) <= BOUND);
    assert_ok(ew_session_encode(s, ids_of(f), N, EW_POOLING_CLS, got, err));
    assert_true(rel(got, hidden, c->C) <= BOUND);
    assert_ok(ew_session_encode(s, ids_of(f), N, EW_POOLING_LAST, got, err));
    assert_true(rel(got, hidden + (size_t)(N - 1) * c->C, c->C) <= BOUND);
    ew_session_free(&s);
}

/* What we write reads as the directory did. */
static void our_gguf_matches_transformers(void **state)
{
    const family *f = *state;
    char path[2 * EW_PATH_MAX];
    float want[N * MAX_C];
    EW_AUTO(ew_model) hf = open_hf(f);
    (void)snprintf(path, sizeof(path), "%s/%s.gguf", tmp, f->name);
    if ((f->flags & NO_SAVE) != 0) {
        ew_error e = EW_ERROR_INIT;
        assert_int_equal(ew_model_save_gguf(hf, path, NULL, &e), EW_EUNSUPPORTED);
        assert_false(ew_file_exists(path));
        return;
    }
    EW_AUTO(ew_model) m = NULL;
    assert_ok(ew_model_save_gguf(hf, path, NULL, err));
    assert_ok(ew_model_open(path, NULL, &m, err));
    read_floats(f, "logits", want, N * width_of(f, m));
    check(f, m, want, "our GGUF");
    assert_string_equal(ew_model_config_of(m)->arch, ew_model_config_of(hf)->arch);
    assert_int_equal(ew_model_config_of(m)->window, ew_model_config_of(hf)->window);
}

/* Layers in two sessions, joined after every possible layer: the same bits. */
static void segments_compose_to_the_same_bits(void **state)
{
    const family *f = *state;
    float whole[N * MAX_C];
    float parts[N * MAX_C];
    EW_AUTO(ew_model) m = open_hf(f);
    const ew_model_config *c = ew_model_config_of(m);
    const ew_exec ref = {ew_kern_get("ref"), NULL};
    ew_session *s = session(f, m, (ew_session_opt){.exec = ref});
    assert_ok(ew_session_embed(s, ids_of(f), N, 0, whole, err));
    assert_ok(ew_session_run(s, 0, c->L, whole, N, 0, err));
    for (uint32_t k = 1; k < c->L; k++) {
        ew_session *a = session(f, m, (ew_session_opt){.exec = ref, .last_layer = k});
        ew_session *b = session(f, m, (ew_session_opt){.exec = ref, .first_layer = k, .last_layer = c->L});
        assert_ok(ew_session_embed(a, ids_of(f), N, 0, parts, err));
        assert_ok(ew_session_run(a, 0, k, parts, N, 0, err));
        assert_ok(ew_session_run(b, k, c->L, parts, N, 0, err));
        assert_memory_equal(whole, parts, N * c->C * sizeof(float));
        ew_session_free(&a);
        ew_session_free(&b);
    }
    ew_session_free(&s);
}

/* Token by token, in chunks, and after going back: windows and positions are
 * those of the whole. */
static void chunks_do_not_matter(void **state)
{
    const family *f = *state;
    float want[N * MAX_C];
    float got[N * MAX_C];
    EW_AUTO(ew_model) m = open_hf(f);
    read_floats(f, "logits", want, N * V);
    for (size_t i = 0; ew_kern_at(i) != NULL; i++) {
        ew_session *s = session(f, m, (ew_session_opt){.n_batch = 7, .exec = {ew_kern_at(i), NULL}});
        evaluate(f, s, got, 1);
        double one = rel(got, want, (size_t)N * V);
        ew_session_rewind(s, 5);
        assert_ok(ew_session_eval_all(s, ids_of(f) + 5, N - 5, got + (size_t)5 * V, err));
        double again = rel(got, want, (size_t)N * V);
        ew_session_free(&s);
        if (!(one <= BOUND && again <= BOUND)) {
            fail_msg("%s with %s: one by one %g, again %g > %g", f->name, ew_kern_name(ew_kern_at(i)), one, again,
                     BOUND);
        }
    }
}

/* The default cache: F16. Its rounding is 2^-11 of every key and value. */
static void an_f16_cache_stays_close(void **state)
{
    const family *f = *state;
    float want[N * MAX_C];
    float got[V];
    EW_AUTO(ew_model) m = open_hf(f);
    read_floats(f, "logits", want, N * V);
    ew_session *s = NULL;
    assert_ok(ew_session_new(m, &(ew_session_opt){.n_ctx = 48}, &s, err));
    assert_ok(ew_session_eval(s, ids_of(f), N, got, err));
    ew_session_free(&s);
    double e = rel(got, want + (size_t)(N - 1) * V, V);
    if (!(e <= 1e-2)) {
        fail_msg("%s: %g", f->name, e);
    }
}

/* OPT-350M projects its embedding and has its norms after the sums: refused
 * with what is missing. */
static void a_variant_that_is_missing_is_refused_by_name(void **state)
{
    (void)state;
    ew_error e = EW_ERROR_INIT;
    ew_model *m = NULL;
    assert_int_equal(ew_model_open(DIR "opt-350m/hf", NULL, &m, &e), EW_EUNSUPPORTED);
    assert_null(m);
    assert_non_null(strstr(e.msg, "word_embed_proj_dim"));
}

int main(void)
{
    static const struct {
        const char *name;
        CMUnitTestFunction fn;
    } props[] = {
        {"the directory matches transformers", the_directory_matches_transformers},
        {"the converted GGUF matches transformers", the_converted_gguf_matches_transformers},
        {"our GGUF matches transformers", our_gguf_matches_transformers},
        {"segments compose to the same bits", segments_compose_to_the_same_bits},
        {"chunks do not matter", chunks_do_not_matter},
        {"an F16 cache stays close", an_f16_cache_stays_close},
        {"an encoder pools", an_encoder_pools},
    };
    enum {
        N_PROPS = sizeof(props) / sizeof(props[0])
    };
    static struct CMUnitTest tests[N_FAMILIES * N_PROPS + 1];
    static char names[N_FAMILIES * N_PROPS][96];
    size_t n = 0;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        for (size_t k = 0; k < N_PROPS; k++) {
            bool encoder = (families[i].flags & ENCODER) != 0;
            if ((!encoder && props[k].fn == an_encoder_pools) ||
                (encoder && (props[k].fn == chunks_do_not_matter || props[k].fn == an_f16_cache_stays_close)) ||
                ((families[i].flags & NO_GGUF) != 0 && props[k].fn == the_converted_gguf_matches_transformers)) {
                continue;
            }
            (void)snprintf(names[n], sizeof(names[n]), "%s: %s", families[i].name, props[k].name);
            tests[n] = (struct CMUnitTest){
                .name = names[n], .test_func = props[k].fn, .initial_state = (void *)(uintptr_t)&families[i]};
            n++;
        }
    }
    tests[n] = (struct CMUnitTest)cmocka_unit_test(a_variant_that_is_missing_is_refused_by_name);
    return _cmocka_run_group_tests("families", tests, n + 1, setup, teardown);
}
