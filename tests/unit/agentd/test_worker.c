/* Trials in a process of their own: results, failures as results, stops, kills. ctest: TIMEOUT=180 */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test.h"

#include "agentd/worker.h"
#include "base/mem.h"
#include "base/str.h"
#include "kern/kern.h"
#include "model/model.h"
#include "sys/file.h"
#include "task/item.h"
#include "token/vocab.h"

#include "toy.h"

static char self[1024];
static const char *model;

static int find_agent(void **state)
{
    static const toy_shape shape = TOY_SHAPE_SMALL;
    ew_error err = EW_ERROR_INIT;
    const char *bin = getenv("EW_BIN_DIR");
    (void)state;
    (void)signal(SIGPIPE, SIG_IGN);
    (void)snprintf(self, sizeof(self), "%s/edgewise-agent", bin != NULL ? bin : "");
    if (access(self, X_OK) != 0) {
        self[0] = '\0';
        return 0;
    }
    static char path[1024];
    (void)snprintf(path, sizeof(path), "%s", ew_test_path("worker.gguf"));
    assert_ok(toy_save(path, &shape, "Q8_0", 1, &err), &err);
    model = path;
    return 0;
}

#define NEEDS_AGENT()                                                                                                  \
    do {                                                                                                               \
        if (self[0] == '\0') {                                                                                         \
            skip();                                                                                                    \
        }                                                                                                              \
    } while (0)

static ew_trial_spec spec(ew_method method)
{
    ew_trial_spec s = {.method = method, .seed = 3, .fence = 4, .settings = {.epochs = 2}};
    s.id[0] = 0xcd;
    (void)ew_str_copy(s.task, sizeof(s.task), "debian-section");
    (void)ew_str_copy(s.source, sizeof(s.source), "profile");
    (void)ew_str_copy(s.variant, sizeof(s.variant), "q8_0");
    return s;
}

static void items_of(ew_items *items, size_t n)
{
    ew_error err = EW_ERROR_INIT;
    assert_ok(toy_items(n, 8, 5, false, 5, items), &err);
}

static void a_worker_gives_the_result_of_the_trial_and_its_adapter(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    ew_worker_outcome out = {0};
    atomic_ullong ram = 0;
    const ew_trial_spec s = spec(EW_METHOD_LORA);
    (void)state;
    NEEDS_AGENT();
    items_of(&items, 25);
    const ew_worker_job job = {.spec = &s,
                               .model_path = model,
                               .items = &items,
                               .work_dir = ew_test_tmpdir(),
                               .adapter_path = ew_test_path("adapter.gguf"),
                               .n_threads = 1,
                               .ram_bytes = &ram};
    assert_ok(ew_worker_run(self, &job, NULL, &out, &err), &err);
    assert_int_equal(out.result->code, EW_OK);
    assert_true(out.result->fence == 4 && out.result->id[0] == 0xcd);
    assert_true(isfinite(ew_trial_result_mean(out.result, "test.nll")) && out.has_adapter);
    assert_true(ew_file_exists(ew_test_path("adapter.gguf")));
    assert_true((double)atomic_load(&ram) == ew_trial_result_mean(out.result, "ram.predicted_bytes"));
    ew_free(out.result);
    /* The same through a file of items. */
    EW_AUTO_BUF lines = {0};
    for (size_t i = 0; i < items.n; i++) {
        ew_item_write(&items.item[i], &lines);
    }
    ew_worker_job from_file = job;
    from_file.items = NULL;
    from_file.items_path = ew_test_file("items.jsonl", lines.data, lines.size);
    ew_worker_outcome again = {0};
    assert_ok(ew_worker_run(self, &from_file, NULL, &again, &err), &err);
    assert_true(isfinite(ew_trial_result_mean(again.result, "test.nll")));
    ew_free(again.result);
}

