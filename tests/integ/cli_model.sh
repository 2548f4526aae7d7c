#!/bin/bash
# `edgewise model …` from outside: outputs, exit statuses, messages.
set -u
ew="$EW_BIN_DIR/edgewise"
golden="$EW_SOURCE_DIR/tests/golden/model"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
bad=0

# expect STATUS PATTERN COMMAND…: exit status, and an extended regular expression that the joint output matches
expect() {
    local want=$1 pattern=$2 out status
    shift 2
    out=$("$@" 2>&1)
    status=$?
    if [ "$status" != "$want" ] || ! grep -Eq -- "$pattern" <<<"$out"; then
        echo "FAILED (status $status, expected $want and '$pattern'): $*"
        echo "$out"
        bad=1
    fi
}

expect 0 '2 layers, dim 32, ffn 24, 4 heads of 8, 2 key/value heads' "$ew" model info "$golden/llama32-hf"
expect 0 '"sha256": "[0-9a-f]{64}"' "$ew" model info "$golden/llama64-q4_0.gguf" --json --hash
expect 0 'SentencePiece' "$ew" model info "$golden/llama64-q4_0.gguf"
expect 0 '"ids"' "$ew" model tokenize "$golden/llama32-f16.gguf" 'the hat' --json
expect 0 '^the hat$' bash -c "'$ew' model tokenize '$golden/llama32-f16.gguf' --decode \"\$('$ew' model tokenize '$golden/llama32-f16.gguf' 'the hat' | cut -f1 | tr '\n' ' ')\""
expect 0 'log_prob' "$ew" model logits "$golden/llama32-hf" --ids 1,5,9 --json
expect 0 'generated at' "$ew" model generate "$golden/llama64-q8_0.gguf" 'the cat' -n 5
expect 0 '"stop": "length"' "$ew" model generate "$golden/llama64-q8_0.gguf" 'the cat' -n 5 -T 0.7 --seed 3 --json
expect 0 'tokens/s' "$ew" model bench "$golden/llama64-q8_0.gguf" -p 16 -n 4 -r 2 -t 1
for type in F16 Q8_0 Q4_0; do
    expect 0 "$type" "$ew" model quantize "$golden/llama32-hf" "$tmp/hf-$type.gguf" --type $type
    expect 0 "$type" "$ew" model quantize "$golden/llama32-f32.gguf" "$tmp/gguf-$type.gguf" --type $type
    expect 0 '.' "$ew" model logits "$tmp/hf-$type.gguf" --ids 1,5,9 --kernel ref --out "$tmp/hf.f32"
    expect 0 '.' "$ew" model logits "$tmp/gguf-$type.gguf" --ids 1,5,9 --kernel ref --out "$tmp/gguf.f32"
    cmp "$tmp/hf.f32" "$tmp/gguf.f32" || bad=1
done

expect 2 'Usage|usage' "$ew" model info
expect 2 "type 'Q9'" "$ew" model quantize "$golden/llama32-hf" "$tmp/x.gguf" --type Q9
expect 2 'do not exist|do not run' "$ew" model bench "$golden/llama32-f16.gguf" --kernel mmx
expect 1 'no tokenizer' "$ew" model generate "$golden/llama32-hf" 'the'
expect 1 'nothing.gguf' "$ew" model info "$tmp/nothing.gguf"
expect 2 'outside the vocabulary' "$ew" model logits "$golden/llama32-hf" --ids 1,64
expect 1 'context of [0-9]+ tokens fits' "$ew" model generate "$golden/llama64-q8_0.gguf" 'the' --ctx 100000 --memory-limit 1M
head -c 20000 "$golden/llama64-q8_0.gguf" >"$tmp/cut.gguf"
expect 1 'cut.gguf' "$ew" model info "$tmp/cut.gguf"
mkdir "$tmp/none"
expect 1 'config.json' "$ew" model info "$tmp/none"
exit $bad
