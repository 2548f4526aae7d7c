/* Keys, requests, certificates and names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/rng.h"
#include "net/x509.h"

static ew_error err;

static ew_span span(const ew_buf *b)
{
    return (ew_span){b->data, b->size};
}

static void names_are_parsed_strictly(void **state)
{
    (void)state;
    static const char *const good[] = {"spiffe://edge.test/device/a-1", "spiffe://x/operator/alice",
                                       "spiffe://a.b.c/coordinator/c"};
    static const char *const bad[] = {"",
                                      "spiffe://",
                                      "spiffe:///device/a",
                                      "spiffe://edge.test/device/",
                                      "spiffe://edge.test/device/A",
                                      "spiffe://edge.test/device/a/b",
                                      "spiffe://edge.test/device/a b",
                                      "spiffe://edge.test/robot/a",
                                      "spiffe://EDGE/device/a",
                                      "https://edge.test/device/a",
                                      "spiffe://edge.test/device/a?x",
                                      "spiffe://u@edge.test/device/a"};
    ew_spiffe s;
    char text[300];
    for (size_t i = 0; i < EW_COUNT(good); i++) {
        assert_int_equal(ew_spiffe_parse(good[i], strlen(good[i]), &s, &err), EW_OK);
        assert_int_equal(ew_spiffe_format(&s, text, sizeof(text), &err), EW_OK);
        assert_string_equal(text, good[i]);
    }
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        assert_int_equal(ew_spiffe_parse(bad[i], strlen(bad[i]), &s, &err), EW_EINVAL);
    }
    assert_int_equal(ew_spiffe_parse("spiffe://edge.test/device/a\0b", 29, &s, &err), EW_EINVAL);
}

static void a_certificate_is_issued_and_says_what_was_asked(void **state)
{
    (void)state;
    EW_AUTO(ew_pkey) ca_key = NULL;
    EW_AUTO(ew_pkey) key = NULL;
    EW_AUTO_BUF ca = {0};
    EW_AUTO_BUF csr = {0};
    EW_AUTO_BUF der = {0};
    EW_AUTO_BUF pem = {0};
    assert_int_equal(ew_pkey_new(&ca_key, &err), EW_OK);
    assert_int_equal(ew_pkey_new(&key, &err), EW_OK);
    ew_cert_opt root = {.common_name = "root", .ca = true, .valid_s = 1000};
    assert_int_equal(ew_cert_self_sign(ca_key, &root, &ca, &err), EW_OK);
    assert_int_equal(ew_csr_make(key, &csr, &err), EW_OK);
    uint8_t from_csr[32];
    uint8_t own[32];
    assert_int_equal(ew_csr_check(span(&csr), from_csr, &err), EW_OK);
    assert_int_equal(ew_pkey_sha256(key, own, &err), EW_OK);
    assert_memory_equal(from_csr, own, 32);
    ew_spiffe who = {.domain = "edge.test", .kind = EW_SPIFFE_DEVICE, .id = "d-1"};
    ew_cert_opt opt = {.spiffe = &who, .client_auth = true, .valid_s = 3600};
    assert_int_equal(ew_cert_issue(ca_key, span(&ca), span(&csr), &opt, &der, &err), EW_OK);
    ew_cert_info info;
    assert_int_equal(ew_cert_info_of(span(&der), &info, &err), EW_OK);
    assert_false(info.is_ca);
    assert_true(info.has_spiffe);
    assert_string_equal(info.spiffe.id, "d-1");
    assert_int_equal(strlen(info.serial), 32);
    assert_memory_equal(info.key_sha256, own, 32);
    uint64_t now = ew_wall_ms();
    assert_true(info.not_after_unix_ms > now + 3590000 && info.not_after_unix_ms < now + 3610000);
    assert_true(info.not_before_unix_ms < now - 50000);
    ew_span roots[1] = {span(&ca)};
    assert_int_equal(ew_cert_verify(span(&der), NULL, 0, roots, 1, false, &err), EW_OK);
    assert_int_equal(ew_cert_verify(span(&der), NULL, 0, roots, 1, true, &err), EW_EDENIED); /* not a server */
    assert_int_equal(ew_cert_verify(span(&der), NULL, 0, NULL, 0, false, &err), EW_EDENIED);
    assert_int_equal(ew_pkey_to_pem(key, &pem, &err), EW_OK);
    EW_AUTO(ew_pkey) back = NULL;
    assert_int_equal(ew_pkey_from_pem(span(&pem), &back, &err), EW_OK);
    uint8_t again[32];
    assert_int_equal(ew_pkey_sha256(back, again, &err), EW_OK);
    assert_memory_equal(again, own, 32);
}

static void a_changed_request_is_refused(void **state)
{
    (void)state;
    EW_AUTO(ew_pkey) key = NULL;
    EW_AUTO_BUF csr = {0};
    assert_int_equal(ew_pkey_new(&key, &err), EW_OK);
    assert_int_equal(ew_csr_make(key, &csr, &err), EW_OK);
    ew_rng r;
    ew_rng_init(&r, 4, 0);
    for (int i = 0; i < 300; i++) {
        size_t at = ew_rng_below(&r, csr.size);
        char bit = (char)(1u << ew_rng_below(&r, 8));
        csr.data[at] ^= bit;
        assert_int_not_equal(ew_csr_check(span(&csr), NULL, &err), EW_OK);
        csr.data[at] ^= bit;
    }
    for (size_t n = 0; n < csr.size; n += 7) {
        assert_int_not_equal(ew_csr_check((ew_span){csr.data, n}, NULL, &err), EW_OK);
    }
    assert_int_equal(ew_csr_check(span(&csr), NULL, &err), EW_OK);
}

static void rubbish_is_not_a_key_or_certificate(void **state)
{
    (void)state;
    EW_AUTO(ew_pkey) key = NULL;
    static const char text[] = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    ew_cert_info info;
    assert_int_equal(ew_pkey_from_pem((ew_span){text, sizeof(text) - 1}, &key, &err), EW_ECORRUPT);
    assert_int_equal(ew_pkey_from_pem((ew_span){"", 0}, &key, &err), EW_ECORRUPT);
    assert_int_equal(ew_cert_info_of((ew_span){text, sizeof(text)}, &info, &err), EW_ECORRUPT);
    assert_int_equal(ew_cert_info_of((ew_span){NULL, 0}, &info, &err), EW_ECORRUPT);
    assert_null(key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_parsed_strictly),
        cmocka_unit_test(a_certificate_is_issued_and_says_what_was_asked),
        cmocka_unit_test(a_changed_request_is_refused),
        cmocka_unit_test(rubbish_is_not_a_key_or_certificate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
