#!/usr/bin/env bash
# Runs a sweep as a job array in a real Slurm that lives on this machine for as long as the test, kills
# tasks, queues them again, and compares the merged tables with those of an ordinary run.
#
#   scripts/slurm_test.sh
#
# Needs root, Debian's slurm-wlm and munge (installed if they can be), and a network namespace of its own:
# Slurm's daemons listen on every address. What is missing is named, and the test skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { echo "SKIPPED: $*"; exit 0; }

if [ "${1:-}" != inside ]; then
    [ "$(id -u)" = 0 ] || skip "Slurm's daemons need root"
    if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null || ! command -v ip >/dev/null; then
        (timeout 120 apt-get update && DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y \
            --no-install-recommends slurm-wlm munge iproute2) >/dev/null 2>&1 || skip "slurm-wlm and munge cannot be installed"
    fi
    prepare='ip link set lo up && ip addr add 10.255.255.1/32 dev lo && mkdir -p /run/munge && mount -t tmpfs tmpfs /run/munge'
    unshare --net --mount sh -c "$prepare" 2>/dev/null || skip "no network namespace can be made"
    cargo build --release --quiet -p unroll
    exec unshare --net --mount "scripts/$(basename "$0")" inside
fi

unroll=${CARGO_TARGET_DIR:-$PWD/target}/release/unroll
work=$(mktemp -d)
chmod 755 "$work"
pids=()
stop() {
    for file in "$work"/slurm/*.pid /run/munge/munged.pid; do
        [ -s "$file" ] && kill "$(cat "$file")" 2>/dev/null || true
    done
    sleep 1
    rm -rf "$work"
}
trap stop EXIT
fail() {
    echo "FAILED: $*" >&2
    tail -n 20 "$work"/slurm/log/*.log "$work"/out/slurm/*.log >&2 || true
    exit 1
}
# What this machine does not let daemons do says nothing about the program.
unable() {
    tail -n 20 "$work"/slurm/log/*.log 2>/dev/null || true
    skip "$*"
}
wait_for() {
    local what=$1
    shift
    for ((i = 0; i < 2400; i++)); do
        if "$@"; then return 0; fi
        sleep 0.1
    done
    fail "$what did not come"
}

ip link set lo up
# Names are looked up only where there is an address that is not the loopback's.
ip addr add 10.255.255.1/32 dev lo
mkdir -p /run/munge "$work"/slurm/{state,spool,log}
# In this mount namespace alone; with a key for this test alone.
mount -t tmpfs tmpfs /run/munge
head -c 1024 /dev/urandom >/run/munge/key
chmod 400 /run/munge/key
chown -R munge: /run/munge
chmod 755 /run/munge
runuser -u munge -- munged --key-file=/run/munge/key --pid-file=/run/munge/munged.pid \
    --log-file=/run/munge/munged.log --seed-file=/run/munge/munged.seed || unable "munged does not start"
cat >"$work/slurm/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$(hostname)(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$work/slurm/state
SlurmdSpoolDir=$work/slurm/spool
SlurmctldPidFile=$work/slurm/slurmctld.pid
SlurmdPidFile=$work/slurm/slurmd.pid
SlurmctldLogFile=$work/slurm/log/slurmctld.log
SlurmdLogFile=$work/slurm/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
MpiDefault=none
ReturnToService=2
KillWait=5
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=1000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$work/slurm/slurm.conf
slurmctld -f "$SLURM_CONF" || unable "slurmctld does not start"
sleep 2
slurmd -f "$SLURM_CONF" || unable "slurmd does not start"
for ((i = 0; i < 60; i++)); do
    timeout 10 sinfo -h -o %t 2>/dev/null | grep -q idle && break
    sleep 0.5
done
((i < 60)) || unable "Slurm's node does not become idle"

cat >"$work/sweep.toml" <<'TOML'
name = "cluster"
question = "Does a job array come to the same tables?"

[axes]
task = ["adding"]
length = [20]
arch = ["gru", "lstm"]
seed = [0, 1, 2, 3]

[model]
hidden_size = 32

[train]
steps = 8000
eval_every = 2000

[task.adding]
eval_examples = 100
TOML
"$unroll" run "$work/sweep.toml" --out "$work/whole" --threads 1 >/dev/null 2>&1

"$unroll" submit slurm "$work/sweep.toml" --tasks 4 --time 00:05:00 --out "$work/out"
array=$(squeue -h -r -o %F -n unroll-cluster | head -n 1)
running() { [ "$(squeue -h -r -j "$array" -t RUNNING -o %K | wc -l)" -ge 2 ]; }
wait_for "two running tasks" running
begun() { [ "$(cat "$work"/out/shards/*/events/*.jsonl 2>/dev/null | grep -ac trial_started)" -ge 2 ]; }
wait_for "two trials that have begun" begun
read -r first second < <(squeue -h -r -j "$array" -t RUNNING -o %K | sort -n | head -n 2 | xargs)
# One is told to stop, as before its time is over: it writes checkpoints and queues itself again.
# (scancel goes on asking after the signal has arrived: the job is then leaving.)
timeout 2 scancel --batch --signal=USR1 "${array}_$first" 2>/dev/null || true
# The other is killed and queued again by the operator.
scontrol requeue "${array}_$second" || fail "task $second is not queued again"
echo "task $first signalled, task $second killed and queued again"
# Slurm lets a requeued job wait for two minutes.
hurry() {
    for job in $(squeue -h -r -t PENDING -j "$array" -o %A_%r | grep BeginTime | cut -d_ -f1); do
        scontrol update "jobid=$job" starttime=now 2>/dev/null || true
    done
    [ -z "$(squeue -h -o %A)" ]
}
wait_for "the end of all jobs" hurry

restarts=$(cat "$work"/out/events/*.jsonl | grep -ac '"event":"started"')
[ "$restarts" -ge 6 ] || fail "$restarts starts: no task was started again"
for table in trials curves gradients lengths; do
    for extension in csv parquet; do
        cmp "$work/whole/tables/$table.$extension" "$work/out/tables/$table.$extension" || fail "$table differs"
    done
done
"$unroll" verify "$work/out" || fail "verify finds something"
paused=$(cat "$work"/out/events/*.jsonl | grep -ac '"event":"trial_paused"' || true)
echo "4 tasks, $restarts starts, $paused trials put down and gone on: the tables are the same bytes"
