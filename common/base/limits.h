/* The one table of limits on what comes from outside. A limit that a user meets is named in the error. */
#ifndef EW_BASE_LIMITS_H
#define EW_BASE_LIMITS_H

/* Files */
#define EW_LIMIT_JSON_BYTES (64u * 1024 * 1024)  /* tokenizer.json of the largest vocabularies is 20 MiB */
#define EW_LIMIT_JSONL_LINE_BYTES (1024u * 1024) /* one profile item or record */
#define EW_LIMIT_YAML_BYTES (1024u * 1024)
#define EW_LIMIT_DIR_ENTRIES 1048576u
#define EW_LIMIT_TABLE_CELLS 1048576u
#define EW_LIMIT_GGUF_KV 65536u
#define EW_LIMIT_GGUF_TENSORS 65536u
#define EW_LIMIT_GGUF_STRING_BYTES (16u * 1024 * 1024)
#define EW_LIMIT_GGUF_ARRAY_ELEMS (16u * 1024 * 1024)
#define EW_LIMIT_VOCAB 1048576u
#define EW_LIMIT_LAYERS 512u
#define EW_LIMIT_CONTEXT_TOK 1048576u
#define EW_LIMIT_PROFILE_ITEMS 100000u
#define EW_LIMIT_IMPORT_CONTEXT_BYTES (64u * 1024)       /* of a conversation before the turn that is learned */
#define EW_LIMIT_IMPORT_RECORD_BYTES (16u * 1024 * 1024) /* a whole profile of LaMP */
#define EW_LIMIT_IMPORT_TURNS 4096u
#define EW_LIMIT_CHAT_TEMPLATE_BYTES (256u * 1024) /* the longest known is 20 KiB */

/* One rendering of a chat template */
#define EW_LIMIT_CHAT_OUTPUT_BYTES (16u * 1024 * 1024)
#define EW_LIMIT_CHAT_MEMORY_BYTES (128u * 1024 * 1024)
#define EW_LIMIT_CHAT_STEPS 20000000u
#define EW_LIMIT_CHAT_DEPTH 160u /* of nested statements, expressions, calls and values together */

/* Wire (WIRE.md 5.4, 5.7, 5.9) */
#define EW_LIMIT_FRAME_BEFORE_HELLO_BYTES (16u * 1024)
#define EW_LIMIT_FRAME_BYTES 1114112u
#define EW_LIMIT_ENVELOPE_BYTES 65536u
#define EW_LIMIT_BODY_BYTES (1024u * 1024)
#define EW_LIMIT_WIRE_STRING_BYTES 256u
#define EW_LIMIT_HANDSHAKE_IN_BYTES (32u * 1024)
#define EW_LIMIT_INFLIGHT 64u
#define EW_LIMIT_STREAMS 8u
#define EW_LIMIT_SESSION_WINDOW_BYTES (1024u * 1024)
#define EW_LIMIT_UNPACK_BYTES (4u * 1024 * 1024)

#endif
