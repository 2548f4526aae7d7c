/* Round trip and artifact throughput of the wire on loopback: CSV name, size, p50, p99 or MB/s.
 * Usage: bench_wire [artifact MiB, default 512] */
#define FIXTURE_PLAIN 1
#include "../unit/session/fixture.h"

#include <time.h>

#include "base/clock.h"
#include "crypt/hash.h"
#include "domain/msg.h"
#include "net/x509.h"
#include "session/client.h"
#include "session/server.h"
#include "sys/file.h"
#include "wire/wire.h"

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void round_trips(ew_client *c, size_t body_bytes, int n)
{
    ew_error err = EW_ERROR_INIT;
    double *us = malloc((size_t)n * sizeof(*us));
    char *body = calloc(1, body_bytes + 1);
    ew_msg *q = ew_msg_new(EW_MSG_OFFLOAD_CLOSE); /* a small message that is echoed, on a stream of its own */
    q->stream_id = ew_client_stream_new(c);
    for (int i = 0; i < n; i++) {
        uint64_t t0 = ew_mono_ns();
        if (ew_client_call(c, q, (ew_span){body, body_bytes}, 10000, NULL, NULL, &err) != EW_OK) {
            fprintf(stderr, "%s\n", err.msg);
            exit(1);
        }
        us[i] = (double)(ew_mono_ns() - t0) / 1e3;
    }
    qsort(us, (size_t)n, sizeof(*us), by_value);
    printf("rtt,%zu B,p50 %.1f us,p99 %.1f us\n", body_bytes, us[n / 2], us[n * 99 / 100]);
    ew_msg_free(&q);
    free(body);
    free(us);
}

int main(int argc, char **argv)
{
    size_t mib = argc > 1 ? (size_t)atoi(argv[1]) : 512;
    ew_error err = EW_ERROR_INIT;
    site t;
    site_init(&t, (ew_server_opt){0});
    site_artifact(&t, mib << 20, 0);
    ew_client *c = site_client(&t, (ew_client_opt){0}, NULL);
    round_trips(c, 64, 2000); /* warm */
    round_trips(c, 64, 5000);
    round_trips(c, 65536, 2000);
    char dest[320];
    path_in(&t.p, dest, "copy.bin");
    ew_fetch_opt f = {.sha256 = t.artifact_sha256, .artifact_key = t.artifact_public, .dest_path = dest};
    uint64_t t0 = ew_mono_ns();
    ew_status st = ew_client_fetch(c, &f, NULL, &err);
    double s = (double)(ew_mono_ns() - t0) / 1e9;
    if (st != EW_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    printf("artifact,%zu MiB,%.0f MB/s,whole with verification and fsync\n", mib, (double)(mib << 20) / 1e6 / s);
    ew_client_free(&c);
    site_release(&t);
    return 0;
}
