/* `edgewise experiment validate|run|status|report|export`: from a YAML file to trials on the fleet, and from their results to tables, plots and a page. */
#include "cli/experiment.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/app.h"
#include "cli/data.h"
#include "cli/op.h"
#include "crypt/hash.h"
#include "experiment/report.h"
#include "experiment/spec.h"
#include "opclient/opclient.h"
#include "sys/file.h"
#include "sys/signal.h"
#include "sys/term.h"
#include "task/debian.h"
#include "text/json.h"

#define SUBMIT_BATCH 400
#define POLL_MS 500
#define DIGEST_HEX 16

typedef struct experiment_args {
    ew_cli_op op; /* the coordinator */
    char *file, *out, *data, *id;
    bool detach;
} experiment_args;

/* ---- the items that trials run on ---- */

/* What one (task, user) is called on the wire, and its items. */
typedef struct dataset {
    const char *task; /* borrowed from the experiment */
    char user[72];
    char source[EW_SOURCE_SIZE];
    char artifact[128];
    ew_items items;
} dataset;

typedef struct datasets {
    dataset *item;
    size_t n, cap;
} datasets;

static void datasets_release(datasets *d)
{
    for (size_t i = 0; i < d->n; i++) {
        ew_items_release(&d->item[i].items);
    }
    ew_free(d->item);
    *d = (datasets){0};
}

/* Takes the items. */
static ew_status add_dataset(datasets *all, const char *digest, const char *task, const char *user, ew_items *items,
                             ew_error *reterr)
{
    ew_status st = ew_grow((void **)&all->item, &all->cap, all->n + 1, sizeof(*all->item), 1000000);
    if (st != EW_OK) {
        ew_items_release(items);
        return ew_fail(reterr, st, "out of memory for the users of an experiment");
    }
    dataset *d = &all->item[all->n++];
    *d = (dataset){.task = task, .items = *items};
    (void)ew_str_copy(d->user, sizeof(d->user), user);
    (void)snprintf(d->source, sizeof(d->source), "benchmark:%.*s.%s:%s", DIGEST_HEX, digest, task, user);
    (void)snprintf(d->artifact, sizeof(d->artifact), "benchmark-%.*s.%.32s-%.32s", DIGEST_HEX, digest, task, user);
    return EW_OK;
}

static ew_status load_debian(const ew_experiment *e, const char *dir_opt, datasets *all, ew_error *reterr)
{
    char dir[1024];
    EW_AUTO(ew_debian) d = NULL;
    ew_debian_role role = ew_str_eq(e->data.group, "test") ? EW_DEBIAN_TEST : EW_DEBIAN_DEV;
    EW_TRY(ew_cli_data_dir(dir_opt, dir, sizeof(dir), reterr));
    EW_TRY(ew_debian_open(dir, &d, reterr));
    ew_status st = EW_OK;
    for (unsigned t = 0; t < e->tasks_count && st == EW_OK; t++) {
        const ew_debian_user **users = NULL;
        size_t n = 0;
        const ew_task *task = ew_task_find(e->tasks[t]);
        if (task == NULL || !ew_str_starts(e->tasks[t], "debian-")) {
            return ew_fail(reterr, EW_EINVAL,
                           "task '%s' is not one of the debian benchmark's: debian-section, debian-synopsis, "
                           "debian-depends, debian-size",
                           e->tasks[t]);
        }
        EW_TRY(ew_debian_users(d, task, role, &users, &n, reterr));
        size_t wanted = e->data.users != 0 ? EW_MIN((size_t)e->data.users, n) : n;
        for (size_t i = 0; i < wanted && st == EW_OK; i++) {
            ew_items items = {0};
            st = ew_debian_items(d, task, users[i], &items, reterr);
            if (st == EW_OK) {
                st = add_dataset(all, ew_debian_info_of(d)->digest, e->tasks[t], users[i]->hash, &items, reterr);
            }
        }
        ew_free((void *)(uintptr_t)users);
    }
    return st;
}

