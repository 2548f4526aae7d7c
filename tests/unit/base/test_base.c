/* Status, text, buffers, maps, arenas, memory, clocks, log. */
#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"

static void errors_carry_code_and_message(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    assert_int_equal(ew_fail(&err, EW_ECORRUPT, "tensor %d", 3), EW_ECORRUPT);
    assert_string_equal(err.msg, "tensor 3");
    assert_int_equal(ew_wrap(&err, EW_ECORRUPT, "gguf '%s'", "x"), EW_ECORRUPT);
    assert_string_equal(err.msg, "gguf 'x': tensor 3");
    assert_int_equal(ew_fail_errno(&err, ENOSPC, "write"), EW_ENOSPC);
    assert_string_equal(err.msg, "write: No space left on device");
    assert_int_equal(ew_fail_errno(NULL, ENOENT, "x"), EW_ENOENT);
    assert_int_equal(ew_fail_errno(NULL, EACCES, "x"), EW_EDENIED);
    assert_int_equal(ew_fail(NULL, EW_EIO, "nobody listens"), EW_EIO);
    char big[1000];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    assert_int_equal(ew_fail(&err, EW_EIO, "%s", big), EW_EIO);
    assert_int_equal(strlen(err.msg), EW_ERROR_MSG_MAX - 1);
    assert_string_equal(ew_status_name(EW_ECORRUPT), "EW_ECORRUPT");
    assert_string_equal(ew_status_name(EW_EINTERNAL), "EW_EINTERNAL");
    assert_non_null(ew_status_name((ew_status)-99));
    assert_int_equal(ew_status_exit(EW_OK), 0);
    assert_int_equal(ew_status_exit(EW_EINVAL), 2);
    assert_int_equal(ew_status_exit(EW_EREMOTE), 3);
    assert_int_equal(ew_status_exit(EW_EIO), 1);
}

static void numbers_are_whole_strings_in_range(void **state)
{
    (void)state;
    int64_t i = 7;
    uint64_t u = 7;
    double f = 7;
    assert_true(ew_str_to_i64("-9223372036854775808", INT64_MIN, INT64_MAX, &i) && i == INT64_MIN);
    assert_true(ew_str_to_u64("18446744073709551615", UINT64_MAX, &u) && u == UINT64_MAX);
    assert_true(ew_str_to_f64("-1.5e3", &f) && f == -1500);
    static const char *const bad[] = {"", " 1", "1 ", "+1", "1x", "0x", "--1", "9223372036854775808"};
    for (size_t k = 0; k < EW_COUNT(bad); k++) {
        i = 7;
        assert_false(ew_str_to_i64(bad[k], INT64_MIN, INT64_MAX, &i));
        assert_int_equal(i, 7);
    }
    assert_false(ew_str_to_u64("-1", UINT64_MAX, &u));
    assert_false(ew_str_to_u64("11", 10, &u));
    assert_false(ew_str_to_f64("inf", &f) || ew_str_to_f64("nan", &f) || ew_str_to_f64("1e999", &f));
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {
        {"512", 512}, {"64K", 65536}, {"1.5G", 1610612736}, {"300MiB", 314572800}, {"2GB", 2147483648}, {"1KiB", 1024},
        {"0", 0},     {"7B", 7}};
    for (size_t k = 0; k < EW_COUNT(sizes); k++) {
        assert_true(ew_str_to_bytes(sizes[k].text, &u));
        assert_int_equal(u, sizes[k].bytes);
    }
    assert_false(ew_str_to_bytes("", &u) || ew_str_to_bytes("-1", &u) || ew_str_to_bytes("1X", &u) ||
                 ew_str_to_bytes("1KK", &u) || ew_str_to_bytes("99999999999T", &u));
    char text[32];
    assert_string_equal(ew_str_bytes(text, sizeof(text), 812), "812 B");
    assert_string_equal(ew_str_bytes(text, sizeof(text), 1503238554), "1.4 GiB");
}

