/* Experiments: what users may write, the grid it means, and reports of made-up trials. EW_REPORT_OUT=FILE.html in the environment keeps a page. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "test.h"

#include "base/mem.h"
#include "base/rng.h"
#include "experiment/plot.h"
#include "experiment/report.h"
#include "experiment/spec.h"
#include "sys/file.h"

/* ---- YAML ---- */

#define HEAD "name: sections\ndata: {benchmark: debian, group: dev, users: 4}\n"
#define LISTS "tasks: [debian-section, debian-synopsis]\nmodels: [deb-tiny]\nvariants: [q8_0, q4_0]\n"
#define METHODS "methods: [none, lora, rag, lora+rag]\n"

static void a_whole_file_is_read(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_experiment *e = NULL;
    (void)state;
    const char *path = ew_test_text("good.yaml", HEAD LISTS METHODS
                                    "history: [8, 32, all]\ndevices: [all]\nseeds: [1, 18446744073709551615]\n"
                                    "settings: {rank: 8, alpha: 16, lr: 0.002, epochs: 3, rag_k: 2}\n"
                                    "budget: {seconds: 60, ram: 200M}\nforce: true\n");
    assert_ok(ew_experiment_load(path, &e, &err), &err);
    assert_string_equal(e->name, "sections");
    assert_int_equal(e->data.users, 4);
    assert_int_equal(e->tasks_count, 2);
    assert_string_equal(e->variants[1], "q4_0");
    assert_int_equal(e->history_count, 3);
    assert_true(e->seeds[1] == UINT64_MAX && e->force && e->settings.lr == 0.002);
    assert_string_equal(e->budget.ram, "200M");
    ew_experiment_free(&e);
    assert_null(e);
    path = ew_test_text("short.yaml", "name: a\ndata: {file: h.jsonl}\n" LISTS METHODS);
    assert_ok(ew_experiment_load(path, &e, &err), &err);
    assert_int_equal(e->history_count, 0);
    ew_experiment_free(&e);
}

static void settings_become_those_of_trials(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_experiment *e = NULL;
    ew_settings s;
    (void)state;
    const char *path = ew_test_text("more.yaml", HEAD LISTS
                                    "methods: [lora, prompt, prefix, ia3, bottleneck, full, mezo, blockwise]\n"
                                    "settings: {dropout: 0.1, targets: \"q,v,down\", dora: true, virtual: 8, width: 4, "
                                    "exits: 3, optimizer_bits: 8, max_test_items: 20, rag_rank: fused}\n");
    assert_ok(ew_experiment_load(path, &e, &err), &err);
    assert_ok(ew_experiment_settings_of(e, &s, path, &err), &err);
    assert_true(s.targets == (1u | 4u | 64u) && s.dora == 1 && s.rslora == 0 && s.n_virtual == 8 && s.width == 4 &&
                s.exits == 3 && s.optimizer_bits == 8 && s.max_test_items == 20 && fabs(s.dropout - 0.1) < 1e-12 &&
                s.rank == 0 && s.rag_rank == EW_RAG_RANK_FUSED);
    ew_experiment_free(&e);
    path = ew_test_text("rank.yaml", HEAD LISTS "methods: [rag]\nsettings: {rag_rank: words}\n");
    assert_fails(EW_EINVAL, ew_experiment_load(path, &e, &err), &err, "rag_rank");
}

static void all_of_a_short_history_stands_for_more(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_report) r = NULL;
    EW_AUTO_BUF md = {0};
    EW_AUTO_BUF csv = {0};
    (void)state;
    /* User a has 20 items of history, b has 50: only b has a trial with 32. */
    static const struct {
        const char *user;
        int n_history;
        double score, used;
    } t[] = {{"a", 8, 0.1, 8}, {"a", 0, 0.2, 20}, {"b", 8, 0.3, 8}, {"b", 32, 0.6, 32}, {"b", 0, 0.7, 50}};
    json_t *all = json_array();
    for (size_t i = 0; i < EW_COUNT(t); i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "t%zu", i);
        (void)json_array_append_new(all, json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:s,s:{s:f,s:f}}", "trial",
                                                   id, "experiment", "e", "device", "d", "task", "custom", "user",
                                                   t[i].user, "model", "m", "variant", "f16", "method", "lora",
                                                   "n_history", t[i].n_history, "seed", 1, "state", "done", "measures",
                                                   "test.score", t[i].score, "n.history", t[i].used));
    }
    assert_ok(ew_report_new("n", NULL, all, &r, &err), &err);
    json_decref(all);
    assert_int_equal(ew_report_n_done(r), 5);
    assert_ok(ew_report_markdown(r, &md, &err), &err);
    assert_non_null(strstr(ew_buf_str(&md), "0.400")); /* 32: (0.2 + 0.6) / 2 */
    assert_non_null(strstr(ew_buf_str(&md), "0.450")); /* all */
    assert_ok(ew_report_csv(r, &csv, &err), &err);
    size_t lines = 0;
    for (const char *p = ew_buf_str(&csv); *p != '\0'; p++) {
        lines += *p == '\n';
    }
    assert_int_equal(lines, 1 + EW_COUNT(t));
}