/* Every user of a JSON Lines file; items without a user belong to "file". */
static ew_status load_file(const ew_experiment *e, datasets *all, ew_error *reterr)
{
    EW_AUTO_ITEMS items = {0};
    uint8_t digest[EW_SHA256_SIZE];
    char hex[EW_SHA256_HEX_SIZE];
    EW_TRY(ew_items_read(e->data.file, &items, reterr));
    EW_TRY(ew_sha256_file(e->data.file, NULL, digest, NULL, reterr));
    ew_hex_encode(digest, sizeof(digest), hex);
    for (unsigned t = 0; t < e->tasks_count; t++) {
        size_t first_of_task = all->n;
        for (size_t i = 0; i < items.n; i++) {
            char user_hash[EW_SHA256_HEX_SIZE];
            const char *user = items.item[i].user[0] != '\0' ? items.item[i].user : "file";
            /* A user's name may be anything: on the wire it is a hash. */
            (void)ew_sha256_hex(user, strlen(user), user_hash);
            user_hash[DIGEST_HEX] = '\0';
            size_t k = first_of_task;
            while (k < all->n && strcmp(all->item[k].user, user_hash) != 0) {
                k++;
            }
            if (k == all->n) {
                ew_items none = {0};
                EW_TRY(add_dataset(all, hex, e->tasks[t], user_hash, &none, reterr));
            }
            EW_TRY(ew_items_add(&all->item[k].items, &items.item[i], reterr));
        }
    }
    return EW_OK;
}

static ew_status load_datasets(const ew_experiment *e, const char *data_dir, datasets *all, ew_error *reterr)
{
    return e->data.file != NULL ? load_file(e, all, reterr) : load_debian(e, data_dir, all, reterr);
}

/* Uploads what the coordinator does not have yet. */
static ew_status publish(ew_opclient *c, const datasets *all, const ew_progress *progress, ew_error *reterr)
{
    char dir[256];
    char path[320];
    EW_TRY(ew_dir_make_temp("/tmp/edgewise-experiment-", dir, sizeof(dir), reterr));
    ew_status st = ew_path_join(path, sizeof(path), dir, "items.jsonl", reterr);
    for (size_t i = 0; i < all->n && st == EW_OK; i++) {
        EW_AUTO_BUF text = {0};
        for (size_t k = 0; k < all->item[i].items.n; k++) {
            ew_item_write(&all->item[i].items.item[k], &text);
        }
        st = ew_buf_check(&text, reterr);
        if (st == EW_OK) {
            st = ew_file_replace(path, text.data, text.size, 0600, reterr);
        }
        if (st == EW_OK) {
            const ew_publish_opt opt = {.path = path,
                                        .name = all->item[i].artifact,
                                        .version = "1",
                                        .variant = "dataset",
                                        .score = (double)NAN};
            st = ew_opclient_publish(c, &opt, NULL, reterr);
        }
        const ew_progress_info info = {.phase = "publish",
                                       .unit = "users",
                                       .done = i + 1,
                                       .total = all->n,
                                       .loss = (double)NAN,
                                       .left_s = (double)NAN};
        if (st == EW_OK && !ew_progress_tell(progress, &info)) {
            st = ew_fail(reterr, EW_ECANCELLED, "stopped");
        }
    }
    ew_status removed = ew_dir_remove_tree(dir, st == EW_OK ? reterr : NULL);
    return st == EW_OK ? removed : st;
}

/* ---- the grid as JSON ---- */

static ew_status device_ids(const ew_experiment *e, ew_opclient *c, json_t **ret_ids, ew_error *reterr)
{
    EW_AUTO_JSON out = NULL;
    EW_AUTO_JSON ids = json_array();
    json_t *list = NULL;
    json_t *d;
    size_t i;
    bool all = e->devices_count == 0 || (e->devices_count == 1 && strcmp(e->devices[0], "all") == 0);
    for (unsigned k = 0; !all && k < e->devices_count; k++) {
        (void)json_array_append_new(ids, json_string(e->devices[k]));
    }
    if (all) {
        EW_TRY(ew_opclient_call(c, "device.list", NULL, &out, reterr));
        EW_TRY(ew_json_get_arr(out, "device.list", "devices", &list, reterr));
        json_array_foreach(list, i, d)
        {
            if (ew_str_eq(json_string_value(json_object_get(d, "status")), "active")) {
                (void)json_array_append(ids, json_object_get(d, "id"));
            }
        }
    }
    *ret_ids = json_incref(ids);
    return EW_OK;
}

