/* enrol: from a token to an identity. */
#include <stdio.h>
#include <string.h>

#include "agent_cli/app.h"
#include "base/str.h"
#include "session/enrol.h"
#include "sys/file.h"

typedef struct enrol_args {
    char *dir, *token, *hardware_id;
    bool json;
} enrol_args;

static ew_status enrol(const enrol_args *o, ew_home *h, ew_error *reterr)
{
    ew_token token;
    ew_enrol_result result;
    char identity[EW_HOME_PATH_MAX];
    char pending[EW_HOME_PATH_MAX];
    char ca[EW_HOME_PATH_MAX];
    char device[EW_HOME_PATH_MAX];
    EW_AUTO(ew_dir_lock) lock = NULL;
    EW_TRY(ew_token_parse(o->token, &token, reterr));
    EW_TRY(ew_home_init(o->dir, h, reterr));
    EW_TRY(ew_dir_lock_take(h->root, &lock, reterr));
    if (ew_file_exists(ew_home_path(h, "device.json", device))) {
        return ew_fail(reterr, EW_EEXIST,
                       "%s is enrolled already. HINT: use another --dir, or remove this one to start anew", o->dir);
    }
    const ew_enrol_opt opt = {.token = &token,
                              .identity_path = ew_home_path(h, "identity.pem", identity),
                              .pending_path = ew_home_path(h, "identity.pending", pending),
                              .ca_path = ew_home_path(h, "ca.pem", ca),
                              .hardware_id = o->hardware_id};
    EW_TRY(ew_enrol(&opt, &result, reterr));
    (void)ew_str_copy(h->device_id, sizeof(h->device_id), result.device_id);
    (void)ew_str_copy(h->trust_domain, sizeof(h->trust_domain), result.trust_domain);
    memcpy(h->artifact_key, result.artifact_key, sizeof(h->artifact_key));
    h->endpoints = result.endpoints;
    if (h->endpoints.n == 0) {
        h->endpoints.n = 1;
        (void)ew_str_copy(h->endpoints.item[0], sizeof(h->endpoints.item[0]), token.endpoint);
    }
    return ew_home_save(h, reterr);
}

int ew_agent_cmd_enrol(int argc, char **argv, void *ctx)
{
    const ew_agent_app *app = ctx;
    char dir[EW_HOME_PATH_MAX];
    (void)ew_str_copy(dir, sizeof(dir), app->dir);
    enrol_args o = {.dir = dir};
    ew_home h;
    ew_error err = EW_ERROR_INIT;
    const ew_cli_opt opts[] = {
        {"dir", 'd', "DIR", EW_CLI_STRING, &o.dir, .help = "where the agent keeps everything; made when absent"},
        {"hardware-id", 0, "ID", EW_CLI_STRING, &o.hardware_id,
         .help = "serial number, when the token is bound to one"},
        {"json", 0, NULL, EW_CLI_FLAG, &o.json, .help = "print JSON"},
    };
    const ew_cli_pos pos[] = {
        {"TOKEN", EW_CLI_STRING, &o.token, .help = "the one-time string that `token create` printed"}};
    const ew_cli_spec spec = {.command = "enrol",
                              .doc = "Makes a key on this device and exchanges the token for a certificate. Nothing is "
                                     "sent to a coordinator whose "
                                     "certificate does not end in the CA that the token names.",
                              .examples = "  edgewise-agent enrol ew1.AAAA… --dir /var/lib/edgewise-agent\n",
                              .opts = opts,
                              .n_opts = EW_COUNT(opts),
                              .pos = pos,
                              .n_pos = EW_COUNT(pos)};
    int status = ew_cli_parse(&spec, argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_status st = enrol(&o, &h, &err);
    if (st != EW_OK) {
        return ew_agent_app_fail(st, &err);
    }
    if (o.json) {
        (void)printf("{\"device\":\"%s\",\"coordinator\":\"%s\"}\n", h.device_id, h.endpoints.item[0]);
    } else {
        (void)printf("enrolled as %s with %s\n", h.device_id, h.endpoints.item[0]);
    }
    return 0;
}
