/* Perplexity as llama.cpp's tool has it (README.md of this directory): chunks of n_ctx ids, each with an empty cache and its first id replaced by
 * BOS; the second half scored. */
#include "../../unit/model/tiny.h"

#include "model/session.h"
#include "sys/file.h"

#define DIR EW_TEST_SOURCE_DIR "/tests/golden/model/"
#define V 64

/* F16 cache here, hence 1e-3. llama-perplexity -m llama32-f32.gguf -f toy.txt -c n_ctx -fa off -ctk f32 -ctv f32 */
static const struct {
    uint32_t n_ctx;
    size_t n_chunks;
    double after[4]; /* running figure after 1, 2, 10 and 25 chunks */
    double ppl, error;
} goldens[] = {
    {64, 25, {505.3655, 463.1291, 498.1325, 556.9457}, 556.9457, 44.73305},
    {32, 50, {872.0483, 816.7456, 715.9883, 613.4456}, 623.5736, 54.37750},
};

static double nll_of(const float *logits, int32_t id)
{
    float max = logits[0];
    double sum = 0;
    for (int i = 1; i < V; i++) {
        max = fmaxf(max, logits[i]);
    }
    for (int i = 0; i < V; i++) {
        sum += exp((double)logits[i] - (double)max);
    }
    return log(sum) - ((double)logits[id] - (double)max);
}

static void close_to(double got, double want)
{
    if (!(fabs(got - want) <= 1e-3 * want)) {
        fail_msg("%.4f instead of %.4f", got, want);
    }
}

static void perplexity_is_llama_cpps(void **state)
{
    (void)state;
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO_BUF text = {0};
    EW_AUTO_TOKENS ids = {0};
    assert_ok(ew_model_open(DIR "llama32-f32.gguf", NULL, &m, err));
    assert_ok(ew_file_read(DIR "toy.txt", 65536, &text, err));
    assert_ok(ew_tokenizer_encode(ew_model_tokenizer(m), text.data, text.size - 1, EW_ENCODE_BOS, &ids, err));
    for (size_t g = 0; g < sizeof(goldens) / sizeof(goldens[0]); g++) {
        const uint32_t n_ctx = goldens[g].n_ctx;
        float logits[64 * V];
        double sum = 0;
        double squares = 0;
        size_t n = 0;
        assert_int_equal(ids.n / n_ctx, goldens[g].n_chunks);
        ew_session *s = NULL;
        assert_ok(ew_session_new(m, &(ew_session_opt){.n_ctx = n_ctx}, &s, err));
        for (size_t i = 0; i < goldens[g].n_chunks; i++) {
            int32_t chunk[64];
            memcpy(chunk, ids.id + i * n_ctx, n_ctx * sizeof(int32_t));
            chunk[0] = 1;
            ew_session_reset(s);
            assert_ok(ew_session_eval_all(s, chunk, n_ctx, logits, err));
            for (uint32_t k = n_ctx / 2; k + 1 < n_ctx; k++, n++) {
                double nll = nll_of(logits + (size_t)k * V, chunk[k + 1]);
                sum += nll;
                squares += nll * nll;
            }
            const size_t at[] = {1, 2, 10, 25};
            for (int k = 0; k < 4; k++) {
                if (i + 1 == at[k]) {
                    close_to(exp(sum / (double)n), goldens[g].after[k]);
                }
            }
        }
        ew_session_free(&s);
        double mean = sum / (double)n;
        close_to(exp(mean), goldens[g].ppl);
        close_to(exp(mean) * sqrt((squares / (double)n - mean * mean) / (double)(n - 1)), goldens[g].error);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(perplexity_is_llama_cpps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