static void every_mistake_is_named(void **state)
{
    static const struct {
        const char *text, *names;
    } bad[] = {
        {"", ""},
        {"name: [", ""},
        {HEAD LISTS, "methods"},
        {"data: {benchmark: debian}\n" LISTS METHODS, "name"},
        {HEAD METHODS, "tasks"},
        {HEAD LISTS METHODS "histroy: [8]\n", "histroy"},
        {HEAD LISTS METHODS "settings: {rnak: 8}\n", "rnak"},
        {HEAD LISTS METHODS "settings: {targets: \"q,x\"}\n", "unknown target 'x'"},
        {HEAD LISTS METHODS "settings: {exits: 9}\n", "exits"},
        {HEAD LISTS METHODS "settings: {rank: -8}\n", "rank"},
        {HEAD LISTS METHODS "settings: {lr: fast}\n", "lr"},
        {HEAD LISTS METHODS "budget: {sec: 3}\n", "sec"},
        {HEAD LISTS METHODS "budget: {ram: much}\n", "much"},
        {HEAD LISTS METHODS "history: [0]\n", "history"},
        {HEAD LISTS METHODS "history: [some]\n", "some"},
        {HEAD LISTS METHODS "history: [8, 8]\n", "twice"},
        {HEAD LISTS METHODS "history: []\n", "history"},
        {HEAD LISTS METHODS "seeds: [one]\n", "seeds"},
        {HEAD LISTS METHODS "seeds: [3, 3]\n", "seeds"},
        {HEAD LISTS METHODS "seeds: [-1]\n", "seeds"},
        {HEAD LISTS METHODS "force: maybe\n", "force"},
        {HEAD LISTS METHODS "devices: pi\n", "devices"},
        {HEAD LISTS "methods: [magic]\n", "magic"},
        {HEAD LISTS "methods: [lora, lora]\n", "twice"},
        {"name: Sections\ndata: {benchmark: debian}\n" LISTS METHODS, "Sections"},
        {"name: a\ndata: {benchmark: ubuntu}\n" LISTS METHODS, "ubuntu"},
        {"name: a\ndata: {benchmark: debian, group: all}\n" LISTS METHODS, "group"},
        {"name: a\ndata: {benchmark: debian, file: x}\n" LISTS METHODS, "data"},
        {"name: a\ndata: {users: 3}\n" LISTS METHODS, "data"},
        {"name: a\nname: b\ndata: {file: x}\n" LISTS METHODS, ""},
    };
    (void)state;
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        ew_error err = EW_ERROR_INIT;
        ew_experiment *e = NULL;
        ew_status st = ew_experiment_load(ew_test_text("bad.yaml", bad[i].text), &e, &err);
        if (st != EW_EINVAL || e != NULL || strstr(err.msg, bad[i].names) == NULL ||
            strstr(err.msg, "bad.yaml") == NULL) {
            fail_msg("'%s': %s '%s'", bad[i].text, ew_status_name(st), err.msg);
        }
    }
    ew_error err = EW_ERROR_INIT;
    ew_experiment *e = NULL;
    assert_fails(EW_ENOENT, ew_experiment_load(ew_test_path("none.yaml"), &e, &err), &err, "none.yaml");
}

