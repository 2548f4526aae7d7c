/* The wire is ordinary TLS: openssl s_client with a device's certificate comes as far as Hello. Skipped without openssl. */
#include "../../unit/session/raw.h"

#include "base/limits.h"
#include "domain/msg.h"
#include "net/x509.h"
#include "session/client.h"
#include "session/server.h"
#include "wire/wire.h"

static void s_client_reaches_hello(void **state)
{
    (void)state;
    if (system("openssl version >/dev/null 2>&1") != 0) {
        skip();
    }
    site t;
    ew_error err = EW_ERROR_INIT;
    site_init(&t, (ew_server_opt){0});
    EW_AUTO_BUF env = {0};
    EW_AUTO_BUF text = {0};
    unsigned char h[EW_FRAME_HEADER_BYTES];
    ew_msg *m = ew_msg_new(EW_MSG_HELLO);
    m->msg_id = 1;
    m->hello.n_versions = 1;
    m->hello.versions[0].major = 1;
    m->hello.session_epoch = 1;
    ok(ew_wire_pack(m, &env, &err));
    ew_msg_free(&m);
    ew_frame_header(h, env.size, 0);
    char cmd[2048];
    snprintf(cmd, sizeof(cmd),
             "openssl s_client -connect 127.0.0.1:%u -servername " EW_DEFAULT_SERVER_NAME " -alpn " EW_ALPN_DEVICE
             " -cert %s -key %s -CAfile %s -tls1_3 -nocommands >%s/out 2>&1",
             ew_server_port(t.s), t.p.device_path, t.p.device_path, t.p.ca_path, t.p.dir);
    FILE *p = popen(cmd, "w");
    assert_non_null(p);
    fwrite(h, sizeof(h), 1, p);
    fwrite(env.data, env.size, 1, p);
    fflush(p);
    events_wait(&t.ev, &t.ev.up, 1);
    pclose(p);
    char path[320];
    path_in(&t.p, path, "out");
    ok(ew_file_read(path, 1 << 20, &text, &err));
    assert_non_null(strstr(ew_buf_str(&text), "ALPN protocol: " EW_ALPN_DEVICE));
    assert_non_null(strstr(ew_buf_str(&text), "Verification: OK"));
    assert_non_null(strstr(ew_buf_str(&text), "TLSv1.3"));
    site_release(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(s_client_reaches_hello)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
