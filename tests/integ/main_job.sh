#!/bin/bash
# ctest: SERIAL TIMEOUT=300
# The main job: a coordinator, two devices of different size, enrolment, plan, learning, answers, an experiment with its report, evidence that
# flips a plan, the memory limit that binds, revocation, orderly ends. Real programs, the shipped model, the committed fixture.
. "$(dirname "$0")/lib.sh"
make_bench
make_coordinator
say "coordinator"

# ---- models
edgewise model import "$house_model" --name deb-tiny --variants f16,q8_0,q4_0 >first || fail "model import"
edgewise model import "$house_model" --name deb-tiny --variants f16,q8_0,q4_0 >second || fail "model import again"
check "an import is not repeatable" cmp first second
check "the catalogue has other variants" test "$(edgewise model list | grep -c '^deb-tiny')" = 3

# ---- devices
user=$(users_of test | sed -n 1p)
history_of "$user" debian-section me.jsonl
n_items=$(wc -l <me.jsonl)
declare -A limit=([small]=36 [large]=200) # MiB
[ -z "$san" ] || limit=([small]=4000 [large]=4000)
for device in small large; do
    enrol $device
    check "the identity of $device can be read by others" test "$(stat -c %a "$device/identity.pem")" = 600
    ok edgewise-agent data import --dir $device me.jsonl
done
expect 0 "0 items added, $n_items were there already" edgewise-agent data import --dir small me.jsonl
measure=1 start_agent small --memory-limit "${limit[small]}M" --threads 1
start_agent large --memory-limit "${limit[large]}M" --threads 2
for device in small large; do until_ 20 "$device is connected" is_connected $device; done
say "two devices connected"
expect 1 'in use by process' edgewise-agent run --dir small

# ---- plan, learn, serve
edgewise-agent plan --dir large --task debian-section >plan.large || fail "plan of large"
edgewise-agent plan --dir small --task debian-section >plan.small || fail "plan of small"
for word in predicted because 'instead of' ram seconds; do check "the plan says nothing of '$word'" grep -q "$word" plan.large; done
for device in small large; do
    edgewise-agent learn --dir $device --task debian-section --json >learned.$device || fail "learning on $device"
    check "$device serves nothing" grep -q '^serving ' <(edgewise-agent status --dir $device)
done
[ -n "$san" ] || check "the plan of small is the plan of large" test "$(json learned.small /plan/chosen/method)$(json learned.small /plan/chosen/variant)" != \
    "$(json learned.large /plan/chosen/method)$(json learned.large /plan/chosen/variant)"
expect 0 "profile +$n_items items" edgewise-agent status --dir small
edgewise-agent chat --dir large "A library for reading PNG images" >answer 2>/dev/null || fail "chat"
check "no answer" test -s answer
say "learnt: small $(json learned.small /plan/chosen/method), large $(json learned.large /plan/chosen/method); answer: $(cat answer)"
# What the plan rejected, the operator sees too.
expect 0 'ram' edgewise plan show small debian-section

# ---- an experiment and its report
cat >grid.yaml <<'YAML'
name: grid
data: {benchmark: debian, group: dev, users: 2}
tasks: [debian-section]
models: [deb-tiny]
variants: [q8_0]
methods: [none, lora, rag]
devices: [large]
settings: {epochs: 2}
YAML
ok edgewise experiment validate grid.yaml --data bench
edgewise experiment run grid.yaml --data bench --out report >table 2>progress || fail "experiment: $(cat progress)"
check "not all trials finished: $(tail -n 1 table)" grep -q '^6 trials finished, 0 failed' table
for file in report.md trials.csv report.html trials.json; do check "no $file" test -s report/$file; done
check "fewer than two plots" test "$(grep -o '<svg' report/report.html | wc -l)" -ge 2
check "the page asks the network for something" test "$(grep -oE '(src|href)="https?:' report/report.html | wc -l)" = 0
check "trials.csv has not one line for each trial" test "$(wc -l <report/trials.csv)" = 7
for word in majority nearest lora rag 95; do check "no '$word' in report.md" grep -q "$word" report/report.md; done
id=$(sed -n 's/^experiment \([0-9a-f]*\):.*/\1/p' progress)
edgewise experiment run grid.yaml --data bench --out again >table2 2>progress2 || fail "the same experiment again"
check "the same experiment ran twice" test "$(edgewise experiment status "$id" --json | grep -c '"id"')" = 1
check "the same experiment has another id" grep -q "$id" progress2
edgewise experiment export "$id" >export.json || fail "export"
check "the export has not 6 trials" test "$(json export.json "")" = "[6]"
say "experiment"

