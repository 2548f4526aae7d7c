/* Template source to tokens, as jinja2/lexer.py with trim_blocks and lstrip_blocks. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "chat/chat_int.h"
#include "text/utf8.h"

#define BALANCE_MAX 256

typedef struct lexer {
    const char *s;
    size_t size, at;
    ew__region *g;
    ew__token *token;
    size_t n, cap;
    size_t line_at; /* where line and line_begin were brought up to date */
    uint32_t line;
    size_t line_begin;
    bool line_starting; /* the tag before ended its line */
    char open[BALANCE_MAX];
    size_t n_open;
    ew_error *err;
} lexer;

static void place(lexer *x, size_t at, uint32_t *line, uint32_t *col)
{
    if (at < x->line_at) {
        x->line_at = 0;
        x->line = 1;
        x->line_begin = 0;
    }
    for (; x->line_at < at; x->line_at++) {
        if (x->s[x->line_at] == '\n') {
            x->line++;
            x->line_begin = x->line_at + 1;
        }
    }
    *line = x->line;
    *col = (uint32_t)(at - x->line_begin) + 1;
}

static ew_status fail(lexer *x, size_t at, ew_status code, const char *what)
{
    uint32_t line;
    uint32_t col;
    place(x, at, &line, &col);
    return ew_fail(x->err, code, "chat template line %u column %u: %s", line, col, what);
}

static ew_status add(lexer *x, ew__token t, size_t at)
{
    if (ew_grow((void **)&x->token, &x->cap, x->n + 1, sizeof(*x->token), SIZE_MAX / 2) != EW_OK) {
        return ew_fail(x->err, EW_ENOMEM, "no memory for a chat template");
    }
    place(x, at, &t.line, &t.col);
    x->token[x->n++] = t;
    return EW_OK;
}

/* Length of the whitespace that begins at i. */
static size_t spaces(const lexer *x, size_t i)
{
    size_t begin = i;
    while (i < x->size) {
        uint32_t cp;
        size_t len = ew_utf8_next(x->s + i, x->size - i, &cp);
        if (!ew__py_space(cp)) {
            break;
        }
        i += len;
    }
    return i - begin;
}

static bool at_text(const lexer *x, size_t i, const char *text)
{
    size_t n = strlen(text);
    return n <= x->size - i && memcmp(x->s + i, text, n) == 0;
}

/* What remains of [begin, end) when the tag behind it strips. */
static size_t strip_before(const lexer *x, size_t begin, size_t end, char sign, bool variable)
{
    ew__str s = {x->s + begin, NULL, end - begin};
    if (sign == '-') {
        size_t keep = 0;
        for (size_t i = 0; i < s.n;) {
            uint32_t cp;
            i += ew_utf8_next(s.p + i, s.n - i, &cp);
            keep = ew__py_space(cp) ? keep : i;
        }
        return begin + keep;
    }
    if (sign == '+' || variable) {
        return end;
    }
    size_t line = end;
    while (line > begin && x->s[line - 1] != '\n') {
        line--;
    }
    bool starts = line > begin || x->line_starting;
    return starts && line + spaces(x, line) >= end ? line : end;
}

/* The end of a tag at i: "-%}" with the whitespace behind it, "+%}", "%}" with one newline. 0: not here. */
static size_t tag_end(const lexer *x, size_t i, const char *close, bool trim)
{
    if (x->s[i] == '-' && at_text(x, i + 1, close)) {
        return 3 + spaces(x, i + 3);
    }
    if (trim && x->s[i] == '+' && at_text(x, i + 1, close)) {
        return 3;
    }
    if (at_text(x, i, close)) {
        return trim && i + 2 < x->size && x->s[i + 2] == '\n' ? 3 : 2;
    }
    return 0;
}

static ew_status data(lexer *x, size_t begin, size_t end)
{
    return end > begin ? add(x, (ew__token){.type = EW__T_DATA, .p = x->s + begin, .n = end - begin}, begin) : EW_OK;
}

static ew_status comment(lexer *x, size_t begin)
{
    for (size_t i = x->at; i + 1 < x->size; i++) {
        size_t len = tag_end(x, i, "#}", true);
        if (len > 0) {
            x->at = i + len;
            x->line_starting = x->s[x->at - 1] == '\n';
            return EW_OK;
        }
    }
    return fail(x, begin, EW_ECORRUPT, "the comment is not closed");
}

