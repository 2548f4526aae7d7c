/* Which mirror to ask is the system's business: the entries of /etc/apt/sources.list, sources.list.d/ *.list (one-line) and *.sources (deb822) that
 * name this release are copied, reduced to component main, into a private sources directory. Source: sources.list(5), apt.conf(5). */
#include "cli/data_apt.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/str.h"
#include "task/debian.h"

#define APT_FILE_MAX (1024u * 1024)

extern char **environ;

ew_status ew_apt_codename(char *dst, size_t size, ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_file_read("/etc/os-release", APT_FILE_MAX, &text, reterr));
    const char *p = ew_buf_str(&text);
    while (p != NULL && !ew_str_starts(p, "VERSION_CODENAME=")) {
        p = strchr(p, '\n');
        p = p != NULL ? p + 1 : NULL;
    }
    if (p != NULL) {
        p += strlen("VERSION_CODENAME=");
        p += *p == '"';
        size_t n = strspn(p, "abcdefghijklmnopqrstuvwxyz0123456789-");
        if (n > 0 && n < size) {
            memcpy(dst, p, n);
            dst[n] = '\0';
            return EW_OK;
        }
    }
    return ew_fail(reterr, EW_EUNSUPPORTED,
                   "/etc/os-release names no release: the benchmark is made of Debian's package index. HINT: on "
                   "another system copy a directory that `edgewise data debian` made on Debian and give it by --dir");
}

/* True when the blank-separated list holds the word. */
static bool has_word(const char *list, size_t size, const char *word)
{
    size_t n = strlen(word);
    for (size_t i = 0; i < size;) {
        while (i < size && strchr(" \t\n", list[i]) != NULL) {
            i++;
        }
        size_t begin = i;
        while (i < size && strchr(" \t\n", list[i]) == NULL) {
            i++;
        }
        if (i - begin == n && memcmp(list + begin, word, n) == 0) {
            return true;
        }
    }
    return false;
}

/* A suite alias may stand for the release: what comes is checked by its Codename. */
static bool has_suite(const char *list, size_t size, const char *codename, const char **ret_suite)
{
    const char *const names[] = {codename, "stable", "oldstable", "testing"};
    for (size_t i = 0; i < EW_COUNT(names); i++) {
        if (has_word(list, size, names[i])) {
            *ret_suite = names[i];
            return true;
        }
    }
    return false;
}

/* "deb [options] URI suite component…" */
static void one_line(const char *line, size_t size, const char *codename, ew_buf *out)
{
    size_t i = 0;
    if (size < 4 || memcmp(line, "deb", 3) != 0 || strchr(" \t", line[3]) == NULL) {
        return;
    }
    const char *comment = memchr(line, '#', size);
    size = comment != NULL ? (size_t)(comment - line) : size;
    i = 3;
    while (i < size && strchr(" \t", line[i]) != NULL) {
        i++;
    }
    size_t options = i, options_end = i;
    if (i < size && line[i] == '[') {
        while (i < size && line[i] != ']') {
            i++;
        }
        options_end = i < size ? i + 1 : i;
        i = options_end;
    }
    while (i < size && strchr(" \t", line[i]) != NULL) {
        i++;
    }
    size_t uri = i;
    while (i < size && strchr(" \t", line[i]) == NULL) {
        i++;
    }
    size_t uri_end = i;
    while (i < size && strchr(" \t", line[i]) != NULL) {
        i++;
    }
    size_t suite = i;
    while (i < size && strchr(" \t", line[i]) == NULL) {
        i++;
    }
    const char *name;
    if (has_suite(line + suite, i - suite, codename, &name) && has_word(line + i, size - i, "main")) {
        ew_buf_addf(out, "deb %.*s %.*s %s main\n", (int)(options_end - options), line + options, (int)(uri_end - uri),
                    line + uri, name);
    }
}

/* Value of a deb822 field within the stanza, continuation lines included; false when absent. */
static bool field(const char *stanza, size_t size, const char *name, const char **ret_value, size_t *ret_size)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < size;) {
        const char *nl = memchr(stanza + i, '\n', size - i);
        size_t end = nl != NULL ? (size_t)(nl - stanza) : size;
        while (end + 1 < size && strchr(" \t", stanza[end + 1]) != NULL) {
            nl = memchr(stanza + end + 1, '\n', size - end - 1);
            end = nl != NULL ? (size_t)(nl - stanza) : size;
        }
        if (end - i > n && stanza[i + n] == ':') {
            bool same = true;
            for (size_t k = 0; k < n && same; k++) {
                char c = stanza[i + k];
                same = (c >= 'A' && c <= 'Z' ? (char)(c + 32) : c) == name[k];
            }
            if (same) {
                *ret_value = stanza + i + n + 1;
                *ret_size = end - i - n - 1;
                return true;
            }
        }
        i = end + 1;
    }
    return false;
}

