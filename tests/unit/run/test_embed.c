/* Vectors of texts, and prompts that retrieve by them. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "test.h"

#include "base/mem.h"
#include "kern/kern.h"
#include "model/model.h"
#include "model/session.h"
#include "model/weights.h"
#include "run/embed.h"
#include "run/prompter.h"
#include "sys/file.h"
#include "task/item.h"
#include "task/task.h"
#include "token/vocab.h"

#include "toy.h"

static const toy_shape shape = TOY_SHAPE_SMALL;

static ew_model *toy_model(void)
{
    ew_error err = EW_ERROR_INIT;
    ew_model *m = NULL;
    const char *path = ew_test_path("toy.gguf");
    if (!ew_file_exists(path)) {
        assert_ok(toy_save(path, &shape, "F16", 1, &err), &err);
    }
    assert_ok(ew_model_open(path, NULL, &m, &err), &err);
    return m;
}

static double cosine(const float *a, const float *b, size_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab / sqrt(aa * bb);
}

/* The output matrix is linear: applied to the mean of the hidden states it gives the mean of the logits. */
static void a_decoders_vector_is_the_mean_of_its_normed_states(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_model *m = toy_model();
    EW_AUTO(ew_embedder) e = NULL;
    EW_AUTO(ew_session) s = NULL;
    EW_AUTO_TOKENS ids = {0};
    const char *text = "kalo mitersan: duvel po ringa";
    assert_ok(ew_embedder_new(m, NULL, &e, &err), &err);
    assert_ok(ew_session_new(m, &(ew_session_opt){.kv_type = EW_KV_F32}, &s, &err), &err);
    size_t V = ew_model_config_of(m)->V, C = ew_model_config_of(m)->C;
    assert_int_equal(ew_embedder_dim(e), C);
    assert_ok(ew_tokenizer_encode(ew_model_tokenizer(m), text, strlen(text), EW_ENCODE_BOS, &ids, &err), &err);
    float *logits = ew_xcalloc(ids.n * V, sizeof(float)), *mean = ew_xcalloc(V, sizeof(float));
    float *v = ew_xcalloc(C, sizeof(float)), *out = ew_xcalloc(V, sizeof(float));
    assert_ok(ew_session_eval_all(s, ids.id, ids.n, logits, &err), &err);
    for (size_t i = 0; i < ids.n * V; i++) {
        mean[i % V] += logits[i] / (float)ids.n;
    }
    assert_ok(ew_embed_text(e, text, strlen(text), v, &err), &err);
    const ew_exec exec = {.kern = ew_kern_get("ref")};
    ew_matmul_f32(&exec, ew_model_output(m), v, 1, out, false);
    assert_true(cosine(out, mean, V) > 0.9999);
    double length = 0;
    for (size_t i = 0; i < C; i++) {
        length += (double)v[i] * (double)v[i];
    }
    assert_true(fabs(length - 1) < 1e-5);
    ew_free(logits);
    ew_free(mean);
    ew_free(v);
    ew_free(out);
    ew_model_unref(&m);
}

static void texts_do_not_depend_on_each_other(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_model *m = toy_model();
    EW_AUTO(ew_embedder) e = NULL;
    assert_ok(ew_embedder_new(m, &(ew_embed_opt){.max_tok = 16}, &e, &err), &err);
    char text[3000] = "";
    for (size_t i = 0; i + 8 < sizeof(text); i += 5) {
        memcpy(text + i, "kalo \xC3\xA9", i % 500 == 0 ? 8 : 6);
    }
    const char *const list[] = {"po ringa", text, "po ringa"};
    float v[3][64], alone[64];
    assert_ok(ew_embed_texts(e, list, 3, NULL, v[0], &err), &err);
    assert_memory_equal(v[0], v[2], sizeof(v[0]));
    assert_ok(ew_embed_text(e, text, strlen(text), alone, &err), &err);
    assert_memory_equal(v[1], alone, sizeof(alone));
    assert_true(cosine(v[0], v[1], 64) < 0.9999);
    assert_fails(EW_EINVAL, ew_embed_text(e, "", 0, alone, &err), &err, "empty");
    ew_model_unref(&m);
}

/* What is retrieved by all three rankings: only earlier items, and the very item by its own words. */
static void fused_prompts_show_earlier_items_alone(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_model *m = toy_model();
    EW_AUTO(ew_embedder) e = NULL;
    EW_AUTO_ITEMS items = {0};
    assert_ok(ew_embedder_new(m, NULL, &e, &err), &err);
    assert_ok(toy_items(30, 6, 5, false, 7, &items), &err);
    ew_prompter_opt o = {.task = ew_task_find("debian-section"),
                         .tokenizer = ew_model_tokenizer(m),
                         .rag_k = 2,
                         .rag_fuse = EW_RAG_BM25 | EW_RAG_RECENCY | EW_RAG_VECTOR};
    EW_AUTO(ew_prompter) p = NULL;
    assert_fails(EW_EINVAL, ew_prompter_new(&o, items.item, items.n, &p, &err), &err, "vectors");
    o.embedder = e;
    assert_ok(ew_prompter_new(&o, items.item, items.n, &p, &err), &err);
    for (size_t i = 0; i < items.n; i++) {
        EW_AUTO_TOKENS ids = {0};
        EW_AUTO_TOKENS again = {0};
        EW_AUTO_BUF text = {0};
        EW_AUTO(ew_prompter) past = NULL;
        assert_ok(ew_prompter_prompt(p, items.item[i].input, items.item[i].order, &ids, &err), &err);
        assert_ok(ew_tokenizer_decode(ew_model_tokenizer(m), ids.id, ids.n, 0, &text, &err), &err);
        for (size_t k = i + 1; k < items.n; k++) {
            assert_null(strstr(ew_buf_str(&text), items.item[k].input));
        }
        /* The same prompt from an index that never held the later ones. */
        assert_ok(ew_prompter_new(&o, items.item, i, &past, &err), &err);
        assert_ok(ew_prompter_prompt(past, items.item[i].input, items.item[i].order, &again, &err), &err);
        assert_int_equal(again.n, ids.n);
        assert_memory_equal(again.id, ids.id, ids.n * sizeof(*ids.id));
    }
    ew_model_unref(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_decoders_vector_is_the_mean_of_its_normed_states),
        cmocka_unit_test(texts_do_not_depend_on_each_other),
        cmocka_unit_test(fused_prompts_show_earlier_items_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
