#include "domain/method.h"

#include <string.h>

static const char *const names[EW_METHOD_COUNT] = {
    [EW_METHOD_UNSPECIFIED] = "unspecified",
    [EW_METHOD_NONE] = "none",
    [EW_METHOD_LORA] = "lora",
    [EW_METHOD_PROMPT] = "prompt",
    [EW_METHOD_PREFIX] = "prefix",
    [EW_METHOD_IA3] = "ia3",
    [EW_METHOD_FULL] = "full",
    [EW_METHOD_MEZO] = "mezo",
    [EW_METHOD_RAG] = "rag",
    [EW_METHOD_LORA_RAG] = "lora+rag",
    [EW_METHOD_BOTTLENECK] = "bottleneck",
    [EW_METHOD_BLOCKWISE] = "blockwise",
};

const char *ew_method_name(ew_method m)
{
    return (unsigned)m < EW_METHOD_COUNT ? names[m] : names[0];
}

ew_method ew_method_from_name(const char *name)
{
    for (int i = 1; name != NULL && i < EW_METHOD_COUNT; i++) {
        if (strcmp(names[i], name) == 0) {
            return (ew_method)i;
        }
    }
    return EW_METHOD_UNSPECIFIED;
}

bool ew_method_trains(ew_method m)
{
    return m != EW_METHOD_UNSPECIFIED && m != EW_METHOD_NONE && m != EW_METHOD_RAG && (unsigned)m < EW_METHOD_COUNT;
}

bool ew_method_retrieves(ew_method m)
{
    return m == EW_METHOD_RAG || m == EW_METHOD_LORA_RAG;
}
