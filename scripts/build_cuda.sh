#!/usr/bin/env bash
# Builds `unroll` with CUDA on a machine that needs neither a GPU nor the CUDA toolkit.
#
#   scripts/build_cuda.sh            release binary, and target/cuda/unroll: stripped, to carry to a GPU machine,
#                                    with unroll.gz, a third of its size, which gpu_check.sh takes too
#   scripts/build_cuda.sh check      type-check only, kernels compiled to PTX
#   scripts/build_cuda.sh test       the kernel tests, built with the feature
#
# The toolchain (nvcc 13.0 from Python wheels) goes to ~/.cache/cuda-13.0; the second time this takes
# no time. The program finds the NVIDIA libraries when it first needs them, so it starts anywhere; on the
# GPU machine CUDA 13 libraries (cuBLAS, cuRAND; cuDNN 9 if at hand) must be on LD_LIBRARY_PATH, and CUDA_LAZY_VERBOSE=1 tells
# which were found. Exit code 77: the toolchain cannot be installed here.
set -euo pipefail
cd "$(dirname "$0")/.."
most_bytes=60000000

if ! toolchain=$(scripts/setup-cuda-toolchain.sh --link lazy --quant stub); then
    echo "the CUDA toolchain cannot be installed on this machine" >&2
    exit 77
fi
eval "$toolchain"
target=${CARGO_TARGET_DIR:-target}

carry() {
    local binary=$target/cuda/unroll
    mkdir -p "$target/cuda"
    strip -o "$binary" "$target/release/unroll"
    local bytes
    bytes=$(stat -c %s "$binary")
    if [ "$bytes" -ge $most_bytes ]; then
        echo "$binary has $bytes bytes, more than $most_bytes" >&2
        exit 1
    fi
    if readelf -d "$binary" | grep -E 'NEEDED.*lib(cuda|cublas|curand|nvrtc|cudnn)'; then
        echo "$binary needs NVIDIA's libraries to start" >&2
        exit 1
    fi
    "$binary" --version
    if [ -e /proc/driver/nvidia/version ]; then
        echo "this machine has a driver: what the program says without one is not checked"
    else
        local said code=0
        said=$("$binary" bench layer --arch gru --batch 1 --seq-len 2 --hidden 2 --input 2 --device cuda 2>&1) \
            || code=$?
        if [ $code -eq 0 ] || ! grep -q 'no NVIDIA driver' <<<"$said"; then
            echo "without a driver \`--device cuda\` does not say so (exit code $code): $said" >&2
            exit 1
        fi
        echo "--device cuda: $said"
    fi
    gzip -kf "$binary"
    echo "$binary: $bytes bytes, compressed $(stat -c %s "$binary.gz")"
}

case "${1:-build}" in
    check) cargo check --release --features cudnn -p unroll --all-targets ;;
    test) cargo test --release --features cudnn -p unroll-kernels ;;
    build)
        # The tables' crates are compiled without optimisation elsewhere, which makes them large; here for size.
        # Functions with the same code are kept once.
        small=()
        for package in $(sed -n 's/^\[profile\.release\.package\.\(polars.*\)\]/\1/p' Cargo.toml); do
            small+=(--config "profile.release.package.$package.opt-level=\"s\"")
        done
        cargo rustc "${small[@]}" --release --features cudnn -p unroll --bin unroll -- -C link-arg=-Wl,--icf=all
        carry
        ;;
    *)
        echo "usage: $0 [build|check|test]" >&2
        exit 2
        ;;
esac
