/* What the agent makes of a prompt before anything was learnt: a turn in the model's own format where it has one. ctest: TIMEOUT=120 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "test.h"

#include "agentd/agent.h"
#include "agentd/home.h"
#include "base/mem.h"
#include "base/str.h"
#include "chat/chat.h"
#include "kern/kern.h"
#include "model/model.h"
#include "record/record.h"
#include "sys/file.h"
#include "task/item.h"
#include "text/json.h"
#include "token/vocab.h"

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

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_is_a_turn_of_the_models_template),
        cmocka_unit_test(a_raw_prompt_has_no_template),
        cmocka_unit_test(a_model_without_template_keeps_the_tasks_format),
        cmocka_unit_test(a_template_that_is_not_known_is_named_with_a_way_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
