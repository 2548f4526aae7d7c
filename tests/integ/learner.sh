#!/bin/bash
# ctest: SERIAL TIMEOUT=600
# Learning over time, with real processes: pause and resume (also across kill -9, and by signal), answers that come first, a worker that nobody leaves
# behind, updates with replay and what they forget, the way back, several adapters, a merged model, forgetting that re-trains, learning by itself, a
# full disk.
. "$(dirname "$0")/lib.sh"
limit=400
[ -z "$san" ] || limit=4000
make_coordinator
ok edgewise model import "$house_model" --name deb-tiny --variants q8_0
enrol dev
settings=(--threads 1 --memory-limit "${limit}M" --set learn-quiet=0 --set learn-on-mains=false)

# A history that can be learned: what is asked for and its answer share a word that the model cannot know.
items() { # items FROM TO WORD
    local i
    for ((i = $1; i <= $2; i++)); do
        printf '{"id": "%s-%d", "input": "Package number %d of the %s kind, which does thing %d", "output": "%s-answers for all of you"}\n' \
            "$3" "$i" "$i" "$3" $((i % 7)) "$3"
    done
}
items 1 30 alpha >first.jsonl
ok edgewise-agent data import --dir dev first.jsonl
kernels=ref # slow, so that there is time to pause
[ -z "$san" ] || kernels="" # slow enough
begin() { if [ -n "$kernels" ]; then EW_CPU=$kernels start_agent dev "${settings[@]}" "$@"; else start_agent dev "${settings[@]}" "$@"; fi; }
# What the machine can is measured with the fast kernels.
start_agent dev "${settings[@]}"
stop "${agent[dev]}" || fail "the agent ended with status $?"
begin
until_ 20 "dev is connected" is_connected dev

