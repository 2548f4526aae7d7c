#!/bin/bash
# How fast the agent answers while it learns: tokens per second of `chat`, alternating in one run
#   idle         nothing is learned
#   paused       a learning is paused (as idle, with its state on disk)
#   learning     the worker trains; it is stopped while an answer is evaluated
# Needs a quiet machine.
#   EW_BIN_DIR=build/release/bin EW_SOURCE_DIR=. tests/bench/serve.sh [THREADS [ROUNDS [MODEL.gguf [ITEMS]]]]      (the shipped model, 600 items)
. "$(dirname "$0")/../integ/lib.sh"
threads=${1:-2}
rounds=${2:-5}
model=${3:-$house_model}
n_items=${4:-600}
make_coordinator
ok edgewise model import "$model" --name bench --variants q8_0
enrol dev
for ((i = 1; i <= n_items; i++)); do
    printf '{"input": "Package number %d, which does thing %d and says so in a long sentence", "output": "an answer with the number %d"}\n' \
        "$i" $((i % 7)) $((i % 5))
done >history.jsonl
ok edgewise-agent data import --dir dev history.jsonl
start_agent dev --threads "$threads" --memory-limit 3000M
until_ 20 "dev is connected" is_connected dev
field() { edgewise-agent status --dir dev --json >status.json && json status.json "$1"; }
state_is() { [ "$(field /learning/state)" = "$1" ]; }
working() { grep -qE "score|tune" <(field /now/phase); }
speed() { # tokens per second of one long answer
    edgewise-agent chat --dir dev --raw --plain --max-tok 64 --json "Once upon a time there was a package" >chat.json 2>chat.err || return 1
    json chat.json /tok_per_s
}
speed >/dev/null
ok edgewise-agent plan --dir dev
: >idle; : >paused; : >learning
for ((r = 1; r <= rounds; r++)); do
    speed >>idle
    edgewise-agent learn --dir dev --last-plan >learn.out 2>&1 &
    learning=$!
    until_ 60 "the worker at work" working
    for k in 1 2 3; do working && speed >>learning; done
    if edgewise-agent learn --dir dev --pause >/dev/null 2>&1; then
        speed >>paused
        edgewise-agent learn --dir dev --stop >/dev/null 2>&1
    fi
    wait $learning
done
mean() { sort -n "$1" | awk '{v[NR] = $1} END {if (NR) printf "%.1f tok/s (median of %d, %.1f to %.1f)", v[int((NR + 1) / 2)], NR, v[1], v[NR]}'; }
for kind in idle paused learning; do printf '%-9s %s\n' "$kind" "$(mean $kind)"; done
median() { sort -n "$1" | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
awk -v a="$(median learning)" -v b="$(median idle)" 'BEGIN {printf "learning / idle = %.2f\n", a / b}'
echo "gave way $(field /learning/gave_way/times) times, $(field /learning/gave_way/seconds) s"