static bool stanza_fits(const char *s, size_t size, const char *codename, const char **ret_suite)
{
    const char *v;
    size_t n;
    if (field(s, size, "enabled", &v, &n) && (has_word(v, n, "no") || has_word(v, n, "false"))) {
        return false;
    }
    return field(s, size, "types", &v, &n) && has_word(v, n, "deb") && field(s, size, "components", &v, &n) &&
           has_word(v, n, "main") && field(s, size, "suites", &v, &n) && has_suite(v, n, codename, ret_suite);
}

/* Copies the stanza with its URIs, keys and options; types, suites and components are ours. */
static void stanza_copy(const char *s, size_t size, const char *suite, ew_buf *out)
{
    static const char *const replaced[] = {"types", "suites", "components", "architectures", "languages", "targets"};
    ew_buf_addf(out, "Types: deb\nSuites: %s\nComponents: main\n", suite);
    bool skip = false;
    for (size_t i = 0; i < size;) {
        const char *nl = memchr(s + i, '\n', size - i);
        size_t end = nl != NULL ? (size_t)(nl - s) : size;
        if (strchr(" \t", s[i]) == NULL) {
            skip = s[i] == '#';
            for (size_t k = 0; k < EW_COUNT(replaced) && !skip; k++) {
                const char *v;
                size_t n;
                skip = field(s + i, end - i, replaced[k], &v, &n);
            }
        }
        if (!skip) {
            ew_buf_add(out, s + i, end - i);
            ew_buf_addc(out, '\n');
        }
        i = end + 1;
    }
    ew_buf_addc(out, '\n');
}

static void deb822(const ew_buf *text, const char *codename, ew_buf *out)
{
    const char *s = ew_buf_str(text);
    size_t size = text->size;
    for (size_t i = 0; i < size;) {
        size_t end = i; /* of the stanza: a blank line */
        while (end < size && !(s[end] == '\n' && (end + 1 >= size || s[end + 1] == '\n'))) {
            end++;
        }
        const char *suite;
        if (stanza_fits(s + i, end - i, codename, &suite)) {
            stanza_copy(s + i, end - i, suite, out);
        }
        i = end;
        while (i < size && s[i] == '\n') {
            i++;
        }
    }
}

static ew_status read_source(const char *path, const char *codename, ew_buf *list, ew_buf *sources, ew_error *reterr)
{
    EW_AUTO_BUF text = {0};
    EW_TRY(ew_file_read(path, APT_FILE_MAX, &text, reterr));
    if (ew_str_ends(path, ".sources")) {
        deb822(&text, codename, sources);
        return EW_OK;
    }
    for (const char *p = ew_buf_str(&text); *p != '\0';) {
        size_t n = strcspn(p, "\n");
        size_t blank = strspn(p, " \t");
        if (blank < n) {
            one_line(p + blank, n - blank, codename, list);
        }
        p += n + (p[n] == '\n');
    }
    return EW_OK;
}

ew_status ew_apt_read_sources(const char *etc_apt, const char *codename, ew_buf *list, ew_buf *sources,
                              ew_error *reterr)
{
    char main_list[EW_PATH_MAX], parts[EW_PATH_MAX];
    EW_TRY(ew_path_join(main_list, sizeof(main_list), etc_apt, "sources.list", reterr));
    EW_TRY(ew_path_join(parts, sizeof(parts), etc_apt, "sources.list.d", reterr));
    if (ew_file_exists(main_list)) {
        EW_TRY(read_source(main_list, codename, list, sources, reterr));
    }
    ew_dir_list dir = {0};
    ew_status st = ew_dir_exists(parts) ? ew_dir_read(parts, &dir, reterr) : EW_OK;
    for (size_t i = 0; st == EW_OK && i < dir.n; i++) {
        char path[EW_PATH_MAX];
        if (ew_str_ends(dir.entry[i].name, ".list") || ew_str_ends(dir.entry[i].name, ".sources")) {
            st = ew_path_join(path, sizeof(path), parts, dir.entry[i].name, reterr);
            if (st == EW_OK) {
                st = read_source(path, codename, list, sources, reterr);
            }
        }
    }
    ew_dir_list_release(&dir);
    EW_TRY(st);
    EW_TRY(ew_buf_check(list, reterr));
    EW_TRY(ew_buf_check(sources, reterr));
    if (list->size == 0 && sources->size == 0) {
        return ew_fail(reterr, EW_ENOENT,
                       "%s names no source of %s with component main, so there is no package index to read. "
                       "HINT: add Debian's mirror to %s, or give a finished directory by --dir",
                       etc_apt, codename, parts);
    }
    return EW_OK;
}

