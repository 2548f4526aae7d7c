/* Installs the tree, checks the systemd units, and starts signer, coordinator and agent the way the units say: their
 * ExecStart line with systemd's specifiers filled in, READY=1 awaited on NOTIFY_SOCKET, SIGTERM at the end. As root the
 * three run under three other users.
 * ctest: TIMEOUT=300 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/str.h"
#include "sys/file.h"

#define READY_MS 60000
#define ARGS_MAX 32

static char root[512], prefix[600], state_dir[600], run_dir[600], notify_path[600];
static int notify_fd = -1;

struct service {
    const char *name; /* "signer" */
    const char *user; /* stands for edgewise-<name> when the test is root */
    char *unit;       /* text of the unit file */
    char line[4096];  /* ExecStart, filled in and cut into argv */
    char *argv[ARGS_MAX];
    pid_t pid;
};

static struct service services[] = {{.name = "signer", .user = "daemon"},
                                    {.name = "coordinator", .user = "nobody"},
                                    {.name = "agent", .user = "games"}};

static bool is_root(void)
{
    return geteuid() == 0;
}

static const struct passwd *user_of(const struct service *s)
{
    return is_root() ? getpwnam(s->user) : getpwuid(getuid());
}

/* Runs argv as user (NULL = ourselves) with stdout to *out (may be NULL); the exit status, 128 + signal. */
static int run(char *const argv[], const struct service *as, ew_buf *out)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(fds[1], 1);
        (void)close(fds[0]);
        (void)close(fds[1]);
        const struct passwd *pw = as != NULL ? user_of(as) : NULL;
        if (pw != NULL && is_root() && (setgid(pw->pw_gid) != 0 || setuid(pw->pw_uid) != 0)) {
            _exit(126);
        }
        execv(argv[0], argv);
        _exit(127);
    }
    (void)close(fds[1]);
    char buf[4096];
    ssize_t n;
    while ((n = read(fds[0], buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR)) {
        if (out != NULL && n > 0) {
            ew_buf_add(out, buf, (size_t)n);
        }
    }
    (void)close(fds[0]);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static char *text_of(const char *s)
{
    return ew_str_dup(s);
}

/* The first value of "key=" in the unit, or NULL. */
static const char *value_of(const char *unit, const char *key, size_t *size)
{
    size_t n = strlen(key);
    for (const char *p = unit; p != NULL; p = strchr(p, '\n') != NULL ? strchr(p, '\n') + 1 : NULL) {
        if (strncmp(p, key, n) == 0 && p[n] == '=') {
            *size = strcspn(p + n + 1, "\n");
            return p + n + 1;
        }
    }
    return NULL;
}

static void make_dir(const char *path, unsigned mode, const struct service *owner)
{
    ew_error err = EW_ERROR_INIT;
    assert_ok(ew_dir_make(path, 0755, &err), &err);
    assert_int_equal(chmod(path, mode), 0);
    if (owner != NULL && is_root()) {
        const struct passwd *pw = user_of(owner);
        assert_int_equal(chown(path, pw->pw_uid, pw->pw_gid), 0);
    }
}

static int install_tree(void **state)
{
    (void)state;
    ew_error err = EW_ERROR_INIT;
    const char *bin = getenv("EW_BIN_DIR");
    if (bin == NULL) {
        fprintf(stderr, "EW_BIN_DIR is not set: run by ctest\n");
        return -1;
    }
    (void)snprintf(root, sizeof(root), "%s", ew_test_tmpdir());
    (void)snprintf(prefix, sizeof(prefix), "%s/usr", root);
    (void)snprintf(state_dir, sizeof(state_dir), "%s/lib", root);
    (void)snprintf(run_dir, sizeof(run_dir), "%s/run", root);
    (void)snprintf(notify_path, sizeof(notify_path), "%s/notify", root);
    assert_int_equal(chmod(root, 0711), 0);
    EW_AUTO_BUF build = {0};
    ew_buf_addf(&build, "%s/..", bin);
    EW_AUTO_BUF to = {0};
    ew_buf_adds(&to, prefix);
    char *argv[] = {text_of("/usr/bin/cmake"), text_of("--install"),     text_of(ew_buf_str(&build)),
                    text_of("--prefix"),       text_of(ew_buf_str(&to)), NULL};
    EW_AUTO_BUF log = {0};
    int status = run(argv, NULL, &log);
    for (size_t i = 0; argv[i] != NULL; i++) {
        free(argv[i]);
    }
    if (status != 0) {
        fprintf(stderr, "cmake --install: %d\n%s\n", status, ew_buf_str(&log));
        return -1;
    }
    for (size_t i = 0; i < EW_COUNT(services); i++) {
        char path[1024];
        EW_AUTO_BUF text = {0};
        (void)snprintf(path, sizeof(path), "%s/lib/systemd/system/edgewise-%s.service", prefix, services[i].name);
        assert_ok(ew_file_read(path, 65536, &text, &err), &err);
        services[i].unit = ew_buf_take(&text);
    }
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    assert_true(ew_str_copy(addr.sun_path, sizeof(addr.sun_path), notify_path));
    notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(notify_fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    return chmod(notify_path, 0777);
}

static int stop_all(void **state)
{
    (void)state;
    for (size_t i = 0; i < EW_COUNT(services); i++) {
        if (services[i].pid > 0) {
            (void)kill(services[i].pid, SIGKILL);
            (void)waitpid(services[i].pid, NULL, 0);
        }
        free(services[i].unit);
    }
    return 0;
}

static void every_unit_notifies_is_limited_and_hardened(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "Type=notify",     "NoNewPrivileges=yes",    "ProtectSystem=strict", "PrivateTmp=yes",
        "ProtectHome=yes", "CapabilityBoundingSet=", "Restart=on-failure",   "UMask=0077"};
    for (size_t i = 0; i < EW_COUNT(services); i++) {
        size_t size;
        for (size_t k = 0; k < EW_COUNT(lines); k++) {
            if (strstr(services[i].unit, lines[k]) == NULL) {
                fail_msg("%s: no '%s'", services[i].name, lines[k]);
            }
        }
        assert_non_null(value_of(services[i].unit, "MemoryMax", &size));
        assert_non_null(value_of(services[i].unit, "SystemCallFilter", &size));
        assert_null(strstr(services[i].unit, "@bindir@"));
        assert_null(strstr(services[i].unit, "@hardening@"));
    }
    assert_non_null(strstr(services[2].unit, "LoadCredential=profile.key:"));
    assert_non_null(strstr(services[0].unit, "PrivateNetwork=yes"));
}

static void systemd_finds_nothing_to_say_about_the_units(void **state)
{
    (void)state;
    if (access("/usr/bin/systemd-analyze", X_OK) != 0) {
        skip();
    }
    char paths[EW_COUNT(services)][1024];
    char *argv[8];
    size_t n = 0;
    argv[n++] = text_of("/bin/sh");
    argv[n++] = text_of("-c");
    argv[n++] = text_of("exec /usr/bin/systemd-analyze verify --man=no \"$@\" 2>&1");
    argv[n++] = text_of("sh");
    for (size_t i = 0; i < EW_COUNT(services); i++) {
        (void)snprintf(paths[i], sizeof(paths[i]), "%s/bin/edgewise-%s", prefix, services[i].name);
        if (access(paths[i], X_OK) == 0) {
            (void)snprintf(paths[i], sizeof(paths[i]), "%s/lib/systemd/system/edgewise-%s.service", prefix,
                           services[i].name);
            argv[n++] = paths[i];
        }
    }
    argv[n] = NULL;
    EW_AUTO_BUF out = {0};
    int status = run(argv, NULL, &out);
    for (size_t i = 0; i < 4; i++) {
        free(argv[i]);
    }
    if (status != 0 || strstr(ew_buf_str(&out), "edgewise") != NULL) {
        fail_msg("systemd-analyze verify: %d: %s", status, ew_buf_str(&out));
    }
}

/* Fills in %S, %t and the users that this machine does not have. */
static void build_argv(struct service *s)
{
    size_t size = 0;
    const char *exec = value_of(s->unit, "ExecStart", &size);
    assert_non_null(exec);
    EW_AUTO_BUF line = {0};
    for (const char *p = exec; p < exec + size; p++) {
        if (*p == '%' && (p[1] == 'S' || p[1] == 't')) {
            ew_buf_adds(&line, *++p == 'S' ? state_dir : run_dir);
        } else {
            ew_buf_addc(&line, *p);
        }
    }
    assert_true(ew_str_copy(s->line, sizeof(s->line), ew_buf_str(&line)));
    size_t n = 0;
    char *save = NULL;
    for (char *w = strtok_r(s->line, " ", &save); w != NULL && n < ARGS_MAX - 1; w = strtok_r(NULL, " ", &save)) {
        static char coordinator_user[64];
        if (ew_str_eq(w, "edgewise-coordinator")) {
            (void)snprintf(coordinator_user, sizeof(coordinator_user), "%s", user_of(&services[1])->pw_name);
            w = coordinator_user;
        }
        s->argv[n++] = w;
    }
    s->argv[n] = NULL;
}

static void start(struct service *s)
{
    char env[4][700];
    (void)snprintf(env[0], sizeof(env[0]), "NOTIFY_SOCKET=%s", notify_path);
    (void)snprintf(env[1], sizeof(env[1]), "EW_LISTEN=127.0.0.1:0");
    (void)snprintf(env[2], sizeof(env[2]), "PATH=/usr/bin:/bin");
    (void)snprintf(env[3], sizeof(env[3]), "RUNTIME_DIRECTORY=%s/edgewise-%s", run_dir, s->name);
    char *envp[] = {env[0], env[1], env[2], env[3], NULL};
    build_argv(s);
    s->pid = fork();
    assert_true(s->pid >= 0);
    if (s->pid == 0) {
        char log[700];
        (void)snprintf(log, sizeof(log), "%s/%s.log", root, s->name);
        int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        (void)dup2(fd, 1);
        (void)dup2(fd, 2);
        const struct passwd *pw = user_of(s);
        if (is_root() && (setgid(pw->pw_gid) != 0 || setuid(pw->pw_uid) != 0)) {
            _exit(126);
        }
        execve(s->argv[0], s->argv, envp);
        _exit(127);
    }
}

static void fail_with_log(const struct service *s, const char *what)
{
    EW_AUTO_BUF log = {0};
    char path[700];
    (void)snprintf(path, sizeof(path), "%s/%s.log", root, s->name);
    (void)!ew_file_read(path, 1 << 20, &log, NULL);
    fail_msg("%s %s: %s", s->name, what, ew_buf_str(&log));
}

/* READY=1 from the service, or its death. */
static void await_ready(struct service *s)
{
    for (int left_ms = READY_MS; left_ms > 0; left_ms -= 100) {
        struct pollfd p = {.fd = notify_fd, .events = POLLIN};
        if (poll(&p, 1, 100) > 0) {
            char text[512];
            ssize_t n = recv(notify_fd, text, sizeof(text) - 1, 0);
            text[n > 0 ? n : 0] = '\0';
            if (strstr(text, "READY=1") != NULL) {
                return;
            }
        }
        int status = 0;
        if (waitpid(s->pid, &status, WNOHANG) == s->pid) {
            s->pid = 0;
            fail_with_log(s, "ended instead of becoming ready");
        }
    }
    fail_with_log(s, "did not become ready");
}

static void stop(struct service *s)
{
    int status = 0;
    assert_int_equal(kill(s->pid, SIGTERM), 0);
    assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
    s->pid = 0;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fail_with_log(s, "did not end with 0 after SIGTERM");
    }
}

