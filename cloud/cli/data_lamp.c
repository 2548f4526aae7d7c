/* `edgewise data lamp` and `edgewise lamp score`: LaMP's files as histories, and its scores. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/app.h"
#include "cli/data.h"
#include "cli/lamp.h"
#include "crypt/hash.h"
#include "sys/file.h"
#include "sys/signal.h"
#include "task/lamp.h"

ew_status ew_cli_lamp_task(const char *name, const char *questions, ew_lamp_task *ret_task, ew_error *reterr)
{
    if (name == NULL) {
        return ew_lamp_guess(questions, ret_task, reterr);
    }
    return ew_lamp_parse(name, ret_task)
               ? EW_OK
               : ew_fail(reterr, EW_EINVAL, "--task '%s': should be lamp-1 to lamp-7, or lamp-2n", name);
}

/* --- data lamp --- */
typedef struct lamp_options {
    char *questions, *outputs, *task, *out;
    int64_t users, min_items, seed;
    bool by_user, json;
} lamp_options;

/* One user of the file; time-based data has several questions of one. */
typedef struct lamp_user {
    char *name;
    size_t n_items;     /* of the history */
    size_t n_questions; /* with an answer */
    ew_buf test;        /* with --by-user: lines of test.jsonl */
} lamp_user;

typedef struct lamp_job {
    const lamp_options *o;
    ew_lamp_task task;
    ew_lamp_answers answers;
    ew_map *outputs;  /* id to output */
    ew_map *by_name;  /* to the place in user, plus 1 */
    lamp_user **user; /* [n_users] */
    size_t n_users, cap;
    ew_file_writer *history, *test; /* without --by-user */
    size_t n_questions, n_items, n_test, n_skipped;
} lamp_job;

static void job_release(lamp_job *j)
{
    ew_lamp_answers_release(&j->answers);
    ew_map_free(&j->outputs);
    ew_map_free(&j->by_name);
    for (size_t i = 0; i < j->n_users; i++) {
        ew_free(j->user[i]->name);
        ew_buf_release(&j->user[i]->test);
        ew_free(j->user[i]);
    }
    ew_free((void *)j->user);
    ew_file_writer_free(&j->history);
    ew_file_writer_free(&j->test);
}

static ew_status read_outputs(lamp_job *j, ew_error *reterr)
{
    EW_TRY(ew_lamp_answers_read(j->o->outputs, &j->answers, reterr));
    if (j->answers.task != j->task && j->task != EW_LAMP_2N) {
        return ew_fail(reterr, EW_EINVAL, "the questions are of %s, %s is of %s", ew_lamp_info_of(j->task)->file_name,
                       j->o->outputs, ew_lamp_info_of(j->answers.task)->file_name);
    }
    for (size_t i = 0; i < j->answers.n; i++) {
        const ew_lamp_answer *a = &j->answers.answer[i];
        ew_status st = ew_map_add(j->outputs, a->id, strlen(a->id), a->output);
        if (st != EW_OK) {
            return ew_fail(reterr, st, "no memory for %zu outputs", j->answers.n);
        }
    }
    return EW_OK;
}

static lamp_user *user_of(const lamp_job *j, const char *name)
{
    uintptr_t at = (uintptr_t)ew_map_get(j->by_name, name, strlen(name));
    return at != 0 ? j->user[at - 1] : NULL;
}

/* NULL without memory. */
static lamp_user *user_new(lamp_job *j, const char *name)
{
    if (ew_grow((void **)&j->user, &j->cap, j->n_users + 1, sizeof(lamp_user *), 100000000) != EW_OK) {
        return NULL;
    }
    lamp_user *u = ew_calloc(1, sizeof(*u));
    if (u == NULL) {
        return NULL;
    }
    u->name = ew_str_dup(name);
    if (u->name == NULL || ew_map_add(j->by_name, name, strlen(name), (void *)(uintptr_t)(j->n_users + 1)) != EW_OK) {
        ew_free(u->name);
        ew_free(u);
        return NULL;
    }
    j->user[j->n_users++] = u;
    return u;
}

/* A directory's name: the user's own when it is harmless, else a hash of it. */
static void user_dir(const char *name, char dst[static 80])
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    if (n != 0 && n <= 64 && name[n] == '\0') {
        (void)ew_str_copy(dst, 80, name);
        return;
    }
    char hex[EW_SHA256_HEX_SIZE];
    (void)ew_sha256_hex(name, strlen(name), hex);
    (void)snprintf(dst, 80, "user.%.16s", hex);
}

