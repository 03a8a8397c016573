#!/usr/bin/env bash
# What a GPU has to show, in one command of at most nine minutes.
#
#   scripts/build_cuda.sh                      # where there is Rust: makes target/cuda/unroll
#   scripts/gpu_check.sh [--out DIR]           # on the GPU machine, which needs neither Rust nor nvcc
#   scripts/gpu_check.sh --sanitize            # the kernels under compute-sanitizer instead
#   scripts/gpu_check.sh --cpu                 # the script itself, small and on the processor
#   scripts/simulate_gpu.sh scripts/gpu_check.sh --small      # ... and on a GPU in software, where there is none
#
# Every architecture held to the processor in f64, recurrent layers in every way they can be run, one trained trial
# beside the same on the processor, training throughput over lengths, and layers beside cuDNN in fp32, TF32 and bf16
# for as long as time is left (needs PyTorch for python3; the rest does without). Writes summary.md and few files
# into DIR (target/gpu_check). The program is target/cuda/unroll or $UNROLL. Exit code 1: a part failed.
set -uo pipefail

device=cuda small= out= mode=check program=${UNROLL:-}
while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$(realpath -m "$2"); shift 2 ;;
        --cpu) device=cpu small=1; shift ;;
        --small) small=1; shift ;;
        --sanitize) mode=sanitize; shift ;;
        *) sed -n '2,/^set -uo/p' "${BASH_SOURCE[0]}" | sed '$d'; exit 2 ;;
    esac
done
[ -z "$program" ] || program=$(realpath -m "$program")
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
out=${out:-$target/gpu_check}
built=$target/cuda/unroll
[ $device = cpu ] && built=$target/release/unroll
[ -x "$built" ] || [ ! -f "$built.gz" ] || { gunzip -kf "$built.gz" && chmod +x "$built"; }
program=${program:-$built}
[ -x "$program" ] || { echo "$program is not there: scripts/build_cuda.sh makes it, or UNROLL names another" >&2; exit 2; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
summary=$out/summary.md
failed=0
# Seconds in all; small, there is no hurry, and a GPU in software is slow.
limit=530 patience=1
[ -n "$small" ] && limit=3000 patience=10

# PyTorch brings the libraries of CUDA 13.
libraries=$(python3 - <<'PYTHON' 2>/dev/null
import glob, os, sys
print(":".join(d for p in sys.path for d in sorted(glob.glob(os.path.join(p, "nvidia", "*", "lib")))))
PYTHON
) || libraries=
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries"
# candle's kernels are compiled by the driver when they are first used: once for all parts.
export CUDA_CACHE_PATH=$work/compiled CUDA_CACHE_MAXSIZE=2147483648
# Kernels are chosen by measuring, while warming up.
export UNROLL_GPU_RECURRENT=tuned

say() { printf '%s\n' "$@" | tee -a "$summary"; }
left() { echo $((limit - SECONDS)); }

# part TITLE SECONDS COMMAND...: what it prints goes to $work/last, and to log.txt.
part() {
    local title=$1 most=$(($2 * patience)) code=0 begin=$SECONDS
    shift 2
    : >"$work/last"
    [ "$most" -gt "$(left)" ] && most=$(left)
    say "" "## $title" ""
    if [ "$most" -lt 5 ]; then
        say "Left out: no time."
        failed=1
        return 1
    fi
    timeout --kill-after=5 "$most" "$@" >"$work/last" 2>&1 || code=$?
    { printf '\n$ %s\n' "$*"; cat "$work/last"; } >>"$out/log.txt"
    case $code in
        0) say "Done in $((SECONDS - begin)) s." ;;
        124 | 137) say "NOT FINISHED in $most s." ;;
        *) say "FAILED with exit code $code after $((SECONDS - begin)) s." ;;
    esac
    [ $code = 0 ] || failed=1
    return $code
}

# The last lines of what the part before printed.
tail_of_it() {
    printf '\n```\n' >>"$summary"
    tail -n "$1" "$work/last" | tee -a "$summary"
    printf '```\n' >>"$summary"
}

: >"$summary"
: >"$out/log.txt"
say "# Unroll on $device"
say "" "$("$program" --version), $(git describe --always --dirty 2>/dev/null || echo 'no revision')."
if [ $device = cuda ]; then
    say "" "$(nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader 2>/dev/null \
        || echo 'There is no nvidia-smi.')"
fi