static void the_grid_has_every_combination_once_in_a_fixed_order(void **state)
{
    static const char *const devices[] = {"big", "small"};
    static const char *const users[] = {"u1", "u2", "u3"};
    ew_error err = EW_ERROR_INIT;
    ew_experiment *e = NULL;
    ew_grid_point *p = NULL;
    size_t n = 0;
    (void)state;
    assert_ok(ew_experiment_load(ew_test_text("grid.yaml", HEAD LISTS METHODS "history: [8, all]\nseeds: [1, 2, 3]\n"),
                                 &e, &err),
              &err);
    assert_ok(ew_experiment_grid(e, devices, 2, users, 3, &p, &n, &err), &err);
    /* devices * tasks * users * models * variants * seeds * (none once, three methods with two amounts) */
    assert_int_equal(n, 2 * 2 * 3 * 1 * 2 * 3 * (1 + 3 * 2));
    for (size_t i = 0; i < n; i++) {
        assert_true((strcmp(p[i].method, "none") == 0) == (p[i].n_history == 0));
        assert_string_equal(p[i].device, devices[i / (n / 2)]);
        for (size_t k = 0; k < i; k++) {
            if (strcmp(p[i].device, p[k].device) == 0 && strcmp(p[i].task, p[k].task) == 0 &&
                strcmp(p[i].user, p[k].user) == 0 && strcmp(p[i].variant, p[k].variant) == 0 &&
                strcmp(p[i].method, p[k].method) == 0 && p[i].n_history == p[k].n_history && p[i].seed == p[k].seed) {
                fail_msg("points %zu and %zu are the same", k, i);
            }
        }
    }
    assert_true(p[0].seed == 1 && p[1].seed == 2 && p[2].seed == 3);
    assert_true(p[3].n_history == 8 && p[6].n_history == EW_HISTORY_ALL);
    ew_free(p);
    assert_fails(EW_EINVAL, ew_experiment_grid(e, devices, 0, users, 3, &p, &n, &err), &err, "device");
    assert_fails(EW_EINVAL, ew_experiment_grid(e, devices, 2, users, 0, &p, &n, &err), &err, "user");
    const char **many = ew_xcalloc(5000, sizeof(*many));
    for (size_t i = 0; i < 5000; i++) {
        many[i] = "u";
    }
    assert_fails(EW_ELIMIT, ew_experiment_grid(e, devices, 2, many, 5000, &p, &n, &err), &err, "100000");
    ew_free(many);
    ew_experiment_free(&e);
}

/* ---- reports ---- */

static const char *const methods[] = {"none", "lora", "rag", "lora+rag"};
static const int amounts[] = {8, 16, 32, 0};

static json_t *made_up(ew_rng *rng, const char *task, const char *variant, size_t m, size_t h, size_t user, bool done)
{
    static const char *const names[] = {"u<1>", "u&2", "u3", "u4", "u5"};
    char id[40];
    bool section = strcmp(task, "debian-section") == 0;
    double base = (section ? 0.62 : 0.24) + 0.03 * (double)user;
    double gain = m == 0 ? 0 : (double)(h + 1) * (m == 3 ? 0.035 : 0.02) * (section ? 1 : 0.4);
    double noise = 0.02 * ew_rng_normal(rng);
    (void)snprintf(id, sizeof(id), "%s-%s-%zu-%zu-%zu", section ? "a" : "b", variant, m, h, user);
    json_t *measures = json_pack(
        "{s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f}", "test.score", base + gain + noise, "test.nll",
        2.1 - 3 * gain + noise, "base.test.score", base, "base.test.nll", 2.1, "seconds", 2.0 + (double)(m * (h + 1)),
        "seconds.predicted", 2.2 + (double)(m * (h + 1)), "ram.peak_bytes",
        (strcmp(variant, "q4_0") == 0 ? 16e6 : 21e6) + 6e6 * (double)m, "ram.predicted_bytes", 21.4e6 + 6e6 * (double)m,
        "baseline.majority", 0.43, "baseline.nearest", 0.5, "baseline.first8", 0.3, "tune.tok_per_s", 4000.0);
    return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:s,s:s,s:o}", "trial", id, "experiment", "e", "device",
                     user % 2 == 0 ? "big" : "small", "task", task, "user", names[user], "model", "deb-tiny", "variant",
                     variant, "method", methods[m], "n_history", m == 0 ? 0 : amounts[h], "seed", 1, "state",
                     done ? "done" : "failed", "detail", done ? "" : "lora on \"q8_0\" needs <more> memory & more",
                     "measures", done ? measures : (json_decref(measures), json_object()));
}

