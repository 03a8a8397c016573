#!/usr/bin/env bash
# Kills a small sweep with SIGKILL at random moments until it is done, many times over, and compares
# the tables with those of a run that nobody disturbed: byte for byte.
#
#   scripts/crash_test.sh [RUNS] [SEED]      RUNS is 100, SEED is 1
#
# Every run has its own folder; it is started and killed until one start ends by itself. Checkpoints
# are written all the time, so that many kills fall into a write.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${1:-100}
RANDOM=${2:-1}
cargo build --release --quiet -p unroll
unroll=${CARGO_TARGET_DIR:-$PWD/target}/release/unroll
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/sweep.toml" <<'TOML'
name = "crash"
question = "Does a killed sweep come out the same?"
measure = ["quality", "gradient"]

[axes]
task = ["adding"]
length = [6, 12]
arch = ["rnn", "gru", "lstm", "transformer"]
seed = [0]

[model]
hidden_size = 8
num_heads = 2

[train]
steps = 800
eval_every = 200
batch_size = 8

[task.adding]
eval_examples = 50

[evaluate]
lengths = [9]

[gradient]
examples = 2
TOML
trials=16
deterministic=(trials curves gradients lengths)

# Becomes the program: the number of the process is that of the one to kill.
start() { exec "$unroll" run "$work/sweep.toml" --checkpoint-every 0.002 --threads 1 --out "$1" >/dev/null 2>&1; }

begin=$(date +%s%N)
(start "$work/whole")
# Milliseconds of an undisturbed run: kills fall anywhere in it.
whole=$((($(date +%s%N) - begin) / 1000000))

kills=0
inwrite=0
resumed=0
for ((run = 1; run <= runs; run++)); do
    out=$work/run
    rm -rf "$out"
    killed=0
    while :; do
        start "$out" &
        pid=$!
        # Up to a third of a run, so that it dies several times; after many deaths it is left alone.
        if ((killed < 12)); then
            wait_ms=$((RANDOM * whole / 3 / 32768))
            sleep "$((wait_ms / 1000)).$(printf %03d $((wait_ms % 1000)))"
            kill -KILL "$pid" 2>/dev/null || true
        fi
        if wait "$pid" 2>/dev/null; then break; fi
        killed=$((killed + 1))
        if find "$out" -name '.*.??????' -type f 2>/dev/null | grep -q .; then inwrite=$((inwrite + 1)); fi
    done
    kills=$((kills + killed))

    fail() { echo "run $run: $*" >&2; exit 1; }
    for table in "${deterministic[@]}"; do
        for extension in csv parquet; do
            cmp "$work/whole/tables/$table.$extension" "$out/tables/$table.$extension" || fail "$table differs"
        done
    done
    records=$(find "$out/trials" -type f | wc -l)
    [ "$records" = "$trials" ] || fail "$records records instead of $trials"
    rows=$(($(wc -l < "$out/tables/trials.csv") - 1))
    [ "$rows" = "$trials" ] || fail "$rows rows instead of $trials"
    left=$(find "$out" -name '.*' -not -path "$out" | head -n 3)
    [ -z "$left" ] || fail "left behind: $left"
    [ ! -e "$out/claims" ] && [ ! -e "$out/checkpoints" ] || fail "claims or checkpoints are left"
    "$unroll" verify "$out" >/dev/null || fail "verify finds something"
    # A trial that ended is never run again: its end is logged once, or (killed between the record and
    # the line) not at all.
    doubled=$(cat "$out"/events/*.jsonl | grep -ao '"event":"trial_ended","trial":"[0-9a-f]*"' | sort | uniq -d)
    [ -z "$doubled" ] || fail "ran again: $doubled"
    steps=$(cat "$out"/events/*.jsonl | grep -ac '"event":"trial_started","trial":"[0-9a-f]*","step":[1-9]' || true)
    resumed=$((resumed + steps))
done
echo "$runs runs, $kills kills ($inwrite while a file was being written), $resumed trials gone on" \
    "from a checkpoint: tables byte-identical each time, nothing lost, doubled or left behind" \
    "($SECONDS s)"
