/* edgewise-signer: the process that holds the keys. */
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "signer/signer.h"
#include "sys/cli.h"
#include "sys/config.h"
#include "sys/file.h"
#include "sys/notify.h"
#include "sys/signal.h"

#ifndef EW_VERSION
#define EW_VERSION "0.1.0"
#endif

extern char **environ;

typedef struct conf {
    char *dir;
    char *socket;
    char *allow_users;
    char *log;
} conf;

/* clang-format off */
static const ew_config_key config_keys[] = {
    {"signer-dir", EW_CONFIG_STRING, offsetof(conf, dir), NULL, .help = "directory of the keys"},
    {"signer-socket", EW_CONFIG_STRING, offsetof(conf, socket), "", .help = "UNIX socket; empty = signer.sock in signer-dir"},
    {"signer-allow-users", EW_CONFIG_STRING, offsetof(conf, allow_users), "", .help = "users or uids that may ask, separated by commas, beside our own and root"},
    {"signer-log", EW_CONFIG_STRING, offsetof(conf, log), "all=info", .help = "what is logged"}};
/* clang-format on */

static ew_status parse_user(const char *name, uint32_t *ret_uid, ew_error *reterr)
{
    uint64_t uid = 0;
    if (ew_str_to_u64(name, UINT32_MAX - 1, &uid)) {
        *ret_uid = (uint32_t)uid;
        return EW_OK;
    }
    const struct passwd *pw = getpwnam(name);
    if (pw == NULL) {
        return ew_fail(reterr, EW_EINVAL, "there is no user '%s'", name);
    }
    *ret_uid = (uint32_t)pw->pw_uid;
    return EW_OK;
}

static ew_status parse_users(const char *list, ew_signer_serve_opt *opt, ew_error *reterr)
{
    while (*list != '\0') {
        size_t n = strcspn(list, ",");
        char name[64];
        if (n == 0 || n >= sizeof name || opt->n_allow_uid == EW_COUNT(opt->allow_uid)) {
            return ew_fail(reterr, EW_EINVAL, "signer-allow-users must be at most %zu names separated by commas",
                           EW_COUNT(opt->allow_uid));
        }
        memcpy(name, list, n);
        name[n] = '\0';
        EW_TRY(parse_user(name, &opt->allow_uid[opt->n_allow_uid], reterr));
        opt->n_allow_uid++;
        list += n + (list[n] == ',');
    }
    return EW_OK;
}

static void tell_systemd(const char *state)
{
    ew_error err = EW_ERROR_INIT;
    if (ew_notify(getenv("NOTIFY_SOCKET"), state, &err) != EW_OK) {
        EW_LOG(EW_LOG_WARN, "signer", "notify", "detail=\"%s\"", err.msg);
    }
}

static void on_ready(void *ctx)
{
    (void)ctx;
    tell_systemd("READY=1");
    EW_LOG(EW_LOG_NOTICE, "signer", "ready", "pid=%ld", (long)getpid());
}

static void on_event(void *ctx, const char *event, const char *detail)
{
    (void)ctx;
    EW_LOG(EW_LOG_INFO, "signer", event, "detail=\"%s\"", detail);
}

static ew_status serve(const conf *c, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_TRY(ew_log_configure(c->log, reterr));
    EW_TRY(ew_signal_init(reterr));
    ew_signer_serve_opt opt = {.socket_path = c->socket, .on_ready = on_ready, .on_event = on_event};
    EW_TRY(parse_users(c->allow_users, &opt, reterr));
    if (c->socket[0] == '\0') {
        EW_TRY(ew_path_join(path, sizeof path, c->dir, EW_SIGNER_SOCKET, reterr));
        opt.socket_path = path;
    }
    EW_AUTO(ew_signer) s = NULL;
    EW_TRY(ew_signer_open(c->dir, &s, reterr));
    ew_status st = ew_signer_serve(s, &opt, reterr);
    tell_systemd("STOPPING=1");
    EW_LOG(EW_LOG_NOTICE, "signer", "stopped", "status=%s", ew_status_name(st));
    return st;
}

static ew_status load_config(ew_config *config, const char *file, const char *dir, const char *socket,
                             const char *users, ew_error *reterr)
{
    if (file != NULL) {
        EW_TRY(ew_config_load_file(config, file, reterr));
    }
    EW_TRY(ew_config_load_env(config, environ, reterr));
    if (dir != NULL) {
        EW_TRY(ew_config_set(config, "signer-dir", dir, reterr));
    }
    if (socket != NULL) {
        EW_TRY(ew_config_set(config, "signer-socket", socket, reterr));
    }
    if (users != NULL) {
        EW_TRY(ew_config_set(config, "signer-allow-users", users, reterr));
    }
    return EW_OK;
}