static json_t *many_trials(size_t n_variants)
{
    static const char *const tasks[] = {"debian-section", "debian-synopsis"};
    static const char *const variants[] = {"q8_0", "q4_0", "f16"};
    ew_rng rng;
    json_t *all = json_array();
    ew_rng_init(&rng, 9, 0);
    for (size_t t = 0; t < 2; t++) {
        for (size_t v = 0; v < n_variants; v++) {
            for (size_t m = 0; m < 4; m++) {
                for (size_t h = 0; h < (m == 0 ? 1 : EW_COUNT(amounts)); h++) {
                    for (size_t u = 0; u < 5; u++) {
                        bool done = !(m == 1 && h == 2 && u == 4 && t == 0);
                        (void)json_array_append_new(all, made_up(&rng, tasks[t], variants[v], m, h, u, done));
                    }
                }
            }
        }
    }
    return all;
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;
    for (const char *p = strstr(text, what); p != NULL; p = strstr(p + 1, what)) {
        n++;
    }
    return n;
}

/* Every element is closed in the right order; attributes are quoted; text has no bare <, & starts an entity. */
static void assert_well_formed(const char *html)
{
    static const char *const empty[] = {"meta", "br", "hr", "link", "img", "input", "col", "!doctype", "!DOCTYPE"};
    char stack[64][24];
    size_t depth = 0;
    for (const char *p = html; *p != '\0'; p++) {
        if (*p == '&' && (strchr(p, ';') == NULL || strchr(p, ';') - p > 8) && depth > 0 &&
            strcmp(stack[depth - 1], "script") != 0 && strcmp(stack[depth - 1], "style") != 0) {
            fail_msg("a bare & at '%.40s'", p);
        }
        if (*p != '<' || (depth > 0 && strcmp(stack[depth - 1], "script") == 0 && strncmp(p, "</script", 8) != 0)) {
            continue;
        }
        if (strncmp(p, "<!--", 4) == 0) {
            p = strstr(p, "-->");
            assert_non_null(p);
            continue;
        }
        bool closing = p[1] == '/';
        const char *name = p + 1 + closing;
        size_t n = strcspn(name, " \t\n/>");
        assert_true(n > 0 && n < sizeof(stack[0]));
        const char *end = name;
        bool quoted = false;
        for (; *end != '\0' && (quoted || *end != '>'); end++) {
            quoted = *end == '"' ? !quoted : quoted;
            if (*end == '<' && !quoted) {
                fail_msg("a < inside a tag: '%.60s'", p);
            }
        }
        assert_true(*end == '>');
        bool alone = end[-1] == '/';
        for (size_t i = 0; i < EW_COUNT(empty); i++) {
            alone = alone || (strlen(empty[i]) == n && strncmp(empty[i], name, n) == 0);
        }
        if (closing) {
            assert_true(depth > 0);
            depth--;
            if (strlen(stack[depth]) != n || strncmp(stack[depth], name, n) != 0) {
                fail_msg("<%s> is closed by </%.*s>", stack[depth], (int)n, name);
            }
        } else if (!alone) {
            assert_true(depth < 64);
            memcpy(stack[depth], name, n);
            stack[depth++][n] = '\0';
        }
        p = end;
    }
    assert_int_equal(depth, 0);
}

static void assert_no_nan(const char *text)
{
    const char *p = strstr(text, "nan");
    if (p != NULL) {
        fail_msg("nan at '%.60s'", p - text > 30 ? p - 30 : text);
    }
}

static ew_report *report_of(json_t *trials)
{
    ew_error err = EW_ERROR_INIT;
    ew_report *r = NULL;
    assert_ok(ew_report_new("sections & <more>", "Made-up trials, for looking at.", trials, &r, &err), &err);
    return r;
}

