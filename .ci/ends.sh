# shellcheck shell=bash
# How the scripts here begin and end. Sourced: `$work` is a directory for files, which is gone in the
# end, and so are the nodes of docker/nodes.sh. A script may say more by functions of its own:
# `show_logs` when something is wrong, and `stop_others` in the end.
# shellcheck source=docker/nodes.sh
. docker/nodes.sh

work=$(mktemp -d)
trap 'exit 143' INT TERM HUP
trap finish EXIT
export NO_PROXY='*' PYTHONUNBUFFERED=1
unset SECONDARIES HOST PORT NODE_NAME DATA_DIR ADVERTISE_URL

show_logs() { :; }
stop_others() { :; }

# wait_until SECONDS COMMAND...
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" 2>/dev/null; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.1
    done
}

fail() {
    show_logs >&2
    echo "$(basename "$0" .sh) FAILED: $1" >&2
    exit 1
}

finish() {
    local code=$?
    stop_others
    stop_nodes
    rm -rf "$work"
    exit $code
}
