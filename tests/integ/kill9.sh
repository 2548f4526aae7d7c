#!/bin/bash
# ctest: SERIAL TIMEOUT=600
# kill -9 of the coordinator, the signer or an agent (started again at once) at EW_KILLS seeded moments of an experiment: in the end every trial is
# there once, none twice, none lost. EW_SEED chooses the moments and the victims (default 1). The long form: EW_KILLS=500 EW_SEED=7 tests/integ/kill9.sh
. "$(dirname "$0")/lib.sh"
kills=${EW_KILLS:-${san:+15}}
kills=${kills:-50}
RANDOM=${EW_SEED:-1}

make_bench
make_coordinator --set trial-lease=5s
ok edgewise model import "$house_model" --name deb-tiny --variants q8_0,q4_0
for device in one two; do
    enrol $device
    start_agent $device --threads 1
done

# So many trials that some are under way at every kill: a seed of lora is about half a second of work.
cat >grid.yaml <<YAML
name: grid
data: {benchmark: debian, group: dev, users: 2}
tasks: [debian-section]
models: [deb-tiny]
variants: [q8_0, q4_0]
methods: [none, lora, rag]
history: [8, all]
devices: [all]
seeds: [$(seq -s ', ' 1 $((kills / 50 + 1)))]
settings: {epochs: 4}
YAML
id=$(edgewise experiment run grid.yaml --data bench --detach 2>submitted) || fail "submitting: $(cat submitted)"
n=$(sed -n 's/^experiment .*: \([0-9]*\) trials$/\1/p' submitted)
say "experiment $id: $n trials, $kills kills"
# A command that waits for the end lives through it all.
edgewise experiment run grid.yaml --data bench --out waited >waited.txt 2>waited.log &
waiting=$!

# count STATE: trials of the experiment
count() { edgewise experiment status "$id" --json 2>/dev/null | tr -d ' ",' | sed -n "s/^$1://p"; }
finished() { [ "$(count done)" = "$n" ]; }

expect_deaths=1
victims=(coordinator coordinator signer one two)
declare -A killed
for ((i = 1; i <= kills; i++)); do
    victim=${victims[RANDOM % 5]}
    pause "0.$(printf %03d $((RANDOM % 600)))"
    killed[$victim]=$((${killed[$victim]:-0} + 1))
    case $victim in
    coordinator)
        stop "$coordinator" KILL
        start_coordinator --set trial-lease=5s
        ;;
    signer)
        stop "$signer" KILL
        rm -f "$co/signer/signer.sock" # so that the wait is for the new one
        start_signer
        ;;
    *)
        stop "${agent[$victim]}" KILL
        start_agent $victim --threads 1
        ;;
    esac
    [ $((i % 10)) != 0 ] || say "$i kills, $(count done) of $n trials done, $(count failed) failed"
done
say "killed: coordinator ${killed[coordinator]:-0}, signer ${killed[signer]:-0}, agents $((${killed[one]:-0} + ${killed[two]:-0})) times"
until_ 120 "all trials are done (done $(count done), failed $(count failed), running $(count running), queued $(count queued) of $n)" finished
wait "$waiting" || fail "the command that waits ended with status $?: $(tail -n 3 waited.log)"
check "the waiting command's report: $(tail -n 1 waited.txt)" grep -q "^$n trials finished, 0 failed" waited.txt
say "all done"

# ---- each once
edgewise experiment export "$id" >export.json || fail "export"
check "the export has $(json export.json "") trials" test "$(json export.json "")" = "[$n]"
check "a trial is not done: $(grep -c '"state": "done"' export.json) of $n" test "$(grep -c '"state": "done"' export.json)" = "$n"
grep -o '"trial": "[0-9a-f]*"' export.json | sort >ids
check "a trial is there twice" test -z "$(uniq -d ids)"
check "a trial has no score" test "$(grep -c '"val.score"' export.json)" -ge "$n"
edgewise evidence export --out evidence.json || fail "evidence export"
check "evidence for $(json evidence.json /evidence) trials instead of $n" test "$(json evidence.json /evidence)" = "[$n]"
check "evidence is there twice" test -z "$(tr -d ' \n' <evidence.json | grep -o '"spec":{[^}]*}[^}]*"trial":"[0-9a-f]*"' | grep -o '"trial":"[0-9a-f]*"' | sort | uniq -d)"
# The coordinator took no result twice, over all its lives.
taken=$(sed -n 's/.*trial-result trial=\([0-9a-f]*\) .*first=1.*/\1/p' coordinator.log | sort | uniq -d)
check "results that were taken twice: $taken" test -z "$taken"
for device in one two; do
    edgewise-agent status --dir $device --json >status.$device || fail "status of $device"
    check "$device still holds trials" test "$(json status.$device /trials_waiting) $(json status.$device /results_waiting)" = "0 0"
done
ok edgewise-agent status --dir one
ok edgewise experiment run grid.yaml --data bench --out report
check "running the file again ran trials again" test "$(json evidence.json /evidence)" = "[$n]"
for process in "${agent[one]}" "${agent[two]}" "$coordinator" "$signer"; do
    stop "$process"
    check "process $process ended with status $?" test $? = 0
done
check "processes are left: $(processes_left)" test -z "$(processes_left)"
say "ok"
