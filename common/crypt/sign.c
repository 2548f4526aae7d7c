#include "crypt/sign.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "crypt/hash.h"

#define PEM_MAX 4096

struct ew_sign_key {
    EVP_PKEY *pkey; /* Ed25519 with private half */
};

static ew_status key_wrap(EVP_PKEY *pkey, ew_sign_key **ret_key, ew_error *reterr)
{
    ew_sign_key *k = ew_calloc(1, sizeof(*k));
    if (k == NULL) {
        EVP_PKEY_free(pkey);
        return ew_fail(reterr, EW_ENOMEM, "no memory for a signing key");
    }
    k->pkey = pkey;
    *ret_key = k;
    return EW_OK;
}

ew_status ew_sign_key_new(ew_sign_key **ret_key, ew_error *reterr)
{
    EVP_PKEY *pkey = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    if (pkey == NULL) {
        ERR_clear_error();
        return ew_fail(reterr, EW_EINTERNAL, "cannot make an Ed25519 key");
    }
    return key_wrap(pkey, ret_key, reterr);
}

void ew_sign_key_free(ew_sign_key **k)
{
    if (*k != NULL) {
        EVP_PKEY_free((*k)->pkey);
        ew_free(*k);
        *k = NULL;
    }
}

void ew_sign_key_public(const ew_sign_key *k, uint8_t public_key[static EW_SIGN_PUBLIC_SIZE])
{
    size_t n = EW_SIGN_PUBLIC_SIZE;
    EW_ASSERT(EVP_PKEY_get_raw_public_key(k->pkey, public_key, &n) == 1 && n == EW_SIGN_PUBLIC_SIZE);
}

/* --- files --- */

static ew_status write_new(const char *path, const char *text, size_t size, ew_error *reterr)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        if (errno == EEXIST) {
            return ew_fail(reterr, EW_EEXIST, "key file '%s' is there already; it is never overwritten", path);
        }
        return ew_fail_errno(reterr, errno, "cannot create key file '%s'", path);
    }
    errno = ENOSPC; /* of a short write */
    bool ok = write(fd, text, size) == (ssize_t)size && fsync(fd) == 0;
    int err = errno;
    if (close(fd) != 0 || !ok) {
        (void)unlink(path);
        return ew_fail_errno(reterr, err, "cannot write key file '%s'", path);
    }
    return EW_OK;
}

ew_status ew_sign_key_write(const ew_sign_key *k, const char *path, ew_error *reterr)
{
    BIO *bio = BIO_new(BIO_s_secmem());
    EW_ASSERT(bio != NULL && PEM_write_bio_PKCS8PrivateKey(bio, k->pkey, NULL, NULL, 0, NULL, NULL) == 1);
    char *text = NULL;
    long size = BIO_get_mem_data(bio, &text);
    ew_status st = write_new(path, text, (size_t)size, reterr);
    BIO_free_all(bio);
    return st;
}

static int no_passphrase(char *buf, int size, int rwflag, void *ctx)
{
    (void)buf;
    (void)size;
    (void)rwflag;
    (void)ctx;
    return -1; /* a daemon asks nobody */
}

static ew_status read_pem(const char *path, char *text, size_t *ret_n, ew_error *reterr)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return ew_fail_errno(reterr, errno, "cannot open key file '%s'", path);
    }
    ew_status status = EW_OK;
    ssize_t n = 0;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        status = ew_fail(reterr, EW_EINVAL, "key file '%s' is not a regular file", path);
    } else if ((st.st_mode & (S_IWGRP | S_IRWXO)) != 0 || ((st.st_mode & S_IRWXG) != 0 && st.st_uid != 0)) {
        status = ew_fail(reterr, EW_EDENIED, "key file '%s' can be read by others. HINT: chmod 600 '%s'", path, path);
    } else if ((n = read(fd, text, PEM_MAX)) < 0) {
        status = ew_fail_errno(reterr, errno, "cannot read key file '%s'", path);
    }
    (void)close(fd);
    *ret_n = n > 0 ? (size_t)n : 0;
    return status;
}

ew_status ew_sign_key_read(const char *path, ew_sign_key **ret_key, ew_error *reterr)
{
    char text[PEM_MAX];
    size_t n = 0;
    EW_TRY(read_pem(path, text, &n, reterr));
    BIO *bio = BIO_new_mem_buf(text, (int)n);
    EVP_PKEY *pkey = bio != NULL ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;
    BIO_free(bio);
    ew_wipe(text, sizeof(text));
    ERR_clear_error();
    if (pkey == NULL) {
        return ew_fail(reterr, EW_ECORRUPT, "key file '%s' holds no private key in PEM form", path);
    }
    if (EVP_PKEY_get_base_id(pkey) != EVP_PKEY_ED25519) {
        EVP_PKEY_free(pkey);
        return ew_fail(reterr, EW_EUNSUPPORTED, "key file '%s' holds a key of another kind, Ed25519 is needed", path);
    }
    return key_wrap(pkey, ret_key, reterr);
}

/* --- signatures --- */

ew_status ew_sign(const ew_sign_key *k, const void *data, size_t size, uint8_t sig[static EW_SIGN_SIZE],
                  ew_error *reterr)
{
    size_t n = EW_SIGN_SIZE;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = ctx != NULL && EVP_DigestSignInit(ctx, NULL, NULL, NULL, k->pkey) == 1 &&
              EVP_DigestSign(ctx, sig, &n, size > 0 ? data : (const uint8_t *)"", size) == 1 && n == EW_SIGN_SIZE;
    EVP_MD_CTX_free(ctx);
    ERR_clear_error();
    return ok ? EW_OK : ew_fail(reterr, EW_EINTERNAL, "cannot make a signature");
}

bool ew_sign_verify(const uint8_t public_key[static EW_SIGN_PUBLIC_SIZE], const void *data, size_t size,
                    const uint8_t sig[static EW_SIGN_SIZE])
{
    EVP_PKEY *pkey = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public_key, EW_SIGN_PUBLIC_SIZE);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = pkey != NULL && ctx != NULL && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, pkey) == 1 &&
              EVP_DigestVerify(ctx, sig, EW_SIGN_SIZE, size > 0 ? data : (const uint8_t *)"", size) == 1;
    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(pkey);
    ERR_clear_error();
    return ok;
}