static int run_serve(int argc, char **argv, void *ctx)
{
    (void)ctx;
    char *file = NULL, *dir = NULL, *socket = NULL, *users = NULL;
    bool print = false;
    const ew_cli_opt opts[] = {
        {"config", 'c', "FILE", EW_CLI_STRING, &file, .help = "read the configuration from FILE"},
        {"dir", 'd', "DIR", EW_CLI_STRING, &dir, .help = "directory of the keys (DIR/signer of the coordinator's)"},
        {"socket", 's', "PATH", EW_CLI_STRING, &socket,
         .help = "listen on PATH (default: signer.sock in the directory)"},
        {"allow-users", 0, "LIST", EW_CLI_STRING, &users, .help = "users or uids that may ask"},
        {"print-config", 0, NULL, EW_CLI_FLAG, &print, .help = "print the resulting configuration and exit"}};
    int status = ew_cli_parse(&(ew_cli_spec){.command = "run",
                                             .doc = "Signs certificates, manifests and plans for the coordinator.",
                                             .opts = opts,
                                             .n_opts = EW_COUNT(opts)},
                              argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    conf c = {0};
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_config) config = NULL;
    ew_status st = ew_config_new(config_keys, EW_COUNT(config_keys), &c, &config, &err);
    if (st == EW_OK) {
        st = load_config(config, file, dir, socket, users, &err);
    }
    if (st == EW_OK && print) {
        EW_AUTO_BUF text = {0};
        ew_config_print(config, &text);
        (void)fputs(ew_buf_str(&text), stdout);
        return 0;
    }
    if (st == EW_OK) {
        st = ew_config_check(config, &err);
    }
    if (st == EW_OK) {
        st = serve(&c, &err);
    }
    return st == EW_OK ? 0 : ew_cli_fail("edgewise-signer", st, &err);
}

static ew_status make_operator(const char *dir, const char *name, const char *out, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_AUTO(ew_signer) s = NULL;
    EW_TRY(ew_signer_open(dir, &s, reterr));
    EW_AUTO(ew_pkey) key = NULL;
    EW_AUTO_BUF pem = {0};
    EW_AUTO_BUF csr = {0};
    EW_AUTO_BUF der = {0};
    EW_TRY(ew_pkey_new(&key, reterr));
    EW_TRY(ew_csr_make(key, &csr, reterr));
    EW_TRY(ew_signer_issue(s, EW_SPIFFE_OPERATOR, name, (ew_span){csr.data, csr.size}, 0, &der, reterr));
    EW_TRY(ew_pkey_to_pem(key, &pem, reterr));
    EW_TRY(ew_cert_to_pem((ew_span){der.data, der.size}, &pem, reterr));
    EW_TRY(ew_dir_make(out, 0700, reterr));
    EW_TRY(ew_path_join(path, sizeof path, out, "identity.pem", reterr));
    ew_status st = ew_file_replace(path, pem.data, pem.size, 0600, reterr);
    ew_wipe(pem.data, pem.size);
    EW_TRY(st);
    ew_buf_clear(&pem);
    EW_TRY(ew_cert_to_pem(ew_signer_ca_der(s), &pem, reterr));
    EW_TRY(ew_path_join(path, sizeof path, out, "ca.pem", reterr));
    return ew_file_replace(path, pem.data, pem.size, 0644, reterr);
}

static int run_operator(int argc, char **argv, void *ctx)
{
    (void)ctx;
    char *dir = NULL, *name = NULL, *out = NULL;
    const ew_cli_opt opts[] = {{"dir", 'd', "DIR", EW_CLI_STRING, &dir, .help = "directory of the keys"}};
    const ew_cli_pos pos[] = {{"NAME", EW_CLI_STRING, &name, .help = "the operator's name: a-z, 0-9 and '-'"},
                              {"OUT", EW_CLI_STRING, &out, .help = "directory for identity.pem and ca.pem"}};
    int status = ew_cli_parse(&(ew_cli_spec){.command = "operator",
                                             .doc = "Issues the certificate of another operator. Runs as the signer's "
                                                    "user or root; no running signer is needed.",
                                             .opts = opts,
                                             .n_opts = EW_COUNT(opts),
                                             .pos = pos,
                                             .n_pos = EW_COUNT(pos)},
                              argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    ew_status st = dir == NULL ? ew_fail(&err, EW_EINVAL, "--dir is needed") : make_operator(dir, name, out, &err);
    return st == EW_OK ? 0 : ew_cli_fail("edgewise-signer", st, &err);
}

int main(int argc, char **argv)
{
    static const ew_cli_command commands[] = {
        {"run", "--dir DIR", "answer the coordinator's requests", .run = run_serve},
        {"operator", "NAME OUT --dir DIR", "issue the certificate of another operator", .run = run_operator}};
    ew_log_set_journald(getenv("JOURNAL_STREAM") != NULL);
    return ew_cli_main(&(ew_cli_program){"edgewise-signer", EW_VERSION,
                                         "Holds the CA key and the artifact key and signs what its policy allows.",
                                         commands, EW_COUNT(commands), NULL},
                       argc, argv, NULL);
}
