/* Inside wire/: the tables of fields and the converter that reads them. */
#ifndef EW_WIRE_INT_H
#define EW_WIRE_INT_H

#include "edgewise.pb-c.h"

#include "wire/wire.h"

typedef enum ew__kind {
    EW__U32,
    EW__U64,
    EW__BOOL,
    EW__F64,     /* finite */
    EW__F64_NAN, /* finite or NAN */
    EW__ENUM,    /* unknown values read as 0 */
    EW__STATUS,  /* Code and ew_status */
    EW__STR,     /* char[size] */
    EW__BYTES,
    EW__BYTES_OPT,
    EW__SPAN,
    EW__MSG,
    EW__REP_STR,
    EW__REP_BYTES,
    EW__REP_SPAN,
    EW__REP_F64,
    EW__REP_U32,
    EW__REP_MSG,
    EW__SETTINGS /* repeated Param and ew_settings */
} ew__kind;

#define EW__NO_FLAG UINT32_MAX

typedef struct ew__table ew__table;
typedef struct ew__field {
    const char *name;
    ew__kind kind;
    size_t pb, pb_n; /* offsets in the protobuf struct: the field, its count */
    size_t c, c_n;   /* offsets in the C struct: the member, its uint32_t count */
    size_t flag;     /* offset of the bool that tells presence, or EW__NO_FLAG */
    size_t size;     /* of one element in the C struct */
    size_t max;      /* elements, bytes, or the largest enum value */
    const ew__table *sub;
} ew__field;

struct ew__table {
    const char *name;
    const ProtobufCMessageDescriptor *desc;
    const ew__field *fields;
    size_t n_fields;
    size_t c_size;
    /* Beyond single fields. body.data NULL = not known (packing). */
    ew_status (*check)(const void *c, ew_span body, ew_error *reterr);
};

extern const ew__table *const ew__payload_tables[EW_MSG_MAX + 1];
extern const ew__table ew__caps_table;
extern const ew__table ew__plan_table;
extern const ew__table ew__trial_assign_table;
extern const ew__table ew__trial_result_table;

ew_status ew__check_tensor(const void *c, ew_span body, ew_error *reterr);

/* Memory of the protobuf structs that are built for packing. */
typedef struct ew__pool {
    struct ew__pool_block *head;
    size_t used, cap;
    _Alignas(16) char first[2048];
} ew__pool;
void ew__pool_release(ew__pool *p);
void *ew__pool_take(ew__pool *p, size_t size); /* zeroed */

/* C struct to protobuf struct. The result borrows from c and the pool. */
ew_status ew__build(const ew__table *t, const void *c, ew__pool *pool, ProtobufCMessage **ret, ew_error *reterr);
/* Protobuf struct to C struct, with every check. Spans are copied to *owned (allocated on first use, owned_cap bytes). */
typedef struct ew__reader {
    ew_span body;
    char *owned;
    size_t owned_used, owned_cap;
} ew__reader;
ew_status ew__read(ew__reader *r, const ew__table *t, const ProtobufCMessage *pb, void *c, ew_error *reterr);

/* Unpacks with the capped allocator. *ret is freed with ew__pb_free. */
ew_status ew__pb_unpack(const ProtobufCMessageDescriptor *desc, ew_span bytes, ProtobufCMessage **ret,
                        ew_error *reterr);
void ew__pb_free(ProtobufCMessage *pb);
/* Appends. */
ew_status ew__pb_pack(const ProtobufCMessage *pb, size_t max, ew_buf *out, ew_error *reterr);

#endif
