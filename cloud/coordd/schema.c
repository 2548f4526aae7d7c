/* See schema.h. A step that was released is never changed: add another. */
#include "coordd/schema.h"

#include "jobs/jobs.h"
#include "registry/registry.h"

static const char base_step[] =
    "CREATE TABLE device("
    " id TEXT PRIMARY KEY, key_sha256 BLOB NOT NULL, key_before BLOB, hardware_id TEXT NOT NULL DEFAULT '',"
    " created_ms INTEGER NOT NULL, last_seen_ms INTEGER NOT NULL DEFAULT 0, revoked_ms INTEGER NOT NULL DEFAULT 0,"
    " not_after_ms INTEGER NOT NULL, epoch INTEGER NOT NULL DEFAULT 0, boot_id BLOB, cert BLOB NOT NULL,"
    " caps BLOB, state BLOB) WITHOUT ROWID;"
    "CREATE INDEX device_key ON device(key_sha256);"
    "CREATE TABLE token("
    " id TEXT PRIMARY KEY, secret BLOB NOT NULL, created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL,"
    " hardware_id TEXT NOT NULL DEFAULT '', device_name TEXT NOT NULL DEFAULT '',"
    " used_ms INTEGER NOT NULL DEFAULT 0, csr_sha256 BLOB, device_id TEXT, wrong_proofs INTEGER NOT NULL DEFAULT 0)"
    " WITHOUT ROWID;"
    "CREATE TABLE idem("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT, peer TEXT NOT NULL, key BLOB NOT NULL, reply BLOB NOT NULL,"
    " created_ms INTEGER NOT NULL, UNIQUE(peer, key));"
    "CREATE TABLE audit("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT, unix_ms INTEGER NOT NULL, who TEXT NOT NULL, event TEXT NOT NULL,"
    " detail TEXT NOT NULL);"
    "CREATE TABLE plan("
    " id BLOB PRIMARY KEY, device TEXT NOT NULL, task TEXT NOT NULL, made_ms INTEGER NOT NULL,"
    " packed BLOB NOT NULL, signature BLOB NOT NULL, request TEXT NOT NULL);"
    "CREATE INDEX plan_of ON plan(device, task, made_ms);"
    "CREATE TABLE experiment("
    " id TEXT PRIMARY KEY, name TEXT NOT NULL, spec TEXT NOT NULL, owner TEXT NOT NULL, created_ms INTEGER NOT NULL);"
    /* Finished trials of this fleet and imported ones; seq is the evidence version. */
    "CREATE TABLE evidence("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, imported INTEGER NOT NULL, json TEXT NOT NULL,"
    " created_ms INTEGER NOT NULL);";

size_t ew_schema_steps(const char *const **ret_steps)
{
    /* Filled here: the other modules' texts are no constant expressions. Every caller writes the same values. */
    static const char *steps[3];
    steps[0] = base_step;
    steps[1] = ew_jobs_schema;
    steps[2] = ew_registry_schema;
    *ret_steps = steps;
    return EW_COUNT(steps);
}
