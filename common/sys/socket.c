#include "sys/socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"

static ew_status sockaddr_of(const char *host, uint16_t port, struct sockaddr_storage *addr, socklen_t *size,
                             ew_error *reterr)
{
    memset(addr, 0, sizeof(*addr));
    struct sockaddr_in *v4 = (struct sockaddr_in *)addr;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)addr;
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        *size = sizeof(*v4);
        return EW_OK;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        *size = sizeof(*v6);
        return EW_OK;
    }
    return ew_fail(reterr, EW_EINVAL, "'%s' is not a numeric address; use one such as 127.0.0.1 or ::", host);
}

static uint16_t port_of(const struct sockaddr_storage *addr)
{
    return ntohs(addr->ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)addr)->sin6_port
                                             : ((const struct sockaddr_in *)addr)->sin_port);
}

ew_status ew_socket_listen(const char *host, uint16_t port, int *ret_fd, uint16_t *ret_port, ew_error *reterr)
{
    struct sockaddr_storage addr;
    socklen_t size;
    int one = 1;
    EW_TRY(sockaddr_of(host, port, &addr, &size, reterr));
    int fd = socket(addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return ew_fail_errno(reterr, errno, "cannot make a socket");
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (const struct sockaddr *)&addr, size) != 0 || listen(fd, 128) != 0 ||
        getsockname(fd, (struct sockaddr *)&addr, &size) != 0) {
        int err = errno;
        (void)close(fd);
        return ew_fail_errno(reterr, err, "cannot listen on %s port %u", host, port);
    }
    *ret_fd = fd;
    if (ret_port != NULL) {
        *ret_port = port_of(&addr);
    }
    return EW_OK;
}

ew_status ew_socket_free_port(uint16_t *ret_port, ew_error *reterr)
{
    int fd = -1;
    EW_TRY(ew_socket_listen("127.0.0.1", 0, &fd, ret_port, reterr));
    (void)close(fd);
    return EW_OK;
}

/* --- unix sockets --- */

static ew_status unix_addr(const char *path, struct sockaddr_un *addr, ew_error *reterr)
{
    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (!ew_str_copy(addr->sun_path, sizeof(addr->sun_path), path)) {
        return ew_fail(reterr, EW_EINVAL, "socket path '%s' is longer than %zu bytes; use a shorter directory", path,
                       sizeof(addr->sun_path) - 1);
    }
    return EW_OK;
}

static ew_status unix_socket(int *ret_fd, ew_error *reterr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return ew_fail_errno(reterr, errno, "cannot make a socket");
    }
    *ret_fd = fd;
    return EW_OK;
}

ew_status ew_unix_connect(const char *path, int *ret_fd, ew_error *reterr)
{
    struct sockaddr_un addr;
    int fd = -1;
    int rc;
    EW_TRY(unix_addr(path, &addr, reterr));
    EW_TRY(unix_socket(&fd, reterr));
    do {
        rc = connect(fd, (const struct sockaddr *)&addr, sizeof(addr));
    } while (rc != 0 && errno == EINTR);
    if (rc != 0) {
        int err = errno;
        (void)close(fd);
        if (err == EACCES || err == EPERM) {
            return ew_fail_errno(reterr, err, "cannot connect to '%s'", path);
        }
        return ew_fail(reterr, EW_EREMOTE, "nobody answers at '%s' (%s); is the service running?", path, strerror(err));
    }
    *ret_fd = fd;
    return EW_OK;
}

ew_status ew_unix_listen(const char *path, unsigned mode, int *ret_fd, ew_error *reterr)
{
    struct sockaddr_un addr;
    int fd = -1;
    EW_TRY(unix_addr(path, &addr, reterr));
    struct stat st;
    if (lstat(path, &st) == 0) {
        if (!S_ISSOCK(st.st_mode)) {
            return ew_fail(reterr, EW_EEXIST, "'%s' is there and is no socket", path);
        }
        if (ew_unix_connect(path, &fd, NULL) == EW_OK) {
            (void)close(fd);
            return ew_fail(reterr, EW_ECONFLICT, "another process listens on '%s'", path);
        }
        if (unlink(path) != 0 && errno != ENOENT) {
            return ew_fail_errno(reterr, errno, "cannot replace the old socket '%s'", path);
        }
    }
    EW_TRY(unix_socket(&fd, reterr));
    /* fchmod on the socket before bind sets the mode of what bind makes: no moment with wider access. */
    if (fchmod(fd, (mode_t)mode) != 0 || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) != 0 ||
        chmod(path, (mode_t)mode) != 0 || listen(fd, 64) != 0) {
        int err = errno;
        (void)close(fd);
        return ew_fail_errno(reterr, err, "cannot listen on '%s'", path);
    }
    *ret_fd = fd;
    return EW_OK;
}

ew_status ew_unix_accept(int fd, int *ret_fd, ew_error *reterr)
{
    int client;
    do {
        client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    } while (client < 0 && (errno == EINTR || errno == ECONNABORTED));
    if (client < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return ew_fail(reterr, EW_EAGAIN, "no connection is waiting");
        }
        return ew_fail_errno(reterr, errno, "cannot accept a connection");
    }
    *ret_fd = client;
    return EW_OK;
}

