/* `edgewise data debian`: fetch, build, say what came out. Everything is cached: a second run reads info.json alone. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "cli/data.h"
#include "cli/data_apt.h"
#include "crypt/hash.h"
#include "sys/file.h"
#include "sys/signal.h"
#include "sys/term.h"
#include "task/debian.h"
#include "text/json.h"

#define PROGRAM "edgewise"
#define HELDOUT_NAME "heldout-users.txt"

ew_status ew_cli_data_dir(const char *opt, char *dst, size_t size, ew_error *reterr)
{
    if (opt != NULL) {
        return ew_str_copy(dst, size, opt) ? EW_OK : ew_fail(reterr, EW_ELIMIT, "--dir: the path is too long");
    }
    return ew_debian_default_dir(getenv("XDG_CACHE_HOME"), getenv("HOME"), dst, size, reterr);
}

ew_status ew_cli_model_file(const char *name, char *dst, size_t size, ew_error *reterr)
{
    const char *env = getenv("EDGEWISE_MODELS");
    if (env != NULL && env[0] != '\0') {
        EW_TRY(ew_path_join(dst, size, env, name, reterr));
        if (ew_file_exists(dst)) {
            return EW_OK;
        }
    }
    char exe[EW_PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    if (n > 0) {
        exe[n] = '\0';
        static const char *const places[] = {"share/edgewise/models", "models", "../models", "../../models"};
        for (int up = 0; up < 2; up++) { /* bin/ and the program's own name */
            char *slash = strrchr(exe, '/');
            if (slash != NULL) {
                *slash = '\0';
            }
        }
        for (size_t i = 0; i < EW_COUNT(places); i++) {
            char dir[EW_PATH_MAX];
            if (ew_path_join(dir, sizeof(dir), exe, places[i], NULL) == EW_OK &&
                ew_path_join(dst, size, dir, name, NULL) == EW_OK && ew_file_exists(dst)) {
                return EW_OK;
            }
        }
    }
    return ew_fail(reterr, EW_ENOENT,
                   "models/%s is neither beside this installation nor in its source tree. "
                   "HINT: set EDGEWISE_MODELS to the directory that holds it",
                   name);
}

typedef struct debian_options {
    char *dir, *heldout, *packages, *translation, *release;
    bool update, rebuild, json;
} debian_options;

/* Which held-out list counts: *ret_path "" = none. */
static ew_status heldout_path(const debian_options *o, char *dst, size_t size, ew_error *reterr)
{
    dst[0] = '\0';
    if (o->heldout != NULL) {
        if (ew_str_eq(o->heldout, "none")) {
            return EW_OK;
        }
        return ew_str_copy(dst, size, o->heldout) ? EW_OK : ew_fail(reterr, EW_ELIMIT, "--heldout: path too long");
    }
    if (ew_cli_model_file(HELDOUT_NAME, dst, size, NULL) != EW_OK) {
        dst[0] = '\0';
        fprintf(stderr, PROGRAM ": no list of held-out users beside the models: who is held out follows from the "
                                "number of items alone\n");
    }
    return EW_OK;
}

static ew_status heldout_hash(const char *path, char hex[static EW_SHA256_HEX_SIZE], ew_error *reterr)
{
    hex[0] = '\0';
    if (path[0] != '\0') {
        EW_AUTO_BUF text = {0};
        EW_TRY(ew_file_read(path, 1024u * 1024, &text, reterr));
        ew_sha256_hex(ew_buf_str(&text), text.size, hex);
    }
    return EW_OK;
}

static ew_status locate_index(const debian_options *o, const char *dir, ew_apt_index *ret_index, ew_error *reterr)
{
    if (o->packages != NULL || o->translation != NULL || o->release != NULL) {
        if (o->packages == NULL || o->translation == NULL || o->release == NULL) {
            return ew_fail(reterr, EW_EINVAL, "--packages, --translation and --release belong together");
        }
        bool fits = ew_str_copy(ret_index->packages, EW_PATH_MAX, o->packages) &&
                    ew_str_copy(ret_index->translation, EW_PATH_MAX, o->translation) &&
                    ew_str_copy(ret_index->release, EW_PATH_MAX, o->release);
        return fits ? EW_OK : ew_fail(reterr, EW_ELIMIT, "a path is too long");
    }
    char codename[64];
    EW_TRY(ew_apt_codename(codename, sizeof(codename), reterr));
    if (!o->update && ew_apt_find(dir, codename, ret_index, NULL) == EW_OK) {
        return EW_OK;
    }
    fprintf(stderr, PROGRAM ": fetching the package index of %s into %s/apt\n", codename, dir);
    EW_TRY(ew_apt_update(dir, codename, reterr));
    return ew_apt_find(dir, codename, ret_index, reterr);
}

