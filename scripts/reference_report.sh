#!/usr/bin/env bash
# Makes results/reference again: runs experiments/reference.toml there (about a minute on two cores) and keeps
# what people look at: the report, its plots as SVG, its tables as CSV (those of single steps and distances are
# large, and are left out). Commit first: a report names the commit that made it.
#
#   scripts/reference_report.sh
set -euo pipefail
cd "$(dirname "$0")/.."

folder=results/reference
# Before anything is removed: the build notes whether the tree has changes.
cargo build --quiet --release -p unroll
rm -rf "$folder"
"${CARGO_TARGET_DIR:-target}"/release/unroll run experiments/reference.toml
find "$folder" -mindepth 1 -maxdepth 1 ! -name 'REPORT.*' ! -name plots ! -name tables \
    -exec rm -r {} +
rm "$folder"/plots/*.png "$folder"/tables/*.parquet
find "$folder"/tables -size +200k -delete
du -sh "$folder"
