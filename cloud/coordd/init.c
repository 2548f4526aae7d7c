/* `edgewise-coordinator init`: everything is built beside the directory and put in place by one rename. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/str.h"
#include "coordd/coord.h"
#include "coordd/store.h"
#include "crypt/hash.h"
#include "net/x509.h"
#include "session/client.h"
#include "signer/signer.h"
#include "sys/file.h"

typedef struct owner {
    uid_t uid;
    gid_t gid;
    bool given;
} owner;

static ew_status find_owner(const char *name, owner *ret, ew_error *reterr)
{
    uint64_t id = 0;
    if (name == NULL) {
        return EW_OK;
    }
    if (geteuid() != 0) {
        return ew_fail(reterr, EW_EDENIED, "only root can give files to the user '%s'", name);
    }
    if (ew_str_to_u64(name, UINT32_MAX - 1, &id)) {
        *ret = (owner){(uid_t)id, (gid_t)id, true};
        return EW_OK;
    }
    const struct passwd *pw = getpwnam(name);
    if (pw == NULL) {
        return ew_fail(reterr, EW_EINVAL, "there is no user '%s'", name);
    }
    *ret = (owner){pw->pw_uid, pw->pw_gid, true};
    return EW_OK;
}

/* From the leaves up: what a directory holds is done before another user owns it and could put a link in its place.
 * skip: a subtree that is left alone, or NULL. */
static ew_status give_tree(const char *path, const char *skip, const owner *o, ew_error *reterr)
{
    struct stat info;
    if (!o->given || (skip != NULL && strcmp(path, skip) == 0)) {
        return EW_OK;
    }
    if (lstat(path, &info) != 0) {
        return ew_fail_errno(reterr, errno, "%s", path);
    }
    ew_status st = EW_OK;
    if (S_ISDIR(info.st_mode)) {
        ew_dir_list list = {0};
        EW_TRY(ew_dir_read(path, &list, reterr));
        for (size_t i = 0; i < list.n && st == EW_OK; i++) {
            char sub[EW_PATH_MAX];
            st = ew_path_join(sub, sizeof sub, path, list.entry[i].name, reterr);
            if (st == EW_OK) {
                st = give_tree(sub, skip, o, reterr);
            }
        }
        ew_dir_list_release(&list);
    }
    EW_TRY(st);
    return lchown(path, o->uid, o->gid) == 0 ? EW_OK
                                             : ew_fail_errno(reterr, errno, "cannot give %s to another user", path);
}

static ew_status make_dir(const char *root, const char *name, unsigned mode, char ret[static EW_PATH_MAX],
                          ew_error *reterr)
{
    EW_TRY(ew_path_join(ret, EW_PATH_MAX, root, name, reterr));
    EW_TRY(ew_dir_make(ret, mode, reterr));
    return chmod(ret, mode) == 0 ? EW_OK : ew_fail_errno(reterr, errno, "cannot set the mode of %s", ret);
}

static ew_status write_file(const char *root, const char *name, const void *data, size_t size, unsigned mode,
                            ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_TRY(ew_path_join(path, sizeof path, root, name, reterr));
    return ew_file_replace(path, data, size, mode, reterr);
}

/* A key and its certificate. The coordinator's in two files, an operator's in one. */
static ew_status make_identity(const ew_signer *s, ew_spiffe_kind kind, const char *id, ew_buf *key_pem,
                               ew_buf *cert_pem, ew_error *reterr)
{
    EW_AUTO(ew_pkey) key = NULL;
    EW_AUTO_BUF csr = {0};
    EW_AUTO_BUF der = {0};
    EW_TRY(ew_pkey_new(&key, reterr));
    EW_TRY(ew_csr_make(key, &csr, reterr));
    EW_TRY(ew_signer_issue(s, kind, id, (ew_span){csr.data, csr.size}, 0, &der, reterr));
    EW_TRY(ew_pkey_to_pem(key, key_pem, reterr));
    return ew_cert_to_pem((ew_span){der.data, der.size}, cert_pem, reterr);
}

static ew_status make_keys(const ew_coord_init_opt *opt, const char *root, const char *signer_dir, ew_error *reterr)
{
    ew_signer_names names = {.domain = opt->domain, .coordinator_id = opt->coordinator_id};
    names.names[names.n_names++] = EW_DEFAULT_SERVER_NAME;
    names.names[names.n_names++] = "localhost";
    for (size_t i = 0; i < opt->n_names; i++) {
        if (names.n_names == EW_SIGNER_NAMES_MAX) {
            return ew_fail(reterr, EW_EINVAL, "at most %u names can be given", EW_SIGNER_NAMES_MAX - 2);
        }
        names.names[names.n_names++] = opt->names[i];
    }
    EW_TRY(ew_signer_create(signer_dir, &names, reterr));
    EW_AUTO(ew_signer) s = NULL;
    EW_TRY(ew_signer_open(signer_dir, &s, reterr));
    EW_AUTO_BUF ca = {0};
    EW_AUTO_BUF key = {0};
    EW_AUTO_BUF cert = {0};
    EW_AUTO_BUF op = {0};
    EW_TRY(ew_cert_to_pem(ew_signer_ca_der(s), &ca, reterr));
    EW_TRY(make_identity(s, EW_SPIFFE_COORDINATOR, opt->coordinator_id, &key, &cert, reterr));
    ew_buf_add(&cert, ca.data, ca.size);
    EW_TRY(ew_buf_check(&cert, reterr));
    EW_TRY(write_file(root, "tls/ca.pem", ca.data, ca.size, 0644, reterr));
    EW_TRY(write_file(root, "tls/server.key", key.data, key.size, 0600, reterr));
    EW_TRY(write_file(root, "tls/server.crt", cert.data, cert.size, 0644, reterr));
    EW_TRY(make_identity(s, EW_SPIFFE_OPERATOR, opt->operator_name, &op, &op, reterr));
    EW_TRY(write_file(root, "operator/identity.pem", op.data, op.size, 0600, reterr));
    EW_TRY(write_file(root, "operator/ca.pem", ca.data, ca.size, 0644, reterr));
    ew_wipe(key.data, key.size);
    ew_wipe(op.data, op.size);
    return EW_OK;
}

