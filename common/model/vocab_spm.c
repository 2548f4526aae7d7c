/* tokenizer.model: SentencePiece's ModelProto (sentencepiece_model.proto), read by hand: five messages, a few fields each. */
#include <string.h>

#include "base/buf.h"
#include "base/limits.h"
#include "base/mem.h"
#include "model/vocab.h"
#include "model/vocab_int.h"

/* One field of a message. */
typedef struct field {
    uint32_t number;
    uint32_t wire;  /* 0 varint, 1 64 bits, 2 bytes, 5 32 bits */
    uint64_t value; /* 0, 1, 5 */
    ew_span bytes;  /* 2 */
} field;

typedef struct reader {
    const unsigned char *p, *end;
} reader;

static bool read_varint(reader *r, uint64_t *ret)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 70 && r->p < r->end; shift += 7) {
        unsigned char c = *r->p++;
        if (shift < 64) {
            value |= (uint64_t)(c & 0x7F) << shift;
        }
        if (c < 0x80) {
            *ret = value;
            return true;
        }
    }
    return false;
}

static bool read_fixed(reader *r, size_t n, uint64_t *ret)
{
    *ret = 0;
    if ((size_t)(r->end - r->p) < n) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        *ret |= (uint64_t)r->p[i] << (8 * i);
    }
    r->p += n;
    return true;
}

/* EW_ENOENT at the end, EW_ECORRUPT without a message. */
static ew_status next_field(reader *r, field *f)
{
    uint64_t tag;
    if (r->p == r->end) {
        return EW_ENOENT;
    }
    if (!read_varint(r, &tag) || tag >> 3 == 0 || tag >> 3 > UINT32_MAX) {
        return EW_ECORRUPT;
    }
    *f = (field){.number = (uint32_t)(tag >> 3), .wire = (uint32_t)(tag & 7)};
    if (f->wire == 0) {
        return read_varint(r, &f->value) ? EW_OK : EW_ECORRUPT;
    }
    if (f->wire == 1 || f->wire == 5) {
        return read_fixed(r, f->wire == 1 ? 8 : 4, &f->value) ? EW_OK : EW_ECORRUPT;
    }
    if (f->wire != 2 || !read_varint(r, &f->value) || f->value > (uint64_t)(r->end - r->p)) {
        return EW_ECORRUPT;
    }
    f->bytes = (ew_span){r->p, (size_t)f->value};
    r->p += f->value;
    return EW_OK;
}

static reader reader_of(ew_span s)
{
    const unsigned char *p = s.data;
    return (reader){p, p + s.size};
}

typedef struct spm {
    const char *name;
    ew_vocab *v;
    uint64_t type;              /* of the model: 1 unigram, 2 BPE, 3 word, 4 char */
    bool prefix, escape;        /* add_dummy_prefix, escape_whitespaces */
    ew_span bos, eos, unk, pad; /* the texts of the pieces */
} spm;

static ew_status corrupt(const spm *m, const char *what, ew_error *reterr)
{
    return ew_fail(reterr, EW_ECORRUPT, "%s: damaged: %s", m->name, what);
}

static ew_status read_piece(const spm *m, ew_span message, ew_error *reterr)
{
    reader r = reader_of(message);
    field f;
    ew_status st;
    ew_span text = {"", 0};
    float score = 0.0f;
    uint64_t type = EW_PIECE_NORMAL;
    int32_t id;
    while ((st = next_field(&r, &f)) == EW_OK) {
        if (f.number == 1 && f.wire == 2) {
            text = f.bytes;
        } else if (f.number == 2 && f.wire == 5) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&score, &bits, sizeof(score));
        } else if (f.number == 3 && f.wire == 0) {
            type = f.value;
        }
    }
    if (st != EW_ENOENT || type < EW_PIECE_NORMAL || type > EW_PIECE_BYTE || text.size == 0) {
        return corrupt(m, "a piece", reterr);
    }
    EW_TRY(ew_vocab_add(m->v, text.data, text.size, score, (ew_piece_type)type, &id, reterr));
    if (type == EW_PIECE_USER_DEFINED) {
        m->v->attr[id] = EW_PIECE_NORMALIZED;
    } else if (type == EW_PIECE_UNKNOWN && m->v->unk < 0) {
        m->v->unk = id;
    }
    return EW_OK;
}