static ew_status write_user_file(const lamp_job *j, const lamp_user *u, const char *file, const ew_buf *text,
                                 ew_error *reterr)
{
    char name[80], dir[EW_PATH_MAX], path[EW_PATH_MAX];
    user_dir(u->name, name);
    EW_TRY(ew_path_join(dir, sizeof(dir), j->o->out, name, reterr));
    EW_TRY(ew_dir_make(dir, 0700, reterr));
    EW_TRY(ew_path_join(path, sizeof(path), dir, file, reterr));
    return ew_file_replace(path, ew_buf_str(text), text->size, 0600, reterr);
}

static ew_status write_history(lamp_job *j, lamp_user *u, const ew_items *items, ew_error *reterr)
{
    EW_AUTO_BUF text = {.max = (size_t)1 << 30};
    for (size_t i = 0; i < items->n; i++) {
        ew_item_write(&items->item[i], &text);
    }
    EW_TRY(ew_buf_check(&text, reterr));
    u->n_items = items->n;
    j->n_items += items->n;
    if (j->o->by_user) {
        return write_user_file(j, u, "history.jsonl", &text, reterr);
    }
    return ew_file_writer_write(j->history, ew_buf_str(&text), text.size, reterr);
}

/* The question itself, when its answer is known: later than the whole history. */
static ew_status write_question(lamp_job *j, lamp_user *u, const ew_lamp_question *q, ew_error *reterr)
{
    char *output = ew_map_get(j->outputs, q->id, strlen(q->id));
    if (output == NULL) {
        return j->o->outputs == NULL
                   ? EW_OK
                   : ew_fail(reterr, EW_EINVAL, "%s has no output for question %s", j->o->outputs, q->id);
    }
    EW_AUTO_BUF text = {0};
    ew_item item = {q->id, u->name, q->input, output, q->n_profile + u->n_questions};
    ew_item_write(&item, j->o->by_user ? &u->test : &text);
    u->n_questions++;
    j->n_test++;
    EW_TRY(ew_buf_check(j->o->by_user ? &u->test : &text, reterr));
    return j->o->by_user ? EW_OK : ew_file_writer_write(j->test, ew_buf_str(&text), text.size, reterr);
}

static ew_status take_question(lamp_job *j, const ew_lamp_question *q, ew_error *reterr)
{
    const char *name = q->user != NULL ? q->user : q->id;
    lamp_user *u = user_of(j, name);
    j->n_questions++;
    if (strlen(name) > 256) {
        return ew_fail(reterr, EW_ELIMIT, "question %.60s…: a user's name of more than 256 bytes", q->id);
    }
    if (u == NULL) { /* the first profile of a user is the one that counts, as in LaMP's own per-user training */
        EW_AUTO_ITEMS items = {0};
        if (j->o->users != 0 && j->n_users == (size_t)j->o->users) {
            j->n_skipped++;
            return EW_OK;
        }
        EW_TRY(ew_lamp_examples(j->task, q, name, 0, (uint64_t)j->o->seed, &items, reterr));
        if (items.n < (size_t)j->o->min_items) {
            j->n_skipped++;
            return EW_OK;
        }
        u = user_new(j, name);
        if (u == NULL) {
            return ew_fail(reterr, EW_ENOMEM, "no memory for the users");
        }
        EW_TRY(write_history(j, u, &items, reterr));
    }
    return write_question(j, u, q, reterr);
}

static ew_status open_writers(lamp_job *j, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_TRY(ew_dir_make(j->o->out, 0700, reterr));
    if (j->o->by_user) {
        return EW_OK;
    }
    EW_TRY(ew_path_join(path, sizeof(path), j->o->out, "history.jsonl", reterr));
    EW_TRY(ew_file_writer_open(path, 0600, &j->history, reterr));
    EW_TRY(ew_path_join(path, sizeof(path), j->o->out, "test.jsonl", reterr));
    return ew_file_writer_open(path, 0600, &j->test, reterr);
}

static ew_status close_writers(lamp_job *j, ew_error *reterr)
{
    if (!j->o->by_user) {
        EW_TRY(ew_file_writer_commit(j->history, reterr));
        return ew_file_writer_commit(j->test, reterr);
    }
    for (size_t i = 0; i < j->n_users; i++) {
        EW_TRY(write_user_file(j, j->user[i], "test.jsonl", &j->user[i]->test, reterr));
    }
    return EW_OK;
}

