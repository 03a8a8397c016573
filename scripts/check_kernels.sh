#!/usr/bin/env bash
# Checks of the kernels that ordinary tests cannot make. What is missing on a machine is named and skipped.
#
#   scripts/check_kernels.sh
#
# 1. All kernel tests under AddressSanitizer: every instruction set of this processor, the portable path
#    among them, with every read and write beyond a buffer caught.
# 2. The same tests built for aarch64, where only the portable path exists, and run by qemu.
#
# Both compile candle anew, into folders of their own below target/: some minutes each.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}

echo "== AddressSanitizer"
# Sanitizers are options of the compiler's unstable side; the library's own code stays as it is.
RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR=$target/asan \
    cargo test --release -p unroll-kernels --lib --target x86_64-unknown-linux-gnu

echo "== aarch64"
if rustup target add aarch64-unknown-linux-gnu 2>/dev/null && command -v aarch64-linux-gnu-gcc >/dev/null \
    && command -v qemu-aarch64 >/dev/null; then
    CARGO_TARGET_DIR=$target/aarch64 \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu" \
        cargo test --release -p unroll-kernels --lib --target aarch64-unknown-linux-gnu
else
    echo "SKIPPED: needs the Rust target, gcc-aarch64-linux-gnu and qemu-user"
fi
