/* Artifacts: download into a .part file, segment by segment, each verified and on disk before the next is asked for. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/str.h"
#include "crypt/hash.h"
#include "crypt/sign.h"
#include "session/artifact.h"
#include "session/client_int.h"
#include "sys/file.h"

#define STREAM_CREDIT_BYTES (4u * 1024 * 1024) /* ahead of what was consumed; the session window is tighter */

typedef struct fetch {
    ew_client *c;
    const ew_fetch_opt *opt;
    ew_manifest *m;
    char part[EW_PATH_MAX];
    int fd;
    uint64_t offset;           /* next byte to write */
    uint64_t segment_start;    /* of the segment being written */
    ew_sha256_stream *segment; /* of the segment being written */
    unsigned bad_segments;     /* in a row */
    uint64_t until_ms;         /* 0 = none */
    uint64_t stream_first;     /* where the open stream began */
} fetch;

/* ---- manifest */

static ew_status get_manifest(ew_client *c, const ew_fetch_opt *opt, ew_manifest **ret, ew_error *reterr)
{
    ew_msg *q = ew_msg_new(EW_MSG_MANIFEST_REQUEST);
    ew_msg *a = NULL;
    EW_AUTO_BUF body = {0};
    if (q == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "artifact: out of memory");
    }
    q->manifest_request.has_sha256 = opt->sha256 != NULL;
    if (opt->sha256 != NULL) {
        memcpy(q->manifest_request.sha256, opt->sha256, EW_SHA256_BYTES);
    }
    ew_str_copy(q->manifest_request.name, sizeof(q->manifest_request.name), opt->name != NULL ? opt->name : "");
    ew_str_copy(q->manifest_request.version, sizeof(q->manifest_request.version),
                opt->version != NULL ? opt->version : "");
    ew_str_copy(q->manifest_request.variant, sizeof(q->manifest_request.variant),
                opt->variant != NULL ? opt->variant : "");
    ew_status st = ew_client_call(c, q, (ew_span){NULL, 0}, opt->timeout_ms, &a, &body, reterr);
    ew_msg_free(&q);
    EW_TRY(st);
    if (a->type != EW_MSG_MANIFEST) {
        st = ew_fail(reterr, EW_EREMOTE, "artifact: the coordinator answered with %s", ew_msg_type_name(a->type));
    } else if (!ew_sign_verify(opt->artifact_key, body.data, body.size, a->manifest.signature)) {
        st = ew_fail(reterr, EW_EDENIED,
                     "artifact: the manifest is not signed by the artifact key that this device trusts");
    } else { /* only now is it looked at */
        st = ew_wire_unpack_manifest((ew_span){body.data, body.size}, ret, reterr);
    }
    ew_msg_free(&a);
    if (st == EW_OK && opt->sha256 != NULL && memcmp((*ret)->sha256, opt->sha256, EW_SHA256_BYTES) != 0) {
        ew_manifest_free(ret);
        st = ew_fail(reterr, EW_EREMOTE, "artifact: the manifest is of another artifact");
    }
    return st;
}

/* ---- segments */

static size_t segment_index(const fetch *f)
{
    return (size_t)(f->segment_start / f->m->segment_size);
}

static uint64_t segment_end(const fetch *f)
{
    return EW_MIN(f->m->size, f->segment_start + f->m->segment_size);
}

static void restart_segment(fetch *f)
{
    uint8_t ignored[32];
    ew_sha256_stream_end(f->segment, ignored);
    f->offset = f->segment_start;
}

/* The segment is written: verified, on disk, and part of the whole. */
static ew_status segment_done(fetch *f, bool *ret_bad, ew_error *reterr)
{
    uint8_t digest[32];
    *ret_bad = false;
    ew_sha256_stream_end(f->segment, digest);
    if (memcmp(digest, f->m->segment_sha256[segment_index(f)], sizeof(digest)) != 0) {
        f->offset = f->segment_start;
        *ret_bad = true;
        if (++f->bad_segments >= 2) {
            return ew_fail(reterr, EW_ECORRUPT,
                           "artifact %s: segment %zu is wrong again: the coordinator's copy is damaged", f->m->name,
                           segment_index(f));
        }
        return EW_OK;
    }
    f->bad_segments = 0;
    EW_TRY(ew_file_sync(f->fd, f->part, reterr));
    f->segment_start = segment_end(f);
    return EW_OK;
}