/* Everything that apt writes stays under dir/apt; hooks of the system's configuration (which may need root) do not run. */
static ew_status write_conf(const char *apt, const ew_buf *list, const ew_buf *sources, ew_error *reterr)
{
    char path[EW_PATH_MAX];
    EW_AUTO_BUF conf = {0};
    ew_buf_adds(&conf, "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n"
                       "#clear APT::Update::Post-Invoke-Success;\n#clear Acquire::Languages;\n"
                       "Acquire::Languages { \"en\"; };\nAcquire::GzipIndexes \"false\";\n"
                       "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n"
                       "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled \"false\";\n"
                       "Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\nAcquire::Retries "
                       "\"2\";\nAPT::Update::Error-Mode \"any\";\n");
    ew_buf_addf(&conf,
                "Dir::State \"%s/state\";\nDir::State::lists \"%s/lists\";\nDir::State::status \"/dev/null\";\n"
                "Dir::Cache \"%s/cache\";\nDir::Etc::sourcelist \"%s/sources.list\";\n"
                "Dir::Etc::sourceparts \"%s/sources.list.d\";\n",
                apt, apt, apt, apt, apt);
    if (geteuid() == 0) { /* the directory may not be readable to apt's own user */
        ew_buf_adds(&conf, "APT::Sandbox::User \"root\";\n");
    }
    EW_TRY(ew_buf_check(&conf, reterr));
    static const char *const dirs[] = {"state", "lists/partial", "cache/archives/partial", "sources.list.d"};
    for (size_t i = 0; i < EW_COUNT(dirs); i++) {
        EW_TRY(ew_path_join(path, sizeof(path), apt, dirs[i], reterr));
        EW_TRY(ew_dir_make(path, 0755, reterr));
    }
    EW_TRY(ew_path_join(path, sizeof(path), apt, "sources.list", reterr));
    EW_TRY(ew_file_replace(path, ew_buf_str(list), list->size, 0644, reterr));
    EW_TRY(ew_path_join(path, sizeof(path), apt, "sources.list.d/release.sources", reterr));
    EW_TRY(ew_file_replace(path, ew_buf_str(sources), sources->size, 0644, reterr));
    EW_TRY(ew_path_join(path, sizeof(path), apt, "apt.conf", reterr));
    return ew_file_replace(path, conf.data, conf.size, 0644, reterr);
}

/* Runs apt-get with stdout on our stderr; *ret_exit is its exit status. */
static ew_status spawn_update(const char *conf, int *ret_exit, ew_error *reterr)
{
    char program[] = "apt-get", update[] = "update", quiet[] = "-q", config[] = "-c";
    char *conf_arg = ew_str_dup(conf);
    char *argv[] = {program, quiet, config, conf_arg, update, NULL};
    posix_spawn_file_actions_t actions;
    if (conf_arg == NULL || posix_spawn_file_actions_init(&actions) != 0) {
        ew_free(conf_arg);
        return ew_fail(reterr, EW_ENOMEM, "no memory to start apt-get");
    }
    int rc = posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
    rc = rc != 0 ? rc : posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    pid_t pid = 0;
    rc = rc != 0 ? rc : posix_spawnp(&pid, program, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    ew_free(conf_arg);
    if (rc != 0) {
        return ew_fail_errno(reterr, rc, "cannot start apt-get");
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return ew_fail_errno(reterr, errno, "waiting for apt-get");
        }
    }
    *ret_exit = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
    return EW_OK;
}

