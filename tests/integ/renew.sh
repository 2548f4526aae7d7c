#!/bin/bash
# ctest: TIMEOUT=300
# A device with a 30-second certificate lives through its renewals and reconnects with what it renewed. Then its machine "reboots" with the coordinator
# gone: it starts, answers, and learns by the last plan; what it learnt is told once the coordinator is back.
. "$(dirname "$0")/lib.sh"
make_bench
make_coordinator --set device-cert=30s
ok edgewise model import "$house_model" --name deb-tiny --variants q8_0
enrol dev
serial() { openssl x509 -in dev/identity.pem -noout -serial; }
first=$(serial) # before the agent runs: it renews when it likes
cp dev/identity.pem first.pem
history_of "$(users_of test | sed -n 1p)" debian-section me.jsonl
ok edgewise-agent data import --dir dev me.jsonl
start_agent dev --threads 1
until_ 20 "dev is connected" is_connected dev
check "the first certificate has more than 30 seconds left" not openssl x509 -in first.pem -noout -checkend 31 >out.txt
ok edgewise-agent learn --dir dev --task debian-section

# Renewed at half its life, so twice in about 30 seconds; the session goes on.
until_ 30 "the first renewal" logged dev 'renewed certificate until' 1
second=$(serial)
check "the certificate is the old one" test "$first" != "$second"
until_ 30 "the second renewal" logged dev 'renewed certificate until' 2
check "the certificate was not renewed twice" test "$(serial)" != "$second"
check "the key can be read by others" test "$(stat -c %a dev/identity.pem)" = 600
n=$(grep -c device-certificate signer.log)
check "$n certificates for two renewals" test "$n" -le 4
say "renewed twice"

# The certificate with which the session began is over; the session is not.
until_ 30 "the first certificate expires" not openssl x509 -in first.pem -noout -checkend 0
check "dev is cut" is_connected dev
ok edgewise-agent plan --dir dev --task debian-section
say "the first certificate has expired, the session goes on"

# It reconnects with the new one.
n=$(grep -c 'info agent: connected' dev.log)
stop "$coordinator"
start_coordinator --set device-cert=30s
until_ 20 "dev is connected again" logged dev 'info agent: connected' $((n + 1))
until_ 5 "the coordinator sees it" is_connected dev
say "reconnected with the renewed certificate"

# ---- the machine reboots, the coordinator is gone
stop "${agent[dev]}" || fail "the agent ended with status $?"
stop "$coordinator"
stop "$signer"
rm -rf "$(runtime_of "$tmp/dev")" # tmpfs is empty after a reboot
start_agent dev --threads 1
expect 0 'serving +deb-tiny' edgewise-agent status --dir dev
edgewise-agent chat --dir dev "A library for reading PNG images" >answer 2>/dev/null || fail "no answer without the coordinator"
check "an empty answer" test -s answer
edgewise-agent learn --dir dev --task debian-section --last-plan --seed 2 >learnt 2>&1 || fail "learning without the coordinator: $(cat learnt)"
check "nothing was learnt: $(cat learnt)" grep -q 'validation answer NLL' learnt
check "results wait for the coordinator" test "$(json <(edgewise-agent status --dir dev --json) /results_waiting)" -ge 1
# Without --last-plan the last plan is taken when nobody answers.
expect 0 'validation answer NLL' edgewise-agent learn --dir dev --task debian-section --seed 3
expect 3 'no plan for debian-synopsis yet, and the coordinator cannot be reached' edgewise-agent plan --dir dev --task debian-synopsis
say "works with the coordinator gone"

start_signer
start_coordinator
sent() { [ "$(json <(edgewise-agent status --dir dev --json) /results_waiting)" = 0 ]; }
until_ 40 "the results are told" sent
say "ok"