ew_status ew_unix_pair(int ret_fds[2], ew_error *reterr)
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ret_fds) != 0) {
        return ew_fail_errno(reterr, errno, "cannot make a socket pair");
    }
    return EW_OK;
}

ew_status ew_unix_peer(int fd, uint32_t *ret_uid, int64_t *ret_pid, ew_error *reterr)
{
    struct ucred cred;
    socklen_t size = sizeof(cred);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) != 0) {
        return ew_fail_errno(reterr, errno, "cannot tell who is on the other end of the socket");
    }
    *ret_uid = (uint32_t)cred.uid;
    *ret_pid = (int64_t)cred.pid;
    return EW_OK;
}

/* --- transfers --- */

/* Waits for events until the deadline (0 = none). */
static ew_status wait_for(int fd, short events, uint64_t deadline_ms, ew_error *reterr)
{
    for (;;) {
        int timeout = -1;
        if (deadline_ms != 0) {
            uint64_t now = ew_mono_ms();
            timeout = now >= deadline_ms ? 0 : (int)EW_MIN(deadline_ms - now, (uint64_t)60000);
        }
        struct pollfd p = {.fd = fd, .events = events};
        int n = poll(&p, 1, timeout);
        if (n > 0) {
            return EW_OK;
        }
        if (n < 0 && errno != EINTR) {
            return ew_fail_errno(reterr, errno, "cannot wait for a socket");
        }
        if (n == 0 && deadline_ms != 0 && ew_mono_ms() >= deadline_ms) {
            return ew_fail(reterr, EW_ETIMEOUT, "the other side did not answer in time");
        }
    }
}

static ew_status transfer(int fd, void *in, const void *out, size_t size, int timeout_ms, ew_error *reterr)
{
    uint64_t deadline = timeout_ms < 0 ? 0 : EW_MAX(ew_mono_ms() + (uint64_t)timeout_ms, (uint64_t)1);
    size_t done = 0;
    while (done < size) {
        EW_TRY(wait_for(fd, in != NULL ? POLLIN : POLLOUT, deadline, reterr));
        ssize_t n = in != NULL ? recv(fd, (char *)in + done, size - done, MSG_DONTWAIT)
                               : send(fd, (const char *)out + done, size - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) {
            done += (size_t)n;
        } else if (n == 0 || errno == EPIPE || errno == ECONNRESET) {
            return ew_fail(reterr, EW_EREMOTE, "the other side closed the connection");
        } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            return ew_fail_errno(reterr, errno, "cannot use a socket");
        }
    }
    return EW_OK;
}

ew_status ew_socket_send_all(int fd, const void *data, size_t size, int timeout_ms, ew_error *reterr)
{
    return transfer(fd, NULL, data, size, timeout_ms, reterr);
}

ew_status ew_socket_recv_all(int fd, void *data, size_t size, int timeout_ms, ew_error *reterr)
{
    return transfer(fd, data, NULL, size, timeout_ms, reterr);
}

/* --- names --- */

ew_status ew_resolve(const char *host, ew_addr_list *ret_list, ew_error *reterr)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(host, NULL, &hints, &found);
    if (rc != 0) {
        return ew_fail(reterr, EW_EREMOTE, "cannot find the address of '%s': %s", host, gai_strerror(rc));
    }
    ew_addr_list list = {0};
    for (const struct addrinfo *a = found; a != NULL && list.n < EW_COUNT(list.text); a = a->ai_next) {
        if (getnameinfo(a->ai_addr, a->ai_addrlen, list.text[list.n], EW_ADDR_TEXT_MAX, NULL, 0, NI_NUMERICHOST) == 0) {
            list.ipv6[list.n++] = a->ai_family == AF_INET6;
        }
    }
    freeaddrinfo(found);
    if (list.n == 0) {
        return ew_fail(reterr, EW_EREMOTE, "'%s' has no address", host);
    }
    *ret_list = list;
    return EW_OK;
}

ew_status ew_endpoint_parse(const char *text, uint16_t default_port, char *host, size_t size, uint16_t *ret_port,
                            ew_error *reterr)
{
    const char *p = ew_str_starts(text, "tcp://") ? text + strlen("tcp://") : text;
    const char *end, *port;
    if (*p == '[') {
        p++;
        end = strchr(p, ']');
        port = end != NULL ? end + 1 : NULL;
    } else {
        const char *colon = strchr(p, ':');
        bool bare_v6 = colon != NULL && strchr(colon + 1, ':') != NULL;
        end = colon == NULL || bare_v6 ? p + strlen(p) : colon;
        port = end;
    }
    if (end == NULL || end == p || (size_t)(end - p) >= size || (*port != '\0' && *port != ':')) {
        return ew_fail(reterr, EW_EINVAL, "'%.128s' is not an endpoint; write HOST:PORT or [V6]:PORT", text);
    }
    uint64_t number = default_port;
    if (*port == ':' && !ew_str_to_u64(port + 1, 65535, &number)) {
        return ew_fail(reterr, EW_EINVAL, "'%.128s': the port is a number from 0 to 65535", text);
    }
    memcpy(host, p, (size_t)(end - p));
    host[end - p] = '\0';
    *ret_port = (uint16_t)number;
    return EW_OK;
}