static void an_update_is_scored_against_what_is_served_and_on_old_items(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    ew_worker_outcome first = {0};
    ew_worker_outcome second = {0};
    const ew_trial_spec s = spec(EW_METHOD_LORA);
    (void)state;
    NEEDS_AGENT();
    items_of(&items, 60);
    size_t n = items.n;
    items.n = 40; /* the profile as it was */
    ew_yield y;
    ew_yield_init(&y);
    ew_worker_job job = {.spec = &s,
                         .model_path = model,
                         .items = &items,
                         .adapter_path = ew_test_path("first.gguf"),
                         .n_threads = 1,
                         .yield = &y};
    assert_ok(ew_worker_run(self, &job, NULL, &first, &err), &err);
    assert_true(first.has_adapter && first.beats_served);   /* nothing is served */
    assert_true(first.known_order == items.item[23].order); /* 60 % of 40 */
    assert_true(isnan(ew_trial_result_mean(first.result, "served.val.nll")));
    assert_true(strlen(first.stop_reason) > 0 && !first.diverged);
    items.n = n;
    job.adapter_path = ew_test_path("second.gguf");
    job.has_served = true;
    job.served_path = ew_test_path("first.gguf");
    job.known_order = first.known_order;
    job.update = true;
    job.replay = 0.25;
    assert_ok(ew_worker_run(self, &job, NULL, &second, &err), &err);
    assert_int_equal(second.result->code, EW_OK);
    const ew_trial_result *r = second.result;
    assert_true(ew_trial_result_mean(r, "n.new") == 12);      /* 60 % of 60, less the 24 known */
    assert_true(ew_trial_result_mean(r, "n.replayed") == 16); /* at least so many, all but the witnesses */
    assert_true(ew_trial_result_mean(r, "n.old") == 8);       /* a third of 24 */
    static const char *const names[] = {"served.val.nll", "served.val.score", "old.before.nll", "old.after.nll"};
    for (size_t i = 0; i < EW_COUNT(names); i++) {
        assert_true(isfinite(ew_trial_result_mean(r, names[i])));
    }
    double served = ew_trial_result_mean(r, "served.val.nll");
    assert_true(!second.beats_served || ew_trial_result_mean(r, "val.nll") < served);
    /* Another base's adapter is refused with words, and the trial is told. */
    ew_free(second.result);
    job.served_path = ew_test_text("bad.gguf", "no adapter");
    assert_ok(ew_worker_run(self, &job, NULL, &second, &err), &err);
    assert_int_equal(second.result->code, EW_ECORRUPT);
    assert_false(second.has_adapter);
    ew_free(first.result);
    ew_free(second.result);
    ew_yield_release(&y);
}

static void a_failed_trial_is_a_result_with_its_words(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    EW_AUTO_ITEMS few = {0};
    ew_worker_outcome out = {0};
    ew_trial_spec s = spec(EW_METHOD_LORA);
    (void)state;
    NEEDS_AGENT();
    items_of(&items, 25);
    items_of(&few, 3);
    ew_worker_job job = {.spec = &s, .model_path = model, .items = &few, .n_threads = 1};
    assert_ok(ew_worker_run(self, &job, NULL, &out, &err), &err);
    assert_int_equal(out.result->code, EW_ELIMIT);
    assert_non_null(strstr(out.result->detail, "too few"));
    assert_true(out.result->fence == 4);
    ew_free(out.result);
    job.items = &items;
    job.memory_limit_bytes = 1 << 20;
    assert_ok(ew_worker_run(self, &job, NULL, &out, &err), &err);
    assert_int_equal(out.result->code, EW_ELIMIT);
    assert_non_null(strstr(out.result->detail, "HINT: a limit of"));
    ew_free(out.result);
    job.memory_limit_bytes = 0;
    job.model_path = ew_test_text("no.gguf", "this is no model");
    assert_ok(ew_worker_run(self, &job, NULL, &out, &err), &err);
    assert_int_equal(out.result->code, EW_ECORRUPT);
    ew_free(out.result);
}

static void what_is_no_worker_gives_an_error(void **state)
{
    skip_emulated("qemu does not report that a program cannot be started");
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    ew_worker_outcome out = {0};
    const ew_trial_spec s = spec(EW_METHOD_NONE);
    (void)state;
    NEEDS_AGENT();
    items_of(&items, 25);
    ew_worker_job job = {.spec = &s, .model_path = model, .items = &items, .n_threads = 1};
    assert_fails(EW_ENOENT, ew_worker_run("/no/such/program", &job, NULL, &out, &err), &err, "/no/such/program");
    /* Whether they end before the job is written or after it. */
    assert_fails(EW_EINTERNAL, ew_worker_run("/bin/true", &job, NULL, &out, &err), &err, "status 0 and no result");
    assert_fails(EW_EINTERNAL, ew_worker_run("/bin/cat", &job, NULL, &out, &err), &err, "status 1 and no result");
    job.kern = "abacus";
    assert_fails(EW_EINTERNAL, ew_worker_run(self, &job, NULL, &out, &err), &err, "status 2");
    assert_null(out.result);
}

