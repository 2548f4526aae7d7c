/* What the agent makes of a prompt before anything was learnt: a turn in the model's own format where it has one. ctest: TIMEOUT=120 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "test.h"

#include "agentd/agent.h"
#include "agentd/agent_int.h"
#include "agentd/home.h"
#include "agentd/served.h"
#include "base/mem.h"
#include "base/str.h"
#include "chat/chat.h"
#include "kern/kern.h"
#include "model/model.h"
#include "record/record.h"
#include "run/embed.h"
#include "run/prompter.h"
#include "sys/file.h"
#include "task/item.h"
#include "task/task.h"
#include "text/json.h"
#include "token/vocab.h"
#include "vault/vault.h"

#include "toy.h"

static const char turns[] = "{{ bos_token }}{% for m in messages %}{{ '[' + m.role + '] ' + m.content + eos_token }}{% "
                            "endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}";

/* An enrolled directory, probed before, that holds one model. */
static void make_home(const char *dir, const char *template_text, char path[static EW_HOME_PATH_MAX])
{
    static const toy_shape shape = TOY_SHAPE_SMALL;
    const uint8_t sha256[EW_SHA256_BYTES] = {1, 2, 3};
    ew_home h;
    ew_error err = EW_ERROR_INIT;
    json_t *caps = NULL;
    EW_AUTO(ew_vocab) v = NULL;
    char artifacts[EW_HOME_PATH_MAX];
    assert_ok(ew_home_init(dir, &h, &err), &err);
    (void)ew_str_copy(h.device_id, sizeof(h.device_id), "dev-1");
    (void)ew_str_copy(h.trust_domain, sizeof(h.trust_domain), "example");
    assert_ok(ew_home_save(&h, &err), &err);
    ew_device_caps *c = ew_xcalloc(1, sizeof(*c));
    assert_ok(ew_record_from_caps(c, &caps, &err), &err);
    ew_free(c);
    json_t *j = json_pack("{s:s,s:i,s:o}", "software", "agent test", "threads", 1, "caps", caps);
    assert_ok(ew_home_write_json(&h, "caps.json", j, &err), &err);
    json_decref(j);
    assert_ok(toy_vocab(shape.V, &v, &err), &err);
    if (template_text != NULL) {
        assert_ok(ew_vocab_set_chat_template(v, template_text, strlen(template_text), &err), &err);
    }
    if (ew_dir_make(ew_home_path(&h, "artifacts", artifacts), 0700, &err) != EW_OK) {
        assert_true(ew_file_exists(artifacts));
    }
    assert_ok(toy_save_vocab(ew_home_model_path(&h, sha256, path), &shape, "F32", 1, v, &err), &err);
}

static ew_status ask(const char *name, const char *template_text, const char *prompt, bool raw, json_int_t *prompt_tok,
                     size_t *want_tok, ew_error *err)
{
    ew_agent *a = NULL;
    EW_AUTO_JSON stats = NULL;
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO_TOKENS ids = {0};
    char path[EW_HOME_PATH_MAX];
    char runtime[512];
    const ew_chat_message turn = {.role = "user", .content = prompt};
    const ew_chat_render_opt render = {.add_generation_prompt = true};
    const char *dir = ew_test_path(name);
    make_home(dir, template_text, path);
    const ew_agent_opt opt = {
        .dir = dir, .self = "/bin/false", .software = "agent test", .kern = "ref", .n_threads = 1};
    const ew_chat_opt chat = {.prompt = prompt, .raw = raw, .max_tok = 2};
    assert_ok(ew_agent_open(&opt, NULL, &a, err), err);
    (void)ew_str_copy(runtime, sizeof(runtime), ew_agent_home(a)->runtime);
    ew_status st = ew_agent_chat(a, &chat, NULL, NULL, &stats, err);
    ew_agent_free(&a);
    assert_ok(ew_dir_remove_tree(runtime, err), err);
    EW_TRY(st);
    *prompt_tok = json_integer_value(json_object_get(stats, "prompt_tok"));
    assert_ok(ew_model_open(path, NULL, &m, err), err);
    if (raw) {
        assert_ok(ew_tokenizer_encode(ew_model_tokenizer(m), prompt, strlen(prompt), EW_ENCODE_BOS, &ids, err), err);
    } else if (template_text != NULL) {
        assert_ok(ew_chat_prompt(ew_model_tokenizer(m), template_text, &turn, 1, &render, &ids, err), err);
    }
    *want_tok = ids.n;
    return EW_OK;
}

static void a_prompt_is_a_turn_of_the_models_template(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    json_int_t got = 0;
    json_int_t spelled = 0;
    size_t want = 0;
    assert_ok(ask("turn", turns, "text: kalo", false, &got, &want, &err), &err);
    assert_int_equal(got, want);
    /* What looks like a control piece stays text: more than one id. */
    assert_ok(ask("spelled", turns, "text: kalo<|endoftext|>", false, &spelled, &want, &err), &err);
    assert_int_equal(spelled, want);
    assert_true(spelled > got + 1);
}

