#!/bin/bash
# The signer and the coordinator as two users: the one that listens cannot read the keys, and the fleet's first steps work all the same.
# Needs root and setpriv, to become other users; skipped elsewhere.
set -uo pipefail
: "${EW_BIN_DIR:?}"
PATH=$EW_BIN_DIR:$PATH
[ "$(id -u)" = 0 ] && command -v setpriv >/dev/null || {
    echo "SKIPPED: needs root and setpriv"
    exit 77
}
command -v edgewise-coordinator edgewise-signer edgewise-agent >/dev/null || {
    echo "SKIPPED: the programs are not built"
    exit 77
}
coordinator=64990 signer=64991
tmp=$(mktemp -d /tmp/ew-users-XXXXXX)
chmod 0711 "$tmp"
pids=()
cleanup() {
    local status=$?
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
    [ "$status" = 0 ] || tail -n 20 "$tmp"/*.log
    rm -rf "$tmp"
    exit "$status"
}
trap cleanup EXIT
fail() {
    echo "FAILED: $*" >&2
    exit 1
}
as() { setpriv --reuid="$1" --regid="$1" --clear-groups "${@:2}"; }
# The programs may lie where only root looks: another user runs copies.
mkdir -m 0755 "$tmp/bin"
for program in edgewise-coordinator edgewise-signer; do install -m 0755 "$EW_BIN_DIR/$program" "$tmp/bin/"; done
as $coordinator "$tmp/bin/edgewise-coordinator" --version >/dev/null 2>&1 || {
    echo "SKIPPED: another user cannot run the programs here"
    exit 77
}

edgewise-coordinator init "$tmp/co" --user $coordinator --signer-user $signer 2>/dev/null || fail "init"
for key in ca.key artifact.key; do
    [ "$(stat -c '%a %u' "$tmp/co/signer/$key")" = "600 $signer" ] || fail "$key: $(stat -c '%a %u' "$tmp/co/signer/$key")"
    as $coordinator cat "$tmp/co/signer/$key" >/dev/null 2>&1 && fail "the coordinator's user reads $key"
done
as $signer cat "$tmp/co/tls/server.key" >/dev/null 2>&1 && fail "the signer's user reads the coordinator's key"

mkfifo "$tmp/endpoint"
# With exec, so that the pid is the daemon's own.
(exec setpriv --reuid=$signer --regid=$signer --clear-groups "$tmp/bin/edgewise-signer" run --dir "$tmp/co/signer" \
    --allow-users $coordinator >"$tmp/signer.log" 2>&1) &
pids+=($!)
(exec setpriv --reuid=$coordinator --regid=$coordinator --clear-groups "$tmp/bin/edgewise-coordinator" run \
    --dir "$tmp/co" --listen 127.0.0.1:0 >"$tmp/endpoint" 2>"$tmp/coordinator.log") &
pids+=($!)
read -r -t 60 endpoint <"$tmp/endpoint" || fail "the coordinator does not listen"
echo "listening on $endpoint"
# What the running coordinator could do to the keys, were it taken over: nothing.
for pid in "${pids[@]:1}"; do
    grep -q "$tmp/co/signer" "/proc/$pid/maps" && fail "the coordinator maps the signer's files"
    ls -l "/proc/$pid/fd" | grep -q '\.key' && fail "the coordinator holds a key open"
done
token=$(edgewise-coordinator token create --dir "$tmp/co" --device d1) || fail "token create"
edgewise-agent enrol "$token" --dir "$tmp/agent" || fail "enrol"
edgewise-coordinator device list --dir "$tmp/co" | grep -q '^d1 *active' || fail "the device is not listed"
# A stranger is refused by the signer: an operator's certificate cannot be had over the socket, nor anything by another user.
as 64992 timeout 5 "$tmp/bin/edgewise-coordinator" run --dir "$tmp/co" --listen 127.0.0.1:0 >/dev/null 2>&1 && fail "a stranger runs it"
edgewise-coordinator token create --dir "$tmp/co" --ttl 25h >/dev/null 2>&1
[ $? = 2 ] || fail "a token of 25 hours is a usage error"
echo ok
