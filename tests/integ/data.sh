#!/bin/bash
# `edgewise data …` on the fixture: build, cache, inspect, split, baselines, bad input. Nothing is fetched.
set -euo pipefail
bin=${EW_BIN_DIR:?}/edgewise
fixture=${EW_SOURCE_DIR:?}/tests/fixtures/debian/x_dists_fixture
[ -x "$bin" ] || exit 77
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
fail() { echo "FAILED: $*" >&2; exit 1; }
# expect STATUS TEXT COMMAND…: the exit status, and TEXT on stderr
expect() {
    local status=$1 text=$2 rc=0
    shift 2
    "$@" >out 2>err || rc=$?
    [ "$rc" = "$status" ] || fail "$*: exit status $rc, expected $status: $(cat err)"
    grep -qF -- "$text" err || fail "$*: no '$text' in: $(cat err)"
}
files=(--packages "${fixture}_main_binary-amd64_Packages" --translation "${fixture}_main_i18n_Translation-en"
       --release "${fixture}_InRelease")

"$bin" data debian --dir bench --heldout none "${files[@]}" >first
digest=$(awk '/^digest/ {print $2}' first)
[ ${#digest} = 64 ] || fail "no digest"
# Cached: no index is needed any more.
"$bin" data debian --dir bench --heldout none >second
cmp first second || fail "the second run says something else"
[ "$("$bin" data debian --dir bench --heldout none --json | grep -o '"digest": *"[0-9a-f]*"' | grep -o '[0-9a-f]\{64\}')" = "$digest" ] ||
    fail "--json has another digest"

"$bin" data info --dir bench | grep -q "$digest"
user=$("$bin" data info --dir bench --users eval | awk '$4 > 1 {print $1}' | grep -E '^[0-9a-f]{16}$' | head -1)
[ -n "$user" ] || fail "no user of the benchmark"
"$bin" data split --dir bench --user "$user" --task debian-synopsis --out parts >/dev/null
[ "$(cat parts/*.jsonl | sort -u | wc -l)" = "$(cat parts/*.jsonl | wc -l)" ] || fail "an item is in two parts"
[ "$(stat -c %a parts/history.jsonl)" = 600 ] || fail "a history others can read"
"$bin" data info parts/history.jsonl | grep -q "^items"
"$bin" data baselines --dir bench --users eval >table
for word in majority nearest first8 accuracy ROUGE-L; do grep -q "$word" table || fail "no $word in the table"; done
"$bin" data baselines --dir bench --users eval | cmp - table || fail "the table differs from run to run"

printf '{"text":"a","label":"x"}\n{"text":"b","label":"y"}\n' >two.jsonl
for i in $(seq 20); do printf '{"text":"item %d red","label":"x"}\n{"text":"item %d blue","label":"y"}\n' "$i" "$i"; done >>two.jsonl
"$bin" data baselines two.jsonl --task custom-classify | grep -q "nearest"

expect 1 "HINT: edgewise data debian" "$bin" data info --dir nowhere
expect 1 "bad.jsonl:2" sh -c 'printf "{\"input\":\"a\",\"output\":\"b\"}\n{\"x\":1}\n" >bad.jsonl; exec "$0" data info bad.jsonl' "$bin"
expect 2 "belong together" "$bin" data debian --dir other --packages x
expect 2 "is not of the benchmark" "$bin" data baselines --dir bench --task nope
expect 1 "no user" "$bin" data split --dir bench --user 0000000000000000
sed -i 's/recipes/r3cipes/' bench/items.jsonl
expect 1 "--rebuild" "$bin" data info --dir bench
echo "data: ok"
