#!/bin/sh
# Plays the soak with a bug of this folder in a copy of the source, until the bug is found:
# make soak BUG=stale-confirmed-reads MINUTES=5. Fails when it is not found.
set -eu
bug=$1
cd "$(dirname "$0")/../../.."
patch=$PWD/master/tests/bugs/$bug.patch copy=$PWD/target/bugs/source
[ -f "$patch" ] || { echo "there is no $patch" >&2; exit 2; }
rm -rf "$copy"
mkdir -p "$copy"
git ls-files -z | xargs -0 cp --parents -t "$copy"
cd "$copy"
patch -p1 --forward <"$patch"
export CARGO_TARGET_DIR="$copy/../target" MINUTES="${MINUTES:-5}"
cargo build --workspace
cargo test -p master --test soak --no-run
start=$(date +%s)
if cargo test -p master --test soak >../"$bug".log 2>&1; then
    echo "NOT FOUND in $MINUTES minutes: $bug" >&2
    exit 1
fi
took=$(($(date +%s) - start))
said=$(grep -A 1 -m 1 "^thread .* panicked at" ../"$bug".log | tail -n 1)
[ -n "$said" ] || { cat ../"$bug".log; exit 1; }
echo "found after $took s: $bug: $said"