static void text_helpers_keep_their_bounds(void **state)
{
    (void)state;
    char dst[4] = "";
    assert_true(ew_str_copy(dst, sizeof(dst), "abc"));
    assert_false(ew_str_copy(dst, sizeof(dst), "abcd"));
    assert_string_equal(dst, "abc");
    assert_true(ew_str_starts("abc", "ab") && ew_str_ends("abc", "bc") && !ew_str_ends("c", "bc"));
    assert_true(ew_str_eq("a", "a") && !ew_str_eq(NULL, NULL));
    uint8_t bytes[3];
    char hex[7];
    assert_true(ew_hex_decode("00fFa1", bytes, 3));
    ew_hex_encode(bytes, 3, hex);
    assert_string_equal(hex, "00ffa1");
    assert_false(ew_hex_decode("00ff", bytes, 3) || ew_hex_decode("00ffg1", bytes, 3));
}

static void base64url_round_trips_and_is_strict(void **state)
{
    (void)state;
    ew_rng r;
    ew_rng_init(&r, 1, 2);
    for (size_t n = 0; n < 70; n++) {
        uint8_t in[70], out[70];
        char text[100];
        size_t got = 99;
        for (size_t i = 0; i < n; i++) {
            in[i] = (uint8_t)ew_rng_u64(&r);
        }
        ew_b64url_encode(in, n, text);
        assert_int_equal(strlen(text), (n * 4 + 2) / 3);
        assert_true(ew_b64url_decode(text, strlen(text), out, sizeof(out), &got));
        assert_int_equal(got, n);
        assert_memory_equal(in, out, n);
        assert_true(n == 0 || !ew_b64url_decode(text, strlen(text), out, n - 1, &got));
    }
    uint8_t out[8];
    size_t got;
    assert_false(ew_b64url_decode("A", 1, out, 8, &got));    /* no whole byte */
    assert_false(ew_b64url_decode("AB", 2, out, 8, &got));   /* spare bits set */
    assert_false(ew_b64url_decode("AA==", 4, out, 8, &got)); /* padding */
    assert_false(ew_b64url_decode("A+A/", 4, out, 8, &got)); /* the other alphabet */
}

static void a_buffer_collects_its_first_error(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF b = {.max = 10};
    assert_string_equal(ew_buf_str(&b), "");
    ew_buf_adds(&b, "abc");
    ew_buf_addf(&b, "%d", 1234);
    ew_buf_addc(&b, '!');
    assert_ok(ew_buf_check(&b, &err), &err);
    assert_string_equal(ew_buf_str(&b), "abc1234!");
    ew_buf_adds(&b, "xyz");
    ew_buf_addc(&b, 'y');
    assert_fails(EW_ELIMIT, ew_buf_check(&b, &err), &err, "limit of 10");
    assert_null(ew_buf_take(&b));
    ew_buf_clear(&b);
    ew_buf_adds(&b, "0123456789");
    ew_buf_consume(&b, 8);
    char *s = ew_buf_take(&b);
    assert_string_equal(s, "89");
    ew_free(s);
    assert_int_equal(b.size, 0);
    ew_mem_fail_at(1);
    ew_buf_adds(&b, "x");
    assert_fails(EW_ENOMEM, ew_buf_check(&b, &err), &err, "memory");
    ew_mem_fail_at(0);
}

static void collect(const void *key, size_t key_size, void *value, void *ctx)
{
    (void)value;
    ew_buf_add(ctx, key, key_size);
}