/* "raw -%}" and its like at i: the length up to the end of the tag, 0 when it is not that. */
static size_t named_tag(const lexer *x, size_t i, const char *name, bool trim)
{
    size_t at = i + spaces(x, i);
    if (!at_text(x, at, name)) {
        return 0;
    }
    at += strlen(name);
    at += spaces(x, at);
    size_t len = at < x->size ? tag_end(x, at, "%}", trim) : 0;
    return len > 0 ? at + len - i : 0;
}

static char sign_at(const lexer *x, size_t i)
{
    return i < x->size && (x->s[i] == '-' || x->s[i] == '+') ? x->s[i] : 0;
}

static ew_status raw(lexer *x, size_t begin, size_t tag)
{
    x->at += tag;
    x->line_starting = x->s[x->at - 1] == '\n';
    for (size_t i = x->at; i + 1 < x->size; i++) {
        if (!at_text(x, i, "{%")) {
            continue;
        }
        char sign = sign_at(x, i + 2);
        size_t len = named_tag(x, i + 2 + (sign != 0 ? 1 : 0), "endraw", true);
        if (len > 0) {
            EW_TRY(data(x, x->at, strip_before(x, x->at, i, sign, false)));
            x->at = i + 2 + (sign != 0) + len;
            x->line_starting = x->s[x->at - 1] == '\n';
            return EW_OK;
        }
    }
    return fail(x, begin, EW_ECORRUPT, "the raw block is not closed");
}

/* ---- inside tags ---- */

