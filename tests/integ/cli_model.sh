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
expect 0 '"text": ".+"' "$ew" model tokenize "$EW_SOURCE_DIR/models/deb-tiny.gguf" --decode '189' --json # half a character
expect 0 'log_prob' "$ew" model logits "$golden/llama32-hf" --ids 1,5,9 --json
expect 0 'generated at' "$ew" model generate "$golden/llama64-q8_0.gguf" 'the cat' -n 5
expect 0 '"stop": "length"' "$ew" model generate "$golden/llama64-q8_0.gguf" 'the cat' -n 5 -T 0.7 --seed 3 --json
expect 0 'tokens/s' "$ew" model bench "$golden/llama64-q8_0.gguf" -p 16 -n 4 -r 2 -t 1
expect 0 'GB/s, [0-9]+ % of the read bandwidth' "$ew" model bench "$golden/llama64-q8_0.gguf" -p 16 -n 4 -r 2 -t 1
# llama-perplexity (llama.cpp 3f545bec, 2026-08): 227.8646 +/- 25.36333 with a f32 cache
expect 0 'perplexity 227\.[789][0-9]* ± 25\.36.* 756 tokens scored in 12 chunks of 128' \
    "$ew" model eval "$EW_SOURCE_DIR/models/deb-tiny.gguf" "$golden/perplexity.txt" --ctx 128
expect 0 '"chunks": 2' "$ew" model eval "$golden/llama64-q8_0.gguf" "$golden/perplexity.txt" --ctx 32 --chunks 2 --json
expect 2 'too few for chunks' "$ew" model eval "$golden/llama64-q8_0.gguf" "$golden/ids.txt" --ctx 64
# A draft changes nothing but the speed.
tiny="$EW_SOURCE_DIR/models/deb-tiny.gguf"
"$ew" model quantize "$tiny" "$tmp/draft.gguf" --type Q4_0 >/dev/null || bad=1
"$ew" model generate "$tiny" 'Section: ' -n 60 --ctx 256 --kernel ref 2>/dev/null >"$tmp/plain"
"$ew" model generate "$tiny" 'Section: ' -n 60 --ctx 256 --kernel ref --draft "$tmp/draft.gguf" 2>"$tmp/chatter" >"$tmp/drafted"
cmp "$tmp/plain" "$tmp/drafted" || bad=1
grep -Eq '^[0-9]+ tokens drafted, [0-9]+ % kept' "$tmp/chatter" || bad=1
expect 2 'vocabulary of' "$ew" model generate "$tiny" 'a' -n 5 --draft "$golden/llama64-q8_0.gguf"
for type in F16 Q8_0 Q4_0 Q4_K_M IQ4_NL; do
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
expect 1 'HINT: --ctx [0-9]+ fits' "$ew" model generate "$tiny" 'the' --ctx 100000 --memory-limit 24M
taken=$("$ew" model generate "$tiny" 'the' --memory-limit 1M 2>&1 | sed -n 's/.*tables take \([0-9.]*\) MiB.*/\1/p')
limit=$(awk "BEGIN { printf \"%d\", ($taken + 1.2) * 1048576 }")
expect 0 'the context is [0-9]+ tokens instead of 512' "$ew" model generate "$tiny" 'the' -n 2 --memory-limit "$limit"
expect 1 'weights and tables take' "$ew" model generate "$tiny" 'the' --memory-limit 1M
expect 2 'context of 200 tokens is over the 48 positions' "$ew" model generate "$golden/families/gpt2/model.gguf" 'a' --ctx 200 --memory-limit 1G
expect 1 'beside the draft' "$ew" model generate "$tiny" 'the' -n 2 --memory-limit "$((limit + 4194304))" --draft "$tiny"
expect 1 'draft does not fit' "$ew" model generate "$tiny" 'the' --memory-limit 1M --draft "$tiny"
expect 0 'tokens drafted' "$ew" model generate "$tiny" 'the' --ctx 64 -n 20 --memory-limit 40M --draft "$tiny"
head -c 20000 "$golden/llama64-q8_0.gguf" >"$tmp/cut.gguf"
expect 1 'cut.gguf' "$ew" model info "$tmp/cut.gguf"
# No numbers among the weights.
{ head -c $(($(stat -c %s "$tiny") - 1200000)) "$tiny"; head -c 10000 /dev/zero | tr '\0' '\377'; tail -c 1190000 "$tiny"; } >"$tmp/wild.gguf"
expect 1 'weights are damaged' "$ew" model eval "$tmp/wild.gguf" "$golden/perplexity.txt" --ctx 32 --chunks 1 --json
expect 1 'weights are damaged' "$ew" model logits "$tmp/wild.gguf" 'the' --json
expect 1 'weights are damaged' "$ew" model generate "$tmp/wild.gguf" 'the' -n 2
printf 'a\0b' >"$tmp/zero"
expect 2 'zero byte' "$ew" model generate "$tiny" --chat --file "$tmp/zero"
expect 1 'prompt of [0-9]+ tokens does not fit the context of 2. HINT: --ctx' "$ew" model generate "$tiny" 'a long prompt' --ctx 2
expect 2 'is an encoder' "$ew" model bench "$golden/families/bert/hf"
mkdir "$tmp/none"
expect 1 'config.json' "$ew" model info "$tmp/none"
exit $bad