static void a_map_keeps_order_and_survives_lack_of_memory(void **state)
{
    (void)state;
    EW_AUTO(ew_map) m = NULL;
    int values[3];
    assert_int_equal(ew_map_new(&m), EW_OK);
    assert_int_equal(ew_map_add(m, "b", 1, &values[0]), EW_OK);
    assert_int_equal(ew_map_add(m, "a\0x", 3, &values[1]), EW_OK);
    assert_int_equal(ew_map_add(m, "b", 1, &values[2]), EW_EEXIST);
    for (uint64_t n = 1;; n++) {
        ew_mem_fail_at(n);
        ew_status st = ew_map_add(m, "c", 1, &values[2]);
        ew_mem_fail_at(0);
        if (st == EW_OK) {
            break;
        }
        assert_int_equal(st, EW_ENOMEM);
        assert_null(ew_map_get(m, "c", 1));
        assert_int_equal(ew_map_count(m), 2);
    }
    assert_ptr_equal(ew_map_get(m, "a\0x", 3), &values[1]);
    assert_null(ew_map_get(m, "a", 1));
    EW_AUTO_BUF b = {0};
    ew_map_each(m, collect, &b);
    assert_int_equal(b.size, 5);
    assert_memory_equal(b.data, "ba\0xc", 5);
    assert_ptr_equal(ew_map_remove(m, "b", 1), &values[0]);
    assert_null(ew_map_remove(m, "b", 1));
    assert_int_equal(ew_map_count(m), 2);
}

static void an_arena_needs_what_its_dry_run_said(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_arena dry, a;
    ew_arena_init_dry(&dry);
    assert_null(ew_arena_take(&dry, 100, 3));
    assert_null(ew_arena_take(&dry, 1, 1));
    assert_int_equal(dry.peak, 384);
    assert_ok(ew_arena_init(&a, dry.peak, &err), &err);
    unsigned char *p = ew_arena_take(&a, 100, 3);
    size_t mark = ew_arena_mark(&a);
    unsigned char *q = ew_arena_calloc(&a, 1, 1);
    assert_true(p != NULL && q == p + 320 && (uintptr_t)p % 64 == 0 && q[0] == 0);
    ew_arena_reset(&a, mark);
    assert_non_null(ew_arena_take(&a, 64, 1));
    assert_null(ew_arena_take(&a, 1, 1));
    assert_true(a.overflow);
    ew_arena_release(&a);
    ew_arena_init_dry(&dry);
    assert_null(ew_arena_take(&dry, SIZE_MAX, 2));
    assert_true(dry.overflow);
}

static void growth_stops_at_the_maximum(void **state)
{
    (void)state;
    void *items = NULL;
    size_t cap = 0;
    assert_int_equal(ew_grow(&items, &cap, 1, 8, 100), EW_OK);
    assert_int_equal(cap, 16);
    assert_int_equal(ew_grow(&items, &cap, 90, 8, 100), EW_OK);
    assert_true(cap >= 90 && cap <= 100);
    assert_int_equal(ew_grow(&items, &cap, 101, 8, 100), EW_ELIMIT);
    ew_free(items);
    assert_null(ew_malloc(SIZE_MAX, 2));
    assert_null(ew_aligned(SIZE_MAX));
    uint64_t before = ew_mem_count();
    ew_free(ew_malloc(1, 1));
    assert_int_equal(ew_mem_count(), before + 1);
}