static ew_status read_trainer(spm *m, ew_span message, ew_error *reterr)
{
    reader r = reader_of(message);
    field f;
    ew_status st;
    while ((st = next_field(&r, &f)) == EW_OK) {
        const struct {
            uint32_t number;
            ew_span *text;
        } texts[] = {{45, &m->unk}, {46, &m->bos}, {47, &m->eos}, {48, &m->pad}};
        for (size_t i = 0; i < EW_COUNT(texts); i++) {
            if (f.wire == 2 && f.number == texts[i].number) {
                *texts[i].text = f.bytes;
            }
        }
        if (f.wire != 0) {
            continue;
        }
        if (f.number == 3) {
            m->type = f.value;
        } else if (f.number == 24) {
            m->v->suffix = f.value != 0;
        } else if (f.number == 35) {
            m->v->byte_fallback = f.value != 0;
        }
    }
    return st == EW_ENOENT ? EW_OK : corrupt(m, "the trainer's settings", reterr);
}

static ew_status read_normalizer(spm *m, ew_span message, ew_error *reterr)
{
    reader r = reader_of(message);
    field f;
    ew_status st;
    while ((st = next_field(&r, &f)) == EW_OK) {
        if (f.number == 2 && f.wire == 2) {
            EW_TRY(ew_vocab_set_charsmap(m->v, f.bytes.data, f.bytes.size, reterr));
        } else if (f.number == 3 && f.wire == 0) {
            m->prefix = f.value != 0;
        } else if (f.number == 4 && f.wire == 0) {
            m->v->squeeze = f.value != 0;
        } else if (f.number == 5 && f.wire == 0) {
            m->escape = f.value != 0;
        }
    }
    return st == EW_ENOENT ? EW_OK : corrupt(m, "the normalizer", reterr);
}

static ew_status read_all(spm *m, ew_span file, ew_error *reterr)
{
    reader r = reader_of(file);
    field f;
    ew_status st;
    while ((st = next_field(&r, &f)) == EW_OK) {
        if (f.wire != 2) {
            continue;
        }
        if (f.number == 1) {
            EW_TRY(read_piece(m, f.bytes, reterr));
        } else if (f.number == 2) {
            EW_TRY(read_trainer(m, f.bytes, reterr));
        } else if (f.number == 3) {
            EW_TRY(read_normalizer(m, f.bytes, reterr));
        }
    }
    if (st != EW_ENOENT || m->v->n == 0) {
        return corrupt(m, m->v->n == 0 ? "no pieces" : "it ends within a field", reterr);
    }
    return EW_OK;
}

/* The control piece with that text. */
static int32_t control(const ew_vocab_index *index, const ew_vocab *v, ew_span text)
{
    int32_t id = text.size == 0 ? -1 : ew_vocab_index_find(index, text.data, text.size);
    return id >= 0 && v->type[id] == EW_PIECE_CONTROL ? id : -1;
}

ew_status ew_vocab_from_spm(const char *name, const void *data, size_t size, ew_vocab **ret_vocab, ew_error *reterr)
{
    EW_AUTO(ew_vocab) v = NULL;
    EW_AUTO(ew_vocab_index) index = NULL;
    EW_TRY(ew_vocab_new(EW_TOKENIZER_UNIGRAM, &v, reterr));
    v->sp = v->squeeze = v->fuse_unk = v->score_f32 = true;
    spm m = {.name = name,
             .v = v,
             .type = 1,
             .prefix = true,
             .escape = true,
             .bos = {"<s>", 3},
             .eos = {"</s>", 4},
             .unk = {"<unk>", 5},
             .pad = {"<pad>", 5}};
    EW_TRY(read_all(&m, (ew_span){data, size}, reterr));
    if (m.type != 1 && m.type != 2) {
        return ew_fail(reterr, EW_EUNSUPPORTED, "%s: a SentencePiece model of type %s; unigram and bpe are supported",
                       name,
                       m.type == 3   ? "word"
                       : m.type == 4 ? "char"
                                     : "unknown to this build");
    }
    v->kind = m.type == 1 ? EW_TOKENIZER_UNIGRAM : EW_TOKENIZER_SPM;
    v->prefix = m.prefix ? EW_PREFIX_ALWAYS : EW_PREFIX_NONE;
    v->plain_spaces = !m.escape;
    EW_TRY(ew_vocab_index_new(v, &index, reterr));
    v->bos = control(index, v, m.bos);
    v->eos = control(index, v, m.eos);
    v->pad = control(index, v, m.pad);
    v->add_bos = v->bos >= 0;
    v->add_eos = v->bos < 0 && v->eos >= 0; /* as T5 */
    *ret_vocab = v;
    v = NULL;
    return EW_OK;
}
