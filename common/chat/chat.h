/* Chat templates: from messages to the text, and the token ids, that a model was trained to see.
 *
 * A model carries its prompt format as a Jinja template. This module reads the part of Jinja that chat templates use, with
 * the settings and the functions of Hugging Face's apply_chat_template (transformers 5.x over jinja2 3.1: trim_blocks,
 * lstrip_blocks, loop controls, immutable sandbox; reference: tests/golden/chat). What it does not know it refuses with
 * EW_EUNSUPPORTED, the construct's name, line and column; nothing is guessed.
 *
 *   EW_AUTO(ew_chat_template) t = NULL;
 *   EW_TRY(ew_chat_template_new(text, strlen(text), &t, reterr));
 *   const ew_chat_message m[] = {{.role = "user", .content = "Hello"}};
 *   const ew_chat_render_opt opt = {.add_generation_prompt = true, .bos_token = "<s>", .eos_token = "</s>"};
 *   EW_AUTO_CHAT_TEXT out = {0};
 *   EW_TRY(ew_chat_render(t, m, 1, &opt, &out, reterr));
 *   EW_TRY(ew_chat_encode(tok, &out, &ids, reterr));
 *
 * or all of it in one call: ew_chat_prompt.
 *
 * Whose text is whose. Messages come from users, documents and tools; a text like "<|im_end|>\n<|im_start|>system" in one
 * of them must stay text. Every byte that a template puts out is therefore marked: template (literals of the template, the
 * special tokens of ew_chat_render_opt, the roles) or content (everything that came in with the messages' contents and
 * names, and every string in vars). The mark is kept per byte through concatenation, slices, strip, split, replace,
 * join, changes of case, repr and JSON; a character that was made out of content is content. ew_chat_encode recognises
 * special pieces in template bytes only, so content cannot make a control token, not even in part or together with the
 * template's text around it. Limits of this: a template that compares content and then writes a literal of its own decides
 * for itself, and roles are trusted, so the caller does not take them from strangers (only letters, digits, '_' and '-'
 * pass at all).
 *
 * What is read. Statements: if/elif/else, for (loop.*, filter, else, unpacking), break, continue, set (also of namespace
 * attributes, tuples and blocks), macro, call, filter blocks, with, raw, generation. Expressions: all of Jinja's operators,
 * slices, ternary, calls, tests and filters; Python's str, list and dict methods that templates use. Python's rules for
 * truth, equality, order, str() and repr() hold; integers are 64 bits and overflow is an error. Not there: include,
 * import, extends, block, recursive loops, call with * or **, autoescape, and what would change or leave the sandbox.
 * Beyond the sandbox: list.append works (some templates that run elsewhere use it).
 *
 * Hostile templates. Nesting, steps, memory, and output are bounded (EW_ELIMIT); there is no access to anything but
 * the values given. Locking: a template is immutable and may be rendered by several threads at once. */
#ifndef EW_CHAT_CHAT_H
#define EW_CHAT_CHAT_H

#include <time.h>

#include "base/base.h"
#include "base/buf.h"
#include "base/status.h"
#include "text/json.h"
#include "token/tokenizer.h"

typedef struct ew_chat_template ew_chat_template;

/* Copies text. EW_ECORRUPT: not well formed; EW_EUNSUPPORTED: a statement that is not known (filters, tests, functions and
 * methods are refused when they are reached, as a template may hold them for uses that never come); EW_ELIMIT: larger
 * than EW_LIMIT_CHAT_TEMPLATE_BYTES or nested too deep. Messages begin "chat template line L column C:". */
ew_status ew_chat_template_new(const char *text, size_t size, ew_chat_template **ret_template,
                               ew_error *reterr) EW_MUST_CHECK;
void ew_chat_template_free(ew_chat_template **t);
/* Whether the template's text names this variable anywhere ("tools", "enable_thinking"). */
bool ew_chat_template_uses(const ew_chat_template *t, const char *name);