/* The answers of Random123's kat_vectors for philox4x32 with 10 rounds. */
static void random_blocks_are_those_of_philox(void **state)
{
    (void)state;
    static const struct {
        uint64_t seed, stream, i;
        uint32_t want[4];
    } known[] = {{0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
                 {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
                 {0x299f31d0a4093822u,
                  0x0370734413198a2eu,
                  0x85a308d3243f6a88u,
                  {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
    for (size_t k = 0; k < EW_COUNT(known); k++) {
        uint32_t got[4];
        ew_rng_block(known[k].seed, known[k].stream, known[k].i, got);
        assert_memory_equal(got, known[k].want, sizeof(got));
    }
}

static void random_numbers_repeat_and_spread(void **state)
{
    (void)state;
    ew_rng a, b, c;
    ew_rng_init(&a, 42, 0);
    ew_rng_init(&b, 42, 0);
    ew_rng_init(&c, 42, 1);
    unsigned same = 0, buckets[10] = {0};
    double sum = 0, sum2 = 0;
    for (int i = 0; i < 10000; i++) {
        uint64_t v = ew_rng_u64(&a);
        assert_true(v == ew_rng_u64(&b));
        same += v == ew_rng_u64(&c);
    }
    assert_int_equal(same, 0);
    for (int i = 0; i < 10000; i++) {
        buckets[ew_rng_below(&a, 10)]++;
        double z = ew_rng_normal(&a);
        sum += z;
        sum2 += z * z;
        double f = ew_rng_f64(&a);
        assert_true(f >= 0 && f < 1);
    }
    for (int i = 0; i < 10; i++) {
        assert_true(buckets[i] > 850 && buckets[i] < 1150);
    }
    assert_true(sum / 10000 > -0.05 && sum / 10000 < 0.05 && sum2 / 10000 > 0.94 && sum2 / 10000 < 1.06);
    uint32_t items[50], seen = 0;
    for (uint32_t i = 0; i < 50; i++) {
        items[i] = i;
    }
    ew_rng_shuffle(&a, items, 50, sizeof(items[0]));
    for (uint32_t i = 0; i < 50; i++) {
        seen += items[i];
    }
    assert_int_equal(seen, 1225);
}

static void the_clock_can_be_held(void **state)
{
    (void)state;
    char iso[25];
    uint64_t t = ew_mono_ns();
    assert_true(ew_mono_ns() >= t);
    ew_clock_fake(5000000, 1763660000123);
    assert_int_equal(ew_mono_ms(), 5);
    assert_string_equal(ew_wall_iso(iso, ew_wall_ms()), "2025-11-20T17:33:20.123Z");
    ew_clock_fake(0, 0);
    assert_true(ew_mono_ns() >= t);
}

static char logged[256];
static void keep_line(ew_log_level level, const char *line, void *ctx)
{
    (void)level;
    (void)ctx;
    (void)snprintf(logged, sizeof(logged), "%s", line);
}

static void the_log_filters_by_component_and_stays_on_one_line(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    ew_log_set_sink(keep_line, NULL);
    assert_ok(ew_log_configure("all=warn,net=debug", &err), &err);
    assert_true(ew_log_enabled(EW_LOG_DEBUG, "net") && !ew_log_enabled(EW_LOG_INFO, "db"));
    EW_LOG(EW_LOG_INFO, "db", "opened", "x=%d", 1);
    assert_string_equal(logged, "");
    EW_LOG(EW_LOG_INFO, "net", "peer", "name=%s", "a\nb");
    assert_non_null(strstr(logged, " info net: peer name=a b"));
    assert_fails(EW_EINVAL, ew_log_configure("net=loud", &err), &err, "levels are");
    assert_fails(EW_EINVAL, ew_log_configure("net", &err), &err, "component=level");
    assert_ok(ew_log_configure("all=info", &err), &err);
    ew_log_set_sink(NULL, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_carry_code_and_message),
        cmocka_unit_test(numbers_are_whole_strings_in_range),
        cmocka_unit_test(text_helpers_keep_their_bounds),
        cmocka_unit_test(base64url_round_trips_and_is_strict),
        cmocka_unit_test(a_buffer_collects_its_first_error),
        cmocka_unit_test(a_map_keeps_order_and_survives_lack_of_memory),
        cmocka_unit_test(an_arena_needs_what_its_dry_run_said),
        cmocka_unit_test(growth_stops_at_the_maximum),
        cmocka_unit_test(random_blocks_are_those_of_philox),
        cmocka_unit_test(random_numbers_repeat_and_spread),
        cmocka_unit_test(the_clock_can_be_held),
        cmocka_unit_test(the_log_filters_by_component_and_stays_on_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
