/* Every pair of state and event, against what the protocol says in words; then long random walks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "session/fsm.h"

/* What the server's table must say, written as one line per state: event=next. All others are errors. */
typedef struct row {
    int state;
    const char *text;
} row;

static const row server_rows[] = {
    {EW_SERVER_TCP_UP, "bytes=tls drain=closed close=closed timeout=closed gone=closed "},
    {EW_SERVER_TLS, "bytes=tls tls-up=hello-wait drain=closed close=closed timeout=closed gone=closed "},
    {EW_SERVER_HELLO_WAIT,
     "bytes=hello-wait hello=opening enrol=active drain=closing close=closing timeout=closing gone=closed "},
    {EW_SERVER_OPENING, "bytes=opening control=opening go-away=closing up-ok=active drain=closing close=closing "
                        "timeout=closing gone=closed "},
    {EW_SERVER_ACTIVE, "bytes=active request=active reply=active control=active go-away=draining drain=draining "
                       "close=closing timeout=closed gone=closed "},
    {EW_SERVER_DRAINING, "bytes=draining request=draining reply=draining control=draining go-away=draining "
                         "drain=draining close=closing timeout=closing gone=closed "},
    {EW_SERVER_CLOSING, "bytes=closing up-ok=closing drain=closing close=closing flushed=closed timeout=closed "
                        "gone=closed "},
    {EW_SERVER_CLOSED,
     "bytes=closed up-ok=closed drain=closed close=closed flushed=closed timeout=closed gone=closed "},
};

static const row client_rows[] = {
    {EW_CLIENT_IDLE, "start=resolving timeout=resolving stop=stopped "},
    {EW_CLIENT_RESOLVING, "resolved=connecting close=backoff timeout=backoff stop=stopped "},
    {EW_CLIENT_CONNECTING, "tcp-up=tls close=backoff timeout=backoff gone=backoff stop=stopped "},
    {EW_CLIENT_TLS, "bytes=tls tls-up=hello-sent close=backoff timeout=backoff gone=backoff stop=stopped "},
    {EW_CLIENT_HELLO_SENT, "bytes=hello-sent hello-ack=active reply=hello-sent control=hello-sent go-away=backoff "
                           "close=backoff timeout=backoff gone=backoff stop=stopped "},
    {EW_CLIENT_ACTIVE, "bytes=active request=active reply=active control=active go-away=draining drain=draining "
                       "close=backoff timeout=backoff gone=backoff stop=stopped "},
    {EW_CLIENT_DRAINING, "bytes=draining request=draining reply=draining control=draining go-away=draining "
                         "drain=draining close=backoff timeout=backoff gone=backoff stop=stopped "},
    {EW_CLIENT_BACKOFF, "start=resolving close=backoff timeout=resolving stop=stopped "},
    {EW_CLIENT_STOPPED, "close=stopped gone=stopped stop=stopped "},
};

static const char *next_name(bool server, int next)
{
    return server ? ew_server_state_name((ew_server_state)next) : ew_client_state_name((ew_client_state)next);
}

static int step(bool server, int s, int e)
{
    return server ? ew_fsm_server((ew_server_state)s, (ew_fsm_event)e)
                  : ew_fsm_client((ew_client_state)s, (ew_fsm_event)e);
}

static void check(bool server, const row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char text[512] = "";
        for (int e = 0; e < EW_EV_COUNT; e++) {
            int next = step(server, rows[i].state, e);
            if (next != EW_FSM_BAD) {
                strcat(text, ew_fsm_event_name((ew_fsm_event)e));
                strcat(text, "=");
                strcat(text, next_name(server, next));
                strcat(text, " ");
            }
        }
        assert_string_equal(text, rows[i].text);
    }
}

static void every_pair_of_the_server_is_as_written(void **state)
{
    (void)state;
    assert_int_equal(sizeof(server_rows) / sizeof(server_rows[0]), EW_SERVER_STATE_COUNT);
    check(true, server_rows, sizeof(server_rows) / sizeof(server_rows[0]));
}

static void every_pair_of_the_client_is_as_written(void **state)
{
    (void)state;
    assert_int_equal(sizeof(client_rows) / sizeof(client_rows[0]), EW_CLIENT_STOPPED + 1);
    check(false, client_rows, sizeof(client_rows) / sizeof(client_rows[0]));
}

static void random_walks_end_only_where_they_may(void **state)
{
    (void)state;
    ew_rng r;
    ew_rng_init(&r, 1, 0);
    for (int walk = 0; walk < 2000; walk++) {
        int s = EW_SERVER_TCP_UP;
        bool said_hello = false;
        for (int i = 0; i < 200; i++) {
            int e = (int)ew_rng_below(&r, EW_EV_COUNT);
            int next = ew_fsm_server((ew_server_state)s, (ew_fsm_event)e);
            if (next == EW_FSM_BAD) {
                next = ew_fsm_server((ew_server_state)s, EW_EV_CLOSE); /* what the server then does */
                assert_true(next == EW_SERVER_CLOSING || next == EW_SERVER_CLOSED);
            }
            said_hello = said_hello || e == EW_EV_HELLO || e == EW_EV_ENROL;
            assert_true(next != EW_SERVER_ACTIVE || said_hello); /* nothing is served before that */
            assert_true(s != EW_SERVER_CLOSED || next == EW_SERVER_CLOSED);
            s = next;
        }
    }
    assert_int_equal(ew_fsm_server((ew_server_state)99, EW_EV_BYTES), EW_FSM_BAD);
    assert_int_equal(ew_fsm_client(EW_CLIENT_IDLE, (ew_fsm_event)99), EW_FSM_BAD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair_of_the_server_is_as_written),
        cmocka_unit_test(every_pair_of_the_client_is_as_written),
        cmocka_unit_test(random_walks_end_only_where_they_may),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
