#!/bin/bash
# Speed of `edgewise model bench` beside llama.cpp's and ik_llama.cpp's llama-bench: same files, same threads, in turn within one run.
# Usage: tests/bench/peers.sh [--llama BENCH] [--ik BENCH] [--threads "1 2"] [--rounds 5] [--prompt 512] [--generate 128] MODEL.gguf...
#   BENCH is the path of a llama-bench that was built from the peer's source (-DGGML_NATIVE=ON, Release). EDGEWISE names our program
#   (default build/release/bin/edgewise). Writes Markdown: medians over the rounds and ratios, then peak resident memory in MiB.
# The order rotates from round to round. Run it on an idle machine: all three spin while they wait.
set -euo pipefail
cd "$(dirname "$0")/../.."
ours=${EDGEWISE:-build/release/bin/edgewise}
llama="" ik="" threads="1 2" rounds=5 prompt=512 generate=128
while [ $# -gt 0 ]; do
    case $1 in
    --llama) llama=$2 && shift 2 ;;
    --ik) ik=$2 && shift 2 ;;
    --threads) threads=$2 && shift 2 ;;
    --rounds) rounds=$2 && shift 2 ;;
    --prompt) prompt=$2 && shift 2 ;;
    --generate) generate=$2 && shift 2 ;;
    --help | -h) sed -n '2,7s/^# \{0,1\}//p' "$0" && exit 0 ;;
    -*) echo "peers.sh: unknown option '$1'; try --help" >&2 && exit 2 ;;
    *) break ;;
    esac
done
[ $# -gt 0 ] || { echo "peers.sh: no model given; try --help" >&2 && exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# watch COMMAND...: its output in $tmp/out, its peak resident memory (KiB) in $tmp/rss
watch() {
    "$@" >"$tmp/out" 2>"$tmp/err" &
    local pid=$! peak=0 now
    while now=$(sed -n 's/^VmHWM:[ \t]*\([0-9]*\).*/\1/p' "/proc/$pid/status" 2>/dev/null) && [ -n "$now" ]; do
        peak=$now
        read -rt 0.1 <> <(:) || true
    done
    wait "$pid" || { cat "$tmp/err" >&2 && return 1; }
    echo "$peak" >"$tmp/rss"
}

# once WHO MODEL THREADS: appends "prompt generate rss" to the file of this combination
once() {
    local who=$1 model=$2 t=$3 file
    file="$tmp/$(basename "$2").$3.$1"
    case $who in
    ours)
        watch "$ours" model bench "$model" -p "$prompt" -n "$generate" -r 1 -t "$t" --no-peaks --json
        awk -v path=/prompt/per_second -f tests/support/json.awk "$tmp/out" >"$tmp/p"
        awk -v path=/generate/per_second -f tests/support/json.awk "$tmp/out" >"$tmp/g"
        ;;
    llama) watch "$llama" -m "$model" -p "$prompt" -n "$generate" -r 1 -t "$t" -o csv ;;
    ik) watch "$ik" -m "$model" -p "$prompt" -n "$generate" -r 1 -t "$t" -rtr 1 -o csv ;;
    esac
    if [ "$who" != ours ]; then
        # Columns by name: n_prompt, n_gen, avg_ts.
        awk -F'","|^"|"$' -v out="$tmp" '/^build/ || /n_prompt/ && !seen {
                n = split($0, name, ","); for (i = 1; i <= n; i++) { gsub(/"/, "", name[i]); col[name[i]] = i }; seen = 1; next }
            seen { gsub(/^"|"$/, ""); split($0, v, "\",\""); if (v[col["n_gen"]] + 0 == 0) print v[col["avg_ts"]] > (out "/p"); else print v[col["avg_ts"]] > (out "/g") }' "$tmp/out"
    fi
    echo "$(cat "$tmp/p") $(cat "$tmp/g") $(cat "$tmp/rss")" >>"$file"
}

median() { # median FILE COLUMN
    [ -f "$1" ] && awk -v c="$2" '{ print $c }' "$1" | sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }' || true
}

who=(ours)
[ -z "$llama" ] || who+=(llama)
[ -z "$ik" ] || who+=(ik)
for model in "$@"; do
    for t in $threads; do
        for ((r = 0; r < rounds; r++)); do
            for ((i = 0; i < ${#who[@]}; i++)); do
                name=${who[$(((i + r) % ${#who[@]}))]}
                echo "$(basename "$model"), $t threads, round $((r + 1)) of $rounds: $name" >&2
                once "$name" "$model" "$t"
            done
        done
    done
done

echo "| model | threads | prompt $prompt, tok/s: ours | llama.cpp | ik_llama.cpp | ours / llama.cpp | ours / ik | generate $generate, tok/s: ours | llama.cpp | ik_llama.cpp | ours / llama.cpp | ours / best | peak MiB: ours | llama.cpp | ik |"
echo "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
for model in "$@"; do
    for t in $threads; do
        base="$tmp/$(basename "$model").$t"
        row=""
        for c in 1 2 3; do
            for w in ours llama ik; do
                row="$row $(median "$base.$w" $c)"
                [ -f "$base.$w" ] || row="$row -"
            done
        done
        echo "$(basename "$model" .gguf) $t $row" | awk '
            function f(x, d) { return x == "-" ? "–" : sprintf("%." d "f", x) }
            function ratio(a, b) { return b == "-" || b + 0 == 0 ? "–" : sprintf("%.2f", a / b) }
            function best(a, b) { return a == "-" ? b : b == "-" ? a : (a > b ? a : b) }
            { printf "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", $1, $2, f($3, 1), f($4, 1), f($5, 1),
              ratio($3, $4), ratio($3, $5), f($6, 1), f($7, 1), f($8, 1), ratio($6, $7), ratio($6, best($7 + 0, $8 + 0)), f($9 / 1024, 0),
              $10 == "-" ? "–" : f($10 / 1024, 0), $11 == "-" ? "–" : f($11 / 1024, 0) }'
    done
done
