#!/usr/bin/env bash
# The targets of fuzz.rs under libFuzzer: fuzz.sh SECONDS [TARGET...], so many seconds in all.
#
# RUNS=1000000 ends each target after so many inputs too. Inputs that reach new code are kept in
# target/fuzz/corpus, those that fail in target/fuzz/failed. libFuzzer is built with a C++ compiler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

time=$1 kept=$PWD/target/fuzz
shift
targets=("$@")
if [ ${#targets[@]} = 0 ]; then targets=(framing access wire answers reading settings store); fi
host=$(rustc -vV | sed -n 's/^host: //p')

# What cargo-fuzz asks of the compiler; these flags are stable ones. They hold for the target alone,
# not for the build scripts.
coverage=-Cpasses=sancov-module
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    coverage+=" -Cllvm-args=-sanitizer-coverage-$option"
done
RUSTFLAGS="$coverage -Ccodegen-units=1" CARGO_TARGET_DIR=$kept cargo build --release --locked --quiet \
    --manifest-path common/fuzz/Cargo.toml --target "$host"

# The store syncs what it writes: best in memory.
if [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

fuzz=$kept/$host/release/fuzz
for target in "${targets[@]}"; do
    export TARGET=$target
    mkdir -p "$kept/corpus/$target" "$kept/failed"
    log=$kept/$target.log
    "$fuzz" "$kept/corpus/$target" "common/fuzz/seeds/$target" \
        -dict=common/fuzz/words -max_total_time=$((time / ${#targets[@]} + 1)) -runs="${RUNS:--1}" \
        -timeout=20 -rss_limit_mb=2048 -artifact_prefix="$kept/failed/$target-" \
        ${SEED:+"-seed=$SEED"} -print_final_stats=1 >"$log" 2>&1 ||
        { tail -n 40 "$log"; echo "FUZZ FAILED: TARGET=$target $fuzz FILE runs it again" >&2; exit 1; }
    echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, none failed"
done
