#!/bin/bash
# Helpers of the integration tests: a coordinator, its signer and agents in a temporary directory, on a free port, without network.
# Sourced by the other scripts; run by itself it only says so (exit status 77 = skipped).
#   tmp          the directory; everything is in it, and it is gone in the end, with every process
#   fail TEXT    ends the test           check TEXT COMMAND…   fails unless the command succeeds
#   until_ SECONDS TEXT COMMAND…         polls a condition       json FILE PATH   a value of a JSON document
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    echo "lib.sh is used by the other integration tests"
    exit 77
fi
set -uo pipefail
: "${EW_BIN_DIR:?}" "${EW_SOURCE_DIR:?}"
PATH=$EW_BIN_DIR:$PATH
for program in edgewise edgewise-agent edgewise-coordinator edgewise-signer; do
    [ -x "$EW_BIN_DIR/$program" ] || {
        echo "SKIPPED: $program is not built"
        exit 77
    }
done
name=$(basename "$0" .sh)
tmp=$(mktemp -d "/tmp/ew-$name-XXXXXX")
export XDG_RUNTIME_DIR=$tmp/runtime TMPDIR=$tmp XDG_CACHE_HOME=$tmp/cache HOME=$tmp
mkdir -m 0700 "$XDG_RUNTIME_DIR"
unset EDGEWISE_OPERATOR EW_AGENT_DIR STATE_DIRECTORY CREDENTIALS_DIRECTORY NOTIFY_SOCKET
# A sanitized program needs several times the memory: what is measured there is not ours.
san=""
grep -q __asan_init "$EW_BIN_DIR/edgewise-agent" 2>/dev/null && san=1
[ -z "${EW_EMULATED:-}" ] || san=1 # nor is an emulator's
slow=$((${san:+5} + 1)) # factor for time limits
pids=()                 # of the processes that this script started and that should live
co=$tmp/co
started=$(date +%s)

