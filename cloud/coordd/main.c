/* edgewise-coordinator: init, run, and the operator's verbs that belong to it. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "coordd/coord.h"
#include "opclient/opclient.h"
#include "sys/cli.h"
#include "sys/config.h"
#include "sys/file.h"
#include "text/json.h"

#ifndef EW_VERSION
#define EW_VERSION "0.1.0"
#endif
#define PROG "edgewise-coordinator"

extern char **environ;

/* clang-format off */
static const ew_config_key config_keys[] = {
    {"dir", EW_CONFIG_STRING, offsetof(ew_coord_conf, dir), NULL, .help = "directory that init made"},
    {"listen", EW_CONFIG_STRING, offsetof(ew_coord_conf, listen), "127.0.0.1:7443", .help = "address and port; port 0 = any free one"},
    {"advertise", EW_CONFIG_STRING, offsetof(ew_coord_conf, advertise), "", .help = "host[:port] that tokens and devices are told; empty = the address it listens on"},
    {"signer-socket", EW_CONFIG_STRING, offsetof(ew_coord_conf, signer_socket), "", .help = "the signer's socket; empty = signer/signer.sock in dir"},
    {"observers", EW_CONFIG_STRING, offsetof(ew_coord_conf, observers), "", .help = "operators that may only read, names separated by commas; all others may do everything"},
    {"log", EW_CONFIG_STRING, offsetof(ew_coord_conf, log), "all=info", .help = "what is logged, e.g. all=info,net=debug"},
    {"device-cert", EW_CONFIG_SECONDS, offsetof(ew_coord_conf, device_cert_s), "24h", .min = 10, .max = 604800, .help = "life of device certificates"},
    {"trial-lease", EW_CONFIG_SECONDS, offsetof(ew_coord_conf, lease_s), "60s", .min = 1, .max = 86400, .help = "a trial without a sign of life for that long goes back to the queue"},
    {"keepalive", EW_CONFIG_SECONDS, offsetof(ew_coord_conf, keepalive_s), "30s", .min = 1, .max = 240, .help = "silence after which a peer is asked"},
    {"drain", EW_CONFIG_SECONDS, offsetof(ew_coord_conf, drain_s), "2s", .min = 0, .max = 600, .help = "time for requests in flight at a stop"},
    {"workers", EW_CONFIG_I64, offsetof(ew_coord_conf, workers), "4", .min = 1, .max = 256, .help = "threads that handle requests"},
    {"max-connections", EW_CONFIG_I64, offsetof(ew_coord_conf, max_conns), "25000", .min = 1, .max = 1000000, .help = "connections at one time"},
    {"database-limit", EW_CONFIG_BYTES, offsetof(ew_coord_conf, db_max_bytes), "0", .help = "size that the database may reach; 0 = no limit"}};
/* clang-format on */

