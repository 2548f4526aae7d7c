#!/bin/bash
# What leaves a device: its own capture of the decrypted traffic holds the requests, and no text of the profile, of a prompt or of an answer, neither
# as text nor as token ids; nor does anything on a disk but the file that the user imported.
. "$(dirname "$0")/lib.sh"
export LC_ALL=C
make_bench
make_coordinator
ok edgewise model import "$house_model" --name deb-tiny --variants q8_0
enrol dev

# A profile of words that nothing else contains.
secrets=(zanzibarquokka Xylophonmotte "marmalade of Skagen" quetzalfjord)
for i in $(seq 30); do
    printf '{"id": "note-%d", "input": "My diary, day %d: the %s met %s at the harbour", "output": "%s"}\n' \
        "$i" "$i" "${secrets[0]}" "${secrets[1]}" "$([ $((i % 2)) = 0 ] && echo "${secrets[2]}" || echo "${secrets[3]}")"
done >diary.jsonl
prompt="Dear Grimsvotnvolcano, what did the ${secrets[0]} say?"
secrets+=(Grimsvotnvolcano "My diary" "note-17" harbour)
ok edgewise-agent data import --dir dev diary.jsonl
mv diary.jsonl /dev/shm/diary.$$ # only the profile has it from here on
at_exit='rm -f /dev/shm/diary.$$'

start_agent dev --threads 1 --set capture="$tmp/capture"
until_ 20 "dev is connected" is_connected dev
check "the capture can be read by others" test "$(stat -c %a capture)" = 600
ok edgewise-agent plan --dir dev
edgewise-agent learn --dir dev >learnt 2>&1 || fail "learning: $(cat learnt)"
edgewise-agent chat --dir dev "$prompt" >answer 2>/dev/null || fail "chat"
edgewise-agent chat --dir dev --raw --plain --max-tok 20 "$prompt" >raw 2>/dev/null || fail "chat --raw"
cat >grid.yaml <<'YAML'
name: grid
data: {benchmark: debian, group: dev, users: 1}
tasks: [debian-section]
models: [deb-tiny]
variants: [q8_0]
methods: [none, lora, rag]
devices: [dev]
settings: {epochs: 1}
YAML
edgewise experiment run grid.yaml --data bench --out report >table 2>&1 || fail "experiment: $(cat table)"
check "the experiment failed: $(cat table)" grep -q '^3 trials finished, 0 failed' table
sent() { [ "$(json <(edgewise-agent status --dir dev --json) /results_waiting)" = 0 ]; }
until_ 20 "what was learnt is told" sent
expect 1 'HINT: edgewise-agent consent' edgewise-agent chat --dir dev --offload --raw --plain "$prompt"

# ---- the capture is one: it has the plan's request, both ways, the results, and as many bytes as the agent counts
check "the capture is empty" test -s capture
for way in out in; do check "nothing went $way" test "$(grep -ac "^== $way [0-9]* + [0-9]*, " capture)" -ge 5; done
check "the plan's request is not in the capture" grep -aq custom capture
check "the results are not in the capture" grep -aq 'base.val.nll' capture
edgewise-agent status --dir dev --json >status.json || fail "status"
for way in out in; do
    counted=$(json status.json /session/bytes_$way)
    # Each frame has a header of 8 bytes, which the capture leaves out.
    captured=$(grep -ao "^== $way [0-9]* + [0-9]*, " capture | awk '{n += $3 + $5 + 8} END {printf "%d", n}')
    check "$way: $captured bytes are captured, $counted were counted" test "$captured" -ge "$counted"
done
say "captured: $(grep -ac '^== out' capture) messages out, $(grep -ac '^== in' capture) in, $(wc -c <capture) bytes"

# ---- what must not be there
model=$(ls dev/artifacts/*.gguf | head -n 1)
patterns=$tmp/patterns
for secret in "${secrets[@]}"; do
    printf '%s\n' "$secret"
    printf '%s' "$secret" | base64 | tr -d '=\n' | head -c 10 # as base64, from its beginning
    echo
    printf '%s' "$secret" | od -An -tx1 | tr -d ' \n' # as hexadecimal
    echo
done >patterns
mapfile -t words <answer # the model's own words, where they are long enough to tell
[ -z "${words[0]:-}" ] || [ ${#words[0]} -lt 8 ] || printf '%s\n' "${words[0]}" >>patterns
search() { # search NAME FILE…: no pattern is there, in any case
    local name=$1 hit
    shift
    hit=$(grep -aioFf "$patterns" -- "$@" /dev/null | head -n 3)
    check "$name: $hit" test -z "$hit"
}
# The search finds what is there: a file of the plain items.
check "the search finds nothing anywhere" grep -aqiFf patterns /dev/shm/diary.$$
check "the pattern of token ids finds nothing anywhere" test "$(printf 'x\001\002\003\004y' | grep -caP '\x01\x02\x03\x04')" = 1
search "the traffic" capture
search "the coordinator" $(find co -type f ! -path '*/artifacts/*')
search "the coordinator's artifacts" $(find co/artifacts -type f)
search "the device's disk" $(find dev -type f)
search "logs and reports" *.log $(find report -type f) evidence.json 2>/dev/null
# Token ids: any four in a row of a text, as 32-bit and 16-bit words and as varints.
ids() { edgewise model tokenize "$model" "$1" --json | tr -d ' \n' | grep -o '"ids":\[[0-9,]*' | grep -o '[0-9,]*$' | tr ',' '\n'; }
regexes() {
    mapfile -t id < <(ids "$1")
    local i j four
    for ((i = 0; i + 4 <= ${#id[@]}; i++)); do
        for form in 32 16 varint; do
            four=""
            for ((j = i; j < i + 4; j++)); do
                case $form in
                32) four+=$(printf '\\x%02x\\x%02x\\x00\\x00' $((id[j] & 255)) $((id[j] >> 8))) ;;
                16) four+=$(printf '\\x%02x\\x%02x' $((id[j] & 255)) $((id[j] >> 8))) ;;
                varint) [ "${id[j]}" -lt 128 ] && four+=$(printf '\\x%02x' "${id[j]}") || four+=$(printf '\\x%02x\\x%02x' $((id[j] & 127 | 128)) $((id[j] >> 7))) ;;
                esac
            done
            printf '%s\n' "$four"
        done
    done
}
n=0
for text in "$prompt" "My diary, day 7: the ${secrets[0]} met ${secrets[1]} at the harbour" "${secrets[2]}" "${secrets[3]}"; do
    regexes "$text" | awk 'length($0) >= 24' >sequences # of six bytes at least: fewer may be there by chance, in a model's weights
    n=$((n + $(wc -l <sequences)))
    ! grep -qaP -- "$(paste -sd '|' sequences)" capture || fail "token ids of '$text' are in the traffic"
done
check "no token ids were searched" test "$n" -gt 100
say "searched for ${#secrets[@]} words and $n sequences of token ids: none"
stop "${agent[dev]}"
check "the agent ended with status $?" test $? = 0
check "plain files are left in $(runtime_of "$tmp/dev")" test -z "$(grep -ailFf patterns -r "$(runtime_of "$tmp/dev")" 2>/dev/null)"
say "ok"