static ew_status make_database(const char *root, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_AUTO(ew_store) store = NULL;
    EW_TRY(ew_path_join(path, sizeof path, root, "coordinator.db", reterr));
    return ew_store_open(path, 0, &store, reterr);
}

static ew_status write_example(const ew_coord_init_opt *opt, const char *root, ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    ew_buf_addf(&text,
                "# Configuration of edgewise-coordinator: every key is optional; `edgewise-coordinator run --help` "
                "lists them,\n"
                "# `--print-config` shows the result with its origin.\n"
                "listen: 127.0.0.1:7443\n"
                "# advertise: edge.example.org:7443   # what tokens and devices are told; default: the address above\n"
                "# device-cert: 24h                   # life of device certificates, at most 7d\n"
                "# Trust domain: %s\n",
                opt->domain);
    EW_TRY(ew_buf_check(&text, reterr));
    return write_file(root, "coordinator.yaml", text.data, text.size, 0644, reterr);
}

static ew_status fill(const ew_coord_init_opt *opt, const char *root, ew_error *reterr)
{
    char path[EW_PATH_MAX], signer_dir[EW_PATH_MAX];
    owner user = {0}, signer = {0};
    EW_TRY(find_owner(opt->user, &user, reterr));
    EW_TRY(find_owner(opt->signer_user, &signer, reterr));
    /* 0711: the signer, another user, passes through to its own directory; nobody but the owner can list. */
    EW_TRY(make_dir(root, "", 0711, path, reterr));
    EW_TRY(make_dir(root, "signer", 0711, signer_dir, reterr));
    EW_TRY(make_dir(root, "tls", 0700, path, reterr));
    EW_TRY(make_dir(root, "operator", 0700, path, reterr));
    EW_TRY(make_dir(root, "artifacts", 0700, path, reterr));
    EW_TRY(make_dir(root, "run", 0755, path, reterr));
    EW_TRY(make_keys(opt, root, signer_dir, reterr));
    EW_TRY(make_database(root, reterr));
    EW_TRY(write_example(opt, root, reterr));
    EW_TRY(give_tree(signer_dir, NULL, &signer, reterr));
    return give_tree(root, signer.given ? signer_dir : NULL, &user, reterr);
}

static ew_status is_free(const char *dir, ew_error *reterr)
{
    if (!ew_file_exists(dir)) {
        return EW_OK;
    }
    ew_dir_list list = {0};
    if (!ew_dir_exists(dir) || ew_dir_read(dir, &list, reterr) != EW_OK) {
        return ew_fail(reterr, EW_EEXIST, "%s is there already and is no empty directory", dir);
    }
    size_t n = list.n;
    ew_dir_list_release(&list);
    return n == 0 ? EW_OK
                  : ew_fail(reterr, EW_EEXIST,
                            "%s is there already and is not empty; nothing was changed. HINT: choose another directory",
                            dir);
}

ew_status ew_coord_init(const ew_coord_init_opt *opt, ew_error *reterr)
{
    char tmp[EW_PATH_MAX], dir[EW_PATH_MAX];
    (void)ew_str_copy(dir, sizeof dir, opt->dir);
    for (size_t n = strlen(dir); n > 1 && dir[n - 1] == '/'; n--) {
        dir[n - 1] = '\0';
    }
    EW_TRY(is_free(dir, reterr));
    char prefix[EW_PATH_MAX];
    if (snprintf(prefix, sizeof prefix, "%s.init-", dir) >= (int)sizeof prefix) {
        return ew_fail(reterr, EW_EINVAL, "the path is too long");
    }
    EW_TRY(ew_dir_make_temp(prefix, tmp, sizeof tmp, reterr));
    ew_status st = fill(opt, tmp, reterr);
    if (st == EW_OK) {
        st = ew_file_rename(tmp, dir, reterr);
    }
    if (st != EW_OK) {
        ew_error ignored = EW_ERROR_INIT; /* the first error is the one to tell */
        if (ew_dir_remove_tree(tmp, &ignored) != EW_OK && reterr != NULL) {
            return ew_fail(reterr, st, "%.200s (and %s could not be removed)", reterr->msg, tmp);
        }
    }
    return st;
}
