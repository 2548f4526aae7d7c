/* Server and client against each other over real sockets. */
#include "fixture.h"

#include "base/rng.h"
#include "domain/msg.h"
#include "net/x509.h"

static ew_status echo(ew_client *c, const char *text, ew_buf *back, ew_error *err)
{
    ew_msg *q = ew_msg_new(EW_MSG_OP_REQUEST);
    ew_str_copy(q->op_request.verb, sizeof(q->op_request.verb), "echo");
    ew_msg *a = NULL;
    ew_status st = ew_client_call(c, q, (ew_span){text, strlen(text)}, 10000, &a, back, err);
    ew_msg_free(&q);
    ew_msg_free(&a);
    return st;
}

static void a_device_comes_up_and_calls(void **state)
{
    (void)state;
    site t;
    ew_error err = EW_ERROR_INIT;
    site_init(&t, (ew_server_opt){0});
    ew_client *c = site_client(&t, (ew_client_opt){0}, NULL);
    EW_AUTO_BUF back = {0};
    ok(echo(c, "{\"a\":1}", &back, &err));
    assert_string_equal(ew_buf_str(&back), "{\"a\":1}");
    assert_true(ew_server_is_up(t.s, "dev-1"));
    ew_client_free(&c);
    events_wait(&t.ev, &t.ev.down, 1);
    assert_int_equal(t.ev.up, 1);
    site_release(&t);
}

static void an_operator_comes_up_without_epoch(void **state)
{
    (void)state;
    site t;
    ew_error err = EW_ERROR_INIT;
    site_init(&t, (ew_server_opt){0});
    ew_client *a = site_client(&t, (ew_client_opt){.role = EW_ROLE_OPERATOR, .no_reconnect = true}, NULL);
    ew_client *b = site_client(&t, (ew_client_opt){.role = EW_ROLE_OPERATOR, .no_reconnect = true}, NULL);
    EW_AUTO_BUF back = {0};
    ok(echo(a, "x", &back, &err));
    ok(echo(b, "y", &back, &err));
    ok(echo(a, "z", &back, &err));
    ew_client_free(&a);
    ew_client_free(&b);
    site_release(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_comes_up_and_calls),
        cmocka_unit_test(an_operator_comes_up_without_epoch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