static void the_page_is_well_formed_and_needs_no_network(void **state)
{
    ew_error err = EW_ERROR_INIT;
    (void)state;
    for (size_t variants = 1; variants <= 3; variants++) {
        EW_AUTO_BUF html = {.max = 1 << 24};
        json_t *trials = many_trials(variants);
        ew_report *r = report_of(trials);
        assert_ok(ew_report_html(r, &html, &err), &err);
        const char *text = ew_buf_str(&html);
        assert_well_formed(text);
        assert_true(count(text, "<svg") >= 2);
        assert_int_equal(count(text, "<svg"), count(text, "</svg>"));
        assert_true(count(text, "http://") == count(text, "http://www.w3.org"));
        assert_true(count(text, "https://") == 0 && count(text, "src=") == 0 && count(text, "@import") == 0);
        assert_non_null(strstr(text, "sections &amp; &lt;more&gt;"));
        assert_null(strstr(text, "u<1>"));
        assert_no_nan(text);
        const char *keep = getenv("EW_REPORT_OUT");
        if (keep != NULL && variants == 2) {
            assert_ok(ew_file_replace(keep, html.data, html.size, 0644, &err), &err);
        }
        ew_report_free(&r);
        json_decref(trials);
    }
}

static void csv_has_a_line_for_each_trial_and_markdown_one_for_each_cell(void **state)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO_BUF csv = {0};
    EW_AUTO_BUF md = {0};
    EW_AUTO_BUF text = {0};
    (void)state;
    json_t *trials = many_trials(2);
    ew_report *r = report_of(trials);
    size_t n = json_array_size(trials);
    assert_int_equal(ew_report_n_done(r) + ew_report_n_failed(r), n);
    assert_int_equal(ew_report_n_failed(r), 2);
    assert_ok(ew_report_csv(r, &csv, &err), &err);
    assert_int_equal(count(ew_buf_str(&csv), "\n"), n + 1);
    /* Quotes of a detail are doubled. */
    assert_non_null(strstr(ew_buf_str(&csv), "\"\"q8_0\"\""));
    size_t columns = 0;
    for (const char *p = ew_buf_str(&csv); *p != '\n'; p++) {
        columns += *p == ',';
    }
    size_t commas = 0;
    bool quoted = false;
    for (const char *p = ew_buf_str(&csv); *p != '\0'; p++) {
        quoted = *p == '"' ? !quoted : quoted;
        commas += *p == ',' && !quoted;
        if (*p == '\n' && !quoted) {
            assert_int_equal(commas, columns);
            commas = 0;
        }
    }
    assert_ok(ew_report_markdown(r, &md, &err), &err);
    /* 2 tasks, 2 variants, none and three methods with four amounts: in the table of scores and the table of costs */
    assert_true(count(ew_buf_str(&md), "| debian-") >= 2 * 2 * (1 + 3 * 4) || count(ew_buf_str(&md), "lora+rag") >= 16);
    assert_ok(ew_report_text(r, &text, &err), &err);
    assert_no_nan(ew_buf_str(&md));
    assert_no_nan(ew_buf_str(&text));
    ew_report_free(&r);
    json_decref(trials);
}

static void the_same_trials_give_the_same_bytes_in_any_order(void **state)
{
    ew_error err = EW_ERROR_INIT;
    (void)state;
    json_t *trials = many_trials(2);
    json_t *mixed = json_array();
    size_t n = json_array_size(trials);
    for (size_t i = 0; i < n; i++) {
        (void)json_array_append(mixed, json_array_get(trials, (i * 37) % n));
    }
    assert_true(json_array_size(mixed) == n && n % 37 != 0); /* each once */
    ew_report *a = report_of(trials);
    ew_report *b = report_of(mixed);
    EW_AUTO_BUF x = {.max = 1 << 24};
    EW_AUTO_BUF y = {.max = 1 << 24};
    assert_ok(ew_report_markdown(a, &x, &err), &err);
    assert_ok(ew_report_markdown(b, &y, &err), &err);
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    ew_report_free(&a);
    ew_report_free(&b);
    json_decref(mixed);
    json_decref(trials);
}

static void a_single_user_or_no_finished_trial_is_no_crash(void **state)
{
    ew_error err = EW_ERROR_INIT;
    ew_rng rng;
    (void)state;
    ew_rng_init(&rng, 1, 0);
    for (int n = 0; n < 3; n++) {
        EW_AUTO_BUF html = {.max = 1 << 24};
        EW_AUTO_BUF text = {0};
        json_t *trials = json_array();
        if (n > 0) {
            (void)json_array_append_new(trials, made_up(&rng, "debian-section", "f16", 1, 3, 0, n == 2));
        }
        ew_report *r = report_of(trials);
        assert_ok(ew_report_html(r, &html, &err), &err);
        assert_ok(ew_report_text(r, &text, &err), &err);
        assert_ok(ew_report_markdown(r, &text, &err), &err);
        assert_ok(ew_report_csv(r, &text, &err), &err);
        assert_well_formed(ew_buf_str(&html));
        assert_no_nan(ew_buf_str(&html));
        assert_no_nan(ew_buf_str(&text));
        ew_report_free(&r);
        json_decref(trials);
    }
}