static ew_status take_bytes(fetch *f, const char *data, size_t n, bool *ret_bad, ew_error *reterr)
{
    *ret_bad = false;
    while (n > 0 && !*ret_bad) {
        size_t now = (size_t)EW_MIN((uint64_t)n, segment_end(f) - f->offset);
        EW_TRY(ew_file_pwrite(f->fd, f->part, f->offset, data, now, reterr));
        ew_sha256_stream_add(f->segment, data, now);
        f->offset += now;
        data += now;
        n -= now;
        if (f->offset == segment_end(f)) {
            EW_TRY(segment_done(f, ret_bad, reterr));
        }
    }
    return EW_OK;
}

/* Verifies what an earlier run left, up to the first segment that is not whole and right. */
static ew_status resume(fetch *f, ew_error *reterr)
{
    struct stat info;
    char *buf = ew_malloc(1, 1 << 20);
    if (buf == NULL || fstat(f->fd, &info) != 0) {
        ew_free(buf);
        return ew_fail(reterr, EW_EIO, "%s: cannot be read", f->part);
    }
    uint64_t have = EW_MIN((uint64_t)info.st_size, f->m->size);
    bool good = true;
    while (good && f->segment_start < f->m->size && segment_end(f) <= have) {
        while (f->offset < segment_end(f)) {
            size_t want = (size_t)EW_MIN(segment_end(f) - f->offset, (uint64_t)1 << 20);
            ssize_t n = pread(f->fd, buf, want, (off_t)f->offset);
            if (n <= 0) {
                break;
            }
            ew_sha256_stream_add(f->segment, buf, (size_t)n);
            f->offset += (uint64_t)n;
        }
        uint8_t digest[32];
        ew_sha256_stream_end(f->segment, digest);
        good = memcmp(digest, f->m->segment_sha256[segment_index(f)], sizeof(digest)) == 0;
        if (good) {
            f->segment_start = segment_end(f);
        }
    }
    f->offset = f->segment_start;
    ew_free(buf);
    return EW_OK;
}

/* ---- the stream */

static bool tell(const fetch *f)
{
    ew_progress_info p = {.phase = "download",
                          .unit = "B",
                          .done = f->offset,
                          .total = f->m->size,
                          .loss = (double)__builtin_nan(""),
                          .left_s = (double)__builtin_nan("")};
    return ew_progress_tell(&f->opt->progress, &p);
}

typedef enum outcome {
    WHOLE,  /* all bytes are here */
    AGAIN,  /* open again from f->segment_start */
    FAILED, /* err says why */
} outcome;

static outcome end_of_stream(const ew_msg *m, ew_status *ret_st, ew_error *reterr)
{
    if (m->type == EW_MSG_ERROR) {
        ew_status st = ew_code_to_status(m->error.code);
        *ret_st = ew_fail(reterr, st != EW_OK ? st : EW_EREMOTE, "artifact: %s", m->error.detail);
        return m->error.retryable ? AGAIN : FAILED;
    }
    if (m->type != EW_MSG_ARTIFACT_DONE || m->artifact_done.code != EW_CODE_OK) {
        *ret_st = ew_fail(reterr, EW_EREMOTE, "artifact: %s",
                          m->type == EW_MSG_ARTIFACT_DONE ? m->artifact_done.detail : "an unexpected answer");
    }
    return AGAIN;
}

/* One reply of the stream. AGAIN with *ret_go_on: read on. */
static outcome one_reply(fetch *f, ew__request *r, ew_frame *frame, ew_msg *m, bool *ret_go_on, ew_status *ret_st,
                         ew_error *reterr)
{
    *ret_go_on = false;
    *ret_st = ew_wire_unpack(frame->envelope, frame->body, m, reterr);
    if (*ret_st != EW_OK) {
        return FAILED;
    }
    if (m->type != EW_MSG_ARTIFACT_CHUNK) {
        return end_of_stream(m, ret_st, reterr);
    }
    if (m->artifact_chunk.offset != f->offset || frame->body.size > f->m->size - f->offset) {
        *ret_st = ew_fail(reterr, EW_EREMOTE, "artifact: bytes at %llu came where %llu was expected",
                          (unsigned long long)m->artifact_chunk.offset, (unsigned long long)f->offset);
        return AGAIN;
    }
    bool bad = false;
    *ret_st = take_bytes(f, frame->body.data, frame->body.size, &bad, reterr);
    if (*ret_st != EW_OK) {
        return FAILED;
    }
    if (!tell(f)) {
        *ret_st = ew_fail(reterr, EW_ECANCELLED,
                          "artifact %s: the download was stopped; it goes on from here next time", f->m->name);
        return FAILED;
    }
    *ret_go_on = !bad && f->offset < f->m->size;
    if (*ret_go_on) { /* the caller counts the last one */
        ew__client_consumed(r, frame->wire_bytes, f->offset - f->stream_first + STREAM_CREDIT_BYTES);
    }
    return f->offset == f->m->size && !bad ? WHOLE : AGAIN;
}

