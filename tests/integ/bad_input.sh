#!/bin/bash
# ctest: TIMEOUT=300
# Bad input of every kind: a clear error and the right exit status for each, nothing lost, no crash, and the coordinator serves a good device all the while.
. "$(dirname "$0")/lib.sh"
make_bench
make_coordinator --set trial-lease=5s
ok edgewise model import "$house_model" --name deb-tiny --variants q8_0
enrol good
history_of "$(users_of test | sed -n 1p)" debian-section me.jsonl
ok edgewise-agent data import --dir good me.jsonl
start_agent good --threads 1
until_ 20 "good is connected" is_connected good
serves() { # the coordinator still serves a good device, in the same session
    ok edgewise-agent plan --dir good --task debian-section
    check "good was cut: $(grep -c 'info agent: connected' good.log) connects" logged good 'info agent: connected'
    check "the coordinator ended" not dead "$coordinator"
}
new_token() { edgewise-coordinator token create --dir "$co" "$@" || fail "no token"; }

# ---- models: truncated, bit-flipped, no model at all
size=$(wc -c <"$house_model")
for cut in 3 100 5000 $((size / 2)) $((size - 1)); do
    head -c "$cut" "$house_model" >cut.gguf
    expect 1 'cut.gguf' edgewise model info cut.gguf
    expect 1 'cut.gguf' edgewise model import cut.gguf --name cut --variants q8_0
done
flipped=0
for at in 0 4 8 9 16 24 40 200 1000; do
    cp "$house_model" flip.gguf
    printf '\377' | dd of=flip.gguf bs=1 seek=$at conv=notrunc status=none
    if out=$(edgewise model generate flip.gguf "A library" -n 2 2>&1); then
        continue # a changed letter of a name or a number that is still possible
    else
        status=$?
        check "byte $at changed: status $status: $out" test $status = 1
        flipped=$((flipped + 1))
    fi
done
check "only $flipped of 9 changed bytes were noticed" test "$flipped" -ge 4
head -c 100000 /dev/urandom >noise.gguf
expect 1 'noise.gguf' edgewise model import noise.gguf --name noise
expect 1 'nothing.gguf' edgewise model import nothing.gguf --name nothing
mkdir empty
expect 1 'config.json' edgewise model import empty --name empty
check "a broken model was published" test "$(edgewise model list | grep -c q8_0)" = 1
# A model that changes on the coordinator's disk: the device refuses it, and says so.
enrol flipped
ok edgewise-agent data import --dir flipped me.jsonl
stored=$(find co/artifacts -type f | head -n 1)
chmod u+w "$stored"
cp "$stored" stored.good
printf '\125\252\125' | dd of="$stored" bs=1 seek=$(($(wc -c <"$stored") / 2)) conv=notrunc status=none
expect 1 'segment|hash|damaged|corrupt|differ|wrong' edgewise-agent learn --dir flipped --threads 1 --task debian-section
check "a damaged model was kept" test -z "$(find flipped/artifacts -name '*.gguf')"
cp stored.good "$stored"
ok edgewise-agent learn --dir flipped --threads 1 --task debian-section
# The same on the device's own disk.
mine=$(find flipped/artifacts -name '*.gguf')
cp "$mine" mine.good
head -c 1000 mine.good >"$mine"
expect 1 'gguf' edgewise-agent chat --dir flipped --threads 1 "hello there"
cp mine.good "$mine"
expect 0 . edgewise-agent chat --dir flipped --threads 1 "hello there"
say "models"
serves