static ew_status run_lamp(lamp_job *j, ew_error *reterr)
{
    EW_AUTO(ew_lamp_reader) r = NULL;
    EW_TRY(ew_cli_lamp_task(j->o->task, j->o->questions, &j->task, reterr));
    if (ew_map_new(&j->by_name) != EW_OK || ew_map_new(&j->outputs) != EW_OK) {
        return ew_fail(reterr, EW_ENOMEM, "no memory for the users");
    }
    if (j->o->outputs != NULL) {
        EW_TRY(read_outputs(j, reterr));
    }
    EW_TRY(ew_lamp_open(j->o->questions, j->task, &r, reterr));
    EW_TRY(open_writers(j, reterr));
    /* In user-based data a user has one question: nothing comes after the last one asked for. */
    bool more = true, alone = false;
    while (!alone || j->o->users == 0 || j->n_users < (size_t)j->o->users) {
        EW_CLEANUP(ew_lamp_question_release) ew_lamp_question q = {0};
        EW_TRY(ew_lamp_next(r, &q, &more, reterr));
        if (!more) {
            break;
        }
        alone = q.user == NULL;
        EW_TRY(take_question(j, &q, reterr));
        if (ew_signal_stop()) {
            return ew_fail(reterr, EW_ECANCELLED, "stopped");
        }
    }
    return close_writers(j, reterr);
}

static void print_lamp(const lamp_job *j)
{
    const ew_lamp_info *info = ew_lamp_info_of(j->task);
    if (j->o->json) {
        printf("{\"task\":\"%s\",\"users\":%zu,\"items\":%zu,\"questions\":%zu,\"test\":%zu,\"left_out\":%zu}\n",
               info->name, j->n_users, j->n_items, j->n_questions, j->n_test, j->n_skipped);
        return;
    }
    printf("task       %s, %s\nusers      %zu\nhistory    %zu items\ntest       %zu questions with answers\n",
           info->name, info->about, j->n_users, j->n_items, j->n_test);
    if (j->n_skipped != 0) {
        printf("left out   %zu questions of other users\n", j->n_skipped);
    }
}