static bool name_start(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

static int hex_digit(char c)
{
    return digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static size_t digits(const lexer *x, size_t i)
{
    size_t begin = i;
    while (i < x->size && (digit(x->s[i]) || (x->s[i] == '_' && i > begin && i + 1 < x->size && digit(x->s[i + 1])))) {
        i++;
    }
    return i - begin;
}

static ew_status number_token(lexer *x, size_t begin, size_t end, bool real)
{
    char text[64];
    size_t n = 0;
    for (size_t i = begin; i < end; i++) {
        if (x->s[i] != '_') {
            if (n + 1 >= sizeof(text)) {
                return fail(x, begin, EW_EUNSUPPORTED, "a number of that many digits");
            }
            text[n++] = x->s[i];
        }
    }
    text[n] = 0;
    ew__token t = {.type = real ? EW__T_FLOAT : EW__T_INT, .p = x->s + begin, .n = end - begin};
    errno = 0;
    if (real) {
        t.u.f = strtod(text, NULL);
    } else {
        int base = 10;
        const char *p = text;
        if (text[0] == '0' && n > 1 && !digit(text[1])) {
            base = (text[1] | 32) == 'x' ? 16 : (text[1] | 32) == 'o' ? 8 : 2;
            p = text + 2;
        }
        t.u.i = strtoll(p, NULL, base);
    }
    if (!real && errno != 0) {
        return fail(x, begin, EW_EUNSUPPORTED, "an integer of more than 64 bits");
    }
    x->at = end;
    return add(x, t, begin);
}

static ew_status number(lexer *x)
{
    size_t begin = x->at;
    size_t i = begin;
    if (x->s[i] == '0' && i + 2 < x->size && strchr("xXoObB", x->s[i + 1]) != NULL) {
        int base = (x->s[i + 1] | 32) == 'x' ? 16 : (x->s[i + 1] | 32) == 'o' ? 8 : 2;
        size_t k = i + 2;
        for (int d; k < x->size && (d = hex_digit(x->s[k])) >= 0 && d < base; k++) {
        }
        if (k > i + 2) {
            return number_token(x, begin, k, false);
        }
    }
    i += digits(x, i);
    size_t end = i;
    bool real = false;
    if (i + 1 < x->size && x->s[i] == '.' && digit(x->s[i + 1])) {
        end = i + 1 + digits(x, i + 1);
        real = true;
    }
    if (end < x->size && (x->s[end] == 'e' || x->s[end] == 'E')) {
        size_t k = end + 1 + (end + 1 < x->size && (x->s[end + 1] == '+' || x->s[end + 1] == '-') ? 1 : 0);
        if (k < x->size && digit(x->s[k])) {
            end = k + digits(x, k);
            real = true;
        }
    }
    return number_token(x, begin, end, real);
}

/* The code point of \x, \u, \U and octal escapes at i (behind the backslash); *len is what they take. */
static bool code_escape(const lexer *x, size_t i, size_t end, uint32_t *cp, size_t *len)
{
    char c = x->s[i];
    uint32_t v = 0;
    size_t k = i;
    if (c >= '0' && c <= '7') {
        for (; k < end && k < i + 3 && x->s[k] >= '0' && x->s[k] <= '7'; k++) {
            v = v * 8 + (uint32_t)(x->s[k] - '0');
        }
    } else {
        size_t want = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        for (k = i + 1; k < end && k < i + 1 + want && hex_digit(x->s[k]) >= 0; k++) {
            v = v * 16 + (uint32_t)hex_digit(x->s[k]);
        }
        if (k != i + 1 + want) {
            return false;
        }
    }
    *cp = v;
    *len = k - i;
    return v <= 0x10FFFF && (v < 0xD800 || v > 0xDFFF);
}

static ew_status unescape(lexer *x, size_t begin, size_t end, ew__token *t)
{
    static const char from[] = "\\'\"abfnrtv";
    static const char to[] = "\\'\"\a\b\f\n\r\t\v";
    char *out = ew__region_take(x->g, end - begin + 1, 1);
    size_t n = 0;
    if (out == NULL) {
        return fail(x, begin, EW_ELIMIT, "the template is too large");
    }
    for (size_t i = begin; i < end; i++) {
        const char *known;
        if (x->s[i] != '\\') {
            out[n++] = x->s[i];
            continue;
        }
        char c = x->s[++i];
        if (c == '\n') {
            continue;
        }
        if (c != 0 && (known = strchr(from, c)) != NULL) {
            out[n++] = to[known - from];
        } else if (c == 'x' || c == 'u' || c == 'U' || (c >= '0' && c <= '7')) {
            uint32_t cp;
            size_t len;
            if (!code_escape(x, i, end, &cp, &len)) {
                return fail(x, i - 1, EW_EUNSUPPORTED, "this string escape (not a character)");
            }
            n += ew_utf8_encode(cp, out + n);
            i += len - 1;
        } else if (c == 'N') {
            return fail(x, i - 1, EW_EUNSUPPORTED, "string escape '\\N'");
        } else { /* kept as it is */
            out[n++] = '\\';
            out[n++] = c;
        }
    }
    t->p = out;
    t->n = n;
    return EW_OK;
}

static ew_status string(lexer *x)
{
    size_t begin = x->at;
    char quote = x->s[begin];
    size_t i = begin + 1;
    for (; i < x->size && x->s[i] != quote; i++) {
        i += x->s[i] == '\\' ? 1 : 0;
    }
    if (i >= x->size) {
        return fail(x, begin, EW_ECORRUPT, "the string is not closed");
    }
    ew__token t = {.type = EW__T_STR};
    EW_TRY(unescape(x, begin + 1, i, &t));
    x->at = i + 1;
    return add(x, t, begin);
}

static ew__op operator_at(const lexer *x, size_t i, size_t *len)
{
    static const struct {
        const char *text;
        ew__op op;
    } ops[] = {{"//", EW__OP_FLOORDIV}, {"**", EW__OP_POW},     {"==", EW__OP_EQ},    {"!=", EW__OP_NE},
               {">=", EW__OP_GE},       {"<=", EW__OP_LE},      {"+", EW__OP_ADD},    {"-", EW__OP_SUB},
               {"/", EW__OP_DIV},       {"*", EW__OP_MUL},      {"%", EW__OP_MOD},    {"~", EW__OP_TILDE},
               {"[", EW__OP_LBRACKET},  {"]", EW__OP_RBRACKET}, {"(", EW__OP_LPAREN}, {")", EW__OP_RPAREN},
               {"{", EW__OP_LBRACE},    {"}", EW__OP_RBRACE},   {">", EW__OP_GT},     {"<", EW__OP_LT},
               {"=", EW__OP_ASSIGN},    {".", EW__OP_DOT},      {":", EW__OP_COLON},  {"|", EW__OP_PIPE},
               {",", EW__OP_COMMA},     {";", EW__OP_SEMICOLON}};
    for (size_t k = 0; k < EW_COUNT(ops); k++) {
        if (at_text(x, i, ops[k].text)) {
            *len = strlen(ops[k].text);
            return ops[k].op;
        }
    }
    return EW__OP_NONE;
}

static ew_status operator_token(lexer *x)
{
    size_t begin = x->at;
    size_t len = 0;
    ew__op op = operator_at(x, begin, &len);
    char c = x->s[begin];
    if (op == EW__OP_NONE) {
        return fail(x, begin, EW_ECORRUPT, "a character that has no meaning here");
    }
    if (c == '(' || c == '[' || c == '{') {
        if (x->n_open >= BALANCE_MAX) {
            return fail(x, begin, EW_ELIMIT, "brackets are nested too deep");
        }
        x->open[x->n_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (x->n_open == 0 || x->open[x->n_open - 1] != c) {
            return fail(x, begin, EW_ECORRUPT, "a closing bracket without its opening one");
        }
        x->n_open--;
    }
    x->at += len;
    return add(x, (ew__token){.type = EW__T_OP, .op = op}, begin);
}

static ew_status name(lexer *x)
{
    size_t begin = x->at;
    while (x->at < x->size && (name_start(x->s[x->at]) || digit(x->s[x->at]))) {
        x->at++;
    }
    return add(x, (ew__token){.type = EW__T_NAME, .p = x->s + begin, .n = x->at - begin}, begin);
}

static ew_status inside(lexer *x, size_t begin, bool variable)
{
    const char *close = variable ? "}}" : "%}";
    EW_TRY(add(x, (ew__token){.type = variable ? EW__T_VAR_BEGIN : EW__T_BLOCK_BEGIN}, begin));
    x->n_open = 0;
    for (;;) {
        x->at += spaces(x, x->at);
        if (x->at >= x->size) {
            return fail(x, begin, EW_ECORRUPT, "the tag is not closed");
        }
        size_t len = x->n_open == 0 ? tag_end(x, x->at, close, !variable) : 0;
        if (len > 0) {
            EW_TRY(add(x, (ew__token){.type = variable ? EW__T_VAR_END : EW__T_BLOCK_END}, x->at));
            x->at += len;
            x->line_starting = x->s[x->at - 1] == '\n';
            return EW_OK;
        }
        char c = x->s[x->at];
        if (name_start(c)) {
            EW_TRY(name(x));
        } else if (digit(c)) {
            EW_TRY(number(x));
        } else if (c == '"' || c == '\'') {
            EW_TRY(string(x));
        } else {
            EW_TRY(operator_token(x));
        }
    }
}

static ew_status lex(lexer *x)
{
    while (x->at < x->size) {
        size_t begin = x->at;
        size_t tag = begin;
        while (tag < x->size &&
               !(x->s[tag] == '{' && tag + 1 < x->size && strchr("%{#", x->s[tag + 1]) != NULL && x->s[tag + 1] != 0)) {
            tag++;
        }
        if (tag >= x->size) {
            x->at = x->size;
            return data(x, begin, x->size);
        }
        char kind = x->s[tag + 1];
        char sign = sign_at(x, tag + 2);
        EW_TRY(data(x, begin, strip_before(x, begin, tag, sign, kind == '{')));
        x->at = tag + 2 + (sign != 0);
        size_t raw_tag = kind == '%' ? named_tag(x, x->at, "raw", false) : 0;
        if (kind == '#') {
            EW_TRY(comment(x, tag));
        } else if (raw_tag > 0) {
            EW_TRY(raw(x, tag, raw_tag));
        } else {
            EW_TRY(inside(x, tag, kind == '{'));
        }
    }
    return EW_OK;
}

ew_status ew__lex(const char *source, size_t size, ew__region *g, const ew__token **ret_tokens, size_t *ret_n,
                  ew_error *reterr)
{
    lexer x = {.s = source, .size = size, .g = g, .line = 1, .line_starting = true, .err = reterr};
    ew_status st = lex(&x);
    if (st == EW_OK) {
        st = add(&x, (ew__token){.type = EW__T_END}, x.size);
    }
    ew__token *all = NULL;
    if (st == EW_OK && (all = ew__region_take(g, x.n, sizeof(*all))) == NULL) {
        st = ew_fail(reterr, EW_ELIMIT, "the chat template is too large");
    }
    if (st == EW_OK) {
        memcpy(all, x.token, x.n * sizeof(*all));
        *ret_tokens = all;
        *ret_n = x.n;
    }
    ew_free(x.token);
    return st;
}
