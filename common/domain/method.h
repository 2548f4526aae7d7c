/* Adaptation methods: how a model is made to fit its user. Plain values, no I/O. */
#ifndef EW_DOMAIN_METHOD_H
#define EW_DOMAIN_METHOD_H

#include "base/base.h"

/* The numbers are those of the wire schema (proto/edgewise.proto, enum Method). */
typedef enum ew_method {
    EW_METHOD_UNSPECIFIED = 0,
    EW_METHOD_NONE = 1,
    EW_METHOD_LORA = 2,
    EW_METHOD_PROMPT = 3,
    EW_METHOD_PREFIX = 4,
    EW_METHOD_IA3 = 5,
    EW_METHOD_FULL = 6,
    EW_METHOD_MEZO = 7,
    EW_METHOD_RAG = 8,
    EW_METHOD_LORA_RAG = 9,
    EW_METHOD_BOTTLENECK = 10, /* adapters in each layer (Houlsby 2019) */
    EW_METHOD_BLOCKWISE = 11,  /* LoRA block by block with early exits, which vote (Edge-LLM) */
    EW_METHOD_COUNT
} ew_method;

/* "none", "lora", …, "lora+rag", "bottleneck", "blockwise"; "unspecified" for anything else. */
const char *ew_method_name(ew_method m);
/* EW_METHOD_UNSPECIFIED when the name is not known. */
ew_method ew_method_from_name(const char *name);
/* Does the method train parameters / does it search the user's items? */
bool ew_method_trains(ew_method m);
bool ew_method_retrieves(ew_method m);

#endif
