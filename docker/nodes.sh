# shellcheck shell=bash
# Starts and stops nodes as plain processes. Sourced by demo.sh and run.sh; it works in bash 3.2 too.

node_pids=()  # every process started here, and no other, is stopped in the end

# Sets $port, $port1 and $port2 to the ports of the master and the secondaries: PORT and the two
# after it.
choose_ports() {
    port=${PORT:-8000}
    unset PORT
    if ! [[ $port =~ ^[1-9][0-9]{0,4}$ ]] || [ "$port" -gt 65525 ]; then
        echo "PORT must be a number from 1 to 65525, not '$port'." >&2
        exit 1
    fi
    # shellcheck disable=SC2034  # of those who source this
    port1=$((port + 1)) port2=$((port + 2))
}

# Builds the two binaries and sets $master_bin and $secondary_bin to where cargo put them,
# whatever CARGO_TARGET_DIR or a cargo configuration says.
build_nodes() {
    local built
    if ! command -v cargo >/dev/null; then
        echo "Cargo is not installed here, so the nodes cannot be built: see https://rustup.rs" >&2
        return 1
    fi
    built=$(cargo build --release --package master --package secondary \
        --message-format=json-render-diagnostics) || return 1
    master_bin=$(executable_of master <<<"$built")
    secondary_bin=$(executable_of secondary <<<"$built")
    if [ ! -x "$master_bin" ] || [ ! -x "$secondary_bin" ]; then
        echo "cargo built, but named no executable called master or secondary." >&2
        return 1
    fi
}

# executable_of NAME: the path that ends in /NAME among cargo's messages on standard input.
executable_of() {
    sed -n "s#.*\"executable\":\"\([^\"]*/$1\)\".*#\1#p" | tail -n 1
}

# start_node COMMAND...: starts it in the background and sets $node_pid.
start_node() {
    "$@" &
    node_pid=$!
    node_pids+=("$node_pid")
}

# Asks every node to stop, as `docker stop` would, and ends by force what has not stopped in 10 s.
# Sets $unclean to the number of nodes that did not exit with 0.
stop_nodes() {
    local pid tenths=0
    unclean=0
    [ ${#node_pids[@]} -gt 0 ] || return 0
    for pid in "${node_pids[@]}"; do
        kill -TERM "$pid" 2>/dev/null || true
    done
    while [ $tenths -lt 100 ] && any_node_lives; do
        sleep 0.1
        tenths=$((tenths + 1))
    done
    for pid in "${node_pids[@]}"; do
        if kill -0 "$pid" 2>/dev/null; then kill -KILL "$pid"; fi
        wait "$pid" 2>/dev/null || unclean=$((unclean + 1))
    done
    node_pids=()
}

any_node_lives() {
    local pid
    for pid in "${node_pids[@]}"; do
        if kill -0 "$pid" 2>/dev/null; then return 0; fi
    done
    return 1
}