static json_t *settings_json(const ew_experiment *e)
{
    ew_settings s = {0};
    json_t *j = json_object();
    if (ew_experiment_settings_of(e, &s, e->name, NULL) != EW_OK) {
        return j; /* checked when the file was read */
    }
    for (size_t i = 0; i < ew_setting_count; i++) {
        const double v = ew_settings_get(&s, ew_setting_table[i].name);
        if (v != 0) {
            (void)json_object_set_new(j, ew_setting_table[i].name, json_real(v));
        }
    }
    return j;
}

static json_t *trial_json(const ew_experiment *e, const ew_grid_point *p, const char *source)
{
    uint64_t ram = 0;
    if (e->budget.ram != NULL && !ew_str_to_bytes(e->budget.ram, &ram)) {
        ram = 0; /* checked when the file was read */
    }
    return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:o,s:{s:I,s:f},s:b}", "device", p->device, "task", p->task,
                     "source", source, "model", p->model, "variant", p->variant, "method", p->method, "n_history",
                     (json_int_t)(p->n_history == EW_HISTORY_ALL ? 0 : p->n_history), "seed", (json_int_t)p->seed,
                     "settings", settings_json(e), "budget", "ram_bytes", (json_int_t)ram, "seconds",
                     (double)e->budget.seconds, "force", e->force);
}

/* More items than the user's history has are all of it: where the grid asks for all, too, that trial stands for both (report.h). */
static bool is_all(const ew_experiment *e, const datasets *all, const ew_grid_point *p)
{
    bool asks_all = e->history_count == 0;
    for (unsigned i = 0; i < e->history_count; i++) {
        asks_all = asks_all || strcmp(e->history[i], "all") == 0;
    }
    for (size_t i = 0; asks_all && p->n_history > 0 && i < all->n; i++) {
        if (strcmp(all->item[i].source, p->user) == 0) {
            return (size_t)p->n_history >= ew_split_sizes(all->item[i].items.n).n_history;
        }
    }
    return false;
}

/* The grid is taken per task: users differ from task to task. */
static ew_status trials_json(const ew_experiment *e, const json_t *devices, const datasets *all, json_t **ret_trials,
                             ew_error *reterr)
{
    EW_AUTO_JSON trials = json_array();
    size_t n_devices = json_array_size(devices);
    const char **ids = ew_calloc(n_devices + 1, sizeof(*ids));
    const char **users = ew_calloc(all->n + 1, sizeof(*users));
    ew_status st = ids != NULL && users != NULL ? EW_OK : ew_fail(reterr, EW_ENOMEM, "out of memory for an experiment");
    for (size_t i = 0; i < n_devices && st == EW_OK; i++) {
        ids[i] = json_string_value(json_array_get(devices, i));
    }
    for (unsigned t = 0; t < e->tasks_count && st == EW_OK; t++) {
        ew_experiment one = *e;
        ew_grid_point *points = NULL;
        size_t n_points = 0;
        size_t n_users = 0;
        one.tasks = &e->tasks[t];
        one.tasks_count = 1;
        for (size_t i = 0; i < all->n; i++) {
            if (strcmp(all->item[i].task, e->tasks[t]) == 0) {
                users[n_users++] = all->item[i].source;
            }
        }
        st = ew_experiment_grid(&one, ids, n_devices, users, n_users, &points, &n_points, reterr);
        for (size_t i = 0; i < n_points && st == EW_OK; i++) {
            if (is_all(e, all, &points[i])) {
                continue;
            }
            json_t *j = trial_json(e, &points[i], points[i].user);
            st = j != NULL && json_array_append_new(trials, j) == 0
                     ? EW_OK
                     : ew_fail(reterr, EW_ENOMEM, "out of memory for trials");
        }
        ew_free(points);
    }
    ew_free(ids);
    ew_free(users);
    if (st == EW_OK) {
        *ret_trials = json_incref(trials);
    }
    return st;
}

/* The same file on the same devices and data is the same experiment: running it again goes on. */
static ew_status experiment_id(const char *name, const json_t *trials, char ret_hex[static 33], ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    uint8_t digest[EW_SHA256_SIZE];
    ew_buf_addf(&text, "%s\n", name);
    EW_TRY(ew_json_dump(trials, EW_JSON_SORTED, &text, reterr));
    ew_sha256(text.data, text.size, digest);
    ew_hex_encode(digest, 16, ret_hex);
    return EW_OK;
}