static int run_init(int argc, char **argv, void *ctx)
{
    (void)ctx;
    char domain_default[] = "edgewise.local", id_default[] = "c1", operator_default[] = "admin";
    char *dir = NULL, *user = NULL, *signer_user = NULL;
    char *domain = domain_default, *id = id_default, *operator_name = operator_default;
    ew_cli_strings names = {0};
    const ew_cli_opt opts[] = {
        {"domain", 0, "DOMAIN", EW_CLI_STRING, &domain,
         .help = "trust domain of all certificates (default edgewise.local)"},
        {"name", 'n', "HOST", EW_CLI_STRINGS, &names, .help = "a DNS name or address of this machine; may be repeated"},
        {"id", 0, "ID", EW_CLI_STRING, &id, .help = "id of this coordinator (default c1)"},
        {"operator", 0, "NAME", EW_CLI_STRING, &operator_name, .help = "name of the first operator (default admin)"},
        {"user", 0, "USER", EW_CLI_STRING, &user, .help = "owner of the files (root only)"},
        {"signer-user", 0, "USER", EW_CLI_STRING, &signer_user, .help = "owner of the keys (root only)"}};
    const ew_cli_pos pos[] = {{"DIR", EW_CLI_STRING, &dir, .help = "directory to make"}};
    int status = ew_cli_parse(
        &(ew_cli_spec){.command = "init",
                       .doc =
                           "Makes a coordinator: CA and artifact key (for the signer), database, certificates, and the "
                           "first operator's bundle in DIR/operator. Refuses a directory that holds anything.",
                       .examples = "  edgewise-coordinator init ./co --name edge.example.org\n",
                       .opts = opts,
                       .n_opts = EW_COUNT(opts),
                       .pos = pos,
                       .n_pos = EW_COUNT(pos)},
        argc, argv);
    if (status != EW_CLI_GO) {
        ew_cli_strings_release(&names);
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    ew_coord_init_opt opt = {.dir = dir,
                             .domain = domain,
                             .coordinator_id = id,
                             .operator_name = operator_name,
                             .names = (const char *const *)names.item,
                             .n_names = names.n,
                             .user = user,
                             .signer_user = signer_user};
    ew_status st = ew_coord_init(&opt, &err);
    ew_cli_strings_release(&names);
    if (st != EW_OK) {
        (void)ew_cli_fail(PROG, st, &err);
        return 1;
    }
    (void)fprintf(stderr,
                  "%s is ready. Next:\n  edgewise-signer run --dir %s/signer\n  edgewise-coordinator run --dir %s\n"
                  "  edgewise-coordinator token create --dir %s\n",
                  dir, dir, dir, dir);
    return 0;
}

typedef struct run_args {
    char *file, *dir, *listen, *advertise;
    ew_cli_strings set;
} run_args;

static ew_status set_pairs(ew_config *config, const ew_cli_strings *set, ew_error *reterr)
{
    for (size_t i = 0; i < set->n; i++) {
        char name[64];
        const char *eq = strchr(set->item[i], '=');
        if (eq == NULL || (size_t)(eq - set->item[i]) >= sizeof name) {
            return ew_fail(reterr, EW_EINVAL, "--set wants NAME=VALUE, not '%s'", set->item[i]);
        }
        memcpy(name, set->item[i], (size_t)(eq - set->item[i]));
        name[eq - set->item[i]] = '\0';
        EW_TRY(ew_config_set(config, name, eq + 1, reterr));
    }
    return EW_OK;
}

static ew_status load_config(ew_config *config, const run_args *a, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    if (a->file != NULL) {
        EW_TRY(ew_config_load_file(config, a->file, reterr));
    } else if (a->dir != NULL) {
        EW_TRY(ew_path_join(path, sizeof path, a->dir, "coordinator.yaml", reterr));
        if (ew_file_exists(path)) {
            EW_TRY(ew_config_load_file(config, path, reterr));
        }
    }
    EW_TRY(ew_config_load_env(config, environ, reterr));
    if (a->dir != NULL) {
        EW_TRY(ew_config_set(config, "dir", a->dir, reterr));
    }
    if (a->listen != NULL) {
        EW_TRY(ew_config_set(config, "listen", a->listen, reterr));
    }
    if (a->advertise != NULL) {
        EW_TRY(ew_config_set(config, "advertise", a->advertise, reterr));
    }
    return set_pairs(config, &a->set, reterr);
}

static ew_status run_with(const run_args *a, bool print, ew_error *reterr)
{
    ew_coord_conf conf = {0};
    EW_AUTO(ew_config) config = NULL;
    EW_TRY(ew_config_new(config_keys, EW_COUNT(config_keys), &conf, &config, reterr));
    EW_TRY(load_config(config, a, reterr));
    if (print) {
        EW_AUTO_BUF text = {0};
        ew_config_print(config, &text);
        (void)fputs(ew_buf_str(&text), stdout);
        return EW_OK;
    }
    EW_TRY(ew_config_check(config, reterr));
    EW_TRY(ew_log_configure(conf.log, reterr));
    return ew_coord_run(&conf, getenv("NOTIFY_SOCKET"), reterr);
}

static int run_run(int argc, char **argv, void *ctx)
{
    (void)ctx;
    run_args a = {0};
    bool print = false;
    const ew_cli_opt opts[] = {
        {"dir", 'd', "DIR", EW_CLI_STRING, &a.dir, .help = "directory that init made"},
        {"listen", 'l', "HOST:PORT", EW_CLI_STRING, &a.listen,
         .help = "listen there (default 127.0.0.1:7443; port 0 = any)"},
        {"advertise", 0, "HOST[:PORT]", EW_CLI_STRING, &a.advertise, .help = "what tokens and devices are told"},
        {"config", 'c', "FILE", EW_CLI_STRING, &a.file, .help = "configuration (default DIR/coordinator.yaml)"},
        {"set", 's', "NAME=VALUE", EW_CLI_STRINGS, &a.set, .help = "set a key of the configuration; may be repeated"},
        {"print-config", 0, NULL, EW_CLI_FLAG, &print, .help = "print the resulting configuration and exit"}};
    int status =
        ew_cli_parse(&(ew_cli_spec){.command = "run",
                                    .doc = "Runs the coordinator until SIGTERM. The first line on stdout is the "
                                           "endpoint, which also stands in DIR/run/endpoint.",
                                    .opts = opts,
                                    .n_opts = EW_COUNT(opts)},
                     argc, argv);
    if (status == EW_CLI_GO) {
        ew_error err = EW_ERROR_INIT;
        ew_status st = run_with(&a, print, &err);
        status = st == EW_OK ? 0 : ew_cli_fail(PROG, st, &err);
    }
    ew_cli_strings_release(&a.set);
    return status;
}

static ew_status open_client(const char *dir, ew_opclient **ret, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    if (dir == NULL) {
        return ew_fail(reterr, EW_EINVAL, "--dir is needed: the directory that init made");
    }
    EW_TRY(ew_path_join(path, sizeof path, dir, "operator", reterr));
    return ew_opclient_open(path, NULL, ret, reterr);
}

static ew_status call(const char *dir, const char *verb, const json_t *in, json_t **ret, ew_error *reterr)
{
    EW_AUTO(ew_opclient) c = NULL;
    EW_TRY(open_client(dir, &c, reterr));
    return ew_opclient_call(c, verb, in, ret, reterr);
}

static int finish(ew_status st, const ew_error *err)
{
    return st == EW_OK ? 0 : ew_cli_fail(PROG, st, err);
}

static int run_token_create(int argc, char **argv, void *ctx)
{
    (void)ctx;
    char none[] = "";
    char *dir = NULL, *hardware = none, *device = none;
    double ttl = 24 * 3600;
    bool as_json = false;
    const ew_cli_opt opts[] = {
        {"dir", 'd', "DIR", EW_CLI_STRING, &dir, .help = "directory that init made"},
        {"ttl", 0, "TIME", EW_CLI_SECONDS, &ttl, .help = "how long it can be used, at most 24h (default)", .min = 1,
         .max = 24 * 3600},
        {"device", 0, "NAME", EW_CLI_STRING, &device, .help = "name of the device (default: made from its key)"},
        {"hardware-id", 0, "ID", EW_CLI_STRING, &hardware, .help = "only the machine with this id may use it"},
        {"json", 0, NULL, EW_CLI_FLAG, &as_json, .help = "print JSON"}};
    int status = ew_cli_parse(&(ew_cli_spec){.command = "token create",
                                             .doc = "Prints one token: a device enrols with it, once.",
                                             .opts = opts,
                                             .n_opts = EW_COUNT(opts)},
                              argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON in = json_pack("{s:I, s:s, s:s}", "ttl_s", (json_int_t)ttl, "hardware_id", hardware, "device", device);
    EW_AUTO_JSON out = NULL;
    ew_status st = call(dir, "token.create", in, &out, &err);
    const char *token = NULL;
    if (st == EW_OK) {
        st = ew_json_get_str(out, "token.create", "token", &token, &err);
    }
    if (st == EW_OK && as_json) {
        EW_AUTO_BUF text = {0};
        st = ew_json_dump(out, EW_JSON_PRETTY, &text, &err);
        (void)fputs(ew_buf_str(&text), stdout);
    } else if (st == EW_OK) {
        (void)printf("%s\n", token);
    }
    return finish(st, &err);
}

static void print_device(const json_t *d)
{
    char seen[25] = "never", until[25];
    int64_t ms = json_integer_value(json_object_get(d, "last_seen_unix_ms"));
    if (ms > 0) {
        (void)ew_wall_iso(seen, (uint64_t)ms);
    }
    (void)ew_wall_iso(until, (uint64_t)json_integer_value(json_object_get(d, "cert_not_after_unix_ms")));
    (void)printf("%-24s %-8s %-10s %-24s %s\n", json_string_value(json_object_get(d, "id")),
                 json_string_value(json_object_get(d, "status")),
                 json_is_true(json_object_get(d, "connected")) ? "connected" : "-", seen, until);
}

static int run_device_list(int argc, char **argv, void *ctx)
{
    (void)ctx;
    char *dir = NULL;
    bool as_json = false;
    const ew_cli_opt opts[] = {{"dir", 'd', "DIR", EW_CLI_STRING, &dir, .help = "directory that init made"},
                               {"json", 0, NULL, EW_CLI_FLAG, &as_json, .help = "print JSON"}};
    int status = ew_cli_parse(
        &(ew_cli_spec){.command = "device list", .doc = "Lists the devices.", .opts = opts, .n_opts = EW_COUNT(opts)},
        argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON out = NULL;
    ew_status st = call(dir, "device.list", NULL, &out, &err);
    if (st == EW_OK && as_json) {
        EW_AUTO_BUF text = {0};
        st = ew_json_dump(out, EW_JSON_PRETTY, &text, &err);
        (void)fputs(ew_buf_str(&text), stdout);
    } else if (st == EW_OK) {
        size_t i = 0;
        json_t *d = NULL;
        (void)printf("%-24s %-8s %-10s %-24s %s\n", "DEVICE", "STATUS", "LINK", "LAST SEEN", "CERTIFICATE UNTIL");
        json_array_foreach(json_object_get(out, "devices"), i, d)
        {
            print_device(d);
        }
    }
    return finish(st, &err);
}

static int run_device_revoke(int argc, char **argv, void *ctx)
{
    (void)ctx;
    char *dir = NULL, *id = NULL;
    const ew_cli_opt opts[] = {{"dir", 'd', "DIR", EW_CLI_STRING, &dir, .help = "directory that init made"}};
    const ew_cli_pos pos[] = {{"DEVICE", EW_CLI_STRING, &id, .help = "id of the device"}};
    int status = ew_cli_parse(&(ew_cli_spec){.command = "device revoke",
                                             .doc = "Cuts a device off, now and for good.",
                                             .opts = opts,
                                             .n_opts = EW_COUNT(opts),
                                             .pos = pos,
                                             .n_pos = EW_COUNT(pos)},
                              argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_JSON in = json_pack("{s:s}", "id", id);
    ew_status st =
        in == NULL ? ew_fail(&err, EW_EINVAL, "the id is not UTF-8") : call(dir, "device.revoke", in, NULL, &err);
    if (st == EW_OK) {
        (void)printf("revoked %s\n", id);
    }
    return finish(st, &err);
}

int main(int argc, char **argv)
{
    static const ew_cli_command token[] = {
        {"create", "--dir DIR", "print a token with which one device enrols", .run = run_token_create}};
    static const ew_cli_command device[] = {
        {"list", "--dir DIR", "list the devices", .run = run_device_list},
        {"revoke", "DEVICE --dir DIR", "cut a device off", .run = run_device_revoke}};
    static const ew_cli_command commands[] = {
        {"init", "DIR", "make a coordinator's directory, keys and database", .run = run_init},
        {"run", "--dir DIR", "run the coordinator", .run = run_run},
        {"token", NULL, "enrolment tokens", .sub = token, .n_sub = EW_COUNT(token)},
        {"device", NULL, "the devices of the fleet", .sub = device, .n_sub = EW_COUNT(device)}};
    ew_log_set_journald(getenv("JOURNAL_STREAM") != NULL);
    return ew_cli_main(&(ew_cli_program){PROG, EW_VERSION, "Plans, serves and watches a fleet of devices.", commands,
                                         EW_COUNT(commands), NULL},
                       argc, argv, NULL);
}