runtime_of() { # runtime_of DIR: where the agent of DIR works
    echo "/dev/shm/edgewise-$(id -u)-$(printf %s "$1" | sha256sum | cut -c1-16)"
}
cleanup() {
    local status=$? pid
    trap - EXIT
    for pid in "${pids[@]}"; do # who died on its own?
        if [ "$status" != 0 ] && dead "$pid"; then
            wait "$pid" 2>/dev/null
            echo "process $pid ended by itself with status $?"
        fi
    done
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
    if [ -n "$san" ] && grep -El 'ERROR: (Address|Leak|Thread)Sanitizer|runtime error:' "$tmp"/*.log; then
        echo "FAILED: a sanitizer found something"
        status=1
    fi
    if [ "$status" != 0 ] && [ "$status" != 77 ]; then
        for log in "$tmp"/*.log; do
            [ -s "$log" ] && echo "---- ${log##*/}" && tail -n "${EW_LOG_LINES:-25}" "$log"
        done
        [ -z "${EW_KEEP:-}" ] || echo "kept: $tmp"
    fi
    eval "${at_exit:-:}" 2>/dev/null # what a script wants undone
    for dir in "$tmp"/*/; do # agents keep their working files on tmpfs
        rm -rf "$(runtime_of "${dir%/}")"
    done
    [ -n "${EW_KEEP:-}" ] || rm -rf "$tmp"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
cd "$tmp" || exit 1

say() { printf '[%3d s] %s\n' "$(($(date +%s) - started))" "$*"; }
fail() {
    echo "FAILED: $*"
    exit 1
}
check() {
    local text=$1
    shift
    "$@" || fail "$text"
}
skip() {
    echo "SKIPPED: $*"
}

# Waits for a condition, not for a time: until_ SECONDS TEXT COMMAND…
until_() {
    local end=$(($(date +%s) + $1 * slow)) text=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        all_alive
        [ "$(date +%s)" -lt "$end" ] || fail "waited in vain: $text"
        pause 0.05
    done
}
# Processes that should live do: a wait for a dead one would be long.
all_alive() {
    local pid
    for pid in "${pids[@]}"; do
        [ -n "${expect_deaths:-}" ] || ! dead "$pid" || fail "process $pid ended by itself"
    done
}
# A pause of a poll or of fault injection, without a process of its own.
exec {never}<> <(:)
pause() { read -r -t "$1" -u "$never" _ || true; }

# expect STATUS REGEX COMMAND…: the exit status (a pattern such as [01]), and an extended regular expression that its joint output matches. The output is in $out.
expect() {
    local want=$1 pattern=$2 status=0
    shift 2
    if [ "$(type -t "$1")" = function ]; then
        out=$("$@" 2>&1) || status=$?
    else
        out=$(timeout "$((60 * slow))" "$@" 2>&1) || status=$?
    fi
    [[ $status == $want ]] || fail "$*: exit status $status, expected $want: $out"
    grep -Eq -- "$pattern" <<<"$out" || fail "$*: no '$pattern' in: $out"
}
ok() { # ok COMMAND…: must succeed; shows what it said if not
    local said status=0
    said=$(timeout "$((120 * slow))" "$@" 2>&1) || status=$?
    [ "$status" = 0 ] || fail "$*: exit status $status: $said"
}

# A value of a JSON document: json FILE /a/b/0 (a file, or - for standard input). The tests need no other program for it.
json() {
    awk -v path="$2" -f "$EW_SOURCE_DIR/tests/support/json.awk" "$1"
}

# ---- data and a model

# The benchmark from the committed fixture, in $tmp/bench.
make_bench() {
    local fixture=$EW_SOURCE_DIR/tests/fixtures/debian/x_dists_fixture
    ok edgewise data debian --dir bench --heldout none --packages "${fixture}_main_binary-amd64_Packages" \
        --translation "${fixture}_main_i18n_Translation-en" --release "${fixture}_InRelease"
}

# The house model that is shipped: the trials of these tests take about a second with it.
house_model=$EW_SOURCE_DIR/models/deb-tiny.gguf
[ -f "$house_model" ] || {
    echo "SKIPPED: models/deb-tiny.gguf is not here"
    exit 77
}

# Users of the benchmark's group, one hash a line.
users_of() { edgewise data info --dir bench --users "$1" | grep -oE '^[0-9a-f]{16}'; }

# history_of USER TASK OUT: all items of a user as JSON Lines
history_of() {
    ok edgewise data split --dir bench --user "$1" --task "$2" --out "$3.parts"
    cat "$3.parts"/*.jsonl >"$3"
}

# ---- processes

start_signer() {
    edgewise-signer run --dir "$co/signer" >>"$tmp/signer.log" 2>&1 &
    signer=$!
    pids+=("$signer")
    until_ 20 "the signer listens" test -S "$co/signer/signer.sock"
}

# start_coordinator [OPTION…]; the port is free the first time and stays
start_coordinator() {
    rm -f "$tmp/endpoint"
    edgewise-coordinator run --dir "$co" --listen "127.0.0.1:${port:-0}" "$@" >"$tmp/endpoint" 2>>"$tmp/coordinator.log" &
    coordinator=$!
    pids+=("$coordinator")
    until_ 20 "the coordinator listens" test -s "$tmp/endpoint"
    port=$(sed -n '1s/.*://p' "$tmp/endpoint")
}

# make_coordinator [OPTION…]: init and all processes; the operator's bundle is in EDGEWISE_OPERATOR
make_coordinator() {
    ok edgewise-coordinator init "$co"
    start_signer
    start_coordinator "$@"
    export EDGEWISE_OPERATOR=$co/operator
}

enrol() { # enrol NAME: a token and an identity in $tmp/NAME
    local token
    token=$(edgewise-coordinator token create --dir "$co" --device "$1") || fail "no token for $1"
    ok edgewise-agent enrol --dir "$tmp/$1" "$token"
    # For commands that open the agent themselves, with --threads 1.
    [ ! "$EW_BIN_DIR/../test-caps-1.json" -nt "$EW_BIN_DIR/edgewise-agent" ] || cp "$EW_BIN_DIR/../test-caps-1.json" "$tmp/$1/caps.json"
}

# start_agent NAME [OPTION…]: the daemon; its pid is in ${agent[NAME]}. The machine is measured once for each number of threads and build:
# every agent of the tests would find the same.
declare -A agent
start_agent() {
    local who=$1 caps=$tmp/$1/caps.json threads shared
    shift
    threads=$(printf '%s\n' "$@" | grep -A1 -x -e --threads | tail -n 1)
    shared=$EW_BIN_DIR/../test-caps-${threads:-0}.json
    [ -z "${measure:-}" ] || rm -f "$caps"
    [ -f "$caps" ] || [ -n "${measure:-}" ] || [ ! "$shared" -nt "$EW_BIN_DIR/edgewise-agent" ] || cp "$shared" "$caps"
    rm -f "$tmp/$who/agent.sock"
    edgewise-agent run --dir "$tmp/$who" --set backoff-cap-ms=300 "$@" >>"$tmp/$who.log" 2>&1 &
    agent[$who]=$!
    pids+=("$!")
    until_ 60 "the agent $who takes commands" test -S "$tmp/$who/agent.sock"
    [ -n "$threads" ] && cp "$caps" "$shared.$$" && mv "$shared.$$" "$shared"
}
is_connected() { # the coordinator's own view
    edgewise-coordinator device list --dir "$co" | grep -q "^$1 .* connected"
}
logged() { # logged FILE REGEX [TIMES]: so many lines of a log match
    [ "$(grep -Ec -- "$2" "$tmp/$1.log" 2>/dev/null)" -ge "${3:-1}" ]
}
not() { ! "$@"; }
# A process that this shell started: waited for, so that its status is known. stop PID [SIGNAL]
stop() {
    kill -"${2:-TERM}" "$1"
    expect_deaths=1
    until_ 20 "process $1 ends" dead "$1"
    expect_deaths=""
    wait "$1"
    local status=$? left=()
    for pid in "${pids[@]}"; do [ "$pid" = "$1" ] || left+=("$pid"); done
    pids=("${left[@]}")
    return "$status"
} 2>/dev/null # the shell's own words about killed jobs
dead() { # ended, reaped or not
    local state
    state=$(awk '{print $3}' "/proc/$1/stat" 2>/dev/null) || return 0
    [ -z "$state" ] || [ "$state" = Z ]
}
# Processes of these programs that have our directory in their arguments or environment.
processes_left() {
    local p
    for p in /proc/[0-9]*; do
        case $(readlink "$p/exe" 2>/dev/null) in
        "$EW_BIN_DIR"/edgewise*) grep -qsaF "$tmp" "$p/cmdline" "$p/environ" && echo "${p##*/}" ;;
        esac
    done
}
peak_kib() { awk '/^VmHWM/ {print $2}' "/proc/$1/status"; }