static ew_status submit(ew_opclient *c, const char *id, const char *name, const json_t *trials, ew_error *reterr)
{
    size_t n = json_array_size(trials);
    for (size_t at = 0; at < n; at += SUBMIT_BATCH) {
        json_t *part = json_array();
        for (size_t i = at; i < EW_MIN(n, at + SUBMIT_BATCH); i++) {
            (void)json_array_append(part, json_array_get(trials, i));
        }
        EW_AUTO_JSON in = json_pack("{s:s,s:s,s:o}", "id", id, "name", name, "trials", part);
        if (in == NULL) {
            return ew_fail(reterr, EW_ENOMEM, "out of memory for trials");
        }
        EW_TRY(ew_opclient_call(c, "experiment.submit", in, NULL, reterr));
    }
    return EW_OK;
}

/* ---- results ---- */

typedef struct counts {
    json_int_t total, done, failed, other;
    char name[65];
} counts;

static ew_status read_counts(ew_opclient *c, const char *id, counts *ret, ew_error *reterr)
{
    EW_AUTO_JSON out = NULL;
    json_t *list = NULL;
    EW_AUTO_JSON in = json_pack("{s:s}", "id", id);
    EW_TRY(ew_opclient_call(c, "experiment.status", in, &out, reterr));
    EW_TRY(ew_json_get_arr(out, "experiment.status", "experiments", &list, reterr));
    const json_t *e = json_array_get(list, 0);
    const char *name = json_string_value(json_object_get(e, "name"));
    (void)ew_str_copy(ret->name, sizeof(ret->name), name != NULL ? name : "");
    ret->total = json_integer_value(json_object_get(e, "total"));
    ret->done = json_integer_value(json_object_get(e, "done"));
    ret->failed = json_integer_value(json_object_get(e, "failed"));
    ret->other = json_integer_value(json_object_get(e, "cancelled"));
    return EW_OK;
}

/* As read_counts; a coordinator that went away (a restart, a cut line) is asked again later: *ret_away tells, and *c may be NULL then. */
static ew_status try_counts(const ew_cli_op *op, ew_opclient **c, const char *id, counts *n, bool *ret_away,
                            ew_error *reterr)
{
    ew_error err = EW_ERROR_INIT;
    ew_status st = *c != NULL ? EW_OK : ew_cli_op_open(op, c, &err);
    if (st == EW_OK) {
        st = read_counts(*c, id, n, &err);
    }
    bool away = st == EW_EREMOTE || st == EW_ETIMEOUT;
    if (away) {
        ew_opclient_free(c);
        if (!*ret_away) {
            (void)fprintf(stderr, "%s; the trials go on, waiting for it\n", err.msg);
        }
    } else if (st != EW_OK) {
        return ew_fail(reterr, st, "%s", err.msg);
    }
    *ret_away = away;
    return EW_OK;
}

/* Until nothing is open any more. */
static ew_status wait_for_all(const ew_cli_op *op, ew_opclient **c, const char *id, const ew_progress *progress,
                              counts *n, ew_error *reterr)
{
    bool away = false;
    for (;;) {
        EW_TRY(try_counts(op, c, id, n, &away, reterr));
        const ew_progress_info info = {.phase = "experiment",
                                       .unit = "trials",
                                       .done = (uint64_t)(n->done + n->failed + n->other),
                                       .total = (uint64_t)n->total,
                                       .loss = (double)NAN,
                                       .left_s = (double)NAN};
        if (!ew_progress_tell(progress, &info)) {
            return ew_fail(reterr, EW_ECANCELLED,
                           "stopped waiting; the trials go on. HINT: edgewise experiment report %s", id);
        }
        if (!away && n->done + n->failed + n->other >= n->total) {
            return EW_OK;
        }
        struct pollfd p = {.fd = ew_signal_fd(), .events = POLLIN};
        if (poll(&p, 1, POLL_MS) < 0 && errno != EINTR) {
            return ew_fail_errno(reterr, errno, "cannot wait");
        }
    }
}

