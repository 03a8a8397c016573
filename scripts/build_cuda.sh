#!/usr/bin/env bash
# Builds `unroll` with CUDA on a machine that needs neither a GPU nor the CUDA toolkit.
#
#   scripts/build_cuda.sh            release binary target/release/unroll
#   scripts/build_cuda.sh check      type-check only
#
# The toolchain (nvcc 13.0 from Python wheels) goes to ~/.cache/cuda-13.0; the second time this takes
# no time. The program finds the NVIDIA libraries when it first needs them, so it starts anywhere.
set -euo pipefail
cd "$(dirname "$0")/.."
eval "$(scripts/setup-cuda-toolchain.sh --link lazy --quant stub)"
case "${1:-build}" in
    check) cargo check --release --features cuda -p unroll ;;
    build) cargo build --release --features cuda -p unroll ;;
    *) echo "usage: $0 [build|check]" >&2; exit 2 ;;
esac
