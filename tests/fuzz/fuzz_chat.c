/* A chat template and a conversation from anywhere. The input is the template, a zero byte, and what the turns say, cut at
 * zero bytes. Checked besides memory: pieces cover the text, and no byte of content is marked as the template's: every
 * content holds U+0001, which templates cannot write but by copying. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "chat/chat.h"

#define TURNS 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *text_until_zero(const uint8_t **p, const uint8_t *end, char *dst, size_t cap)
{
    size_t n = 0;
    for (; *p < end && **p != 0; (*p)++) {
        if (n + 2 < cap) {
            dst[n++] = (char)**p;
        }
    }
    *p += *p < end;
    dst[n++] = 1;
    dst[n] = 0;
    return dst;
}

static void check(const ew_chat_text *t)
{
    size_t at = 0;
    for (size_t i = 0; i < t->n_pieces; i++) {
        const ew_chat_piece *p = &t->piece[i];
        if (p->begin != at || p->end <= p->begin || (i > 0 && p->content == p[-1].content)) {
            abort();
        }
        if (!p->content && memchr(t->text.data + p->begin, 1, p->end - p->begin) != NULL) {
            abort();
        }
        at = p->end;
    }
    if (at != t->text.size) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const roles[TURNS] = {"system", "user", "assistant", "user"};
    char text[TURNS][128];
    ew_chat_message m[TURNS];
    const struct tm now = {.tm_year = 124, .tm_mon = 6, .tm_mday = 4};
    ew_error err = EW_ERROR_INIT;
    EW_AUTO(ew_chat_template) t = NULL;
    EW_AUTO_JSON vars =
        json_pack("{s:b,s:[{s:s,s:{s:i}}]}", "enable_thinking", 0, "tools", "name", "f\x01", "p", "k\x01", 1);
    const uint8_t *end = data + size;
    const uint8_t *p = memchr(data, 0, size);
    size_t n = p != NULL ? (size_t)(p - data) : size;
    p = p != NULL ? p + 1 : end;
    /* A template that spells U+0001 itself proves nothing. */
    bool spelled = size == 0 || memchr(data, 1, n) != NULL || memchr(data, 0x5C, n) != NULL;
    for (size_t i = 0; i < TURNS; i++) {
        m[i] = (ew_chat_message){roles[i], text_until_zero(&p, end, text[i], sizeof(text[i])), NULL};
    }
    if (ew_chat_template_new((const char *)data, n, &t, &err) != EW_OK) {
        return 0;
    }
    for (size_t first = 0; first < 2; first++) {
        const ew_chat_render_opt opt = {.add_generation_prompt = first == 0,
                                        .bos_token = "<s>",
                                        .eos_token = "</s>",
                                        .vars = vars,
                                        .now = &now,
                                        .max_output_bytes = 1 << 20,
                                        .max_memory_bytes = 16 << 20,
                                        .max_steps = 200000};
        EW_AUTO_CHAT_TEXT out = {0};
        if (ew_chat_render(t, m + first, TURNS - first, &opt, &out, &err) == EW_OK && !spelled) {
            check(&out);
        }
    }
    return 0;
}
