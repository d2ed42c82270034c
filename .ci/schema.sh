#!/usr/bin/env bash
# The descriptions at /openapi.json against live nodes: schema.sh MASTER SECONDARY VENV_DIR
#
# MASTER and SECONDARY are the binaries, VENV_DIR a Python environment with .ci/requirements.txt.
# schemathesis makes requests of what is described, right and wrong ones, and looks whether every
# answer is described too. The same seed makes the same requests.
set -euo pipefail
master_bin=$(realpath "$1") secondary_bin=$(realpath "$2") venv=$(realpath "$3")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. docker/nodes.sh

work=$(mktemp -d)
trap 'exit 143' INT TERM HUP
trap finish EXIT
export NO_PROXY='*' PYTHONPATH=.ci SCHEMATHESIS_HOOKS=schema_hooks
unset SECONDARIES HOST PORT NODE_NAME DATA_DIR

main() {
    "$venv/bin/openapi-spec-validator" master/src/openapi.json secondary/src/openapi.json
    start secondary1 "$secondary_bin" --chaos 1
    local secondary1=$address
    start secondary2 "$secondary_bin" --chaos 1
    start master "$master_bin" --secondaries "http://$secondary1,http://$address"
    check "$address"
    # Without a master: what is made up here would not be a prefix of any log.
    start alone "$secondary_bin" --chaos 1
    check "$address"
    echo "The descriptions are right, after $SECONDS s."
}

# start NAME COMMAND...: sets $address to where it listens.
start() {
    local name=$1 tenths
    shift
    NODE_NAME=$name start_node "$@" --port 0 >"$work/$name"
    for ((tenths = 0; tenths < 100; tenths++)); do
        address=$(sed -n 's/.*ready addr=\([^ ]*\).*/\1/p' "$work/$name")
        if [ -n "$address" ]; then return; fi
        sleep 0.1
    done
    fail "$name is not ready"
}

# check ADDRESS: of a node. What streams for ever is left to master/tests/follow.rs.
check() {
    "$venv/bin/schemathesis" run "http://$1/openapi.json" --checks all --phases examples,coverage,fuzzing,stateful \
        --seed 7 --max-examples "${MAX_EXAMPLES:-30}" --request-timeout 10 --generation-database none \
        --exclude-path /events --exclude-path /messages/stream --continue-on-failure --no-color ||
        fail "an answer of $1 is not as described"
}

fail() {
    echo "SCHEMA FAILED: $1" >&2
    exit 1
}

finish() {
    local code=$?
    stop_nodes
    rm -rf "$work"
    exit $code
}

main