static ew_status build(const debian_options *o, const char *dir, const char *heldout, ew_debian_info *ret_info,
                       ew_error *reterr)
{
    ew_apt_index index;
    EW_TRY(ew_dir_make(dir, 0755, reterr));
    EW_AUTO(ew_dir_lock) lock = NULL;
    EW_TRY(ew_dir_lock_take(dir, &lock, reterr));
    EW_TRY(locate_index(o, dir, &index, reterr));
    EW_AUTO(ew_term_progress) bar = NULL;
    EW_TRY(ew_term_progress_new(stderr, "data debian", ew_signal_stop, &bar));
    const ew_debian_build_opt opt = {
        .packages = index.packages,
        .translation = index.translation,
        .release = index.release,
        .heldout = heldout[0] != '\0' ? heldout : NULL,
        .out_dir = dir,
        .progress = *ew_term_progress_get(bar),
    };
    return ew_debian_build(&opt, ret_info, reterr);
}

static ew_status print_info(const char *dir, const ew_debian_info *i, bool json, ew_error *reterr)
{
    if (json) {
        char path[EW_PATH_MAX];
        EW_TRY(ew_path_join(path, sizeof(path), dir, "info.json", reterr));
        EW_AUTO_BUF text = {0};
        EW_TRY(ew_file_read(path, 1024u * 1024, &text, reterr));
        fputs(ew_buf_str(&text), stdout);
        return EW_OK;
    }
    printf("digest          %s\n", i->digest);
    printf("release         %s %s, %s\n", i->codename, i->arch, i->date);
    printf("packages        %llu of %llu sources\n", (unsigned long long)i->n_packages,
           (unsigned long long)i->n_sources);
    printf("items           %llu (%llu near-duplicates removed)\n", (unsigned long long)i->n_items,
           (unsigned long long)i->n_near_duplicates);
    printf("users           %llu\n", (unsigned long long)i->n_users);
    printf("held out        %llu dev and %llu test users, %llu items; %llu with label entropy >= 1 bit\n",
           (unsigned long long)i->n_dev, (unsigned long long)i->n_test, (unsigned long long)i->n_eval_items,
           (unsigned long long)i->n_section_users);
    printf("training pool   %llu items, %llu characters, and %llu texts of other packages\n",
           (unsigned long long)i->n_pool_items, (unsigned long long)i->n_pool_chars, (unsigned long long)i->n_extra);
    printf("directory       %s\n", dir);
    return EW_OK;
}

static ew_status run_debian(const debian_options *o, ew_error *reterr)
{
    char dir[EW_PATH_MAX], heldout[EW_PATH_MAX], hash[EW_SHA256_HEX_SIZE];
    EW_TRY(ew_cli_data_dir(o->dir, dir, sizeof(dir), reterr));
    EW_TRY(heldout_path(o, heldout, sizeof(heldout), reterr));
    EW_TRY(heldout_hash(heldout, hash, reterr));
    ew_debian_info info;
    bool fresh = !o->update && !o->rebuild && o->packages == NULL && ew_debian_read_info(dir, &info, NULL) == EW_OK &&
                 ew_str_eq(info.heldout, hash);
    if (!fresh) {
        EW_TRY(build(o, dir, heldout, &info, reterr));
    }
    return print_info(dir, &info, o->json, reterr);
}

int ew_cli_data_debian(int argc, char **argv, void *ctx)
{
    (void)ctx;
    debian_options o = {0};
    const ew_cli_opt opts[] = {
        {.name = "dir",
         .arg = "DIR",
         .type = EW_CLI_STRING,
         .out = &o.dir,
         .help = "where the benchmark lies (default: edgewise/debian in the user's cache directory)"},
        {.name = "update",
         .type = EW_CLI_FLAG,
         .out = &o.update,
         .help = "ask the mirror for a newer index and build again"},
        {.name = "rebuild", .type = EW_CLI_FLAG, .out = &o.rebuild, .help = "build again from the index that is there"},
        {.name = "heldout",
         .arg = "FILE",
         .type = EW_CLI_STRING,
         .out = &o.heldout,
         .help = "list of held-out users (default: the one shipped with the models; \"none\": by number of items)"},
        {.name = "packages",
         .arg = "FILE",
         .type = EW_CLI_STRING,
         .out = &o.packages,
         .help = "read this Packages file instead of apt's"},
        {.name = "translation",
         .arg = "FILE",
         .type = EW_CLI_STRING,
         .out = &o.translation,
         .help = "the Translation-en file that belongs to it"},
        {.name = "release",
         .arg = "FILE",
         .type = EW_CLI_STRING,
         .out = &o.release,
         .help = "the Release or InRelease file that covers both"},
        {.name = "json", .type = EW_CLI_FLAG, .out = &o.json, .help = "print JSON"},
    };
    int status = ew_cli_parse(
        &(ew_cli_spec){"data debian",
                       "Makes the debian benchmark from the package index of the system's own mirror: one user per "
                       "maintainer, one item per source package. Needs no root and leaves the system's lists alone. "
                       "Prints the digest that names exactly this data.",
                       "  edgewise data debian\n  edgewise data debian --dir /srv/debian --json\n", opts,
                       EW_COUNT(opts), NULL, 0},
        argc, argv);
    if (status != EW_CLI_GO) {
        return status;
    }
    ew_error err = EW_ERROR_INIT;
    ew_status st = run_debian(&o, &err);
    return st == EW_OK ? 0 : ew_cli_fail(PROGRAM, st, &err);
}