static bool installed(const struct service *s)
{
    char path[700];
    (void)snprintf(path, sizeof(path), "%s/bin/edgewise-%s", prefix, s->name);
    return access(path, X_OK) == 0;
}

static void init_coordinator(void)
{
    char bin[700], dir[700];
    (void)snprintf(bin, sizeof(bin), "%s/bin/edgewise-coordinator", prefix);
    (void)snprintf(dir, sizeof(dir), "%s/edgewise-coordinator", state_dir);
    char words[7][32] = {"init", "--name", "127.0.0.1", "--user", "", "--signer-user", ""};
    (void)snprintf(words[4], sizeof(words[4]), "%s", services[1].user);
    (void)snprintf(words[6], sizeof(words[6]), "%s", services[0].user);
    char *argv[10] = {bin, words[0], dir, words[1], words[2]};
    if (is_root()) {
        for (size_t i = 3; i < 7; i++) {
            argv[2 + i] = words[i];
        }
    }
    EW_AUTO_BUF out = {0};
    int status = run(argv, NULL, &out);
    if (status != 0) {
        fail_msg("coordinator init: %d: %s", status, ew_buf_str(&out));
    }
}

/* A token from the coordinator, and the device's enrolment with it. */
static void enrol(void)
{
    char coordinator[700], agent[700], dir[700], device[700];
    char words[5][32] = {"token", "create", "--dir", "enrol", "--dir"};
    (void)snprintf(coordinator, sizeof(coordinator), "%s/bin/edgewise-coordinator", prefix);
    (void)snprintf(agent, sizeof(agent), "%s/bin/edgewise-agent", prefix);
    (void)snprintf(dir, sizeof(dir), "%s/edgewise-coordinator", state_dir);
    (void)snprintf(device, sizeof(device), "%s/edgewise-agent", state_dir);
    EW_AUTO_BUF token = {0};
    char *create[] = {coordinator, words[0], words[1], words[2], dir, NULL};
    assert_int_equal(run(create, &services[1], &token), 0);
    char text[2048];
    assert_true(ew_str_copy(text, sizeof(text), ew_buf_str(&token)));
    text[strcspn(text, "\n")] = '\0';
    char *enrol_argv[] = {agent, words[3], words[4], device, text, NULL};
    EW_AUTO_BUF out = {0};
    int status = run(enrol_argv, &services[2], &out);
    if (status != 0) {
        fail_msg("agent enrol: %d: %s", status, ew_buf_str(&out));
    }
}

