#!/usr/bin/env bash
# `make run`: the cluster of compose.yaml as plain processes in this terminal. Ctrl-C stops all of it.
# PORT=9000 make run takes the ports from 9000 on in place of those from 8000 on.
# DELAY_MS=0 make run takes the delay of the second secondary away, CHAOS=1 lets the page disturb the
# secondaries, DATA_DIR=DIRECTORY keeps the logs in directories below that one, and STANDBY=1 starts
# a second master on PORT + 10, which takes over when the first one ends. CLUSTER_TOKEN and API_TOKEN
# of the environment are theirs too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. docker/nodes.sh

trap 'exit 0' INT TERM HUP
trap stop_nodes EXIT

# As an argument, not from the environment: only the second secondary is slow.
delay_ms=${DELAY_MS:-1500}
data_dir=${DATA_DIR:-}
standby=${STANDBY:-0}
unset DELAY_MS NODE_NAME DATA_DIR STANDBY ADVERTISE_URL
given=${PORT:+PORT=$PORT }
choose_ports
port3=$((port + 10))
for each in "$port" "$port1" "$port2" $([ "$standby" = 0 ] || echo "$port3"); do
    if (: <"/dev/tcp/127.0.0.1/$each") 2>/dev/null; then
        echo "Port $each is in use. PORT=... make run takes that port and those after it." >&2
        exit 1
    fi
done

echo "Building the nodes (cargo build --release) ..."
build_nodes

# start NAME COMMAND...: no two nodes may share a directory.
start() {
    NODE_NAME=$1 DATA_DIR=${data_dir:+$data_dir/$1} start_node "${@:2}" --host 127.0.0.1
}

start secondary1 "$secondary_bin" --port "$port1" --delay-ms 0
start secondary2 "$secondary_bin" --port "$port2" --delay-ms "$delay_ms"
secondaries=http://127.0.0.1:$port1,http://127.0.0.1:$port2
start master "$master_bin" --port "$port" --secondaries "$secondaries"

if [ "$standby" = 1 ]; then
    # The first one is to reign first.
    for ((tenths = 0; tenths < 100; tenths++)); do
        if curl --silent --fail --noproxy '*' --output /dev/null "http://127.0.0.1:$port/ready"; then break; fi
        sleep 0.1
    done
    echo "A second master stands by: http://127.0.0.1:$port3/. To see it take over: kill -9 $node_pid"
    start standby "$master_bin" --port "$port3" --secondaries "$secondaries"
fi
echo "See it live: http://127.0.0.1:$port/. In another terminal: ${given}make demo, ${given}make watch."

lives() { kill -0 "$1" 2>/dev/null; }

# Both secondaries, and a master: they were started in this order.
cluster_lives() {
    local pid
    lives "${node_pids[0]}" && lives "${node_pids[1]}" || return 1
    for pid in "${node_pids[@]:2}"; do
        if lives "$pid"; then return 0; fi
    done
    return 1
}

# The nodes write to this terminal themselves.
while sleep 0.5; do
    if ! cluster_lives; then
        echo "A node has stopped (its last line above says why), so the others are stopped too." >&2
        exit 1
    fi
done
