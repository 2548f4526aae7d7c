# Prints the value at a path of a JSON document as json_dumps writes it, indented or not: awk -v path=/a/b/0 -f json.awk FILE
# Strings without quotes (escapes as they are), numbers and words as they are, [n] or {n} for arrays and objects of n members.
# Status 1: nothing is there. Only for the tests.
BEGIN { RS = "\001" }
{ text = text $0 }
function ws() { while (substr(text, at, 1) ~ /[ \t\r\n]/) at++ }
function str(    s, c) {
    at++; s = ""
    while ((c = substr(text, at, 1)) != "\"") {
        if (c == "") exit 2
        if (c == "\\") { s = s c; at++; c = substr(text, at, 1) }
        s = s c; at++
    }
    at++
    return s
}
function tell(p, v) { if (p == path) { print v; found = 1 } }
function value(p,    c, n, k, m) {
    ws(); c = substr(text, at, 1)
    if (c == "\"") { tell(p, str()); return }
    if (c == "{" || c == "[") {
        at++; n = 0
        for (;;) {
            ws(); m = substr(text, at, 1)
            if (m == "}" || m == "]") { at++; break }
            if (m == ",") { at++; continue }
            if (m == "") exit 2
            if (c == "{") { k = str(); ws(); at++ } else k = n
            n++
            value(p "/" k)
        }
        tell(p, c == "{" ? "{" n "}" : "[" n "]")
        return
    }
    match(substr(text, at, 64), /^[^],} \t\r\n]+/)
    tell(p, substr(text, at, RLENGTH)); at += RLENGTH
}
END { at = 1; value(""); exit !found }