static ew_status model_names(ew_opclient *c, json_t **ret_names, ew_error *reterr)
{
    EW_AUTO_JSON out = NULL;
    json_t *list = NULL;
    json_t *m;
    size_t i;
    EW_TRY(ew_opclient_call(c, "model.list", NULL, &out, reterr));
    EW_TRY(ew_json_get_arr(out, "model.list", "models", &list, reterr));
    json_t *names = json_object();
    json_array_foreach(list, i, m)
    {
        (void)json_object_set(names, json_string_value(json_object_get(m, "sha256")), json_object_get(m, "name"));
    }
    *ret_names = names;
    return EW_OK;
}

static json_t *mean_measures(const json_t *result)
{
    json_t *means = json_object();
    const char *name;
    json_t *m;
    json_object_foreach(json_object_get(result, "measures"), name, m)
    {
        double sum = 0;
        size_t i;
        json_t *v;
        json_t *values = json_object_get(m, "values");
        json_array_foreach(values, i, v)
        {
            sum += json_number_value(v);
        }
        if (json_array_size(values) > 0) {
            (void)json_object_set_new(means, name, json_real(sum / (double)json_array_size(values)));
        }
    }
    return means;
}

/* From the coordinator's trial to the report's row. */
static json_t *row_json(const json_t *t, const json_t *names)
{
    const json_t *spec = json_object_get(t, "spec");
    const json_t *result = json_object_get(t, "result");
    const char *source = json_string_value(json_object_get(spec, "source"));
    const char *user = source != NULL ? strrchr(source, ':') : NULL;
    const char *hash = json_string_value(json_object_get(spec, "model"));
    const char *name = hash != NULL ? json_string_value(json_object_get(names, hash)) : NULL;
    const char *detail = json_string_value(json_object_get(result, "detail"));
    return json_pack("{s:O,s:O,s:O,s:s,s:s,s:O,s:O,s:O,s:O,s:O,s:s,s:o}", "trial", json_object_get(t, "trial"),
                     "device", json_object_get(t, "device"), "task", json_object_get(spec, "task"), "user",
                     user != NULL ? user + 1 : "profile", "model", name != NULL ? name : "?", "variant",
                     json_object_get(spec, "variant"), "method", json_object_get(spec, "method"), "n_history",
                     json_object_get(spec, "n_history"), "seed", json_object_get(spec, "seed"), "state",
                     json_object_get(t, "state"), "detail", detail != NULL ? detail : "", "measures",
                     mean_measures(result));
}

static ew_status read_rows_of(ew_opclient *c, const char *id, const json_t *names, json_t *rows, ew_error *reterr)
{
    json_int_t offset = 0;
    for (;;) {
        EW_AUTO_JSON out = NULL;
        EW_AUTO_JSON in = json_pack("{s:s,s:I}", "id", id, "offset", offset);
        json_t *list = NULL;
        json_t *t;
        size_t i;
        EW_TRY(ew_opclient_call(c, "experiment.results", in, &out, reterr));
        EW_TRY(ew_json_get_arr(out, "experiment.results", "trials", &list, reterr));
        json_array_foreach(list, i, t)
        {
            if (json_array_append_new(rows, row_json(t, names)) != 0) {
                return ew_fail(reterr, EW_ECORRUPT, "trial %zu of the coordinator's answer is not complete", i);
            }
        }
        json_t *next = json_object_get(out, "next");
        if (next == NULL) {
            return EW_OK;
        }
        offset = json_integer_value(next);
    }
}

/* ids: one, or several with commas between them. */
static ew_status read_rows(ew_opclient *c, const char *ids, json_t **ret_rows, ew_error *reterr)
{
    EW_AUTO_JSON names = NULL;
    EW_AUTO_JSON rows = json_array();
    EW_TRY(model_names(c, &names, reterr));
    while (*ids != '\0') {
        char id[65] = "";
        const size_t n = strcspn(ids, ",");
        (void)snprintf(id, sizeof(id), "%.*s", (int)EW_MIN(n, sizeof(id) - 1), ids);
        EW_TRY(read_rows_of(c, id, names, rows, reterr));
        ids += n + (ids[n] == ',');
    }
    *ret_rows = json_incref(rows);
    return EW_OK;
}