if [ $mode = sanitize ]; then
    limit=580
    command -v compute-sanitizer >/dev/null || { say "compute-sanitizer is not there: it comes with the toolkit"; exit 77; }
    for tool in memcheck racecheck synccheck; do
        for way in steps cluster grid; do
            [ $tool-$way = racecheck-steps ] || [ $tool-$way = synccheck-steps ] && continue
            export UNROLL_GPU_RECURRENT=$way
            # Teams of several blocks, and a last row that is not whole.
            for arch in rnn gru lstm; do
                part "$tool, $arch, way $way" 60 compute-sanitizer --tool $tool --error-exitcode 9 \
                    "$program" bench layer --device cuda --arch $arch --batch 3 --seq-len 4 --hidden 256 \
                    --mode train --iterations 1
                tail_of_it 4
            done
        done
        part "$tool, attention" 60 compute-sanitizer --tool $tool --error-exitcode 9 \
            "$program" bench layer --device cuda --arch mha --batch 2 --seq-len 70 --hidden 64 --heads 2 --causal \
            --mode train --iterations 1
        tail_of_it 4
    done
    exit $failed
fi

roundings=f64,fp32,tf32,bf16 quick=()
[ -n "$small" ] && quick=(--quick --arch gru,transformer,luong_concat)
[ $device = cpu ] && roundings=fp32
part "Agreement with the processor in f64" 100 \
    "$program" parity --device $device --rounding $roundings "${quick[@]}" --csv "$out/parity.csv"
tail_of_it 60
if [ $device = cuda ]; then
    quick=()
    [ -n "$small" ] && quick=(--quick)
    for way in candle steps cluster grid cudnn; do
        export UNROLL_GPU_RECURRENT=$way
        part "Recurrent layers, way: $way" 25 \
            "$program" parity --device cuda --arch rnn,gru,lstm --rounding fp32,tf32 "${quick[@]}"
        tail_of_it 8
    done
    export UNROLL_GPU_RECURRENT=tuned
fi

steps=1000 evaluated=500
[ -n "$small" ] && steps=20 evaluated=50
places=(cpu)
[ $device = cpu ] || places+=($device)
for place in "${places[@]}"; do
    part "One trained trial on $place" 40 \
        "$program" run experiments/quickstart.toml --device "$place" --out "$work/trial-$place" \
        --set 'measure=["quality"]' --set 'axes.task=["adding"]' --set 'axes.arch=["lstm"]' \
        --set 'axes.seed=[0]' --set "train.steps=$steps" --set "task.adding.eval_examples=$evaluated"
    tail_of_it 6
done

compare=(--device $device --program "$program" --out "$out")
if [ -n "$small" ]; then
    compare+=(--quick --only gru --modes infer --no-torch --no-candle --rounds 1 --seconds 0.01
        --budget 20)
    # Shapes of use, which a GPU in software would tune for hours.
    export UNROLL_GPU_RECURRENT=steps
else
    python3 -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' || compare+=(--no-torch)
    # The tables are written at the end, and the sweep comes after.
    most=$(($(left) - 70))
    [ "$most" -gt 330 ] && most=330
    compare+=(--precision fp32,tf32,bf16 --rounds 3 --seconds 0.1 --budget $((most - 50)))
fi
# Kernels, or candle's operations where those are faster.
export UNROLL_GPU_ATTENTION=tuned
if [ -n "$small" ] && [ $device = cuda ]; then
    part "Attention, kernels held to candle's operations" 30 \
        "$program" bench layer --device cuda --arch mha --batch 2 --seq-len 40 --hidden 32 --heads 2 --causal \
        --mode train --iterations 1 --json
    grep -q 'attention training .* candle [0-9.]* us' "$work/last" || { say "Not held to each other."; failed=1; }
fi
part "Layers beside PyTorch" ${most:-400} python3 scripts/compare_pytorch.py "${compare[@]}"
sed -n '/^# Unroll/,/^Tables/p' "$work/last" | tee -a "$summary"
export UNROLL_GPU_RECURRENT=tuned UNROLL_GPU_ATTENTION=

sweep=()
[ $device = cuda ] && sweep=(--set 'axes.precision=["fp32", "tf32"]' --set throughput.decode=false --set throughput.min_seconds=0.1)
if [ -n "$small" ]; then
    sweep+=(--set 'axes.length=[8, 16]' --set 'axes.arch=["gru", "transformer"]'
        --set 'throughput.min_seconds=0.01' --set 'model.hidden_size=16' --set 'model.window=8')
fi
part "Training throughput over lengths" 110 \
    "$program" run experiments/gpu_throughput.toml --device $device --out "$work/sweep" "${sweep[@]}"
tail_of_it 60
cp "$work/sweep/tables/throughput.csv" "$work/sweep/REPORT.html" "$out/" || failed=1

# What a GPU in software refuses, a real one would.
if grep -q '^simulated ' "$out/log.txt"; then
    say "" "Refused:"
    grep '^simulated ' "$out/log.txt" | sort -u | tee -a "$summary"
    failed=1
fi
say "" "$SECONDS s in all. $([ $failed = 0 ] && echo 'Every part passed.' || echo 'SOMETHING FAILED, see above.')"
exit $failed