int ew_cli_data_lamp(int argc, char **argv, void *ctx)
{
    (void)ctx;
    lamp_options o = {.min_items = 1, .seed = 1};
    const ew_cli_opt opts[] = {
        {.name = "outputs",
         .arg = "FILE",
         .type = EW_CLI_STRING,
         .out = &o.outputs,
         .help = "the answers: questions become test.jsonl"},
        {.name = "task",
         .letter = 't',
         .arg = "TASK",
         .type = EW_CLI_STRING,
         .out = &o.task,
         .help = "lamp-1 to lamp-7, lamp-2n (default: told by the first question)"},
        {.name = "out",
         .letter = 'o',
         .arg = "DIR",
         .type = EW_CLI_STRING,
         .out = &o.out,
         .help = "write history.jsonl and test.jsonl there"},
        {.name = "by-user",
         .type = EW_CLI_FLAG,
         .out = &o.by_user,
         .help = "a directory of both files for each user, for train tune"},
        {.name = "users",
         .arg = "N",
         .type = EW_CLI_I64,
         .out = &o.users,
         .help = "the first N users alone",
         .min = 1,
         .max = 1e9},
        {.name = "min-items",
         .arg = "N",
         .type = EW_CLI_I64,
         .out = &o.min_items,
         .help = "leave out users with fewer items (1)",
         .min = 0,
         .max = 1e9},
        {.name = "seed",
         .arg = "N",
         .type = EW_CLI_I64,
         .out = &o.seed,
         .help = "where lamp-7 cuts its tweets (1)",
         .min = 0,
         .max = 9e15},
        {.name = "json", .type = EW_CLI_FLAG, .out = &o.json, .help = "print JSON"},
    };
    const ew_cli_pos pos[] = {{.name = "QUESTIONS",
                               .type = EW_CLI_STRING,
                               .out = &o.questions,
                               .help = "questions file of LaMP, e.g. dev_questions.json"}};
    int status = ew_cli_parse(
        &(ew_cli_spec){
            "data lamp",
            "Makes histories of LaMP's profiles, of user-based and time-based data: each record becomes the task's own "
            "question with its answer (lamp-1: title to abstract; lamp-7: the end of a tweet from its beginning), in "
            "the order of dates where there are any. The files are read question by question. LaMP's data are not "
            "part of Edgewise: lamp-benchmark.github.io/download.",
            "  edgewise data lamp dev_questions.json --outputs dev_outputs.json --out lamp2 --users 40 --min-items 20\n"
            "  edgewise data lamp dev_questions.json --outputs dev_outputs.json --out users --by-user\n"
            "  edgewise train tune --model M --task lamp-2 --data users/ID/history.jsonl --out adapter\n"
            "  an experiment over it:  data: {file: lamp2/history.jsonl}, tasks: [lamp-2]\n",
            opts, EW_COUNT(opts), pos, EW_COUNT(pos)},
        argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    if (o.out == NULL) {
        fprintf(stderr, EW_CLI_PROG ": --out DIR is needed; see --help\n");
        return EW_CLI_USAGE;
    }
    ew_error err = EW_ERROR_INIT;
    EW_CLEANUP(job_release) lamp_job j = {.o = &o};
    ew_status st = run_lamp(&j, &err);
    if (st == EW_OK) {
        print_lamp(&j);
    }
    return st == EW_OK ? 0 : ew_cli_fail(EW_CLI_PROG, st, &err);
}

/* --- lamp score --- */
void ew_cli_lamp_print_scores(const ew_lamp_answers *golds, const ew_lamp_scores *s, bool json)
{
    const struct {
        const char *key, *title;
        double value;
    } rows[] = {{"accuracy", "accuracy", s->accuracy},
                {"f1", "macro-F1", s->macro_f1},
                {"mae", "MAE", s->mae},
                {"rmse", "RMSE", s->rmse},
                {"rouge1", "ROUGE-1", s->rouge1},
                {"rougeL", "ROUGE-L", s->rougeL}};
    const ew_lamp_info *info = ew_lamp_info_of(golds->task);
    if (json) {
        printf("{\"task\":\"%s\",\"n\":%zu", info->name, s->n);
    } else {
        printf("task      %s, %s\nanswers   %zu\n", info->name, info->about, s->n);
    }
    for (size_t i = 0; i < EW_COUNT(rows); i++) {
        if (!isnan(rows[i].value)) {
            printf(json ? ",\"%s\":%.6f" : "%-8s  %.3f\n", json ? rows[i].key : rows[i].title, rows[i].value);
        }
    }
    if (json) {
        printf("}\n");
    }
}

static ew_status run_score(const char *gold_path, const char *pred_path, bool json, ew_error *reterr)
{
    EW_CLEANUP(ew_lamp_answers_release) ew_lamp_answers golds = {0};
    EW_CLEANUP(ew_lamp_answers_release) ew_lamp_answers predictions = {0};
    ew_lamp_scores s;
    EW_TRY(ew_lamp_answers_read(gold_path, &golds, reterr));
    EW_TRY(ew_lamp_answers_read(pred_path, &predictions, reterr));
    EW_TRY(ew_lamp_score(&golds, &predictions, &s, reterr));
    ew_cli_lamp_print_scores(&golds, &s, json);
    return EW_OK;
}

static int lamp_score(int argc, char **argv, void *ctx)
{
    (void)ctx;
    char *golds = NULL, *predictions = NULL;
    bool json = false;
    const ew_cli_opt opts[] = {{.name = "json", .type = EW_CLI_FLAG, .out = &json, .help = "print JSON"}};
    const ew_cli_pos pos[] = {
        {.name = "GOLDS", .type = EW_CLI_STRING, .out = &golds, .help = "outputs file of LaMP, e.g. dev_outputs.json"},
        {.name = "PREDICTIONS",
         .type = EW_CLI_STRING,
         .out = &predictions,
         .help = "the same form: lamp predict writes it"}};
    int status = ew_cli_parse(
        &(ew_cli_spec){
            "lamp score",
            "Scores predictions as LaMP's own eval_task.py: accuracy and macro-F1 over all labels (1, 2), MAE "
            "and RMSE with the farther of 1 and 5 for what is no number (3), ROUGE-1 and ROUGE-L (4 to 7). "
            "Every id of the golds must be there, and no other.",
            "  edgewise lamp score dev_outputs.json predictions.json\n", opts, EW_COUNT(opts), pos, EW_COUNT(pos)},
        argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    ew_status st = run_score(golds, predictions, json, &err);
    return st == EW_OK ? 0 : ew_cli_fail(EW_CLI_PROG, st, &err);
}

const ew_cli_command ew_cli_lamp_commands[] = {
    {.name = "predict",
     .args_doc = "MODEL QUESTIONS --out FILE",
     .summary = "answer LaMP's questions with a model, from the profile or without",
     .run = ew_cli_lamp_predict},
    {.name = "score",
     .args_doc = "GOLDS PREDICTIONS",
     .summary = "the scores of LaMP's own evaluation",
     .run = lamp_score},
};
const size_t ew_cli_n_lamp_commands = EW_COUNT(ew_cli_lamp_commands);