static ew_status write_one(const char *dir, const char *name, const ew_report *r,
                           ew_status (*print)(const ew_report *r, ew_buf *out, ew_error *reterr), ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    char path[1024];
    EW_TRY(print(r, &text, reterr));
    EW_TRY(ew_path_join(path, sizeof(path), dir, name, reterr));
    return ew_file_replace(path, ew_buf_str(&text), text.size, 0644, reterr);
}

static ew_status write_report(ew_opclient *c, const char *id, const char *name, const char *dir, ew_error *reterr)
{
    EW_AUTO_JSON rows = NULL;
    EW_AUTO(ew_report) r = NULL;
    EW_AUTO_BUF json = {0};
    EW_AUTO_BUF text = {0};
    char note[256];
    char iso[25];
    char path[1024];
    EW_TRY(read_rows(c, id, &rows, reterr));
    (void)snprintf(note, sizeof(note), "Experiment %s, %s.", id, ew_wall_iso(iso, ew_wall_ms()));
    EW_TRY(ew_report_new(name, note, rows, &r, reterr));
    EW_TRY(ew_dir_make(dir, 0755, reterr));
    EW_TRY(write_one(dir, "report.md", r, ew_report_markdown, reterr));
    EW_TRY(write_one(dir, "trials.csv", r, ew_report_csv, reterr));
    EW_TRY(write_one(dir, "report.html", r, ew_report_html, reterr));
    EW_TRY(ew_json_dump(rows, EW_JSON_PRETTY, &json, reterr));
    EW_TRY(ew_path_join(path, sizeof(path), dir, "trials.json", reterr));
    EW_TRY(ew_file_replace(path, ew_buf_str(&json), json.size, 0644, reterr));
    EW_TRY(ew_report_text(r, &text, reterr));
    (void)fputs(ew_buf_str(&text), stdout);
    (void)printf(
        "\n%zu trials finished, %zu failed. Report: %s/report.html (also report.md, trials.csv, trials.json)\n",
        ew_report_n_done(r), ew_report_n_failed(r), dir);
    return EW_OK;
}

/* ---- commands ---- */

static ew_status load_all(const experiment_args *o, ew_experiment **e, datasets *all, ew_opclient **c, json_t **trials,
                          ew_error *reterr)
{
    EW_AUTO_JSON devices = NULL;
    EW_TRY(ew_experiment_load(o->file, e, reterr));
    EW_TRY(load_datasets(*e, o->data, all, reterr));
    EW_TRY(ew_cli_op_open(&o->op, c, reterr));
    EW_TRY(device_ids(*e, *c, &devices, reterr));
    return trials_json(*e, devices, all, trials, reterr);
}

static ew_status run(const experiment_args *o, ew_error *reterr)
{
    EW_AUTO(ew_experiment) e = NULL;
    EW_AUTO(ew_opclient) c = NULL;
    EW_AUTO_JSON trials = NULL;
    EW_AUTO(ew_term_progress) bar = NULL;
    datasets all = {0};
    char id[33];
    counts n = {0};
    EW_TRY(ew_term_progress_new(stderr, "experiment", ew_signal_stop, &bar));
    ew_status st = load_all(o, &e, &all, &c, &trials, reterr);
    if (st == EW_OK) {
        st = experiment_id(e->name, trials, id, reterr);
    }
    if (st == EW_OK) {
        st = publish(c, &all, ew_term_progress_get(bar), reterr);
    }
    datasets_release(&all);
    EW_TRY(st);
    EW_TRY(submit(c, id, e->name, trials, reterr));
    (void)fprintf(stderr, "experiment %s: %zu trials\n", id, json_array_size(trials));
    if (o->detach) {
        (void)printf("%s\n", id);
        return EW_OK;
    }
    EW_TRY(wait_for_all(&o->op, &c, id, ew_term_progress_get(bar), &n, reterr));
    ew_term_progress_free(&bar);
    return write_report(c, id, e->name, o->out, reterr);
}

