#include "crypt/aead.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/str.h"
#include "crypt/hash.h"

#define NONCE_SIZE 12
#define TAG_SIZE 16
#define KEY_FILE_MAX 80

static void cipher_free(EVP_CIPHER_CTX **ctx)
{
    EVP_CIPHER_CTX_free(*ctx);
}

ew_status ew_aead_seal(const uint8_t key[static EW_AEAD_KEY_SIZE], ew_span aad, ew_span plain, ew_buf *out,
                       ew_error *reterr)
{
    if (plain.size > INT_MAX || aad.size > INT_MAX) {
        return ew_fail(reterr, EW_ELIMIT, "cannot seal more than %d bytes at once", INT_MAX);
    }
    uint8_t *dst = ew_buf_extend(out, plain.size + EW_AEAD_OVERHEAD);
    if (dst == NULL) {
        return ew_buf_check(out, reterr);
    }
    ew_random_bytes(dst, NONCE_SIZE);
    int n = 0;
    EW_CLEANUP(cipher_free) EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    EW_ASSERT(ctx != NULL && EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, dst) == 1);
    EW_ASSERT(aad.size == 0 || EVP_EncryptUpdate(ctx, NULL, &n, aad.data, (int)aad.size) == 1);
    uint8_t *text = dst + NONCE_SIZE;
    EW_ASSERT(plain.size == 0 || EVP_EncryptUpdate(ctx, text, &n, plain.data, (int)plain.size) == 1);
    EW_ASSERT(EVP_EncryptFinal_ex(ctx, text + plain.size, &n) == 1 && n == 0);
    EW_ASSERT(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG_SIZE, text + plain.size) == 1);
    return EW_OK;
}

ew_status ew_aead_open(const uint8_t key[static EW_AEAD_KEY_SIZE], ew_span aad, ew_span sealed, ew_buf *out,
                       ew_error *reterr)
{
    if (sealed.size < EW_AEAD_OVERHEAD || sealed.size > INT_MAX || aad.size > INT_MAX) {
        return ew_fail(reterr, EW_ECORRUPT, "a sealed record of %zu bytes is too short or too long", sealed.size);
    }
    const uint8_t *src = sealed.data;
    size_t size = sealed.size - EW_AEAD_OVERHEAD;
    size_t start = out->size;
    uint8_t *dst = ew_buf_extend(out, size);
    if (dst == NULL && out->status != EW_OK) {
        return ew_buf_check(out, reterr);
    }
    uint8_t tag[TAG_SIZE], spare[16];
    memcpy(tag, src + NONCE_SIZE + size, TAG_SIZE);
    int n = 0;
    EW_CLEANUP(cipher_free) EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    EW_ASSERT(ctx != NULL && EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, src) == 1);
    EW_ASSERT(aad.size == 0 || EVP_DecryptUpdate(ctx, NULL, &n, aad.data, (int)aad.size) == 1);
    EW_ASSERT(size == 0 || EVP_DecryptUpdate(ctx, dst, &n, src + NONCE_SIZE, (int)size) == 1);
    EW_ASSERT(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG_SIZE, tag) == 1);
    if (EVP_DecryptFinal_ex(ctx, spare, &n) != 1) {
        if (size > 0) {
            ew_wipe(dst, size); /* not authenticated: nobody may see it */
        }
        out->size = start;
        return ew_fail(reterr, EW_ECORRUPT, "a sealed record does not open: wrong key, or it was changed");
    }
    return EW_OK;
}

/* --- key files --- */

static ew_status make_key(const char *path, ew_error *reterr)
{
    uint8_t key[EW_AEAD_KEY_SIZE];
    char text[2 * EW_AEAD_KEY_SIZE + 2];
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return errno == EEXIST ? EW_OK : ew_fail_errno(reterr, errno, "cannot create key file '%s'", path);
    }
    ew_random_bytes(key, sizeof(key));
    ew_hex_encode(key, sizeof(key), text);
    text[2 * EW_AEAD_KEY_SIZE] = '\n';
    ssize_t n = write(fd, text, 2 * EW_AEAD_KEY_SIZE + 1);
    int err = n < 0 ? errno : ENOSPC;
    bool ok = n == 2 * EW_AEAD_KEY_SIZE + 1 && fsync(fd) == 0;
    ew_wipe(key, sizeof(key));
    ew_wipe(text, sizeof(text));
    if (close(fd) != 0 || !ok) {
        (void)unlink(path);
        return ew_fail_errno(reterr, err, "cannot write key file '%s'", path);
    }
    return EW_OK;
}

static ew_status parse_key(const char *path, char *text, size_t n, uint8_t *key, ew_error *reterr)
{
    if (n == EW_AEAD_KEY_SIZE) {
        memcpy(key, text, n);
        return EW_OK;
    }
    text[n] = '\0';
    text[strcspn(text, " \r\n")] = '\0';
    if (strlen(text) != 2 * EW_AEAD_KEY_SIZE || !ew_hex_decode(text, key, EW_AEAD_KEY_SIZE)) {
        return ew_fail(reterr, EW_ECORRUPT, "key file '%s' should hold 64 hex digits or 32 bytes", path);
    }
    return EW_OK;
}

ew_status ew_aead_key_file(const char *path, bool make, uint8_t ret_key[static EW_AEAD_KEY_SIZE], ew_error *reterr)
{
    char text[KEY_FILE_MAX + 1];
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT && make) {
        EW_TRY(make_key(path, reterr));
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    }
    if (fd < 0) {
        return ew_fail_errno(reterr, errno, "cannot open key file '%s'", path);
    }
    ssize_t n = -1;
    ew_status status = EW_OK;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        status = ew_fail(reterr, EW_EINVAL, "key file '%s' is not a regular file", path);
    } else if ((st.st_mode & (S_IWGRP | S_IRWXO)) != 0 || ((st.st_mode & S_IRWXG) != 0 && st.st_uid != 0)) {
        status = ew_fail(reterr, EW_EDENIED, "key file '%s' can be read by others. HINT: chmod 600 '%s'", path, path);
    } else if ((n = read(fd, text, KEY_FILE_MAX)) < 0) {
        status = ew_fail_errno(reterr, errno, "cannot read key file '%s'", path);
    } else {
        status = parse_key(path, text, (size_t)n, ret_key, reterr);
    }
    (void)close(fd);
    ew_wipe(text, sizeof(text));
    return status;
}
