/* Peak resident memory of tuning as a process really takes it, beside what the dry run says.
 *
 *   bench_tune_memory MODEL RUNG|all [TOKENS] [8bit] [drop] [qv]     every rung in a process of its own; LoRA r = 8
 *
 * Prints: model, rung, drop, predicted MB, VmHWM MB, their ratio, seconds per step. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rng.h"
#include "model/model.h"
#include "sys/file.h"
#include "sys/pool.h"
#include "sys/proc.h"
#include "train/tune.h"

#define EXAMPLES 3

typedef struct setup {
    const char *path;
    ew_tune_rung rung;
    uint32_t tokens;
    bool eight_bit, drop, qv;
} setup;

static int one(const setup *s)
{
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_model) m = NULL;
    EW_AUTO(ew_pool) pool = NULL;
    EW_AUTO(ew_adapter) a = NULL;
    if (ew_pool_new(0, &pool, &err) != EW_OK || ew_model_open(s->path, NULL, &m, &err) != EW_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    ew_rng rng;
    ew_rng_init(&rng, 1, 0);
    int32_t *ids = ew_calloc((size_t)EXAMPLES * (s->tokens + 1), sizeof(*ids));
    ew_tune_example x[EXAMPLES];
    for (size_t i = 0; i < EXAMPLES; i++) {
        int32_t *id = ids + i * (s->tokens + 1);
        for (uint32_t j = 0; j <= s->tokens; j++) {
            id[j] = (int32_t)ew_rng_below(&rng, ew_model_config_of(m)->V);
        }
        x[i] = (ew_tune_example){.id = id, .n_prompt = s->tokens / 2, .n_answer = s->tokens + 1 - s->tokens / 2};
    }
    const ew_tune_opt o = {
        .model = m,
        .exec = {ew_kern_get(NULL), pool},
        .adapter = {.targets = s->qv ? EW_ADAPTER_TARGET(EW_LINEAR_Q) | EW_ADAPTER_TARGET(EW_LINEAR_V) : 0},
        .train = x,
        .n_train = EXAMPLES - 1,
        .val = x + EXAMPLES - 1,
        .n_val = 1,
        .batch = 1,
        .pack_tok = s->tokens,
        .seq_max = s->tokens,
        .max_steps = 2,
        .rung = s->rung,
        .drop_pages = s->drop,
        .optimizer_8bit = s->eight_bit};
    ew_tune_report *r = ew_calloc(1, sizeof(*r));
    ew_proc_mem mem = {0};
    int status = 1;
    if (r == NULL || ids == NULL || ew_tune(&o, &a, r, &err) != EW_OK || ew_proc_mem_read(&mem, &err) != EW_OK) {
        fprintf(stderr, "%s\n", err.msg);
    } else {
        const double predicted = (double)r->peak_ram_predicted_bytes / 1e6, peak = (double)mem.rss_peak_bytes / 1e6;
        printf("%-24s %-14s %-5s %-5s %8.1f %8.1f %6.3f %7.2f s\n", ew_path_base(s->path), ew_tune_rung_name(r->rung),
               r->drop_pages ? "drop" : "-", s->eight_bit ? "8bit" : "f32", predicted, peak, predicted / peak,
               r->seconds / 2);
        status = 0;
    }
    ew_free(r);
    ew_free(ids);
    return status;
}

int main(int argc, char **argv)
{
    setup s = {.tokens = 256};
    if (argc < 3) {
        fprintf(stderr, "usage: bench_tune_memory MODEL RUNG|all [TOKENS] [8bit] [drop] [qv]\n");
        return 2;
    }
    s.path = argv[1];
    for (int i = 3; i < argc; i++) {
        s.eight_bit = s.eight_bit || strcmp(argv[i], "8bit") == 0;
        s.drop = s.drop || strcmp(argv[i], "drop") == 0;
        s.qv = s.qv || strcmp(argv[i], "qv") == 0;
        char *end = NULL;
        const unsigned long n = strtoul(argv[i], &end, 10);
        s.tokens = n > 0 && *end == '\0' ? (uint32_t)n : s.tokens;
    }
    int status = 0;
    for (int rung = EW_TUNE_RUNG_KEEP; rung <= EW_TUNE_RUNG_MEZO; rung++) {
        if (strcmp(argv[2], "all") != 0 && strcmp(argv[2], ew_tune_rung_name((ew_tune_rung)rung)) != 0) {
            continue;
        }
        s.rung = (ew_tune_rung)rung;
        (void)fflush(stdout);
        const pid_t pid = fork();
        if (pid == 0) {
            exit(one(&s));
        }
        int st = 1;
        status |= pid < 0 || waitpid(pid, &st, 0) != pid || st != 0;
    }
    return status;
}
