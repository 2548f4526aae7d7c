/* The package index of the system's own mirror, fetched by apt-get into a private directory (no root; the system's lists stay as they are). */
#ifndef EW_CLI_DATA_APT_H
#define EW_CLI_DATA_APT_H

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"
#include "sys/file.h"

typedef struct ew_apt_index {
    char packages[EW_PATH_MAX], translation[EW_PATH_MAX], release[EW_PATH_MAX];
} ew_apt_index;

/* VERSION_CODENAME of /etc/os-release. EW_EUNSUPPORTED on a system that is not Debian. */
ew_status ew_apt_codename(char *dst, size_t size, ew_error *reterr) EW_MUST_CHECK;

/* The sources of etc_apt ("/etc/apt") that concern this release, with component main alone: one-line entries are appended to list, deb822 stanzas to
 * sources. EW_ENOENT when there is none. */
ew_status ew_apt_read_sources(const char *etc_apt, const char *codename, ew_buf *list, ew_buf *sources,
                              ew_error *reterr) EW_MUST_CHECK;

/* Runs apt-get update with the entries of /etc/apt that name this release and its component main, state under dir/apt; its output goes to stderr.
 * EW_EREMOTE when the mirror cannot be reached. */
ew_status ew_apt_update(const char *dir, const char *codename, ew_error *reterr) EW_MUST_CHECK;

/* The files that update left under dir/apt. EW_ENOENT. */
ew_status ew_apt_find(const char *dir, const char *codename, ew_apt_index *ret_index, ew_error *reterr) EW_MUST_CHECK;

#endif