static void trials_that_are_no_trials_are_refused(void **state)
{
    static const char *const bad[] = {"{}", "[3]", "[{}]", "[{\"trial\":3}]"};
    (void)state;
    for (size_t i = 0; i < EW_COUNT(bad); i++) {
        ew_error err = EW_ERROR_INIT;
        ew_report *r = NULL;
        json_t *j = json_loads(bad[i], 0, NULL);
        assert_fails(EW_ECORRUPT, ew_report_new("x", NULL, j, &r, &err), &err, "");
        assert_null(r);
        json_decref(j);
    }
}

/* ---- plots ---- */

static void a_plot_has_a_mark_for_each_finite_point(void **state)
{
    EW_AUTO_BUF out = {0};
    (void)state;
    const ew_plot_point a[] = {
        {8, 0.5, 0.4, 0.6, NULL}, {16, 0.6, NAN, NAN, "<x>"}, {32, NAN, 0, 0, NULL}, {64, 0.7, 0.6, 0.8, NULL}};
    const ew_plot_point b[] = {{8, 0.3, NAN, NAN, NULL}, {INFINITY, 0.3, NAN, NAN, NULL}};
    const ew_plot_series series[] = {
        {"lora & <rag>", a, 4, true, 0, 0}, {"none", b, 2, false, 0, 0}, {"empty", NULL, 0, true, 0, 0}};
    const ew_plot plot = {
        .title = "a & b", .x_label = "x", .y_label = "y", .x_scale = EW_PLOT_LOG2, .series = series, .n_series = 3};
    ew_plot_svg(&plot, &out);
    const char *text = ew_buf_str(&out);
    assert_well_formed(text);
    assert_non_null(strstr(text, "lora &amp; &lt;rag&gt;"));
    assert_no_nan(text);
    assert_null(strstr(text, "inf"));
    assert_true(count(text, "<title>") == 4 + 0 ||
                count(text, "<title>") == 5); /* points, and perhaps the plot's own */
    ew_buf_clear(&out);
    const ew_plot_series nothing = {"n", NULL, 0, true, 0, 0};
    ew_plot_svg(&(ew_plot){.title = "t", .x_label = "x", .y_label = "y", .series = &nothing, .n_series = 1}, &out);
    assert_well_formed(ew_buf_str(&out));
    /* One point, equal values, huge and tiny ones. */
    static const double values[][2] = {{0, 0}, {1e300, -1e300}, {1e-300, 1e-300}, {5, 5}};
    for (size_t i = 0; i < EW_COUNT(values); i++) {
        const ew_plot_point p[] = {{1, values[i][0], NAN, NAN, NULL}, {2, values[i][1], NAN, NAN, NULL}};
        const ew_plot_series s = {"s", p, 2, true, 0, 0};
        ew_buf_clear(&out);
        ew_plot_svg(&(ew_plot){.title = "t", .x_label = "x", .y_label = "y", .series = &s, .n_series = 1}, &out);
        assert_well_formed(ew_buf_str(&out));
        assert_no_nan(ew_buf_str(&out));
        assert_true(out.size < 100000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_file_is_read),
        cmocka_unit_test(settings_become_those_of_trials),
        cmocka_unit_test(all_of_a_short_history_stands_for_more),
        cmocka_unit_test(every_mistake_is_named),
        cmocka_unit_test(the_grid_has_every_combination_once_in_a_fixed_order),
        cmocka_unit_test(the_page_is_well_formed_and_needs_no_network),
        cmocka_unit_test(csv_has_a_line_for_each_trial_and_markdown_one_for_each_cell),
        cmocka_unit_test(the_same_trials_give_the_same_bytes_in_any_order),
        cmocka_unit_test(a_single_user_or_no_finished_trial_is_no_crash),
        cmocka_unit_test(trials_that_are_no_trials_are_refused),
        cmocka_unit_test(a_plot_has_a_mark_for_each_finite_point),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