field() { # field PATH: of the status
    edgewise-agent status --dir dev --json >status.json && json status.json "$1"
}
state_is() { [ "$(field /learning/state)" = "$1" ]; }
phase_is() { [ "$(field /now/phase)" = "$1" ]; }
worker_of() { # the worker of an agent
    local p
    for p in $(cat "/proc/$1/task"/*/children 2>/dev/null); do
        grep -qa worker "/proc/$p/cmdline" && echo "$p" && return 0
    done
    return 1
}
again() { # kill -9, then a new agent
    stop "${agent[dev]}" KILL
    begin "$@"
}

# ---- pause and resume, across kill -9
edgewise-agent learn --dir dev --json >learned 2>learn.log &
learning=$!
until_ 60 "training" phase_is tune
worker=$(worker_of "${agent[dev]}")
expect 0 'learning: paused' edgewise-agent learn --dir dev --pause
check "the worker $worker is still there" dead "$worker"
checkpoint=$(ls "$(runtime_of "$tmp/dev")"/*.tune)
check "no checkpoint is left" test -n "$checkpoint"
expect 0 . edgewise-agent chat --dir dev "A paused learning does not keep anybody waiting"
kill -0 $learning || fail "the command did not wait: $(cat learn.log)"
again
wait $learning
check "the command did not say that the agent ended" grep -q 'the work goes on when it runs again' learn.log
check "the pause was forgotten: $(field /learning/state)" state_is paused
expect 0 'learning: running' edgewise-agent learn --dir dev --resume
until_ 60 "training again" phase_is tune
say "paused, killed, resumed"

# ---- killed while it runs: the next agent goes on by itself, from the checkpoint
again
until_ 60 "training goes on by itself" phase_is tune
check "it does not say that it goes on" logged dev 'learn-begins.*goes on'
check "it began anew: $(ls "$(runtime_of "$tmp/dev")")" test "$(ls "$(runtime_of "$tmp/dev")"/*.tune)" = "$checkpoint"
# A caller joins what is going on. Signals pause it, too.
edgewise-agent learn --dir dev --json >learned 2>learn.log &
learning=$!
kill -USR1 "${agent[dev]}"
until_ 60 "paused by a signal" state_is paused
kill -USR2 "${agent[dev]}"
until_ 60 "resumed by a signal" state_is running
# ---- an answer comes first: the worker is stopped while it is given
until_ 60 "training after the pause" phase_is tune
before=$(field /learning/gave_way/times)
expect 0 . edgewise-agent chat --dir dev --max-tok 40 --raw "Once upon a time"
check "the worker was not stopped for an answer" test "$(field /learning/gave_way/times)" -gt "$before"
# ---- a stopped worker dies with its agent
worker=$(worker_of "${agent[dev]}")
kill -STOP "$worker"
stop "${agent[dev]}" KILL
until_ 20 "the stopped worker dies with its agent" dead "$worker"
wait $learning
kernels=""
begin
until_ 120 "the first learning ends" state_is idle
check "it was not served: $(field /learning/last)" test "$(field /learning/last/decision)" = new
first=$(field /active/adapter)
say "learned: adapter $first"

# ---- an update: new items, a replay of old ones, old items before and after
items 101 120 beta >second.jsonl
ok edgewise-agent data import --dir dev second.jsonl
edgewise-agent learn --dir dev --update --last-plan --json >learned || fail "update"
check "it was no update" test "$(json learned /update)" = true
for measure in n.new n.replayed n.old old.before.nll old.after.nll served.val.nll; do
    check "no $measure" test -n "$(json learned "/result/measures/$measure/values/0")"
done
check "the decision: $(json learned /decision)" test "$(json learned /decision)" = new
second=$(field /active/adapter)
check "the adapter is the same" test "$second" != "$first"
expect 0 'old items .*NLL' edgewise-agent status --dir dev
say "update: $(json learned /result/measures/n.new/values/0) new, $(json learned /result/measures/n.replayed/values/0) replayed; old items $(json learned /result/measures/old.before.nll/values/0) -> $(json learned /result/measures/old.after.nll/values/0), served $(json learned /result/measures/served.val.nll/values/0) -> $(json learned /result/measures/val.nll/values/0)"
# What is no better than what is served does not replace it: the same again.
edgewise-agent learn --dir dev --last-plan --max-time 0.01s --json >learned || fail "a short learning"
check "a learning of no time was served: $(json learned /decision)" test "$(json learned /decision)" = kept
check "what was served is not any more" test "$(field /active/adapter)" = "$second"

# ---- the way back, one adapter or another for a request, a merged model
expect 0 "adapter $first" edgewise-agent adapter rollback --dir dev
expect 0 'method none' edgewise-agent adapter rollback --dir dev
expect 1 'nothing to go back to' edgewise-agent adapter rollback --dir dev
expect 0 '"adapter": false' edgewise-agent chat --dir dev --json "Package number 3 of the alpha kind"
expect 0 '"adapter": true' edgewise-agent chat --dir dev --json --adapter "$first" "Package number 3 of the alpha kind"
expect 0 "adapter $second" edgewise-agent adapter use --dir dev "$second"
expect 1 'is served' edgewise-agent adapter remove --dir dev "$second"
expect 1 'no adapter 999' edgewise-agent chat --dir dev --adapter 999 x
expect 1 'learn --task other' edgewise-agent chat --dir dev --task other x
expect 0 served edgewise-agent adapter list --dir dev
ok edgewise-agent adapter merge --dir dev --id "$second" merged.gguf
prompt=$'Input: Package number 103 of the beta kind, which does thing 5\nOutput:'
edgewise-agent chat --dir dev --raw --max-tok 6 "$prompt" >with 2>/dev/null || fail "chat with the adapter"
edgewise model generate merged.gguf "$prompt" --max-tok 6 >merged.txt 2>/dev/null || fail "the merged model"
say "with the adapter: $(tr '\n' ' ' <with)| merged: $(tail -c 80 merged.txt | tr '\n' ' ')"

# ---- forgetting: switched off at once, learned anew without it
expect 0 '[1-9] adapters that learned' edgewise-agent forget --dir dev --id alpha-7
until_ 60 "it learns anew by itself" logged dev 'learn-begins.*without what was forgotten'
until_ 120 "it has learned anew" logged dev 'learned.*decision'
until_ 20 "idle" state_is idle
third=$(field /active/adapter)
check "what learned from it is served" test "$third" != "$second"
check "what learned from it is kept" not grep -q flagged <(edgewise-agent adapter list --dir dev)
say "forgotten: adapter $third"

# ---- by itself, when there is something new
again --set learn-every=1s --set learn-min-new=5
n=$(grep -c 'learn-begins' dev.log)
ok edgewise-agent data import --dir dev <(items 200 203 beta)
until_ 20 "it looks at its schedule" test "$(field /learning/next)" != null
items 204 210 beta >third.jsonl
ok edgewise-agent data import --dir dev third.jsonl
until_ 60 "it learns by itself" logged dev 'learn-begins' $((n + 1))
until_ 120 "it has learned by itself" state_is idle
say "by itself: $(field /learning/last/decision), update $(field /learning/last/update)"
stop "${agent[dev]}" || fail "the agent ended with status $?"

# ---- a full disk: said clearly, and what is served stays
if [ "$(id -u)" = 0 ] && mkdir -p disk && mount -t tmpfs -o size=24m tmpfs disk 2>/dev/null; then
    at_exit='umount "$tmp/disk"; rm -rf "$(runtime_of "$tmp/disk/dev")"'
    cp -r dev disk/dev
    served=$(edgewise-agent adapter list --dir disk/dev --threads 1 --json | json - /active/adapter)
    dd if=/dev/zero of=disk/filler bs=1k count=$(($(df -k --output=avail disk | tail -n 1) - 60)) status=none
    expect 1 'what was served before is kept.*no space' edgewise-agent learn --dir disk/dev --threads 1 --last-plan
    rm disk/filler
    check "what was served is lost" test "$(edgewise-agent adapter list --dir disk/dev --threads 1 --json | json - /active/adapter)" = "$served"
    expect 0 . edgewise-agent chat --dir disk/dev --threads 1 "Package number 3 of the alpha kind"
    umount disk
else
    skip "a full disk: no small file system can be mounted here"
fi
say "ok"
