#!/usr/bin/env bash
# What happens on a full disk, in a folder that cannot be written, and when the clock goes backwards:
# a clear message, nothing finished is lost, and the next run comes to the same bytes.
#
#   scripts/fault_test.sh
#
# Needs `unshare` (util-linux) and the right to make namespaces; `faketime` for the clock. What cannot be
# tried is named and skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" != inside ]; then
    cargo build --release --quiet -p unroll
    if ! unshare --user --map-root-user --mount mount -t tmpfs tmpfs /mnt 2>/dev/null; then
        echo "SKIPPED: no namespaces for users here, so no small disk can be made"
        exit 0
    fi
    exec unshare --user --map-root-user --mount "scripts/$(basename "$0")" inside
fi

unroll=${CARGO_TARGET_DIR:-$PWD/target}/release/unroll
work=$(mktemp -d)
disk=$work/disk
trap 'umount "$disk" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$disk"
cat > "$work/sweep.toml" <<'TOML'
name = "faults"
question = "Does a sweep survive a bad disk?"

[axes]
task = ["adding"]
length = [8]
arch = ["gru", "lstm"]
seed = [0, 1, 2, 3, 4, 5]

[model]
hidden_size = 8

[train]
steps = 1500
eval_every = 100
batch_size = 8

[task.adding]
eval_examples = 50
TOML

fail() { echo "FAILED: $*" >&2; exit 1; }
run() { "$unroll" run "$work/sweep.toml" --threads 1 "$@"; }
records() { find "$1/trials" -name '[0-9a-f]*.json' 2>/dev/null | wc -l; }
same() {
    for table in trials curves gradients lengths; do
        cmp "$work/whole/tables/$table.csv" "$1/tables/$table.csv" || fail "$table differs"
    done
}
# Runs a command that must end with the code and say the words.
expect() {
    local code=$1 words=$2 got=0
    shift 2
    "$@" >"$work/said" 2>&1 || got=$?
    [ "$got" = "$code" ] || { cat "$work/said"; fail "exit code $got instead of $code: $*"; }
    tr -s ' \n│' ' ' <"$work/said" | grep -qiF "$words" || { cat "$work/said"; fail "it does not say: $words"; }
}

run --out "$work/whole" >/dev/null 2>&1

echo "== the disk fills up while trials run"
mount -t tmpfs -o size=12M tmpfs "$disk"
run --out "$disk/out" >"$work/said" 2>&1 &
pid=$!
while kill -0 "$pid" 2>/dev/null && [ "$(records "$disk/out")" -lt 2 ]; do sleep 0.02; done
cat /dev/zero >"$disk/ballast" 2>/dev/null || true
code=0
wait "$pid" || code=$?
[ "$code" = 1 ] || { cat "$work/said"; fail "exit code $code on a full disk"; }
tr -s ' \n│' ' ' <"$work/said" | grep -qi "no space left" || { cat "$work/said"; fail "it does not say why"; }
kept=$(records "$disk/out")
ended=$(cat "$disk"/out/events/*.jsonl | grep -ac trial_ended || true)
[ "$kept" -ge "$ended" ] && [ "$kept" -ge 3 ] || fail "$kept records of $ended ended trials"
"$unroll" verify "$disk/out" | grep -q PROBLEM && fail "something is damaged"
expect 1 "No space left" run --out "$disk/out"
[ "$(records "$disk/out")" = "$kept" ] || fail "a record is gone"
rm "$disk/ballast"
run --out "$disk/out" >/dev/null 2>&1
same "$disk/out"
echo "   $kept of 12 trials were kept on the full disk; after making room the tables are the same"
umount "$disk"

echo "== the disk is too small to begin with"
mount -t tmpfs -o size=256k tmpfs "$disk"
expect 1 "No space left" run --out "$disk/out"
umount "$disk"

echo "== the disk has room for trials and not for plots"
mount -t tmpfs -o size=12M tmpfs "$disk"
run --out "$disk/out" --shard 1/2 >/dev/null 2>&1
rm -r "$disk/out/plots" "$disk/out/tables"
cat /dev/zero >"$disk/ballast" 2>/dev/null || true
expect 2 "every trial is saved" "$unroll" report "$disk/out"
rm "$disk/ballast"
"$unroll" report "$disk/out" >/dev/null || [ $? = 7 ]

echo "== the folder cannot be written"
run --out "$disk/out" >/dev/null 2>&1
mount -o remount,ro "$disk"
before=$(find "$disk" -type f -exec sha256sum {} + | sort)
expect 1 "Read-only" run --out "$disk/out"
expect 1 "Read-only" run --out "$disk/new"
expect 2 "Read-only" "$unroll" report "$disk/out"
expect 0 "12 finished" "$unroll" status "$disk/out"
expect 0 "0 problems" "$unroll" verify "$disk/out"
expect 0 "the same to the bit" "$unroll" replay "$disk/out" --threads 1
[ "$before" = "$(find "$disk" -type f -exec sha256sum {} + | sort)" ] || fail "something was written"
same "$disk/out"
umount "$disk"

echo "== the clock goes backwards"
if command -v faketime >/dev/null; then
    # A run of today is killed; the next one believes that it is long ago, the last that it is far ahead.
    run --out "$work/clock" --checkpoint-every 0.02 >/dev/null 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null && [ "$(records "$work/clock")" -lt 3 ]; do sleep 0.02; done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    for shift in '-9000 days' '+9000 days'; do
        code=0
        FAKETIME_DONT_FAKE_MONOTONIC=1 faketime -f "${shift/ days/d}" timeout -s INT 1 \
            "$unroll" run "$work/sweep.toml" --threads 1 --out "$work/clock" >/dev/null 2>&1 || code=$?
        [ "$code" = 75 ] || [ "$code" = 124 ] || [ "$code" = 0 ] || fail "exit code $code with the clock at $shift"
    done
    run --out "$work/clock" >/dev/null 2>&1
    same "$work/clock"
    expect 0 "0 problems" "$unroll" verify "$work/clock"
else
    echo "   SKIPPED: no faketime"
fi
echo "all as it should be"
