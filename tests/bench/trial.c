/* Predictions of memory and seconds against what trials really took.
 *   trial probe CAPS.json                                            measures this machine
 *   trial model OUT.gguf TYPE C L V [TEXT]                           a random model (TYPE: F16 Q8_0 Q4_0)
 *   trial run MODEL ITEMS.jsonl TASK METHOD CAPS.json [N_HISTORY [THREADS]]   one line of figures; the process holds nothing else
 * CAPS.json may be "-" (no prediction of seconds). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "domain/trial.h"
#include "kern/kern.h"
#include "model/model.h"
#include "probe/probe.h"
#include "record/record.h"
#include "run/run.h"
#include "sys/file.h"
#include "sys/pool.h"
#include "task/item.h"
#include "text/json.h"
#include "token/vocab.h"

#include "toy.h"

static ew_status probe(const char *path, unsigned threads, ew_error *err)
{
    EW_AUTO(ew_pool) pool = NULL;
    EW_AUTO_JSON j = NULL;
    ew_device_caps *caps = ew_xcalloc(1, sizeof(*caps));
    EW_TRY(ew_pool_new(threads, &pool, err));
    ew_status st = ew_probe_run(
        &(ew_probe_opt){.exec = {.kern = ew_kern_get(NULL), .pool = pool}, .disk_path = "/tmp", .temp_dir = "/tmp"},
        caps, err);
    for (uint32_t i = 0; i < caps->n_rates && st == EW_OK; i++) {
        (void)printf("%-20s %12.3f %s (spread %.3f)\n", caps->rates[i].name, caps->rates[i].value, caps->rates[i].unit,
                     caps->rates[i].spread);
    }
    st = st == EW_OK ? ew_record_from_caps(caps, &j, err) : st;
    ew_free(caps);
    EW_TRY(st);
    return json_dump_file(j, path, 0) == 0 ? EW_OK : ew_fail(err, EW_EIO, "cannot write %s", path);
}

static ew_status next_text(void *ctx, ew_span *ret_text, ew_error *reterr)
{
    ew_span *left = ctx;
    (void)reterr;
    *ret_text = *left;
    left->size = 0;
    return EW_OK;
}

/* A vocabulary of a text, so that prompts have as many tokens as with a real model. */
static ew_status vocab_of(const char *path, uint32_t V, ew_vocab **ret_vocab, ew_error *err)
{
    static const char *const specials[] = {"<|endoftext|>"};
    EW_AUTO_BUF text = {.max = 64 * EW_MIB};
    EW_TRY(ew_file_read(path, 64 * EW_MIB, &text, err));
    ew_span left = {text.data, EW_MIN(text.size, (size_t)8000000)};
    const ew_bpe_train_opt opt = {
        .vocab_size = V, .specials = specials, .n_specials = 1, .bos = specials[0], .eos = specials[0]};
    EW_TRY(ew_bpe_train(&opt, next_text, &left, ret_vocab, err));
    return ew_vocab_pad(*ret_vocab, V, err);
}

static ew_status model(int n, char **arg, ew_error *err)
{
    uint32_t C = (uint32_t)atoi(arg[2]);
    toy_shape s = {
        .C = C, .H = C / 32, .K = C / 64, .F = 3 * C, .L = (uint32_t)atoi(arg[3]), .V = (uint32_t)atoi(arg[4])};
    s.n_ctx = 512;
    if (n > 5) {
        EW_AUTO(ew_vocab) vocab = NULL;
        EW_TRY(vocab_of(arg[5], s.V, &vocab, err));
        return toy_save_vocab(arg[0], &s, arg[1], 1, vocab, err);
    }
    return toy_save(arg[0], &s, arg[1], 1, err);
}

static ew_status run(int n, char **arg, ew_error *err)
{
    EW_AUTO_ITEMS items = {0};
    EW_AUTO(ew_pool) pool = NULL;
    EW_AUTO_JSON j = NULL;
    ew_device_caps *caps = NULL;
    ew_trial_result *r = ew_xcalloc(1, sizeof(*r));
    ew_trial_spec spec = {.method = ew_method_from_name(arg[3]), .source = "profile", .variant = "f16", .seed = 1};
    (void)ew_str_copy(spec.task, sizeof(spec.task), arg[2]);
    EW_TRY(ew_items_read(arg[1], &items, err));
    if (strcmp(arg[4], "-") != 0) {
        caps = ew_xcalloc(1, sizeof(*caps));
        j = json_load_file(arg[4], 0, NULL);
        EW_TRY(ew_record_to_caps(j, caps, err));
    }
    spec.n_history = n > 5 ? (uint32_t)atoi(arg[5]) : 0;
    EW_TRY(ew_pool_new(n > 6 ? (unsigned)atoi(arg[6]) : 0, &pool, err));
    const ew_run_env env = {
        .model_path = arg[0], .items = &items, .exec = {.kern = ew_kern_get(NULL), .pool = pool}, .caps = caps};
    ew_status st = ew_run_trial(&spec, &env, r, NULL, err);
    double ram = ew_trial_result_mean(r, "ram.peak_bytes") / 1048576;
    double ram_p = ew_trial_result_mean(r, "ram.predicted_bytes") / 1048576;
    double s = ew_trial_result_mean(r, "seconds");
    double s_p = ew_trial_result_mean(r, "seconds.predicted");
    (void)printf("%-9s ram %7.2f predicted %7.2f MiB (%+5.1f %%)  seconds %7.2f predicted %7.2f (%+5.1f %%)"
                 "  tune %.2f s %.0f steps\n",
                 arg[3], ram, ram_p, 100 * (ram_p / ram - 1), s, s_p, 100 * (s_p / s - 1),
                 ew_trial_result_mean(r, "tune.seconds"), ew_trial_result_mean(r, "tune.steps"));
    for (uint32_t i = 0; i < r->n_measures && getenv("EW_VERBOSE") != NULL; i++) {
        (void)printf("  %-24s %g %s\n", r->measures[i].name, r->measures[i].values[0], r->measures[i].unit);
    }
    if (getenv("EW_SMAPS") != NULL) {
        (void)!system(
            "awk '/^[0-9a-f]+-/{n=$6} /^Rss/{r[n]+=$2} END{for(k in r) if(r[k]>60) print r[k], k}' /proc/$PPID/smaps | "
            "sort -rn >&2; grep -E 'VmHWM|VmRSS|Rss' /proc/$PPID/status >&2");
    }
    ew_free(caps);
    ew_free(r);
    return st;
}

int main(int argc, char **argv)
{
    ew_error err = EW_ERROR_INIT;
    ew_status st = EW_EINVAL;
    if (argc >= 3 && strcmp(argv[1], "probe") == 0) {
        st = probe(argv[2], argc > 3 ? (unsigned)atoi(argv[3]) : 0, &err);
    } else if (argc >= 7 && strcmp(argv[1], "model") == 0) {
        st = model(argc - 2, argv + 2, &err);
    } else if (argc >= 7 && strcmp(argv[1], "run") == 0) {
        st = run(argc - 2, argv + 2, &err);
    }
    if (st != EW_OK) {
        (void)fprintf(stderr, "trial: %s\n", err.msg);
    }
    return ew_status_exit(st);
}