/* The only child of this process. */
static pid_t child_pid(void)
{
    char path[64];
    char text[64] = "";
    (void)snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
    FILE *f = fopen(path, "r");
    if (f != NULL) {
        size_t n = fread(text, 1, sizeof(text) - 1, f);
        text[n] = '\0';
        (void)fclose(f);
    }
    return (pid_t)strtol(text, NULL, 10);
}

typedef struct poke {
    const char *phase;
    uint64_t at; /* when done reaches this in the phase */
    int kill;    /* signal for the child; 0 = say stop */
    bool poked;
} poke;

static bool on_progress(const ew_progress_info *info, void *ctx)
{
    poke *p = ctx;
    if (p->poked || strcmp(info->phase, p->phase) != 0 || info->done < p->at) {
        return true;
    }
    p->poked = true;
    if (p->kill != 0) {
        pid_t pid = child_pid();
        assert_true(pid > 1);
        assert_int_equal(kill(pid, p->kill), 0);
        return true;
    }
    return false;
}

static ew_trial_spec long_spec(void)
{
    ew_trial_spec s = spec(EW_METHOD_LORA);
    s.settings.epochs = 200;
    s.settings.patience = 1000;
    s.settings.learning_rate = 1e-3;
    return s;
}

static void a_killed_child_is_told_with_its_signal(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    ew_worker_outcome out = {0};
    const ew_trial_spec s = long_spec();
    poke p = {.phase = "score", .kill = SIGKILL};
    (void)state;
    NEEDS_AGENT();
    items_of(&items, 60);
    const ew_worker_job job = {.spec = &s, .model_path = model, .items = &items, .n_threads = 1};
    assert_fails(EW_EINTERNAL, ew_worker_run(self, &job, &(ew_progress){.fn = on_progress, .ctx = &p}, &out, &err),
                 &err, "signal 9");
    assert_true(p.poked && out.result == NULL);
    assert_int_equal(child_pid(), 0);
    p = (poke){.phase = "score", .kill = SIGSEGV};
    assert_fails(EW_EINTERNAL, ew_worker_run(self, &job, &(ew_progress){.fn = on_progress, .ctx = &p}, &out, &err),
                 &err, "worker");
}

static void a_stopped_trial_is_cancelled_and_goes_on_later(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_ITEMS items = {0};
    ew_worker_outcome out = {0};
    ew_trial_spec s = long_spec();
    poke p = {.phase = "score"};
    (void)state;
    NEEDS_AGENT();
    items_of(&items, 60);
    ew_worker_job job = {
        .spec = &s, .model_path = model, .items = &items, .work_dir = ew_test_tmpdir(), .n_threads = 1};
    assert_fails(EW_ECANCELLED, ew_worker_run(self, &job, &(ew_progress){.fn = on_progress, .ctx = &p}, &out, &err),
                 &err, "stopped");
    assert_true(p.poked && out.result == NULL);
    p = (poke){.phase = "tune", .at = 1};
    assert_fails(EW_ECANCELLED, ew_worker_run(self, &job, &(ew_progress){.fn = on_progress, .ctx = &p}, &out, &err),
                 &err, "stopped");
    assert_true(ew_file_exists(ew_test_path("cd000000000000000000000000000000.tune")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_worker_gives_the_result_of_the_trial_and_its_adapter),
        cmocka_unit_test(an_update_is_scored_against_what_is_served_and_on_old_items),
        cmocka_unit_test(a_failed_trial_is_a_result_with_its_words),
        cmocka_unit_test(what_is_no_worker_gives_an_error),
        cmocka_unit_test(a_killed_child_is_told_with_its_signal),
        cmocka_unit_test(a_stopped_trial_is_cancelled_and_goes_on_later),
    };
    return cmocka_run_group_tests(tests, find_agent, NULL);
}