# ---- tokens
token=$(new_token)
expect 2 'token' edgewise-agent enrol --dir x1 "not-a-token"
case $token in *A) last=B ;; *) last=A ;; esac
expect 2 'token' edgewise-agent enrol --dir x1 "${token%?}$last"
middle=$((${#token} / 2))
case ${token:middle:1} in A) other=B ;; *) other=A ;; esac
expect 2 'token' edgewise-agent enrol --dir x1 "${token:0:middle}$other${token:middle+1}"
expect 2 'token' edgewise-agent enrol --dir x1 "${token:0:40}"
ok edgewise-agent enrol --dir x2 "$token" # mistyped ones did not use it up
expect 1 'used' edgewise-agent enrol --dir x3 "$token"
expect 1 'enrolled already' edgewise-agent enrol --dir x2 "$(new_token)"
short=$(new_token --ttl 1s)
expired() { edgewise-agent enrol --dir x4 "$short" 2>&1 | grep -q expired; }
bound=$(new_token --hardware-id serial-7)
expect 1 'another machine' edgewise-agent enrol --dir x5 "$bound" --hardware-id serial-8
ok edgewise-agent enrol --dir x5 "$bound" --hardware-id serial-7
expect 2 'ttl' edgewise-coordinator token create --dir co --ttl 48h
pause 1.1 # the token's whole life
expect 1 'expired' edgewise-agent enrol --dir x4 "$short"
check "a refused device has an identity" test ! -e x3/identity.pem -a ! -e x4/identity.pem
say "tokens"
serves

# ---- an impostor: another coordinator, with another CA, on the same address
token=$(new_token)
stop "$coordinator"
ok edgewise-coordinator init other
edgewise-signer run --dir other/signer >other-signer.log 2>&1 &
pids+=($!)
until_ 20 "the impostor's signer listens" test -S other/signer/signer.sock
edgewise-coordinator run --dir other --listen "127.0.0.1:$port" >other-endpoint 2>other.log &
impostor=$!
pids+=("$impostor")
until_ 20 "the impostor listens" test -s other-endpoint
expect 1 'certificate|CA|coordinator' edgewise-agent enrol --dir x6 "$token"
check "the impostor saw an enrolment" not logged other 'enrolled'
check "the impostor saw the good device" not logged other 'up role=device'
until_ 20 "good notices the impostor" logged good 'connect-failed.*(certificate|verify)'
expect 1 'certificate|CA|denied|coordinator' edgewise model list
stop "$impostor"
start_coordinator --set trial-lease=5s
until_ 20 "good is connected again" is_connected good
ok edgewise-agent enrol --dir x6 "$token" # nothing of it was given away or used up
say "impostor"

# ---- a revoked device
enrol bad
ok edgewise-agent data import --dir bad me.jsonl
ok edgewise device revoke bad
expect 3 'revoked' edgewise-agent plan --dir bad --threads 1 --task debian-section
expect 1 'no device|not|unknown' edgewise device revoke nobody
say "revoked"
serves

# ---- files that people write
printf 'name: t\ndata: {benchmark: debian}\ntasks: [debian-section]\nmodells: [deb-tiny]\n' >typo.yaml
expect 2 'typo.yaml:4.*modells' edgewise experiment run typo.yaml --data bench
printf 'name: t\n  - : [\n' >broken.yaml
expect 2 'broken.yaml' edgewise experiment run broken.yaml --data bench
sed 's/^modells.*/models: [nothing]\nvariants: [q8_0]\nmethods: [lora]/' typo.yaml >unknown.yaml
expect 1 'nothing' edgewise experiment run unknown.yaml --data bench
sed 's/^modells.*/models: [deb-tiny]\nvariants: [q8_0]\nmethods: [magic]/' typo.yaml >method.yaml
expect 2 'magic' edgewise experiment run method.yaml --data bench
expect 1 'absent.yaml' edgewise experiment run absent.yaml
expect 2 'memory-limitt' edgewise-agent run --dir good --set memory-limitt=3M
printf 'threads: 1\nmemory-limt: 3M\n' >agent.yaml
expect 2 'agent.yaml:2.*memory-limt' edgewise-agent run --dir good --config agent.yaml
printf 'drain: never\n' >co.yaml
expect 2 'drain' edgewise-coordinator run --dir co --config co.yaml
printf '{"input": "a", "output": "b"}\n{"input": "a", "output": \n' >bad.jsonl
before=$(edgewise-agent data export --dir good | wc -l)
expect 1 'bad.jsonl:2' edgewise-agent data import --dir good bad.jsonl
printf '{"input": "a", "output": "b"}\n{"inputs": "a"}\n' >bad.jsonl
expect 1 'bad.jsonl:2' edgewise-agent data import --dir good bad.jsonl
printf '{"input": "a", "output": "b\377"}\n' >bad.jsonl
expect 1 'bad.jsonl:1' edgewise-agent data import --dir good bad.jsonl
check "half of a bad file was taken in" test "$(edgewise-agent data export --dir good | wc -l)" = "$before"
printf '{"evidence": [{"spec": {}}]}' >bad.json
expect '[12]' 'evidence' edgewise evidence import bad.json
say "files"

# ---- profiles: empty, and an item longer than the model's context
enrol hollow
expect 1 'HINT: edgewise-agent data import' edgewise-agent learn --dir hollow --threads 1 --task debian-section
: >none.jsonl
expect 2 'holds no record' edgewise-agent data import --dir hollow none.jsonl
long=$(printf 'word%.0s ' $(seq 4000))
{
    cat me.jsonl
    printf '{"input": "%s", "output": "devel"}\n' "$long"
} >long.jsonl
ok edgewise-agent data import --dir hollow long.jsonl
ok edgewise-agent learn --dir hollow --threads 1 --task debian-section
expect '[01]' . edgewise-agent chat --dir hollow --threads 1 "$long"
expect 1 'context' edgewise-agent chat --dir hollow --threads 1 --raw --plain "$long"
say "profiles"
serves

# ---- the port: garbage, HTTP, TLS without and with a wrong certificate, frames that are too long
tcp() { # sends standard input, waits for the end (the coordinator closes)
    exec {sock}<>"/dev/tcp/127.0.0.1/$port" || return 1
    cat >&"$sock" 2>/dev/null
    timeout 15 cat <&"$sock" >reply 2>/dev/null
    local status=$?
    exec {sock}>&-
    return $status
}
printf 'GET / HTTP/1.1\r\nHost: x\r\n\r\n' | tcp
check "an HTTP request is kept" test $? != 124
head -c 40000 /dev/urandom | tcp
check "noise is kept" test $? != 124
printf '\026\003\001\377\377\001\000' | tcp
check "a ClientHello without an end is kept" test $? != 124
for i in $(seq 30); do head -c $((RANDOM % 500 + 1)) /dev/urandom >"/dev/tcp/127.0.0.1/$port"; done 2>/dev/null
tls() { timeout 20 openssl s_client -connect "127.0.0.1:$port" -servername edgewise-coordinator -CAfile co/tls/ca.pem "$@" <&"$never" 2>&1; }
check "a device without a certificate got in" grep -Eq 'alert|handshake failure|required|closed|errno' <(tls -alpn edgewise/1 -tls1_3)
check "TLS 1.2 is spoken" grep -Eq 'protocol version|alert|wrong version' <(tls -alpn edgewise/1 -tls1_2)
check "a foreign protocol is spoken" grep -Eq 'no application protocol|alert' <(tls -alpn h2 -tls1_3)
check "an impostor's device got in" grep -Eq 'alert|unknown ca|errno|closed' <(tls -alpn edgewise/1 -tls1_3 -cert other/operator/identity.pem -key other/operator/identity.pem)
# Behind a good certificate: a frame longer than allowed, a wrong version, an envelope longer than the frame, noise.
ok edgewise-agent enrol --dir frames "$(new_token --device frames)"
mkfifo sent
exec {to}<>sent # stays open: it is the coordinator that ends the connection
frame() { # frame BYTES: what comes back; status 124: the connection was kept
    printf "$1" >&"$to"
    timeout 10 openssl s_client -quiet -connect "127.0.0.1:$port" -servername edgewise-coordinator -alpn edgewise/1 -tls1_3 \
        -cert frames/identity.pem -key frames/identity.pem -CAfile frames/ca.pem <sent 2>/dev/null
}
for bytes in '\377\377\377\377\001\000\000\004abcd' '\000\000\000\010\002\000\000\004abcd' '\000\000\000\010\001\377\377\377abcd' '\000\000\000\004\001\000\000\004\377\377\377\377' 'GET / HTTP/1.1\r\n\r\n' '\000\000\000\000\001\000\000\000'; do
    frame "$bytes" >reply
    status=$?
    check "the connection is kept after the frame $bytes" test $status != 124
done
serves
say "port"

# ---- a full disk: the database's own limit, and a small file system where that can be made
stop "$coordinator"
start_coordinator --set trial-lease=5s --set "database-limit=$(($(wc -c <co/coordinator.db) / 4096 * 4 + 40))K"
until_ 20 "good is connected again" is_connected good
full=0
for i in $(seq 3000); do
    said=$(edgewise-coordinator token create --dir co 2>&1) || {
        full=$?
        [ "$full" = 3 ] || break # 3: more connections in a second than one address may make
        full=0
    }
done
check "the database never was full" test "$full" != 0
check "a full database: status $full: $said" grep -Eiq 'full|space|limit' <<<"$said"
check "a full database ended the coordinator" not dead "$coordinator"
until_ 20 "the coordinator answers" edgewise-coordinator device list --dir co
stop "$coordinator" || fail "a full database: the coordinator ended with status $?"
start_coordinator --set trial-lease=5s
until_ 20 "good is connected again" is_connected good
new_token >/dev/null
serves
if [ "$(id -u)" = 0 ] && mkdir -p disk && mount -t tmpfs -o size=8m tmpfs disk 2>/dev/null; then
    at_exit='umount "$tmp/disk"; rm -rf "$(runtime_of "$tmp/disk/dev")"'
    ok edgewise-agent enrol --dir disk/dev "$(new_token)"
    ok edgewise-agent data import --dir disk/dev me.jsonl
    cp good/caps.json disk/dev/
    ok edgewise-agent plan --dir disk/dev --threads 1 --task debian-section
    dd if=/dev/zero of=disk/filler bs=1k count=$(($(df -k --output=avail disk | tail -n 1) - 1000)) status=none
    expect 1 'of disk, .* is free' edgewise-agent plan --dir disk/dev --threads 1 --task debian-section # a plan heeds it
    expect 1 'No space|full' edgewise-agent learn --dir disk/dev --threads 1 --task debian-section --last-plan
    check "the profile is lost" test "$(edgewise-agent data export --dir disk/dev | wc -l)" = "$(wc -l <me.jsonl)"
    rm disk/filler
    ok edgewise-agent learn --dir disk/dev --threads 1 --task debian-section --last-plan
    umount disk
else
    skip "full disk of a device: no small file system can be mounted here"
fi
say "full disk"

# ---- and after all that
serves
for process in "${agent[good]}" "$coordinator" "$signer"; do
    stop "$process"
    check "process $process ended with status $?" test $? = 0
done
say "ok"
