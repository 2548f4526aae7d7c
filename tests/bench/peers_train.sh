#!/bin/bash
# Speed and memory of LoRA tuning beside PyTorch + peft and beside QVAC's llama-finetune-lora: same shapes, 256 tokens a step, rank 8,
# the same threads, in turn within one run.
# Usage: tests/bench/peers_train.sh --models DIR --log FILE [--shapes "smollm135 qwen05b"] [--bases "f32 Q8_0 Q4_0"] [--linears "qv all"]
#                                   [--rounds 3] [--steps 6] [--threads 2]
#        tests/bench/peers_train.sh --table FILE
#   DIR holds SHAPE-BASE.gguf from bench_make_model. EW_TRAIN names our program (default build/release/tests/bench_train). The peers take
#   part where the environment names them: EW_TORCH a python with torch, transformers and peft (beside the f32 base), EW_QVAC a
#   llama-finetune-lora built with -DGGML_NATIVE=ON (over every base). A run appends to FILE; --table prints medians of what is there.
# Configurations of ours: activations kept, computed again (recompute), or the leanest (lean: computed again from bf16 inputs, moments in 8
# bits, mapped pages given back), with products in f32 or bf16. Run it on an idle machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
ours=${EW_TRAIN:-build/release/tests/bench_train}
models="" log="" table="" shapes="smollm135 qwen05b" bases="f32 Q8_0 Q4_0" linears="qv all" rounds=3 steps=6 threads=2
while [ $# -gt 0 ]; do
    case $1 in
    --models) models=$2 && shift 2 ;;
    --log) log=$2 && shift 2 ;;
    --table) table=$2 && shift 2 ;;
    --shapes) shapes=$2 && shift 2 ;;
    --bases) bases=$2 && shift 2 ;;
    --linears) linears=$2 && shift 2 ;;
    --rounds) rounds=$2 && shift 2 ;;
    --steps) steps=$2 && shift 2 ;;
    --threads) threads=$2 && shift 2 ;;
    --help | -h) sed -n '2,12s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *) echo "peers_train.sh: unknown option '$1'; try --help" >&2 && exit 2 ;;
    esac
done

# Lines of the log: shape base linears who tokens/s MiB
if [ -n "$table" ]; then
    sort "$table" | awk '
        function median(list,   v, n, i, j, t) {
            n = split(list, v, " ")
            for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j] + 0 < v[j - 1] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
            return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
        }
        { key = $1 " " $2 " " $3 " " $4; if (!(key in rate)) order[++n] = key; rate[key] = rate[key] " " $5; rss[key] = rss[key] " " $6; count[key]++ }
        END {
            print "| shape | base | LoRA on | trainer, configuration | rounds | tok/s | peak RSS, MiB | × PyTorch in f32 | × QVAC, same base | RSS / PyTorch in f32 |"
            print "|---|---|---|---|---|---|---|---|---|---|"
            for (i = 1; i <= n; i++) {
                split(order[i], k, " ")
                torch = k[1] " f32 " k[3] " torch-f32"; qvac = k[1] " " k[2] " " k[3] " qvac"
                r = median(rate[order[i]]); m = median(rss[order[i]])
                printf "| %s | %s | %s | %s | %d | %.1f | %.0f | %s | %s | %s |\n", k[1], k[2], k[3], k[4], count[order[i]], r, m,
                    k[2] == "f32" && torch in rate ? sprintf("%.2f", r / median(rate[torch])) : "–",
                    qvac in rate ? sprintf("%.2f", r / median(rate[qvac])) : "–",
                    torch in rss ? sprintf("%.2f", m / median(rss[torch])) : "–"
            }
        }'
    exit 0
fi
[ -n "$models" ] && [ -n "$log" ] || { echo "peers_train.sh: --models and --log are needed; try --help" >&2 && exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

value() { sed -n "s/.*\\b$1=\\([0-9.]*\\).*/\\1/p" | tail -1; } # value NAME: of a line of name=value pairs

# qvac MODEL LINEARS: its own clock shows whole seconds, so the times at which steps end are taken here
qvac() {
    local modules=attn_q,attn_v pid peak=0 now
    [ "$2" = qv ] || modules=attn_q,attn_k,attn_v,attn_o,ffn_gate,ffn_up,ffn_down
    printf 'all work and no play %.0s' $(seq 1 40) >"$tmp/text"
    GGML_NO_BACKTRACE=1 "$EW_QVAC" -m "$1" -f "$tmp/text" -c 256 -b 256 -ub 256 -t "$threads" -tb "$threads" -ngl 0 -fa off -nr \
        --lora-rank 8 --lora-alpha 16 --lora-modules "$modules" --checkpoint-save-steps 0 --output-adapter "$tmp/qvac.gguf" \
        >"$tmp/out" 2> >(while IFS= read -r -d $'\r' line; do case $line in *train:*data=*) echo "$EPOCHREALTIME" ;; esac; done >"$tmp/times") &
    pid=$!
    while now=$(sed -n 's/^VmHWM:[ \t]*\([0-9]*\).*/\1/p' "/proc/$pid/status" 2>/dev/null) && [ -n "$now" ]; do
        peak=$now
        # The third step that was seen is enough: the first one warms up.
        if [ "$(wc -l <"$tmp/times" 2>/dev/null || echo 0)" -ge 4 ]; then
            kill "$pid" 2>/dev/null || true
        fi
        read -rt 0.1 <> <(:) || true
    done
    wait "$pid" 2>/dev/null || true
    awk -v rss="$peak" 'NR == 1 { first = $1 } { last = $1 } END { if (NR > 1) printf "%.1f %.1f\n", 256 * (NR - 1) / (last - first), rss / 1024 }' "$tmp/times"
}

# once SHAPE BASE LINEARS WHO
once() {
    local model="$models/$1-$2.gguf" line=""
    case $4 in
    torch-*)
        OMP_WAIT_POLICY=PASSIVE "$EW_TORCH" tests/bench/train_torch.py "$1" "$3" "$threads" "$steps" eager "${4#torch-}" >"$tmp/out" 2>"$tmp/err" ||
            { cat "$tmp/err" >&2 && return 1; }
        line="$(value tok_s <"$tmp/out") $(value rss_mib <"$tmp/out")"
        ;;
    qvac) line=$(qvac "$model" "$3") ;;
    *)
        local rung=(--rung "${4%-*}")
        [ "${4%-*}" != lean ] || rung=(--rung recompute-bf16 --drop-pages --optimizer8)
        "$ours" "$model" --linears "$3" --steps "$steps" --threads "$threads" --products "${4#*-}" "${rung[@]}" >"$tmp/out"
        line="$(value tok_s <"$tmp/out") $(value rss_mib <"$tmp/out")"
        ;;
    esac
    [ -n "$line" ] || { echo "peers_train.sh: $4 over $2 gave no figure" >&2 && return 0; }
    echo "$1 $2 $3 $4 $line" | tee -a "$log" >&2
}

for shape in $shapes; do
    for base in $bases; do
        for l in $linears; do
            who=(keep-f32 keep-bf16 recompute-bf16 lean-bf16)
            [ -z "${EW_TORCH:-}" ] || [ "$base" != f32 ] || who+=(torch-f32 torch-bf16)
            [ -z "${EW_QVAC:-}" ] || who+=(qvac)
            for ((r = 0; r < rounds; r++)); do
                for ((i = 0; i < ${#who[@]}; i++)); do
                    once "$shape" "$base" "$l" "${who[$(((i + r) % ${#who[@]}))]}"
                done
            done
        done
    done
done
