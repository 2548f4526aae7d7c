#include "test.h"

#include <string.h>

#include "sys/config.h"

struct conf {
    char *listen;
    int64_t port;
    uint64_t memory;
    bool offload;
    double lease_s;
    double share;
};

static const ew_config_key keys[] = {
    {"listen", EW_CONFIG_STRING, offsetof(struct conf, listen), "127.0.0.1", 0, 0, "address to listen on"},
    {"port", EW_CONFIG_I64, offsetof(struct conf, port), "7443", 0, 65535, "TCP port"},
    {"memory-limit", EW_CONFIG_BYTES, offsetof(struct conf, memory), "1G", 0, 0, "most memory"},
    {"offload", EW_CONFIG_BOOL, offsetof(struct conf, offload), "no", 0, 0, "run layers at the coordinator"},
    {"lease", EW_CONFIG_SECONDS, offsetof(struct conf, lease_s), "5m", 1, 86400, "length of a lease"},
    {"share", EW_CONFIG_F64, offsetof(struct conf, share), NULL, 0, 1, "part of the machine"},
};

static void defaults_file_environment_command_line_in_this_order(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    struct conf c;
    EW_AUTO(ew_config) config = NULL;
    char env_text[4][32] = {"PATH=/bin", "EW_PORT=8000", "EW_MEMORY_LIMIT=2G", "EW_LOG=all=info"};
    char *env[] = {env_text[0], env_text[1], env_text[2], env_text[3], NULL};
    assert_ok(ew_config_new(keys, EW_COUNT(keys), &c, &config, &err), &err);
    assert_string_equal(c.listen, "127.0.0.1");
    assert_int_equal(c.memory, 1ull << 30);
    assert_true(c.lease_s == 300);
    assert_fails(EW_EINVAL, ew_config_check(config, &err), &err, "'share' must be set");

    assert_ok(ew_config_set(config, "memory-limit", "3G", &err), &err);
    assert_ok(ew_config_load_env(config, env, &err), &err);
    const char *path =
        ew_test_text("c.yaml", "port: 9000\nmemory_limit: 64M\nlisten: \"::\"\nshare: 0.5\noffload: on\n");
    assert_ok(ew_config_load_file(config, path, &err), &err);
    assert_ok(ew_config_check(config, &err), &err);
    assert_int_equal(c.memory, 3ull << 30);
    assert_int_equal(c.port, 8000);
    assert_string_equal(c.listen, "::");
    assert_true(c.offload);
    assert_int_equal(ew_config_origin_of(config, "memory-limit"), EW_CONFIG_COMMAND_LINE);
    assert_int_equal(ew_config_origin_of(config, "port"), EW_CONFIG_ENVIRONMENT);
    assert_int_equal(ew_config_origin_of(config, "listen"), EW_CONFIG_FILE);
    assert_int_equal(ew_config_origin_of(config, "lease"), EW_CONFIG_DEFAULT);
}

static void what_is_printed_reads_back(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    struct conf a, b;
    EW_AUTO(ew_config) first = NULL;
    EW_AUTO(ew_config) second = NULL;
    assert_ok(ew_config_new(keys, EW_COUNT(keys), &a, &first, &err), &err);
    assert_ok(ew_config_new(keys, EW_COUNT(keys), &b, &second, &err), &err);
    assert_ok(ew_config_set(first, "listen", "a \"b\" \\ # c: d", &err), &err);
    assert_ok(ew_config_set(first, "share", "0.1", &err), &err);
    EW_AUTO_BUF out = {0};
    ew_config_print(first, &out);
    assert_non_null(strstr(ew_buf_str(&out), "# command line"));
    assert_ok(ew_config_load_yaml(second, "printed", ew_buf_str(&out), out.size, &err), &err);
    assert_string_equal(b.listen, a.listen);
    assert_true(b.share == a.share && b.lease_s == a.lease_s && b.memory == a.memory);
    ew_buf_clear(&out);
    ew_config_print_example(keys, EW_COUNT(keys), &out);
    assert_non_null(strstr(ew_buf_str(&out), "# TCP port\n#port: 7443\n"));
}

static void mistakes_name_place_and_nearest_key(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"port: 1\nprot: 2\n", "x:2: unknown key 'prot'; did you mean 'port'?"},
        {"port: 1\nport: 2\n", "x:2: key 'port' is given twice"},
        {"memory-limit: 1G\nmemory_limit: 2G\n", "given twice"},
        {"port: 70000\n", "x:1: 'port' is '70000', should be a whole number from 0 to 65535"},
        {"port: [1]\n", "x:1: 'port' should be one plain value"},
        {"offload: maybe\n", "should be true or false"},
        {"memory-limit: lots\n", "a size such as"},
        {"lease: 0s\n", "a time such as"},
        {"zebra: 1\n", "unknown key 'zebra'"},
        {"- a\n", "key: value"},
        {"a: b: c\n", "not valid YAML"},
    };
    struct conf c;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_config) config = NULL;
    assert_ok(ew_config_new(keys, EW_COUNT(keys), &c, &config, &err), &err);
    for (size_t i = 0; i < EW_COUNT(cases); i++) {
        assert_fails(EW_EINVAL, ew_config_load_yaml(config, "x", cases[i].text, strlen(cases[i].text), &err), &err,
                     cases[i].message);
    }
    assert_fails(EW_EINVAL, ew_config_set(config, "memory-limt", "1", &err), &err, "did you mean 'memory-limit'");
    assert_fails(EW_ENOENT, ew_config_load_file(config, "/nowhere.yaml", &err), &err, "/nowhere.yaml");
    assert_ok(ew_config_load_yaml(config, "x", "", 0, &err), &err);
}

static void nearest_is_near(void **state)
{
    (void)state;
    static const char *const words[] = {"import", "export", "list"};
    assert_string_equal(ew_nearest("imprt", words, 3), "import");
    assert_string_equal(ew_nearest("lsit", words, 3), "list");
    assert_null(ew_nearest("zebra", words, 3));
    assert_null(ew_nearest("", words, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_file_environment_command_line_in_this_order),
        cmocka_unit_test(what_is_printed_reads_back),
        cmocka_unit_test(mistakes_name_place_and_nearest_key),
        cmocka_unit_test(nearest_is_near),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
