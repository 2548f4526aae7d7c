/* What each method means to the trainer. */
#include <string.h>

#include "probe/learning.h"
#include "test.h"

static void every_training_method_resolves_to_an_adapter(void **state)
{
    (void)state;
    static const struct {
        ew_method method;
        ew_adapter_kind kind;
        ew_tune_rung rung;
    } want[] = {
        {EW_METHOD_LORA, EW_ADAPTER_LORA, EW_TUNE_RUNG_AUTO},
        {EW_METHOD_LORA_RAG, EW_ADAPTER_LORA, EW_TUNE_RUNG_AUTO},
        {EW_METHOD_PROMPT, EW_ADAPTER_PROMPT, EW_TUNE_RUNG_AUTO},
        {EW_METHOD_PREFIX, EW_ADAPTER_PREFIX, EW_TUNE_RUNG_AUTO},
        {EW_METHOD_IA3, EW_ADAPTER_IA3, EW_TUNE_RUNG_AUTO},
        {EW_METHOD_BOTTLENECK, EW_ADAPTER_BOTTLENECK, EW_TUNE_RUNG_AUTO},
        {EW_METHOD_FULL, EW_ADAPTER_FULL, EW_TUNE_RUNG_AUTO},
        {EW_METHOD_MEZO, EW_ADAPTER_LORA, EW_TUNE_RUNG_MEZO},
        {EW_METHOD_BLOCKWISE, EW_ADAPTER_LORA, EW_TUNE_RUNG_BLOCKWISE},
    };
    ew_error err = EW_ERROR_INIT;
    /* Settings of all methods at once, as the trials of a grid have them. */
    const ew_settings s = {
        .rank = 4, .alpha = 8, .dropout = 0.1, .n_virtual = 5, .width = 3, .exits = 2, .dora = 1, .optimizer_bits = 8};
    for (size_t i = 0; i < EW_COUNT(want); i++) {
        ew_learning l;
        ew_adapter_opt a;
        assert_ok(ew_learning_of(want[i].method, &s, false, 6, 7, &l, &err), &err);
        assert_int_equal(l.adapter.kind, want[i].kind);
        assert_int_equal(l.rung, want[i].rung);
        assert_true(l.lr > 0 && l.epochs > 0 && l.optimizer_8bit && l.adapter.seed == 7);
        assert_ok(ew_adapter_opt_resolve(&l.adapter, &a, &err), &err);
        assert_true(a.kind != EW_ADAPTER_LORA || (a.rank == 4 && a.dora));
        assert_true((a.kind == EW_ADAPTER_PROMPT || a.kind == EW_ADAPTER_PREFIX) == (a.n_virtual == 5));
        assert_true((a.n_exits == 1) == (want[i].method == EW_METHOD_BLOCKWISE));
        assert_true((a.dropout > 0) == (a.kind == EW_ADAPTER_LORA && want[i].method != EW_METHOD_MEZO));
    }
}

static void what_the_settings_say_wins(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_learning l;
    ew_settings s = {.learning_rate = 0.5, .epochs = 2.5, .rung = EW_TUNE_RUNG_RECOMPUTE_BF16, .mezo_prefix = 1};
    assert_ok(ew_learning_of(EW_METHOD_LORA, &s, true, 2, 0, &l, &err), &err);
    assert_true(l.lr == 0.5F && l.epochs == 3 && l.rung == EW_TUNE_RUNG_RECOMPUTE_BF16);
    assert_int_equal(ew_learning_epochs(EW_METHOD_MEZO, &s), 3);
    assert_ok(ew_learning_of(EW_METHOD_MEZO, &s, true, 2, 0, &l, &err), &err);
    assert_true(l.adapter.kind == EW_ADAPTER_PREFIX && l.rung == EW_TUNE_RUNG_MEZO);
    s.exits = 5;
    assert_fails(EW_EINVAL, ew_learning_of(EW_METHOD_BLOCKWISE, &s, true, 2, 0, &l, &err), &err, "5 blocks");
    s = (ew_settings){.optimizer_bits = 9};
    assert_fails(EW_EINVAL, ew_learning_of(EW_METHOD_LORA, &s, true, 2, 0, &l, &err), &err, "8 or 32");
    s = (ew_settings){0};
    ew_learning text;
    assert_ok(ew_learning_of(EW_METHOD_LORA, &s, true, 2, 0, &text, &err), &err);
    assert_ok(ew_learning_of(EW_METHOD_LORA, &s, false, 2, 0, &l, &err), &err);
    assert_true(text.lr > l.lr); /* text wants larger steps than labels */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_training_method_resolves_to_an_adapter),
        cmocka_unit_test(what_the_settings_say_wins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