static ew_status validate(const experiment_args *o, ew_error *reterr)
{
    EW_AUTO(ew_experiment) e = NULL;
    EW_AUTO(ew_opclient) c = NULL;
    EW_AUTO_JSON trials = NULL;
    datasets all = {0};
    size_t users = 0;
    size_t items = 0;
    EW_TRY(ew_experiment_load(o->file, &e, reterr));
    ew_status st = load_datasets(e, o->data, &all, reterr);
    for (size_t i = 0; i < all.n; i++) {
        users++;
        items += all.item[i].items.n;
    }
    if (st == EW_OK && (o->op.bundle != NULL || getenv("EDGEWISE_OPERATOR") != NULL)) {
        EW_AUTO_JSON devices = NULL;
        st = ew_cli_op_open(&o->op, &c, reterr);
        if (st == EW_OK) {
            st = device_ids(e, c, &devices, reterr);
        }
        if (st == EW_OK) {
            st = trials_json(e, devices, &all, &trials, reterr);
        }
    }
    datasets_release(&all);
    EW_TRY(st);
    (void)printf("%s: valid. %zu (task, user) pairs with %zu items.", o->file, users, items);
    if (trials != NULL) {
        (void)printf(" %zu trials.", json_array_size(trials));
    }
    (void)printf("\n");
    return EW_OK;
}

static ew_status status(const experiment_args *o, ew_error *reterr)
{
    EW_AUTO(ew_opclient) c = NULL;
    EW_AUTO_JSON out = NULL;
    EW_AUTO_BUF text = {0};
    EW_AUTO(ew_table) t = NULL;
    json_t *list = NULL;
    json_t *e;
    size_t i;
    EW_AUTO_JSON in = o->id != NULL ? json_pack("{s:s}", "id", o->id) : json_object();
    EW_TRY(ew_cli_op_open(&o->op, &c, reterr));
    EW_TRY(ew_opclient_call(c, "experiment.status", in, &out, reterr));
    EW_TRY(ew_json_get_arr(out, "experiment.status", "experiments", &list, reterr));
    if (o->op.json) {
        return ew_cli_put_json(list, reterr);
    }
    static const char *const titles[] = {"id", "name", "total", "queued", "running", "done", "failed", "cancelled"};
    EW_TRY(ew_table_new(&t));
    for (size_t k = 0; k < EW_COUNT(titles); k++) {
        ew_table_column(t, titles[k], k < 2 ? EW_ALIGN_LEFT : EW_ALIGN_RIGHT);
    }
    json_array_foreach(list, i, e)
    {
        ew_table_row(t);
        for (size_t k = 0; k < EW_COUNT(titles); k++) {
            const json_t *v = json_object_get(e, titles[k]);
            if (json_is_string(v)) {
                ew_table_cell(t, json_string_value(v));
            } else {
                ew_table_cellf(t, "%lld", (long long)json_integer_value(v));
            }
        }
    }
    EW_TRY(ew_table_check(t, reterr));
    ew_table_text(t, &text);
    (void)fputs(ew_buf_str(&text), stdout);
    return EW_OK;
}

static ew_status report(const experiment_args *o, ew_error *reterr)
{
    EW_AUTO(ew_opclient) c = NULL;
    counts n = {0};
    EW_TRY(ew_cli_op_open(&o->op, &c, reterr));
    char first[65];
    (void)snprintf(first, sizeof(first), "%.*s", (int)EW_MIN(strcspn(o->id, ","), sizeof(first) - 1), o->id);
    EW_TRY(read_counts(c, first, &n, reterr));
    return write_report(c, o->id, n.name, o->out, reterr);
}

static ew_status export(const experiment_args *o, ew_error *reterr)
{
    EW_AUTO(ew_opclient) c = NULL;
    EW_AUTO_JSON rows = NULL;
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_cli_op_open(&o->op, &c, reterr));
    EW_TRY(read_rows(c, o->id, &rows, reterr));
    return ew_cli_put_json(rows, reterr);
}

typedef struct command {
    const char *name, *doc, *examples;
    ew_status (*run)(const experiment_args *o, ew_error *reterr);
    bool file, id, id_optional, many, out, data;
} command;