static void a_raw_prompt_has_no_template(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    json_int_t got = 0;
    size_t want = 0;
    assert_ok(ask("raw", turns, "text: kalo", true, &got, &want, &err), &err);
    assert_int_equal(got, want);
}

static void a_model_without_template_keeps_the_tasks_format(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    json_int_t got = 0;
    size_t want = 0;
    assert_ok(ask("house", NULL, "text: kalo", false, &got, &want, &err), &err);
    assert_true(got > 3);
}

static void a_template_that_is_not_known_is_named_with_a_way_out(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    json_int_t got = 0;
    size_t want = 0;
    assert_fails(EW_EUNSUPPORTED, ask("bad", "{% include 'x' %}", "hello", false, &got, &want, &err), &err, "include");
    assert_non_null(strstr(err.msg, "--raw"));
}

/* An agent over a profile with that ranking served. */
static ew_agent *open_ranked(const char *dir, uint32_t rag_rank, ew_items *items)
{
    ew_error err = EW_ERROR_INIT;
    ew_home h;
    ew_vault *v = NULL;
    ew_agent *a = NULL;
    ew_vault_import_result imported;
    char path[EW_HOME_PATH_MAX];
    const uint8_t sha256[EW_SHA256_BYTES] = {1, 2, 3};
    ew_served s = {.rag_k = 2, .rag_rank = rag_rank, .task = "custom", .method = "rag"};
    ew_hex_encode(sha256, sizeof(sha256), s.model);
    if (!ew_file_exists(dir)) {
        make_home(dir, NULL, path);
    }
    assert_ok(ew_home_init(dir, &h, &err), &err);
    assert_ok(ew_home_vault(&h, NULL, &v, &err), &err);
    assert_ok(ew_vault_add_items(v, items, &imported, &err), &err);
    ew_items_release(items);
    *items = (ew_items){0};
    assert_ok(ew_vault_items(v, items, &err), &err);
    ew_vault_free(&v);
    assert_ok(ew_served_put(&h, &s, &err), &err);
    const ew_agent_opt opt = {
        .dir = dir, .self = "/bin/false", .software = "agent test", .kern = "ref", .n_threads = 1};
    assert_ok(ew_agent_open(&opt, NULL, &a, &err), &err);
    return a;
}

/* Tokens of the prompt that a prompter makes of the same items, and how many vectors the vault has. */
static size_t want_prompt(const char *dir, uint32_t rag_rank, const ew_items *items, const char *prompt,
                          size_t *n_vectors)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO(ew_embedder) e = NULL;
    EW_AUTO(ew_prompter) p = NULL;
    EW_AUTO(ew_task) task = NULL;
    EW_AUTO_TOKENS ids = {0};
    ew_home h;
    ew_vault *v = NULL;
    char path[EW_HOME_PATH_MAX];
    const uint8_t sha256[EW_SHA256_BYTES] = {1, 2, 3};
    assert_ok(ew_home_init(dir, &h, &err), &err);
    assert_ok(ew_model_open(ew_home_model_path(&h, sha256, path), NULL, &m, &err), &err);
    assert_ok(ew_task_new("custom", items->item, items->n, &task, &err), &err);
    assert_ok(ew_embedder_new(m, &(ew_embed_opt){.exec = {.kern = ew_kern_get("ref")}}, &e, &err), &err);
    const ew_prompter_opt opt = {.task = task,
                                 .tokenizer = ew_model_tokenizer(m),
                                 .rag_k = 2,
                                 .rag_fuse = ew_prompter_fuse(rag_rank),
                                 .seq_max_tok = EW_MIN(512u, ew_model_config_of(m)->n_ctx_train),
                                 .embedder = e};
    assert_ok(ew_prompter_new(&opt, items->item, items->n, &p, &err), &err);
    assert_ok(ew_prompter_prompt(p, prompt, UINT64_MAX, &ids, &err), &err);
    assert_ok(ew_home_vault(&h, NULL, &v, &err), &err);
    assert_ok(ew_vault_vector_count(v, n_vectors, &err), &err);
    ew_vault_free(&v);
    return ids.n;
}

