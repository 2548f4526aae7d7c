#!/bin/bash
# ctest: TIMEOUT=120
# The shortest whole thing: a coordinator, a device that enrols over TLS, connects, learns and answers, orderly ends. Where EW_OTHER_BIN_DIR names
# programs built for another processor, coordinator and signer are those: both ends of the wire need not be of one kind.
. "$(dirname "$0")/lib.sh"
make_bench
other=${EW_OTHER_BIN_DIR:-}
if [ -n "$other" ]; then
    mkdir "$tmp/bin"
    for program in edgewise-coordinator edgewise-signer; do
        [ -x "$other/$program" ] || fail "EW_OTHER_BIN_DIR=$other has no $program"
        ln -s "$other/$program" "$tmp/bin/"
    done
    PATH=$tmp/bin:$PATH
fi
make_coordinator
ok edgewise model import "$house_model" --name deb-tiny --variants q8_0
say "coordinator${other:+ of $other}"
history_of "$(users_of test | sed -n 1p)" debian-section me.jsonl
if [ -n "${EW_EMULATED:-}" ]; then # a step of training takes seconds there
    head -n 6 me.jsonl >few.jsonl
    mv few.jsonl me.jsonl
fi
enrol device
ok edgewise-agent data import --dir device me.jsonl
start_agent device --threads 1
until_ 20 "the device is connected" is_connected device
say "enrolled and connected"
edgewise-agent learn --dir device --task debian-section --json >learned || fail "learning"
edgewise-agent chat --dir device "A library for reading PNG images" >answer 2>/dev/null || fail "chat"
check "no answer" test -s answer
say "learnt by $(json learned /plan/chosen/method); answer: $(cat answer)"
for process in "${agent[device]}" "$coordinator" "$signer"; do
    stop "$process"
    check "process $process ended with status $?" test $? = 0
done
say "ok"
