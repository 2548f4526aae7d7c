#include "crypt/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/params.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/str.h"

#define FILE_PIECE (1024 * 1024)

void ew_sha256(const void *data, size_t size, uint8_t digest[static EW_SHA256_SIZE])
{
    EW_ASSERT(EVP_Digest(size > 0 ? data : "", size, digest, NULL, EVP_sha256(), NULL) == 1);
}

char *ew_sha256_hex(const void *data, size_t size, char hex[static EW_SHA256_HEX_SIZE])
{
    uint8_t digest[EW_SHA256_SIZE];
    ew_sha256(data, size, digest);
    ew_hex_encode(digest, sizeof(digest), hex);
    return hex;
}

struct ew_sha256_stream {
    EVP_MD_CTX *ctx; /* begun */
};

ew_sha256_stream *ew_sha256_stream_new(void)
{
    ew_sha256_stream *s = ew_xcalloc(1, sizeof(*s));
    s->ctx = EVP_MD_CTX_new();
    EW_ASSERT(s->ctx != NULL && EVP_DigestInit_ex(s->ctx, EVP_sha256(), NULL) == 1);
    return s;
}

void ew_sha256_stream_free(ew_sha256_stream **s)
{
    if (*s != NULL) {
        EVP_MD_CTX_free((*s)->ctx);
        ew_free(*s);
        *s = NULL;
    }
}

void ew_sha256_stream_add(ew_sha256_stream *s, const void *data, size_t size)
{
    EW_ASSERT(EVP_DigestUpdate(s->ctx, data, size) == 1);
}

void ew_sha256_stream_end(ew_sha256_stream *s, uint8_t digest[static EW_SHA256_SIZE])
{
    EW_ASSERT(EVP_DigestFinal_ex(s->ctx, digest, NULL) == 1);
    EW_ASSERT(EVP_DigestInit_ex(s->ctx, EVP_sha256(), NULL) == 1);
}

static ew_status hash_fd(int fd, const char *path, const ew_progress *progress, uint64_t total,
                         ew_sha256_stream *stream, uint64_t *ret_size, ew_error *reterr)
{
    uint64_t done = 0;
    unsigned char *piece = ew_malloc(1, FILE_PIECE);
    if (piece == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "no memory to hash '%s'", path);
    }
    ew_status st = EW_OK;
    for (;;) {
        ssize_t n = read(fd, piece, FILE_PIECE);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            st = ew_fail_errno(reterr, errno, "cannot read '%s'", path);
        }
        if (n <= 0) {
            break;
        }
        ew_sha256_stream_add(stream, piece, (size_t)n);
        done += (uint64_t)n;
        ew_progress_info info = {.phase = "hash",
                                 .unit = "B",
                                 .done = done,
                                 .total = total,
                                 .loss = __builtin_nan(""),
                                 .left_s = __builtin_nan("")};
        if (!ew_progress_tell(progress, &info)) {
            st = ew_fail(reterr, EW_ECANCELLED, "hashing '%s' was stopped", path);
            break;
        }
    }
    ew_free(piece);
    *ret_size = done;
    return st;
}

ew_status ew_sha256_file(const char *path, const ew_progress *progress, uint8_t digest[static EW_SHA256_SIZE],
                         uint64_t *ret_size, ew_error *reterr)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return ew_fail_errno(reterr, errno, "cannot open '%s'", path);
    }
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        (void)close(fd);
        return ew_fail(reterr, EW_EINVAL, "'%s' is not a regular file", path);
    }
    uint64_t size = 0;
    EW_AUTO(ew_sha256_stream) stream = ew_sha256_stream_new();
    ew_status status = hash_fd(fd, path, progress, (uint64_t)st.st_size, stream, &size, reterr);
    (void)close(fd);
    EW_TRY(status);
    ew_sha256_stream_end(stream, digest);
    if (ret_size != NULL) {
        *ret_size = size;
    }
    return EW_OK;
}

void ew_hmac_sha256(const void *key, size_t key_size, const void *data, size_t size, uint8_t mac[static EW_SHA256_SIZE])
{
    EW_ASSERT(key_size <= INT32_MAX);
    EW_ASSERT(HMAC(EVP_sha256(), key_size > 0 ? key : "", (int)key_size, size > 0 ? data : (const uint8_t *)"", size,
                   mac, NULL) != NULL);
}

void ew_hkdf_sha256(ew_span key, ew_span salt, ew_span info, void *out, size_t out_size)
{
    EW_ASSERT(out_size > 0 && out_size <= 255 * EW_SHA256_SIZE);
    /* RFC 5869 by HMAC: extract, then expand. OpenSSL's KDF refuses an empty key, the RFC does not. */
    uint8_t zero[EW_SHA256_SIZE] = {0};
    uint8_t prk[EW_SHA256_SIZE];
    uint8_t block[EW_SHA256_SIZE];
    ew_hmac_sha256(salt.size > 0 ? salt.data : zero, salt.size > 0 ? salt.size : sizeof(zero), key.data, key.size, prk);
    uint8_t *dst = out;
    for (uint8_t i = 1; out_size > 0; i++) {
        EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
        EVP_MAC_CTX *ctx = mac != NULL ? EVP_MAC_CTX_new(mac) : NULL;
        char digest[] = "SHA256";
        OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                               OSSL_PARAM_construct_end()};
        size_t n = 0;
        EW_ASSERT(ctx != NULL && EVP_MAC_init(ctx, prk, sizeof(prk), params) == 1);
        EW_ASSERT(i == 1 || EVP_MAC_update(ctx, block, sizeof(block)) == 1);
        EW_ASSERT(info.size == 0 || EVP_MAC_update(ctx, info.data, info.size) == 1);
        EW_ASSERT(EVP_MAC_update(ctx, &i, 1) == 1);
        EW_ASSERT(EVP_MAC_final(ctx, block, &n, sizeof(block)) == 1 && n == sizeof(block));
        EVP_MAC_CTX_free(ctx);
        EVP_MAC_free(mac);
        size_t take = EW_MIN(out_size, sizeof(block));
        memcpy(dst, block, take);
        dst += take;
        out_size -= take;
    }
    OPENSSL_cleanse(prk, sizeof(prk));
    OPENSSL_cleanse(block, sizeof(block));
}

void ew_random_bytes(void *dst, size_t size)
{
    unsigned char *p = dst;
    while (size > 0) {
        ssize_t n = getrandom(p, EW_MIN(size, (size_t)256), 0);
        EW_ASSERT(n > 0 || errno == EINTR);
        if (n > 0) {
            p += n;
            size -= (size_t)n;
        }
    }
}

bool ew_equal_secret(const void *a, const void *b, size_t size)
{
    return CRYPTO_memcmp(a, b, size) == 0;
}

void ew_wipe(void *p, size_t size)
{
    OPENSSL_cleanse(p, size);
}
