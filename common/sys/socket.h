/* Small socket helpers: loopback listeners, the signer's unix socket, name resolution. All descriptors are close-on-exec.
 * Locking: any thread. */
#ifndef EW_SYS_SOCKET_H
#define EW_SYS_SOCKET_H

#include "base/base.h"
#include "base/status.h"

#define EW_ADDR_TEXT_MAX 64

/* Listens on "HOST" (numeric IPv4 or IPv6, "127.0.0.1") and port (0 = any free); *ret_port is the one in use. The caller closes *ret_fd. */
ew_status ew_socket_listen(const char *host, uint16_t port, int *ret_fd, uint16_t *ret_port,
                           ew_error *reterr) EW_MUST_CHECK;
/* A free TCP port on 127.0.0.1 at this moment (for tests that must name one beforehand). */
ew_status ew_socket_free_port(uint16_t *ret_port, ew_error *reterr) EW_MUST_CHECK;

/* A stream socket under path with the given mode; a stale one (nobody listening) is replaced, a live one is EW_ECONFLICT. */
ew_status ew_unix_listen(const char *path, unsigned mode, int *ret_fd, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_unix_accept(int fd, int *ret_fd, ew_error *reterr) EW_MUST_CHECK;
/* EW_EREMOTE when nobody listens. */
ew_status ew_unix_connect(const char *path, int *ret_fd, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_unix_pair(int ret_fds[2], ew_error *reterr) EW_MUST_CHECK;
/* The user and process on the other end as the kernel knows them (SO_PEERCRED). */
ew_status ew_unix_peer(int fd, uint32_t *ret_uid, int64_t *ret_pid, ew_error *reterr) EW_MUST_CHECK;

/* In full or not at all: loops over short transfers. timeout_ms < 0 = wait for ever; EW_ETIMEOUT; EW_EREMOTE when the
 * other side closed. */
ew_status ew_socket_send_all(int fd, const void *data, size_t size, int timeout_ms, ew_error *reterr) EW_MUST_CHECK;
ew_status ew_socket_recv_all(int fd, void *data, size_t size, int timeout_ms, ew_error *reterr) EW_MUST_CHECK;

typedef struct ew_addr_list {
    char text[16][EW_ADDR_TEXT_MAX]; /* numeric, IPv6 without brackets */
    bool ipv6[16];
    size_t n;
} ew_addr_list;

/* Addresses of host in the system's order (getaddrinfo; may block for seconds). EW_EREMOTE when there is none. */
ew_status ew_resolve(const char *host, ew_addr_list *ret_list, ew_error *reterr) EW_MUST_CHECK;

/* "host:port", "[v6]:port", "tcp://host:port" or "host" with default_port. host has room for size bytes. */
ew_status ew_endpoint_parse(const char *text, uint16_t default_port, char *host, size_t size, uint16_t *ret_port,
                            ew_error *reterr) EW_MUST_CHECK;

#endif
