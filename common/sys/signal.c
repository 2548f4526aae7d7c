#include "sys/signal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

static int pipe_fd[2] = {-1, -1}; /* read end, write end; both non-blocking */
static atomic_int n_stop;
static atomic_int n_reload;
static atomic_int pause_signal; /* the last of SIGUSR1 and SIGUSR2 that nobody has read yet; 0 = none */

static void wake(void)
{
    int saved = errno;
    if (pipe_fd[1] >= 0) {
        (void)!write(pipe_fd[1], "", 1); /* a full pipe is readable already */
    }
    errno = saved;
}

static void on_signal(int sig)
{
    if (sig == SIGHUP) {
        atomic_fetch_add(&n_reload, 1);
    } else if (sig == SIGUSR1 || sig == SIGUSR2) {
        atomic_store(&pause_signal, sig);
    } else {
        if (atomic_fetch_add(&n_stop, 1) > 0 && sig == SIGINT) {
            (void)signal(sig, SIG_DFL);
            (void)raise(sig);
        }
    }
    wake();
}

ew_status ew_signal_init(ew_error *reterr)
{
    if (pipe_fd[0] < 0) {
        int fds[2];
        if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) {
            return ew_fail_errno(reterr, errno, "cannot make the signal pipe");
        }
        pipe_fd[0] = fds[0];
        pipe_fd[1] = fds[1];
    }
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};
    struct sigaction sa;
    memset(&sa, 0, sizeof(sa));
    (void)sigemptyset(&sa.sa_mask);
    sa.sa_flags = SA_RESTART;
    sa.sa_handler = on_signal;
    for (size_t i = 0; i < EW_COUNT(signals); i++) {
        if (sigaction(signals[i], &sa, NULL) != 0) {
            return ew_fail_errno(reterr, errno, "cannot handle signal %d", signals[i]);
        }
    }
    sa.sa_handler = SIG_IGN;
    if (sigaction(SIGPIPE, &sa, NULL) != 0) {
        return ew_fail_errno(reterr, errno, "cannot ignore SIGPIPE");
    }
    return EW_OK;
}

int ew_signal_fd(void)
{
    return pipe_fd[0];
}

void ew_signal_drain(void)
{
    char buf[64];
    while (read(pipe_fd[0], buf, sizeof(buf)) > 0) {
    }
}

bool ew_signal_stop(void)
{
    return atomic_load_explicit(&n_stop, memory_order_relaxed) > 0;
}

bool ew_signal_reload(void)
{
    return atomic_exchange(&n_reload, 0) > 0;
}

bool ew_signal_pause(bool *ret_pause)
{
    int sig = atomic_exchange(&pause_signal, 0);
    *ret_pause = sig == SIGUSR1;
    return sig != 0;
}

void ew_signal_raise_stop(void)
{
    atomic_fetch_add(&n_stop, 1);
    wake();
}

void ew_signal_reset(void)
{
    atomic_store(&n_stop, 0);
    atomic_store(&n_reload, 0);
    atomic_store(&pause_signal, 0);
    if (pipe_fd[0] >= 0) {
        ew_signal_drain();
    }
}
