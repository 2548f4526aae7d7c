#!/bin/bash
# LaMP's files through the command: histories, tuning on one, predictions of the house model, scores, bad input. The texts are made here.
set -euo pipefail
bin=${EW_BIN_DIR:?}/edgewise
model=${EW_SOURCE_DIR:?}/models/deb-tiny.gguf
[ -x "$bin" ] && [ -f "$model" ] || exit 77
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

# Time-based: users 7 and ../x, the second with two questions.
cat >q3.json <<'JSON'
[
{"id": "310", "user_id": 7, "input": "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without further explanation. review: a good library", "profile": [
  {"id": "1", "text": "a bad tool", "score": "1", "date": "2012-05-01"}, {"id": "2", "text": "a good library for graphs", "score": 5, "date": "2011-01-30"},
  {"id": "3", "text": "works", "score": "4", "date": "2013-02-01"}, {"id": "4", "text": "  ", "score": "4", "date": "2013-03-01"}, {"id": "5", "text": "slow but \"right\"", "score": "3", "date": "2010-02-01"},
  {"id": "6", "text": "fine fonts", "score": "4", "date": "2010-03-01"}]},
{"id": "311", "user_id": "../x", "input": "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without further explanation. review: it broke", "profile": [
  {"id": "1", "text": "never again", "score": "1", "date": "2012-05-01"}]},
{"id": "312", "user_id": "../x", "input": "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without further explanation. review: it holds", "profile": [
  {"id": "1", "text": "never again", "score": "1", "date": "2012-05-01"}]}
]
JSON
echo '{"task": "LaMP_3", "golds": [{"id": "310", "output": "5"}, {"id": "311", "output": "1"}, {"id": "312", "output": "4"}]}' >o3.json
cat >q4.json <<'JSON'
[{"id": "40", "input": "Generate a headline for the following article: parser library for trees", "profile": [
  {"id": "400", "text": "a library of trees and graphs", "title": "graph library"}, {"id": "401", "text": "fonts for screens", "title": "screen fonts"}]}]
JSON

"$bin" data lamp q3.json --outputs o3.json --out all >text
grep -q "lamp-3, product rating" text && grep -q "^users *2" text || fail "data lamp says: $(cat text)"
[ "$(wc -l <all/history.jsonl)" = 6 ] && [ "$(wc -l <all/test.jsonl)" = 3 ] || fail "not 6 items and 3 questions"
head -1 all/history.jsonl | grep -q '"user":"7","order":0,.*review: slow but' || fail "not in the order of dates: $(head -1 all/history.jsonl)"
"$bin" data info all/history.jsonl | grep -q "^items *6"
"$bin" data lamp q3.json --outputs o3.json --out users --by-user --json | grep -q '"users":2,"items":6,"questions":3,"test":3' || fail "--json"
[ "$(find users -type d | wc -l)" = 3 ] && [ -f users/7/history.jsonl ] || fail "no directory a user: $(find users)"
[ ! -e x ] && [ ! -e ../x ] || fail "a user's name led out of the directory"
[ "$(cat users/user.*/test.jsonl | wc -l)" = 2 ] || fail "the second user's questions"
"$bin" data lamp q3.json --out few --users 1 --json | grep -q '"users":1,"items":5,"questions":3,"test":0,"left_out":2' || fail "--users"

# Learn on one user, answer with what was learned.
"$bin" train tune --model "$model" --task lamp-3 --data users/7/history.jsonl --out adapter --max-steps 2 --seq-max 128 >/dev/null 2>&1 ||
    fail "no tuning on a LaMP history"
for how in none bm25 recency fused vectors; do
    "$bin" lamp predict "$model" q3.json --retrieve "$how" -k 2 --out "p-$how.json" --adapter adapter 2>err >said || fail "predict $how: $(cat err)"
    "$bin" lamp score o3.json "p-$how.json" >score || fail "score $how"
    grep -q "^MAE" score && grep -q "^RMSE" score || fail "no MAE"
done
grep -q "2 of them\|3 of them" said || fail "no personal prompt: $(cat said)"
"$bin" lamp predict "$model" q3.json --retrieve bm25 -k 2 --out again.json --adapter adapter >/dev/null && cmp again.json p-bm25.json || fail "not the same answers twice"
"$bin" lamp predict "$model" q3.json --limit 1 --outputs o3.json --out one.json --json | grep -q '"task":"lamp-3","n":1,"mae":' || fail "--outputs"
"$bin" lamp predict "$model" q4.json --out p4.json >/dev/null
grep -q '"task": "LaMP_4"' p4.json && grep -q '"id": "40"' p4.json || fail "p4.json: $(cat p4.json)"
sed 's/"output": ".*"/"output": "graph library"/' p4.json >g4.json
"$bin" lamp score g4.json g4.json --json | grep -q '"rouge1":1.000000,"rougeL":1.000000' || fail "a perfect answer"
"$bin" lamp score o3.json o3.json | grep -q "^MAE *0.000" || fail "perfect ratings"

expect 1 "not the outputs" "$bin" data lamp o3.json --task 3 --out x1
expect 2 "--task 'lamp-9'" "$bin" data lamp q3.json --task lamp-9 --out x2
expect 1 "'abstract' is missing" "$bin" data lamp q4.json --task lamp-5 --out x3
expect 2 "none of LaMP's tasks" sh -c 'echo "[{\"input\":\"hi\"}]" >odd.json; exec "$0" data lamp odd.json --out x4' "$bin"
expect 1 "is not complete: the file is cut off" sh -c 'head -c 1200 q3.json >cut.json; exec "$0" data lamp cut.json --out x5' "$bin"
[ ! -e x5/history.jsonl ] || fail "a file cut off left a history"
expect 2 "LaMP_4" "$bin" lamp score o3.json p4.json
expect 2 "no prediction for the id '311'" "$bin" lamp score o3.json one.json
expect 2 "--retrieve 'best'" "$bin" lamp predict "$model" q3.json --retrieve best --out x6.json
expect 2 "--out" "$bin" lamp predict "$model" q3.json
expect 2 "the date May 2012" sh -c 'sed "s/2012-05-01/May 2012/" q3.json >dates.json; exec "$0" data lamp dates.json --out x7' "$bin"
echo "lamp: ok"