static ew_status make_absolute(const char *path, char *dst, size_t size, ew_error *reterr)
{
    char cwd[EW_PATH_MAX];
    if (path[0] == '/') {
        return ew_str_copy(dst, size, path) ? EW_OK : ew_fail(reterr, EW_ELIMIT, "path '%.64s…' is too long", path);
    }
    if (getcwd(cwd, sizeof(cwd)) == NULL) {
        return ew_fail_errno(reterr, errno, "the working directory");
    }
    return ew_path_join(dst, size, cwd, path, reterr);
}

ew_status ew_apt_update(const char *dir, const char *codename, ew_error *reterr)
{
    char absolute[EW_PATH_MAX], apt[EW_PATH_MAX], conf[EW_PATH_MAX];
    EW_TRY(ew_path_join(apt, sizeof(apt), dir, "apt", reterr));
    EW_TRY(ew_dir_make(apt, 0755, reterr));
    EW_TRY(make_absolute(apt, absolute, sizeof(absolute), reterr));
    if (strpbrk(absolute, "\"\n;{}") != NULL) {
        return ew_fail(reterr, EW_EINVAL, "%s: apt cannot work in a directory with such a name", absolute);
    }
    EW_AUTO_BUF list = {0};
    EW_AUTO_BUF sources = {0};
    EW_TRY(ew_apt_read_sources("/etc/apt", codename, &list, &sources, reterr));
    EW_TRY(write_conf(absolute, &list, &sources, reterr));
    EW_TRY(ew_path_join(conf, sizeof(conf), absolute, "apt.conf", reterr));
    int exit_status = 0;
    EW_TRY(spawn_update(conf, &exit_status, reterr));
    ew_apt_index found;
    if (ew_apt_find(dir, codename, &found, NULL) != EW_OK) {
        return ew_fail(reterr, EW_EREMOTE,
                       "apt-get update (exit status %d) brought no package index of %s; its messages stand above. "
                       "HINT: check the network and the mirror in /etc/apt, then run the command again",
                       exit_status, codename);
    }
    if (exit_status != 0) {
        fprintf(stderr, "edgewise: the mirror gave nothing new; the index that was there is used\n");
    }
    return EW_OK;
}

/* lists/<site>_dists_<suite>_InRelease names the prefix of the other files. */
static bool find_with(const char *lists, const char *name, const char *codename, const ew_dir_list *dir,
                      ew_apt_index *ret)
{
    static const char *const kinds[] = {"InRelease", "Release"};
    size_t prefix = 0;
    for (size_t i = 0; i < EW_COUNT(kinds) && prefix == 0; i++) {
        if (ew_str_ends(name, kinds[i]) && strlen(name) > strlen(kinds[i])) {
            prefix = strlen(name) - strlen(kinds[i]);
        }
    }
    if (prefix == 0 || name[prefix - 1] != '_' ||
        ew_path_join(ret->release, sizeof(ret->release), lists, name, NULL) != EW_OK ||
        !ew_debian_release_matches(ret->release, codename)) {
        return false;
    }
    ret->packages[0] = ret->translation[0] = '\0';
    for (size_t i = 0; i < dir->n; i++) {
        const char *other = dir->entry[i].name;
        if (strncmp(other, name, prefix) != 0) {
            continue;
        }
        char *dst = NULL;
        if (ew_str_starts(other + prefix, "main_binary-") && ew_str_ends(other, "_Packages") &&
            !ew_str_starts(other + prefix, "main_binary-all")) {
            dst = ret->packages;
        } else if (ew_str_eq(other + prefix, "main_i18n_Translation-en")) {
            dst = ret->translation;
        }
        if (dst != NULL && ew_path_join(dst, EW_PATH_MAX, lists, other, NULL) != EW_OK) {
            return false;
        }
    }
    return ret->packages[0] != '\0' && ret->translation[0] != '\0';
}

ew_status ew_apt_find(const char *dir, const char *codename, ew_apt_index *ret_index, ew_error *reterr)
{
    char lists[EW_PATH_MAX];
    EW_TRY(ew_path_join(lists, sizeof(lists), dir, "apt/lists", reterr));
    ew_dir_list files = {0};
    if (ew_dir_exists(lists)) {
        EW_TRY(ew_dir_read(lists, &files, reterr));
    }
    bool found = false;
    for (size_t i = 0; i < files.n && !found; i++) {
        found = find_with(lists, files.entry[i].name, codename, &files, ret_index);
    }
    ew_dir_list_release(&files);
    if (!found) {
        return ew_fail(reterr, EW_ENOENT, "%s holds no package index of %s", lists, codename);
    }
    return EW_OK;
}