typedef struct ew_chat_message {
    const char *role;    /* "system", "user", "assistant", …: [A-Za-z0-9_-]+, trusted */
    const char *content; /* UTF-8; malformed bytes pass through as one character each; NULL = none */
    const char *name;    /* NULL = the message has no name */
} ew_chat_message;

/* Zero is valid. Strings and values are borrowed for the call. */
typedef struct ew_chat_render_opt {
    bool add_generation_prompt; /* end with the head of the assistant's turn */
    /* Special tokens as text; NULL = the variable is not defined. */
    const char *bos_token, *eos_token, *unk_token, *pad_token;
    const json_t
        *vars; /* object of further variables, e.g. {"enable_thinking": false}, "tools", "documents"; NULL = none */
    const struct tm *now; /* local time for strftime_now; NULL = the function is not defined, and templates fall back */
    /* Budgets; 0 = the default. */
    size_t max_output_bytes; /* EW_LIMIT_CHAT_OUTPUT_BYTES */
    size_t max_memory_bytes; /* EW_LIMIT_CHAT_MEMORY_BYTES, of values made while rendering */
    uint64_t max_steps;      /* EW_LIMIT_CHAT_STEPS: one per node evaluated and per 64 bytes handled */
} ew_chat_render_opt;

/* A rendered conversation. Zeroed is valid and empty. */
typedef struct ew_chat_piece {
    size_t begin, end; /* bytes of text */
    bool content;      /* from the messages: no special tokens in here */
} ew_chat_piece;
typedef struct ew_chat_text {
    ew_buf text;
    ew_chat_piece *piece; /* [n_pieces] in order, none empty, covering text; neighbours differ in content */
    size_t n_pieces;
    size_t pieces_cap;
} ew_chat_text;
void ew_chat_text_release(ew_chat_text *t);
#define EW_AUTO_CHAT_TEXT EW_CLEANUP(ew_chat_text_release) ew_chat_text

/* out is overwritten; untouched on failure. opt may be NULL. EW_EINVAL: the template raised an exception (its message is in
 * the error), an operation on values that it does not fit, a role that is not one; EW_EUNSUPPORTED: a construct that is not
 * known; EW_ELIMIT, EW_ENOMEM. */
ew_status ew_chat_render(const ew_chat_template *t, const ew_chat_message *messages, size_t n_messages,
                         const ew_chat_render_opt *opt, ew_chat_text *out, ew_error *reterr) EW_MUST_CHECK;
/* The same with messages as a JSON array of objects, for content parts and tool calls. Only "role" is trusted. */
ew_status ew_chat_render_json(const ew_chat_template *t, const json_t *messages, const ew_chat_render_opt *opt,
                              ew_chat_text *out, ew_error *reterr) EW_MUST_CHECK;

/* Appends the ids of a rendered conversation, no BOS or EOS but what the template wrote. Special pieces are found in
 * template bytes only. Added pieces that are not control pieces but that this template writes (Gemma's turn marks in some
 * files), and those that end a generation, are kept out of content too. Text between special pieces is tokenized as one,
 * across the border of template and content: without special pieces in the content the ids are those of the whole text.
 * Limit: an added piece that the vocabulary looks for in normalised text is kept out of content by its own spelling, not by
 * others that normalisation turns into it. Control pieces are never looked for so. */
ew_status ew_chat_encode(const ew_tokenizer *tok, const ew_chat_text *text, ew_tokens *out,
                         ew_error *reterr) EW_MUST_CHECK;

/* Parse, render with the vocabulary's special tokens where opt (may be NULL) names none, and append the ids.
 * template_text: ew_model_chat_template(model). */
ew_status ew_chat_prompt(const ew_tokenizer *tok, const char *template_text, const ew_chat_message *messages,
                         size_t n_messages, const ew_chat_render_opt *opt, ew_tokens *out,
                         ew_error *reterr) EW_MUST_CHECK;

#endif
