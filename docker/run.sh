#!/usr/bin/env bash
# `make run`: the cluster of compose.yaml as plain processes in this terminal. Ctrl-C stops all three.
# DELAY_MS=0 make run takes the delay of the second secondary away.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. docker/nodes.sh

trap 'exit 0' INT TERM HUP
trap stop_nodes EXIT

# As an argument, not from the environment: only the second secondary is slow.
delay_ms=${DELAY_MS:-1500}
unset DELAY_MS NODE_NAME

echo "Building the nodes (cargo build --release) ..."
build_nodes

NODE_NAME=secondary1 start_node "$secondary_bin" --host 127.0.0.1 --port 8001 --delay-ms 0
NODE_NAME=secondary2 start_node "$secondary_bin" --host 127.0.0.1 --port 8002 --delay-ms "$delay_ms"
start_node "$master_bin" --host 127.0.0.1 --port 8000 \
    --secondaries http://127.0.0.1:8001,http://127.0.0.1:8002

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
