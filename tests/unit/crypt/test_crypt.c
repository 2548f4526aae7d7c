/* Vectors: FIPS 180-4 examples, RFC 4231 (HMAC), RFC 5869 (HKDF), RFC 8032 7.1 (Ed25519). */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/str.h"
#include "crypt/aead.h"
#include "crypt/hash.h"
#include "crypt/sign.h"

static void assert_hex(const void *data, size_t size, const char *hex)
{
    char text[512];
    ew_hex_encode(data, size, text);
    assert_string_equal(text, hex);
}

static void sha256_gives_the_standards_digests(void **state)
{
    (void)state;
    char hex[EW_SHA256_HEX_SIZE];
    assert_string_equal(ew_sha256_hex("", 0, hex), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_string_equal(ew_sha256_hex("abc", 3, hex),
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EW_AUTO(ew_sha256_stream) s = ew_sha256_stream_new();
    uint8_t digest[EW_SHA256_SIZE];
    for (int round = 0; round < 2; round++) { /* usable again after the end */
        ew_sha256_stream_add(s, "a", 1);
        ew_sha256_stream_add(s, "", 0);
        ew_sha256_stream_add(s, "bc", 2);
        ew_sha256_stream_end(s, digest);
        assert_hex(digest, 32, hex);
    }
}

static bool cancel(const ew_progress_info *info, void *ctx)
{
    (void)info;
    (void)ctx;
    return false;
}

static void sha256_of_a_file_is_that_of_its_bytes(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    size_t size = 3 * 1024 * 1024 + 17;
    uint8_t *data = malloc(size);
    uint8_t a[32], b[32];
    uint64_t n = 0;
    for (size_t i = 0; i < size; i++) {
        data[i] = (uint8_t)(i * 31 >> 3);
    }
    const char *path = ew_test_file("big", data, size);
    ew_sha256(data, size, a);
    assert_ok(ew_sha256_file(path, NULL, b, &n, &err), &err);
    assert_memory_equal(a, b, 32);
    assert_int_equal(n, size);
    ew_progress p = {cancel, NULL};
    assert_fails(EW_ECANCELLED, ew_sha256_file(path, &p, b, NULL, &err), &err, path);
    assert_fails(EW_EINVAL, ew_sha256_file(ew_test_tmpdir(), NULL, b, NULL, &err), &err, "regular");
    assert_fails(EW_ENOENT, ew_sha256_file("/nowhere", NULL, b, NULL, &err), &err, "/nowhere");
    free(data);
}

static void hmac_and_hkdf_give_the_standards_values(void **state)
{
    (void)state;
    uint8_t mac[32], key[22], okm[42], salt[13], info[10];
    ew_hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, mac);
    assert_hex(mac, 32, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0x0b, sizeof(key));
    for (unsigned i = 0; i < sizeof(salt); i++) {
        salt[i] = (uint8_t)i;
    }
    for (unsigned i = 0; i < sizeof(info); i++) {
        info[i] = (uint8_t)(0xf0 + i);
    }
    ew_hkdf_sha256((ew_span){key, 22}, (ew_span){salt, 13}, (ew_span){info, 10}, okm, sizeof(okm));
    assert_hex(okm, 42, "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
    ew_hkdf_sha256((ew_span){key, 22}, (ew_span){NULL, 0}, (ew_span){NULL, 0}, okm, sizeof(okm));
    assert_hex(okm, 42, "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
}

static void random_bytes_differ_and_comparison_sees_it(void **state)
{
    (void)state;
    uint8_t a[300], b[300];
    ew_random_bytes(a, sizeof(a));
    ew_random_bytes(b, sizeof(b));
    assert_false(ew_equal_secret(a, b, sizeof(a)));
    assert_true(ew_equal_secret(a, a, sizeof(a)));
    ew_wipe(a, sizeof(a));
    assert_int_equal(a[0] | a[299], 0);
}

static void sealed_text_opens_with_the_same_key_and_data_only(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    uint8_t key[EW_AEAD_KEY_SIZE];
    static const size_t sizes[] = {0, 1, 15, 16, 17, 1000};
    ew_random_bytes(key, sizeof(key));
    ew_span aad = {"record 7", 8};
    for (size_t i = 0; i < EW_COUNT(sizes); i++) {
        char plain[1000];
        memset(plain, 'p', sizeof(plain));
        EW_AUTO_BUF sealed = {0};
        EW_AUTO_BUF opened = {0};
        ew_buf_adds(&opened, "kept");
        assert_ok(ew_aead_seal(key, aad, (ew_span){plain, sizes[i]}, &sealed, &err), &err);
        assert_int_equal(sealed.size, sizes[i] + EW_AEAD_OVERHEAD);
        assert_ok(ew_aead_open(key, aad, (ew_span){sealed.data, sealed.size}, &opened, &err), &err);
        assert_int_equal(opened.size, 4 + sizes[i]);
        assert_memory_equal(opened.data, "kept", 4);
        assert_memory_equal(opened.data + 4, plain, sizes[i]);
        for (size_t bit = 0; bit<sealed.size * 8; bit += sizes[i]> 20 ? 97 : 1) {
            sealed.data[bit / 8] = (char)(sealed.data[bit / 8] ^ (1 << (bit % 8)));
            assert_fails(EW_ECORRUPT, ew_aead_open(key, aad, (ew_span){sealed.data, sealed.size}, &opened, &err), &err,
                         "does not open");
            sealed.data[bit / 8] = (char)(sealed.data[bit / 8] ^ (1 << (bit % 8)));
        }
        assert_fails(EW_ECORRUPT,
                     ew_aead_open(key, (ew_span){"record 8", 8}, (ew_span){sealed.data, sealed.size}, &opened, &err),
                     &err, "");
        key[31] ^= 1;
        assert_fails(EW_ECORRUPT, ew_aead_open(key, aad, (ew_span){sealed.data, sealed.size}, &opened, &err), &err, "");
        key[31] ^= 1;
        assert_int_equal(opened.size, 4 + sizes[i]); /* failures append nothing */
    }
    EW_AUTO_BUF none = {0};
    assert_fails(EW_ECORRUPT, ew_aead_open(key, aad, (ew_span){"short", 5}, &none, &err), &err, "too short");
}

static void key_files_are_made_once_and_kept_private(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    uint8_t a[32], b[32];
    const char *path = ew_test_path("key");
    assert_fails(EW_ENOENT, ew_aead_key_file(path, false, a, &err), &err, path);
    assert_ok(ew_aead_key_file(path, true, a, &err), &err);
    assert_ok(ew_aead_key_file(path, true, b, &err), &err);
    assert_memory_equal(a, b, 32);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(chmod(path, 0644), 0);
    assert_fails(EW_EDENIED, ew_aead_key_file(path, false, b, &err), &err, "chmod 600");
    const char *raw = ew_test_file("raw", a, 32);
    assert_int_equal(chmod(raw, 0600), 0);
    assert_ok(ew_aead_key_file(raw, false, b, &err), &err);
    assert_memory_equal(a, b, 32);
    const char *bad = ew_test_text("bad", "not a key");
    assert_int_equal(chmod(bad, 0600), 0);
    assert_fails(EW_ECORRUPT, ew_aead_key_file(bad, false, b, &err), &err, "64 hex digits");
}

static void ed25519_verifies_the_standards_signature(void **state)
{
    (void)state;
    uint8_t pub[32], sig[64];
    uint8_t msg = 0x72;
    assert_true(ew_hex_decode("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", pub, 32));
    assert_true(ew_hex_decode("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
                              "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
                              sig, 64));
    assert_true(ew_sign_verify(pub, &msg, 1, sig));
    msg ^= 1;
    assert_false(ew_sign_verify(pub, &msg, 1, sig));
}

static void signatures_bind_key_and_bytes_and_keys_survive_the_disk(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_sign_key) k = NULL;
    EW_AUTO(ew_sign_key) back = NULL;
    uint8_t pub[32], pub2[32], sig[64], sig2[64];
    assert_ok(ew_sign_key_new(&k, &err), &err);
    ew_sign_key_public(k, pub);
    assert_ok(ew_sign(k, "manifest", 8, sig, &err), &err);
    assert_true(ew_sign_verify(pub, "manifest", 8, sig));
    assert_false(ew_sign_verify(pub, "manifesu", 8, sig));
    assert_false(ew_sign_verify(pub, "manifest", 7, sig));
    sig[10] ^= 4;
    assert_false(ew_sign_verify(pub, "manifest", 8, sig));
    sig[10] ^= 4;
    memset(pub2, 0, sizeof(pub2));
    assert_false(ew_sign_verify(pub2, "manifest", 8, sig));

    const char *path = ew_test_path("sign.pem");
    assert_ok(ew_sign_key_write(k, path, &err), &err);
    assert_fails(EW_EEXIST, ew_sign_key_write(k, path, &err), &err, "never overwritten");
    assert_ok(ew_sign_key_read(path, &back, &err), &err);
    assert_ok(ew_sign(back, "manifest", 8, sig2, &err), &err);
    assert_memory_equal(sig, sig2, 64); /* Ed25519 is deterministic */
    assert_int_equal(chmod(path, 0640), 0);
    ew_sign_key *none = NULL;
    if (ew_sign_key_read(path, &none, &err) == EW_OK) { /* root's own files may be readable by a group: credentials */
        ew_sign_key_free(&none);
    }
    assert_int_equal(chmod(path, 0644), 0);
    assert_fails(EW_EDENIED, ew_sign_key_read(path, &none, &err), &err, "chmod 600");
    const char *bad = ew_test_text("bad.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    assert_int_equal(chmod(bad, 0600), 0);
    assert_fails(EW_ECORRUPT, ew_sign_key_read(bad, &none, &err), &err, "no private key");
    assert_null(none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_gives_the_standards_digests),
        cmocka_unit_test(sha256_of_a_file_is_that_of_its_bytes),
        cmocka_unit_test(hmac_and_hkdf_give_the_standards_values),
        cmocka_unit_test(random_bytes_differ_and_comparison_sees_it),
        cmocka_unit_test(sealed_text_opens_with_the_same_key_and_data_only),
        cmocka_unit_test(key_files_are_made_once_and_kept_private),
        cmocka_unit_test(ed25519_verifies_the_standards_signature),
        cmocka_unit_test(signatures_bind_key_and_bytes_and_keys_survive_the_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
