#!/bin/bash
# ctest: TIMEOUT=600
# kill -9 of `edgewise train tune` at EW_KILLS seeded moments (10; EW_SEED chooses them, default 1), whatever is trained: each run is started again
# until it ends, and ends with the same bytes as one that was left alone. The long form: EW_KILLS=200 tests/integ/kill9_tune.sh
set -uo pipefail
: "${EW_BIN_DIR:?}" "${EW_SOURCE_DIR:?}"
ew=$EW_BIN_DIR/edgewise
model=$EW_SOURCE_DIR/models/deb-tiny.gguf
[ -x "$ew" ] && [ -f "$model" ] || {
    echo "SKIPPED: edgewise or models/deb-tiny.gguf is not here"
    exit 77
}
kills=${EW_KILLS:-10}
RANDOM=${EW_SEED:-1}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/ew-kill9-tune-XXXXXX")
trap 'rm -rf "$tmp"' EXIT
fail() {
    echo "FAILED: $*"
    exit 1
}
# A pause without a process of its own.
exec {never}<> <(:)
pause() { read -r -t "$1" -u "$never" _ || true; }

where=(libs games net fonts perl)
what=("a library for reading files" "a game about a small cat" "a server for the network" "fonts with many letters" "a Perl module")
for ((i = 0; i < 60; i++)); do
    printf '{"id":"%d","input":"%s, number %d","output":"%s"}\n' $i "${what[i * 7 % 5]}" $i "${where[i * 7 % 5]}"
done >"$tmp/me.jsonl"

methods=(
    "--method lora --optimizer-bits 8 --dropout 0.1"
    "--method blockwise"
    "--method prefix --virtual 4"
    "--method mezo"
    "--method lora --dora --rung recompute-bf16 --accumulate 2"
    "--method ia3"
    "--method bottleneck --optimizer-bits 8"
    "--method prompt --virtual 4"
)
# tune METHOD OUT [STATE]
tune() {
    local state=()
    [ $# -lt 3 ] || state=(--checkpoint "$3")
    # shellcheck disable=SC2086 # the words of a method
    exec "$ew" train tune --model "$model" --data "$tmp/me.jsonl" --task custom-classify --threads 1 --batch 1 --seq-max 64 \
        --max-steps 120 --eval-every 50 $1 "${state[@]}" --gguf "$2"
}

killed=0 ended=0
for ((turn = 0; killed < kills; turn++)); do
    method=${methods[turn % ${#methods[@]}]}
    whole=$tmp/whole.$((turn % ${#methods[@]})).gguf
    if [ ! -e "$whole" ]; then
        began=${EPOCHREALTIME/./}
        (tune "$method" "$whole") >"$tmp/log" 2>&1 || fail "$method: $(tail -n 3 "$tmp/log")"
        took=$(((${EPOCHREALTIME/./} - began) / 1000)) # ms
    fi
    rm -f "$tmp/parts.gguf" "$tmp/state"
    while :; do
        (tune "$method" "$tmp/parts.gguf" "$tmp/state") >"$tmp/log" 2>&1 &
        pid=$!
        if [ "$killed" -lt "$kills" ]; then
            wait=$((RANDOM % (took + 50)))
            pause "$((wait / 1000)).$(printf %03d $((wait % 1000)))"
            kill -9 $pid 2>/dev/null
        fi
        wait $pid 2>/dev/null
        status=$?
        [ $status = 137 ] || break
        killed=$((killed + 1))
    done
    [ $status = 0 ] || fail "$method, after $killed kills: status $status, $(tail -n 3 "$tmp/log")"
    cmp "$whole" "$tmp/parts.gguf" || fail "$method: other bytes, after $killed kills"
    ended=$((ended + 1))
done
echo "$killed kills, $ended runs that ended with the same bytes"
