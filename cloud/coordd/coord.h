/* The coordinator: what `edgewise-coordinator init` makes and `run` runs.
 *
 *   DIR/coordinator.db      state; only this process opens it        DIR/artifacts/<sha256>   models, as published
 *   DIR/tls/server.key …    certificate, renewed from the signer     DIR/run/endpoint         "host:port" while it runs
 *   DIR/signer/             the signer's keys (another user's)       DIR/operator/            the first operator's bundle
 *
 * Crash-only: what was acknowledged is in the database; a start after kill -9 is a start.
 * Locking: ew_coord_run is called once, from the main thread. */
#ifndef EW_COORDD_COORD_H
#define EW_COORDD_COORD_H

#include "base/base.h"
#include "base/status.h"

typedef struct ew_coord_init_opt {
    const char *dir;
    const char *domain;         /* trust domain */
    const char *coordinator_id; /* "c1" */
    const char *operator_name;  /* "admin" */
    const char *const *names;   /* more DNS names and addresses of this machine */
    size_t n_names;
    const char *user;        /* owner of all but the keys (root only); NULL = who runs it */
    const char *signer_user; /* owner of the keys (root only); NULL = likewise */
} ew_coord_init_opt;

/* All or nothing: built beside DIR and renamed. EW_EEXIST when DIR holds anything. */
ew_status ew_coord_init(const ew_coord_init_opt *opt, ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_coord_conf {
    char *dir;
    char *listen;
    char *advertise;
    char *signer_socket;
    char *log;
    char *observers; /* names of operators that may only read, separated by commas; may be NULL */
    double device_cert_s;
    double lease_s;
    double keepalive_s;
    double drain_s;
    int64_t workers;
    int64_t max_conns;
    uint64_t db_max_bytes;
} ew_coord_conf;

/* Runs until SIGTERM. notify_socket: systemd's, may be NULL. Prints the endpoint as the first line on stdout. */
ew_status ew_coord_run(const ew_coord_conf *conf, const char *notify_socket, ew_error *reterr) EW_MUST_CHECK;

#endif
