#!/usr/bin/env bash
# `make run`: the cluster of compose.yaml as plain processes in this terminal. Ctrl-C stops all three.
# DELAY_MS=0 make run takes the delay of the second secondary away, CHAOS=1 lets the page disturb the
# secondaries, and DATA_DIR=DIRECTORY keeps the logs in three directories below that one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. docker/nodes.sh

trap 'exit 0' INT TERM HUP
trap stop_nodes EXIT

# As an argument, not from the environment: only the second secondary is slow.
delay_ms=${DELAY_MS:-1500}
data_dir=${DATA_DIR:-}
unset DELAY_MS NODE_NAME DATA_DIR

echo "Building the nodes (cargo build --release) ..."
build_nodes

# start NAME COMMAND...: no two nodes may share a directory.
start() {
    NODE_NAME=$1 DATA_DIR=${data_dir:+$data_dir/$1} start_node "${@:2}" --host 127.0.0.1
}

start secondary1 "$secondary_bin" --port 8001 --delay-ms 0
start secondary2 "$secondary_bin" --port 8002 --delay-ms "$delay_ms"
start master "$master_bin" --port 8000 --secondaries http://127.0.0.1:8001,http://127.0.0.1:8002

echo "See it live: http://127.0.0.1:8000/. In another terminal: make demo, make watch."

# The nodes write to this terminal themselves. When one ends, so does the cluster.
while sleep 0.5; do
    for pid in "${node_pids[@]}"; do
        if ! kill -0 "$pid" 2>/dev/null; then
            echo "A node has stopped (its last line above says why), so the others are stopped too." >&2
            exit 1
        fi
    done
done
