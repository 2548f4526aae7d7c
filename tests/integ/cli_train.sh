#!/bin/bash
# `edgewise train …` from outside: pre-training from a text, killed and continued to the same bytes; tuning; exit statuses.
set -u
ew="$EW_BIN_DIR/edgewise"
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

for i in $(seq 1 400); do
    case $((i * 7 % 5)) in
    0) what="a library for reading files" where=libs ;;
    1) what="a game about a small cat" where=games ;;
    2) what="a server for the network" where=net ;;
    3) what="fonts with many letters" where=fonts ;;
    4) what="a module for the language" where=perl ;;
    esac
    printf 'text: %s, number %d\nsection: %s\n\n' "$what" $((i % 13)) $where >>"$tmp/text.txt"
    [ $i -gt 40 ] || printf '{"id":"%d","input":"%s, number %d","output":"%s"}\n' $i "$what" $i $where >>"$tmp/me.jsonl"
done
cat >"$tmp/recipe.yaml" <<YAML
name: toy
vocab_size: 400
n_ctx: 64
dim: 32
ffn: 64
layers: 2
heads: 4
kv_heads: 2
rope_theta: 10000
norm_eps: 0.00001
lr: 0.01
min_lr: 0.1
warmup: 0.1
weight_decay: 0.1
clip: 1.0
beta1: 0.9
beta2: 0.95
shards: 2
shard_tok: 128
answer_weight: 4
prompt_weight: 1
text_percent: 100
section_percent: 0
synopsis_percent: 0
zero_shot_percent: 100
retrieved_max: 0
tokens: 60000
seed: 5
YAML
train=("$ew" train pretrain --recipe "$tmp/recipe.yaml" --data "$tmp/text.txt" --threads 2)

expect 0 'parameters, [0-9]+ steps, 60[0-9]+ tokens' "${train[@]}" --out "$tmp/whole.gguf"
expect 0 '' "$ew" train curve "$tmp/whole.gguf.csv" --out "$tmp/curve.svg"
grep -q '<svg' "$tmp/curve.svg" || { echo "no picture"; bad=1; }
expect 0 'toy|2 layers' "$ew" model info "$tmp/whole.gguf"

# Killed as soon as a checkpoint is there (it is written before the first step), then asked to stop, then left alone.
for signal in KILL TERM; do
    rm -f "$tmp"/parts.gguf*
    "${train[@]}" --out "$tmp/parts.gguf" >"$tmp/log" 2>&1 &
    pid=$!
    until [ -e "$tmp/parts.gguf.ckpt" ] || ! kill -0 $pid 2>/dev/null; do :; done
    kill -$signal $pid 2>/dev/null
    wait $pid 2>/dev/null
    expect 0 'parameters' "${train[@]}" --out "$tmp/parts.gguf"
    cmp "$tmp/whole.gguf" "$tmp/parts.gguf" || bad=1
done
sed 's/seed: 5/seed: 6/' "$tmp/recipe.yaml" >"$tmp/other.yaml"
expect 1 'another run' "${train[@]/recipe.yaml/other.yaml}" --out "$tmp/parts.gguf"
sed 's/ffn:/fffn:/' "$tmp/recipe.yaml" >"$tmp/typo.yaml"
expect 2 'fffn' "${train[@]/recipe.yaml/typo.yaml}" --out "$tmp/x.gguf"
expect 2 'needed' "$ew" train pretrain --recipe "$tmp/recipe.yaml"

tune=("$ew" train tune --model "$tmp/whole.gguf" --data "$tmp/me.jsonl" --seq-max 64 --epochs 4 --task custom-classify)
expect 0 'peak memory .*weights' "${tune[@]}" --dry-run
expect 0 'all steps done|stopped improving' "${tune[@]}" --out "$tmp/a" --gguf "$tmp/a.gguf" --checkpoint "$tmp/a.ckpt"
grep -q '"peft_type": "LORA"' "$tmp/a/adapter_config.json" || bad=1
[ -s "$tmp/a/adapter_model.safetensors" ] && [ -s "$tmp/a.gguf" ] || bad=1
expect 0 'PEFT adapter' "${tune[@]}" --out "$tmp/b" --checkpoint "$tmp/a.ckpt"
cmp "$tmp/a/adapter_model.safetensors" "$tmp/b/adapter_model.safetensors" || bad=1
expect 0 'GGUF adapter' "${tune[@]}" --init "$tmp/a" --gguf "$tmp/c.gguf" --targets q,v --rank 4
expect 1 'would do' "${tune[@]}" --out "$tmp/x" --memory-limit 1M
expect 2 'unknown target' "${tune[@]}" --out "$tmp/x" --targets q,w
expect 2 'does not train' "${tune[@]}" --out "$tmp/x" --method nonsense
for method in prompt prefix ia3 bottleneck full mezo blockwise; do
    expect 0 'GGUF adapter' "${tune[@]}" --gguf "$tmp/$method.gguf" --method "$method"
done
expect 1 'nowhere' "$ew" train tune --model "$tmp/nowhere.gguf" --data "$tmp/me.jsonl" --out "$tmp/x"
head -c 30000 "$tmp/whole.gguf" >"$tmp/cut.gguf"
expect 1 'cut.gguf' "$ew" train tune --model "$tmp/cut.gguf" --data "$tmp/me.jsonl" --out "$tmp/x"
# The adapter of one base is refused on another.
expect 0 'Q8_0' "$ew" model quantize "$tmp/whole.gguf" "$tmp/q8.gguf" --type Q8_0
expect 1 'base model' "$ew" train tune --model "$tmp/q8.gguf" --data "$tmp/me.jsonl" --seq-max 64 --task custom-classify --init "$tmp/a" --out "$tmp/x"
exit $bad