static void all_three_start_from_the_installed_tree_and_stop_on_sigterm(void **state)
{
    (void)state;
    if (!installed(&services[0]) || !installed(&services[1]) || (is_root() && getpwnam("games") == NULL)) {
        skip();
    }
    make_dir(state_dir, 0755, NULL);
    make_dir(run_dir, 0755, NULL);
    for (size_t i = 0; i < EW_COUNT(services); i++) {
        char path[700];
        (void)snprintf(path, sizeof(path), "%s/edgewise-%s", run_dir, services[i].name);
        make_dir(path, i == 0 ? 0711 : 0700, &services[i]);
    }
    char agent_dir[700];
    (void)snprintf(agent_dir, sizeof(agent_dir), "%s/edgewise-agent", state_dir);
    make_dir(agent_dir, 0700, &services[2]);
    init_coordinator();
    bool agent = installed(&services[2]);
    start(&services[0]);
    await_ready(&services[0]);
    start(&services[1]);
    await_ready(&services[1]);
    if (agent) {
        enrol();
        start(&services[2]);
        await_ready(&services[2]);
        stop(&services[2]);
    }
    stop(&services[1]);
    stop(&services[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_unit_notifies_is_limited_and_hardened),
        cmocka_unit_test(systemd_finds_nothing_to_say_about_the_units),
        cmocka_unit_test(all_three_start_from_the_installed_tree_and_stop_on_sigterm),
    };
    return cmocka_run_group_tests(tests, install_tree, stop_all);
}