static int run_command(const command *k, int argc, char **argv)
{
    ew_error err = EW_ERROR_INIT;
    experiment_args o = {.out = (char[]){"edgewise-report"}};
    ew_cli_opt opts[8];
    ew_cli_pos pos[1];
    size_t n_pos = 0;
    const ew_cli_opt shared[] = {EW_CLI_OP_OPTS(o.op)};
    size_t n_opts = EW_COUNT(shared);
    memcpy(opts, shared, sizeof(shared));
    if (k->out) {
        opts[n_opts++] = (ew_cli_opt){.name = "out",
                                      .letter = 'o',
                                      .arg = "DIR",
                                      .type = EW_CLI_STRING,
                                      .out = &o.out,
                                      .help = "where the report is written (default: edgewise-report)"};
    }
    if (k->data) {
        opts[n_opts++] =
            (ew_cli_opt){.name = "data",
                         .arg = "DIR",
                         .type = EW_CLI_STRING,
                         .out = &o.data,
                         .help = "the benchmark's directory (default: where `edgewise data debian` puts it)"};
        opts[n_opts++] = (ew_cli_opt){
            .name = "detach", .type = EW_CLI_FLAG, .out = &o.detach, .help = "run: submit, print the id, do not wait"};
    }
    if (k->file) {
        pos[n_pos++] =
            (ew_cli_pos){.name = "FILE", .type = EW_CLI_STRING, .out = &o.file, .help = "the experiment, YAML"};
    }
    if (k->id) {
        pos[n_pos++] =
            (ew_cli_pos){.name = "ID",
                         .type = EW_CLI_STRING,
                         .out = &o.id,
                         .optional = k->id_optional,
                         .help = k->many ? "of the experiment; several with commas between them make one report"
                                         : "of the experiment"};
    }
    const ew_cli_spec spec = {.command = k->name,
                              .doc = k->doc,
                              .examples = k->examples,
                              .opts = opts,
                              .n_opts = n_opts,
                              .pos = pos,
                              .n_pos = n_pos};
    int code = ew_cli_parse(&spec, argc, argv);
    if (code != EW_CLI_GO) {
        return code;
    }
    ew_status st = k->run(&o, &err);
    return st == EW_OK ? 0 : ew_cli_fail(EW_CLI_PROG, st, &err);
}

static int cmd_validate(int argc, char **argv, void *ctx)
{
    (void)ctx;
    static const command k = {.name = "experiment validate",
                              .doc =
                                  "Checks an experiment's file and its data; with --operator also counts the trials.",
                              .examples = "  edgewise experiment validate demo.yaml\n",
                              .run = validate,
                              .file = true,
                              .data = true};
    return run_command(&k, argc, argv);
}

static int cmd_run(int argc, char **argv, void *ctx)
{
    (void)ctx;
    static const command k = {
        .name = "experiment run",
        .doc = "Runs the grid on the fleet and writes the report. Devices that are offline finish later; stopped and "
               "started again with the same file, it goes "
               "on where it was.",
        .examples = "  edgewise experiment run demo.yaml --operator /srv/edgewise/operator --out report\n",
        .run = run,
        .file = true,
        .out = true,
        .data = true};
    return run_command(&k, argc, argv);
}

static int cmd_status(int argc, char **argv, void *ctx)
{
    (void)ctx;
    static const command k = {.name = "experiment status",
                              .doc = "Counts of trials by state.",
                              .run = status,
                              .id = true,
                              .id_optional = true};
    return run_command(&k, argc, argv);
}

static int cmd_report(int argc, char **argv, void *ctx)
{
    (void)ctx;
    static const command k = {.name = "experiment report",
                              .doc = "Writes the report of what has finished so far.",
                              .run = report,
                              .id = true,
                              .many = true,
                              .out = true};
    return run_command(&k, argc, argv);
}

static int cmd_export(int argc, char **argv, void *ctx)
{
    (void)ctx;
    static const command k = {
        .name = "experiment export", .doc = "Writes all trials as JSON to standard output.", .run = export, .id = true};
    return run_command(&k, argc, argv);
}

const ew_cli_command ew_cli_experiment_commands[] = {
    {"validate", "FILE", "check an experiment's file and data", .run = cmd_validate},
    {"run", "FILE", "run an experiment on the fleet and report", .run = cmd_run},
    {"status", "[ID]", "how far experiments are", .run = cmd_status},
    {"report", "ID", "write tables, plots and a page", .run = cmd_report},
    {"export", "ID", "all trials as JSON", .run = cmd_export},
};
const size_t ew_cli_n_experiment_commands = EW_COUNT(ew_cli_experiment_commands);
