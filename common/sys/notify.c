#include "sys/notify.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

ew_status ew_notify(const char *notify_socket, const char *state, ew_error *reterr)
{
    if (notify_socket == NULL || notify_socket[0] == '\0') {
        return EW_OK;
    }
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    size_t size = strlen(notify_socket);
    if ((notify_socket[0] != '/' && notify_socket[0] != '@') || size >= sizeof(addr.sun_path)) {
        return ew_fail(reterr, EW_EINVAL, "NOTIFY_SOCKET '%.108s' is neither an absolute path nor @name",
                       notify_socket);
    }
    memcpy(addr.sun_path, notify_socket, size);
    if (addr.sun_path[0] == '@') {
        addr.sun_path[0] = '\0'; /* the abstract namespace */
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return ew_fail_errno(reterr, errno, "cannot notify the service manager");
    }
    socklen_t addr_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size);
    ssize_t n = sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&addr, addr_size);
    int err = errno;
    (void)close(fd);
    return n >= 0 ? EW_OK : ew_fail_errno(reterr, err, "cannot notify the service manager");
}