/* Every item has another length, so that the number of tokens tells which ones were retrieved. */
static void an_answer_retrieves_by_the_ranking_that_is_served(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *dir = ew_test_path("ranked");
    const char *prompt = "kalo";
    json_int_t tokens[EW_RAG_RANK_COUNT];
    EW_AUTO_ITEMS items = {0};
    char text[64];
    EW_AUTO_BUF lines = {0};
    for (int i = 0; i < 12; i++) {
        (void)snprintf(text, sizeof(text), "%s%.*s", i < 4 ? "kalo " : "", i + 1, "mitersanduvelporinga");
        ew_buf_addf(&lines, "{\"id\":\"i%d\",\"input\":\"%s\",\"output\":\"o%d\"}\n", i, text, i);
    }
    assert_ok(ew_items_read_mem("x", lines.data, lines.size, &items, &err), &err);
    for (uint32_t rank = 0; rank < EW_RAG_RANK_COUNT; rank++) {
        ew_agent *a = open_ranked(dir, rank, &items);
        for (int again = 0; again < 2; again++) {
            json_t *stats = NULL;
            size_t n_vectors = 0;
            const ew_chat_opt chat = {.prompt = prompt, .max_tok = 2};
            assert_ok(ew_agent_chat(a, &chat, NULL, NULL, &stats, &err), &err);
            const json_t *missing = json_object_get(stats, "vectors_missing");
            assert_int_equal(missing != NULL, ew_prompter_embeds(rank));
            assert_int_equal(json_integer_value(missing), 0);
            tokens[rank] = json_integer_value(json_object_get(stats, "prompt_tok"));
            assert_int_equal(tokens[rank], want_prompt(dir, rank, &items, prompt, &n_vectors));
            assert_int_equal(n_vectors, rank >= EW_RAG_RANK_VECTORS ? items.n : 0);
            json_decref(stats);
        }
        char runtime[512];
        (void)ew_str_copy(runtime, sizeof(runtime), ew_agent_home(a)->runtime);
        ew_agent_free(&a);
        assert_ok(ew_dir_remove_tree(runtime, &err), &err);
    }
    assert_int_not_equal(tokens[EW_RAG_RANK_BM25], tokens[EW_RAG_RANK_RECENCY]);
    assert_int_not_equal(tokens[EW_RAG_RANK_BM25], tokens[EW_RAG_RANK_FUSED]);
}

/* What a learning does before it serves, and what an answer does that has no time. */
static void vectors_are_made_ahead_and_what_is_late_waits(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *dir = ew_test_path("ahead");
    EW_AUTO_ITEMS items = {0};
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO(ew_embedder) e = NULL;
    char path[EW_HOME_PATH_MAX];
    char runtime[512];
    float vector[64];
    bool has = true;
    size_t n = 0;
    static const char lines[] = "{\"input\":\"kalo\",\"output\":\"a\"}\n{\"input\":\"duvel\",\"output\":\"b\"}\n";
    assert_ok(ew_items_read_mem("x", lines, strlen(lines), &items, &err), &err);
    ew_agent *a = open_ranked(dir, EW_RAG_RANK_FUSED, &items);
    const uint8_t sha256[EW_SHA256_BYTES] = {1, 2, 3};
    assert_ok(ew_model_open(ew_home_model_path(ew_agent_home(a), sha256, path), NULL, &m, &err), &err);
    assert_ok(ew_embedder_new(m, &(ew_embed_opt){.exec = {.kern = ew_kern_get("ref")}}, &e, &err), &err);
    ew__vectors late = ew__agent_vectors(a, &items, e, "abc", ew_task_find("debian-section"), 0);
    assert_ok(ew__agent_vector_of(&late, 0, (ew_span){"kalo", 4}, vector, &has, &err), &err);
    assert_true(!has && late.n_missing == 1 && late.n_made == 0);
    ew__agent_vectors_fill(a, path, "abc", "debian-section", &items, NULL);
    assert_ok(ew_vault_vector_count(a->vault, &n, &err), &err);
    assert_int_equal(n, items.n);
    /* Now it is there in no time. */
    assert_ok(ew__agent_vector_of(&late, 0, (ew_span){"kalo", 4}, vector, &has, &err), &err);
    assert_true(has && late.n_made == 0);
    const ew_vault_match all = {.all = true};
    ew_vault_forget_result gone;
    assert_ok(ew_vault_forget(a->vault, &all, &gone, &err), &err);
    assert_ok(ew_vault_vector_count(a->vault, &n, &err), &err);
    assert_int_equal(n, 0);
    /* Forgotten while it was made: not kept. */
    late.until_mono_ms = UINT64_MAX;
    assert_ok(ew__agent_vector_of(&late, 0, (ew_span){"kalo", 4}, vector, &has, &err), &err);
    assert_ok(ew_vault_vector_count(a->vault, &n, &err), &err);
    assert_int_equal(n, 0);
    (void)ew_str_copy(runtime, sizeof(runtime), ew_agent_home(a)->runtime);
    ew_agent_free(&a);
    assert_ok(ew_dir_remove_tree(runtime, &err), &err);
}

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_is_a_turn_of_the_models_template),
        cmocka_unit_test(a_raw_prompt_has_no_template),
        cmocka_unit_test(a_model_without_template_keeps_the_tasks_format),
        cmocka_unit_test(an_answer_retrieves_by_the_ranking_that_is_served),
        cmocka_unit_test(vectors_are_made_ahead_and_what_is_late_waits),
        cmocka_unit_test(a_template_that_is_not_known_is_named_with_a_way_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
