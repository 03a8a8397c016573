#!/usr/bin/env bash
# Runs a command on a GPU in software: a program that is built with the feature `cuda` finds the simulator where it
# looks for NVIDIA's libraries. Slow, and no measure of speed; crates/unroll-kernels/simulator tells what it checks.
#
#   scripts/build_cuda.sh
#   scripts/simulate_gpu.sh target/cuda/unroll parity --device cuda --arch gru
#
# UNROLL_SIMULATED_MULTIPROCESSORS: of how many (16; an H100 has 132). UNROLL_SIMULATED_KEEP=1: keeps the C++ that
# kernels are translated to beside what it is compiled to, in ~/.cache/unroll-simulated-gpu. Needs g++.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
[ $# -gt 0 ] || { sed -n '2,/^set -euo/p' "${BASH_SOURCE[0]}" | sed '$d'; exit 2; }
target=${CARGO_TARGET_DIR:-$root/target}
(cd "$root" && cargo build --quiet --release -p unroll-kernels-simulator)
folder=$target/simulated-gpu
mkdir -p "$folder"
for library in libcuda.so.1 libcublas.so.13 libcurand.so.10 libcudnn.so.9; do
    ln -sfn "$(realpath "$target")/release/libunroll_simulated_gpu.so" "$folder/$library"
done
CUDA_LAZY_PATH=$folder exec "$@"