# ---- evidence flips a plan
edgewise evidence export --out evidence.json || fail "evidence export"
n=$(json evidence.json /evidence | tr -d '[]')
check "evidence: $n trials instead of 8" test "$n" = 8
chosen=$(json learned.large /plan/chosen/method)
other=rag
[ "$chosen" = rag ] && other=lora
# Twelve trials of another fleet in which the other method gained much and the chosen one lost.
value() { printf '"%s": {"unit": "1", "values": [%s]}' "$1" "$2"; }
trial() { # trial ID METHOD SCORE BASE
    printf '{"device": "elsewhere", "model_name": "deb-tiny", "n_params": %s, "result": {"code": "EW_OK", "detail": "", "fence": 0, "measures": {%s, %s, %s}, "trial": "%s"}, "spec": {"experiment": "%032d", "fence": 0, "method": "%s", "model": "%s", "n_history": 0, "seed": 1, "source": "profile", "task": "debian-section", "trial": "%s", "variant": "q8_0"}}' \
        "$(json evidence.json /evidence/0/n_params)" "$(value val.score "$3")" "$(value base.val.score "$4")" "$(value n.history 17)" \
        "$1" 0 "$2" "$(json evidence.json /evidence/0/spec/model)" "$1"
}
{
    printf '{"evidence": ['
    for i in $(seq 1 12); do
        [ "$i" = 1 ] || printf ', '
        trial "$(printf 'aaaa%028d' "$i")" "$other" 0.9 0.5
        printf ', '
        trial "$(printf 'bbbb%028d' "$i")" "$chosen" 0.3 0.5
    done
    printf ']}\n'
} >foreign.json
expect 0 '24 trials added, 0 known' edgewise evidence import foreign.json
expect 0 '0 trials added, 24 known' edgewise evidence import foreign.json
edgewise-agent plan --dir large --task debian-section --json >flipped || fail "plan after the import"
check "the plan did not flip: still $(json flipped /chosen/method)" test "$(json flipped /chosen/method)" != "$chosen"
edgewise-agent plan --dir large --task debian-section >flipped.txt
check "no reason names a trial: $(cat flipped.txt)" grep -Eq 'evidence.*(aaaa|bbbb)' flipped.txt
say "evidence flips the plan from $chosen to $(json flipped /chosen/method)"

# ---- the limit binds
if [ -z "$san" ]; then
    cat >over.yaml <<YAML
name: over
data: {benchmark: debian, group: dev, users: 1}
tasks: [debian-section]
models: [deb-tiny]
variants: [q8_0]
methods: [lora]
devices: [small]
YAML
    edgewise experiment run over.yaml --data bench --out over >over.txt 2>&1
    check "a trial over the limit was run: $(cat over.txt)" grep -q '^0 trials finished, 1 failed' over.txt
    check "the failure does not name the memory: $(json over/trials.json /0/detail)" grep -Eiq 'memory|RAM' <(json over/trials.json /0/detail)
    agent_peak=$(peak_kib "${agent[small]}")
    printf 'force: true\n' >>over.yaml
    edgewise experiment run over.yaml --data bench --out forced >forced.txt 2>&1
    check "the forced trial did not run: $(cat forced.txt)" grep -q '^1 trials finished, 0 failed' forced.txt
    forced=$(awk -F, 'NR == 1 {for (i = 1; i <= NF; i++) if ($i == "ram.peak_bytes") c = i} NR == 2 {printf "%d", $c / 1024}' forced/trials.csv)
    say "small: limit $((limit[small] * 1024)) KiB; agent $agent_peak KiB; forced trial $forced KiB"
    check "the forced trial stays within the limit" test $((agent_peak + forced)) -gt $((limit[small] * 1024))
    for device in small large; do
        # The agent at its own peak and its worker at its peak, together: what was learnt under the plan kept the limit.
        worker=$(printf '%.0f' "$(json learned.$device /result/measures/ram.peak_bytes/values/0)")
        agent_peak=$(peak_kib "${agent[$device]}")
        total=$((agent_peak + worker / 1024))
        say "$device: worker $((worker / 1024)) KiB and agent $agent_peak KiB of $((limit[$device] * 1024)) KiB"
        check "$device took $total KiB under a limit of ${limit[$device]} MiB" test "$total" -le $((limit[$device] * 1024))
    done
else
    skip "memory figures: the programs are built with a sanitizer"
fi
ok edgewise fleet show

# ---- revocation cuts at once
ok edgewise device revoke large
before=$(date +%s%N)
until_ 5 "large is cut" logged large 'disconnected'
took=$((($(date +%s%N) - before) / 1000000))
check "the revoked device was cut only after $took ms" test "$took" -lt 5000
check "large is not shown as revoked" grep -q '^large *revoked' <(edgewise-coordinator device list --dir co)
check "large does not say why" logged large 'revoked'
check "the other device was cut too" is_connected small
expect 0 . edgewise-agent chat --dir large "A revoked device still answers its user"
say "revoked, cut after $took ms"

# ---- orderly ends
for process in "${agent[small]}" "${agent[large]}" "$coordinator" "$signer"; do
    stop "$process"
    check "process $process ended with status $?" test $? = 0
done
check "processes are left: $(processes_left)" test -z "$(processes_left)"
say "ok"
