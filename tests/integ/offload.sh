#!/bin/bash
# Layers at the coordinator: not without consent; bit-equal answers in exact mode; agreement told otherwise; bytes counted; a coordinator that is killed in
# mid-answer changes no token.
. "$(dirname "$0")/lib.sh"
make_bench
make_coordinator
ok edgewise model import "$house_model" --name deb-tiny --variants f16,q8_0
enrol dev
history_of "$(users_of test | sed -n 1p)" debian-section me.jsonl
ok edgewise-agent data import --dir dev me.jsonl
start_agent dev --threads 1
until_ 20 "dev is connected" is_connected dev
ok edgewise-agent learn --dir dev --task debian-section
chat() { edgewise-agent chat --dir dev --raw --plain "$@"; }
prompt="text: A library for reading and writing"

# ---- consent
expect 1 'HINT: edgewise-agent consent offload on' chat --offload "$prompt"
expect 0 'offload +off' edgewise-agent status --dir dev
check "bytes were counted before consent" test ! -e dev/ledger.json
expect 2 'consent offload on' edgewise-agent consent --dir dev offload maybe
expect 0 'agreed to' edgewise-agent consent --dir dev offload on
until_ 20 "dev is connected again" is_connected dev

# ---- exact: token for token
chat --exact --max-tok 48 "$prompt" >local.txt 2>/dev/null || fail "local answer"
chat --exact --max-tok 48 --offload --compare "$prompt" >exact.txt 2>exact.err || fail "exact offload: $(cat exact.err)"
check "the exact answer differs: $(cat local.txt) / $(cat exact.txt)" cmp local.txt exact.txt
check "no agreement of 100 %: $(cat exact.err)" grep -q 'agreement with the local answer: 100.0 %' exact.err
check "the bytes are not told: $(cat exact.err)" grep -Eq 'offload: [0-9.]+ [KM]iB out, [0-9.]+ [KM]iB in' exact.err
chat --exact --max-tok 8 --offload --json "$prompt" >exact.json || fail "exact offload as JSON"
sent=$(json exact.json /offload/bytes_out)
trips=$(json exact.json /offload/trips)
check "bytes out: $sent in $trips trips" test "$sent" -gt 0 -a "$trips" -ge 8
# Other layers, the last one included.
for layers in "0 6" "0 1" "5 6"; do
    set -- $layers
    chat --exact --max-tok 48 --offload --first-layer "$1" --last-layer "$2" "$prompt" >part.txt 2>part.err || fail "layers $layers: $(cat part.err)"
    check "layers $layers: the answer differs" cmp local.txt part.txt
done
expect 2 'are not a part of a model with 6 layers' chat --offload --first-layer 4 --last-layer 99 "$prompt"

# ---- fast: f16 activations, the best kernels
chat --max-tok 48 --offload --compare "$prompt" >fast.txt 2>fast.err || fail "fast offload: $(cat fast.err)"
check "no agreement: $(cat fast.err)" grep -Eq 'agreement with the local answer: [0-9.]+ %' fast.err
say "exact answers are equal; fast: $(grep -o 'agreement.*' fast.err)"

# ---- the ledger
expect 0 'offloaded so far +[0-9.]+ [KM]iB sent, [0-9.]+ [KM]iB received in [0-9]+ answers' edgewise-agent status --dir dev
before=$(json dev/ledger.json /offload_bytes_out)
chat --exact --max-tok 8 --offload "$prompt" >/dev/null 2>&1
grown=$(($(json dev/ledger.json /offload_bytes_out) - before))
check "the ledger grew by $grown, $sent were sent" test "$grown" = "$sent"

# ---- the coordinator dies in mid-answer
chat --exact --max-tok 300 "$prompt" >long.txt 2>/dev/null || fail "long local answer"
check "the answer is too short: $(cat long.txt)" test "$(wc -c <long.txt)" -gt 100
lost=""
for attempt in 1 2 3 4 5; do
    mkfifo pieces
    chat --exact --max-tok 300 --offload "$prompt" >pieces 2>cut.err &
    answering=$!
    exec {text}<pieces
    rm pieces
    head -c 40 <&"$text" >cut.txt # the first words are here: now
    { kill -KILL "$coordinator"; } 2>/dev/null
    cat <&"$text" >>cut.txt
    exec {text}<&-
    wait "$answering" || fail "the answer ended with status $?: $(cat cut.err)"
    stop "$coordinator"
    check "attempt $attempt: the answer changed when the coordinator died: $(cat cut.txt)" cmp long.txt cut.txt
    start_coordinator
    until_ 20 "dev is connected again" is_connected dev
    if grep -q 'the link was lost, the rest was computed here' cut.err; then
        lost=$attempt
        break
    fi
done
check "the coordinator never died in mid-answer" test -n "$lost"
say "the coordinator died in mid-answer (attempt $lost): the answer is the local one; $(grep offload: cut.err)"
check "the log does not tell" logged dev 'offload-lost'

# ---- consent withdrawn
ok edgewise-agent consent --dir dev offload off
expect 1 'HINT: edgewise-agent consent offload on' chat --offload "$prompt"
say "ok"
