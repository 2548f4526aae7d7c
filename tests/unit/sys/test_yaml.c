#include "test.h"

#include <string.h>

#include "base/mem.h"
#include "sys/yaml.h"

struct lora {
    int32_t rank;
};
struct doc {
    char *name;
    uint32_t n;
    double rate;
    bool on;
    int32_t kind;
    struct lora lora;
    char **list;
    unsigned list_count;
};
static const cyaml_strval_t kinds[] = {{"none", 0}, {"lora", 1}};
static const cyaml_schema_value_t entry = {CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char *, 0, 64)};
static const cyaml_schema_field_t lora_fields[] = {CYAML_FIELD_INT("rank", CYAML_FLAG_DEFAULT, struct lora, rank),
                                                   CYAML_FIELD_END};
static const cyaml_schema_field_t fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, struct doc, name, 1, 16),
    CYAML_FIELD_UINT("n", CYAML_FLAG_OPTIONAL, struct doc, n),
    CYAML_FIELD_FLOAT("rate", CYAML_FLAG_OPTIONAL, struct doc, rate),
    CYAML_FIELD_BOOL("on", CYAML_FLAG_OPTIONAL, struct doc, on),
    CYAML_FIELD_ENUM("kind", CYAML_FLAG_OPTIONAL, struct doc, kind, kinds, CYAML_ARRAY_LEN(kinds)),
    CYAML_FIELD_MAPPING("lora", CYAML_FLAG_OPTIONAL, struct doc, lora, lora_fields),
    CYAML_FIELD_SEQUENCE("list", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct doc, list, &entry, 0, 3),
    CYAML_FIELD_END};
static const cyaml_schema_value_t schema = {CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct doc, fields)};

static void a_document_fills_the_struct(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    struct doc *d = NULL;
    const char *path = ew_test_text("good.yaml", "# comment\nname: no\nn: 3\nrate: 1e-4\non: yes\nkind: lora\n"
                                                 "lora:\n  rank: -8\nlist: [a, \"b\"]\n");
    assert_ok(ew_yaml_load_file(path, &schema, (void **)&d, &err), &err);
    assert_string_equal(d->name, "no");
    assert_int_equal(d->n, 3);
    assert_true(d->rate > 0.99e-4 && d->rate < 1.01e-4);
    assert_true(d->on);
    assert_int_equal(d->kind, 1);
    assert_int_equal(d->lora.rank, -8);
    assert_int_equal(d->list_count, 2);
    assert_string_equal(d->list[1], "b");
    ew_yaml_free(&schema, (void **)&d);
    assert_null(d);
}

static void every_mistake_names_its_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"name: a\nrnak: 3\n", "x.yaml:2: unknown key 'rnak'"},
        {"name: a\nlora:\n  rnak: 3\n", "x.yaml:3: unknown key 'rnak'; did you mean 'rank'?"},
        {"name: a\nnmae: b\n", "x.yaml:2: unknown key 'nmae'; did you mean 'name'?"},
        {"name: a\nzzzzzz: b\n", "known here: name, n, rate, on, kind, lora, list"},
        {"name: a\nn: 1\nname: b\n", "x.yaml:3: key 'name' is given twice (first in line 1)"},
        {"n: 1\n", "x.yaml:1: key 'name' is missing"},
        {"name: a\nlora: {}\n", "x.yaml:2: key 'rank' is missing in 'lora'"},
        {"name: a\nn: -3\n", "x.yaml:2: 'n' is '-3'"},
        {"name: a\nn: 5000000000\n", "5000000000"},
        {"name: a\nrate: fast\n", "x.yaml:2: 'rate' is 'fast', should be a number"},
        {"name: a\nrate: 1e400\n", "x.yaml:2: 'rate' is '1e400'"},
        {"name: a\non: maybe\n", "x.yaml:2: 'on' is 'maybe', should be true or false"},
        {"name: a\nkind: lroa\n", "x.yaml:2: 'kind' is 'lroa', which is none of: none, lora"},
        {"name: a\nlora: 3\n", "x.yaml:2: 'lora' should be a mapping"},
        {"name: [a]\n", "x.yaml:1: 'name' should be one value"},
        {"name: a\nlist: b\n", "x.yaml:2: 'list' should be a list"},
        {"name: a\nlist: [a, b, c, d]\n", "x.yaml:2: 'list' has 4 entries"},
        {"name: \"\"\n", "x.yaml:1: 'name' has 0 bytes"},
        {"name: &x a\nlist: [*x]\n", "x.yaml:1: aliases"},
        {"name: a\n---\nname: b\n", "more than one YAML document"},
        {"name: a\n bad: b\n", "x.yaml:2: not valid YAML"},
        {"lora: {rank: 3\n", "not valid YAML"},
        {"", "empty"},
        {"- a\n", "should be a mapping"},
        {"{}: 1\n", "plain text"},
    };
    for (size_t i = 0; i < EW_COUNT(cases); i++) {
        ew_error err = EW_ERROR_INIT;
        struct doc *d = NULL;
        assert_fails(EW_EINVAL,
                     ew_yaml_load("x.yaml", cases[i].text, strlen(cases[i].text), &schema, (void **)&d, &err), &err,
                     cases[i].message);
        assert_null(d);
    }
}

static void out_of_memory_is_told_and_leaks_nothing(void **state)
{
    (void)state;
    const char *text = "name: abc\nlist: [a, b]\nlora: {rank: 2}\n";
    ew_status st = EW_ENOMEM;
    for (uint64_t n = 1; st == EW_ENOMEM; n++) {
        ew_error err = EW_ERROR_INIT;
        struct doc *d = NULL;
        ew_mem_fail_at(n);
        st = ew_yaml_load("x.yaml", text, strlen(text), &schema, (void **)&d, &err);
        ew_mem_fail_at(0);
        ew_yaml_free(&schema, (void **)&d);
        assert_true(n < 1000);
    }
    assert_int_equal(st, EW_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_document_fills_the_struct),
        cmocka_unit_test(every_mistake_names_its_line),
        cmocka_unit_test(out_of_memory_is_told_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