static outcome one_stream(fetch *f, ew_status *ret_st, ew_error *reterr)
{
    uint32_t stall_ms = f->opt->stall_ms != 0 ? f->opt->stall_ms : 60000;
    ew__request *r = NULL;
    ew_msg *m = ew_msg_new(EW_MSG_ARTIFACT_OPEN);
    if (m == NULL) {
        *ret_st = ew_fail(reterr, EW_ENOMEM, "artifact: out of memory");
        return FAILED;
    }
    restart_segment(f);
    f->stream_first = f->offset;
    m->stream_id = ew_client_stream_new(f->c);
    memcpy(m->artifact_open.sha256, f->m->sha256, EW_SHA256_BYTES);
    m->artifact_open.offset = f->offset;
    m->artifact_open.initial_credit = STREAM_CREDIT_BYTES;
    *ret_st = ew__client_open(f->c, m, (ew_span){NULL, 0}, 0, stall_ms, true, &r, reterr);
    outcome o = *ret_st == EW_OK ? AGAIN : FAILED;
    bool go_on = *ret_st == EW_OK;
    while (go_on) {
        ew_frame *frame = NULL;
        bool last = false;
        *ret_st = ew__client_next(r, stall_ms, &frame, &last, reterr);
        if (*ret_st != EW_OK) {
            o = *ret_st == EW_EREMOTE || *ret_st == EW_ETIMEOUT ? AGAIN : FAILED;
            break;
        }
        ew_msg_release(m);
        o = one_reply(f, r, frame, m, &go_on, ret_st, reterr);
        if (!go_on) {
            ew__client_consumed(r, frame->wire_bytes, 0);
        }
        ew_frame_free(&frame);
    }
    ew__client_close(&r);
    ew_msg_free(&m);
    return o;
}

static ew_status download(fetch *f, ew_error *reterr)
{
    unsigned fruitless = 0;
    while (f->segment_start < f->m->size) {
        uint64_t before = f->segment_start;
        ew_status st = EW_OK;
        ew_error err = EW_ERROR_INIT;
        outcome o = one_stream(f, &st, &err);
        if (o == FAILED) {
            return ew_fail(reterr, st, "%s", err.msg);
        }
        if (o == WHOLE) {
            return EW_OK;
        }
        uint64_t now = ew_mono_ms();
        if (f->until_ms != 0 && now >= f->until_ms) {
            return ew_fail(reterr, EW_ETIMEOUT, "artifact %s: not complete in time", f->m->name);
        }
        fruitless = f->segment_start > before ? 0 : fruitless + 1;
        uint64_t left = f->until_ms != 0 ? f->until_ms - now : 600000;
        if (fruitless > 20) {
            return ew_fail(reterr, st != EW_OK ? st : EW_EREMOTE, "artifact %s: %s", f->m->name, err.msg);
        }
        if (f->bad_segments == 0) {
            ew_status up = ew_client_wait_up(f->c, (uint32_t)EW_MIN(left, 600000), reterr);
            EW_TRY(up);
        }
    }
    return EW_OK;
}

/* ---- the whole */

static ew_status check_whole(fetch *f, ew_error *reterr)
{
    uint8_t digest[32];
    uint64_t size = 0;
    EW_TRY(ew_sha256_file(f->part, NULL, digest, &size, reterr));
    if (size != f->m->size || memcmp(digest, f->m->sha256, sizeof(digest)) != 0) {
        (void)!ew_file_remove(f->part, NULL);
        return ew_fail(reterr, EW_ECORRUPT,
                       "artifact %s: its segments are right but the whole is not: the manifest is wrong", f->m->name);
    }
    return ew_file_rename(f->part, f->opt->dest_path, reterr);
}

static bool have_it(const fetch *f)
{
    uint8_t digest[32];
    uint64_t size = 0;
    ew_error ignored;
    return ew_file_size(f->opt->dest_path, &size, &ignored) == EW_OK && size == f->m->size &&
           ew_sha256_file(f->opt->dest_path, NULL, digest, &size, &ignored) == EW_OK &&
           memcmp(digest, f->m->sha256, sizeof(digest)) == 0;
}

static ew_status run(fetch *f, ew_error *reterr)
{
    int n = snprintf(f->part, sizeof(f->part), "%s.part", f->opt->dest_path);
    if (n < 0 || (size_t)n >= sizeof(f->part)) {
        return ew_fail(reterr, EW_EINVAL, "artifact: the path is too long");
    }
    if (have_it(f)) {
        return EW_OK;
    }
    f->fd = open(f->part, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (f->fd < 0) {
        return ew_fail_errno(reterr, errno, "%s", f->part);
    }
    f->segment = ew_sha256_stream_new();
    EW_TRY(resume(f, reterr));
    EW_TRY(download(f, reterr));
    if (ftruncate(f->fd, (off_t)f->m->size) != 0) {
        return ew_fail_errno(reterr, errno, "%s", f->part);
    }
    EW_TRY(ew_file_sync(f->fd, f->part, reterr));
    return check_whole(f, reterr);
}

ew_status ew_client_fetch(ew_client *c, const ew_fetch_opt *opt, ew_manifest **ret_manifest, ew_error *reterr)
{
    fetch *f = ew_calloc(1, sizeof(*f));
    if (f == NULL) {
        return ew_fail(reterr, EW_ENOMEM, "artifact: out of memory");
    }
    f->c = c;
    f->opt = opt;
    f->fd = -1;
    f->until_ms = opt->timeout_ms != 0 ? ew_mono_ms() + opt->timeout_ms : 0;
    ew_status st = get_manifest(c, opt, &f->m, reterr);
    if (st == EW_OK) {
        st = run(f, reterr);
    }
    if (f->fd >= 0) {
        close(f->fd);
    }
    ew_sha256_stream_free(&f->segment);
    if (st == EW_OK && ret_manifest != NULL) {
        *ret_manifest = f->m;
        f->m = NULL;
    }
    ew_manifest_free(&f->m);
    ew_free(f);
    return st;
}

/* ---- making a manifest */

ew_status ew_manifest_of_file(const char *path, uint32_t segment_size, const ew_progress *progress, ew_manifest **ret,
                              ew_error *reterr)
{
    uint64_t size = 0;
    EW_AUTO(ew_manifest) m = NULL;
    EW_TRY(ew_file_size(path, &size, reterr));
    EW_TRY(ew_manifest_new(size, segment_size != 0 ? segment_size : EW_MANIFEST_SEGMENT_BYTES, &m, reterr));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *buf = ew_malloc(1, 1 << 20);
    if (fd < 0 || buf == NULL) {
        int e = errno;
        if (fd >= 0) {
            close(fd);
        }
        ew_free(buf);
        return ew_fail_errno(reterr, buf == NULL && fd >= 0 ? ENOMEM : e, "%s", path);
    }
    ew_sha256_stream *whole = ew_sha256_stream_new();
    ew_sha256_stream *segment = ew_sha256_stream_new();
    ew_status st = EW_OK;
    uint64_t at = 0;
    while (st == EW_OK && at < size) {
        uint64_t end = EW_MIN(size, (at / m->segment_size + 1) * m->segment_size);
        size_t want = (size_t)EW_MIN(end - at, (uint64_t)1 << 20);
        ssize_t n = pread(fd, buf, want, (off_t)at);
        if (n <= 0) {
            st = ew_fail(reterr, EW_EIO, "%s: cannot be read to its end", path);
            break;
        }
        ew_sha256_stream_add(whole, buf, (size_t)n);
        ew_sha256_stream_add(segment, buf, (size_t)n);
        at += (uint64_t)n;
        if (at == end) {
            ew_sha256_stream_end(segment, m->segment_sha256[(at - 1) / m->segment_size]);
        }
        ew_progress_info p = {.phase = "hash",
                              .unit = "B",
                              .done = at,
                              .total = size,
                              .loss = (double)__builtin_nan(""),
                              .left_s = (double)__builtin_nan("")};
        if (!ew_progress_tell(progress, &p)) {
            st = ew_fail(reterr, EW_ECANCELLED, "%s: stopped", path);
        }
    }
    ew_sha256_stream_end(whole, m->sha256);
    ew_sha256_stream_free(&whole);
    ew_sha256_stream_free(&segment);
    ew_free(buf);
    close(fd);
    if (st == EW_OK) {
        *ret = m;
        m = NULL;
    }
    return st;
}
