#!/usr/bin/env bash
# The descriptions at /openapi.json against live nodes: schema.sh MASTER SECONDARY VENV_DIR
#
# MASTER and SECONDARY are the binaries, VENV_DIR a Python environment with .ci/requirements.txt.
# redocly looks at their form. schemathesis makes requests of what is described, right and wrong
# ones, and looks whether every answer is described too. The same SEED makes the same requests.
set -euo pipefail
master_bin=$(realpath "$1") secondary_bin=$(realpath "$2") venv=$(realpath "$3")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. .ci/ends.sh

export PYTHONPATH=.ci PYTHONDONTWRITEBYTECODE=1 SCHEMATHESIS_HOOKS=schema_hooks SEEN="$work/seen"

main() {
    check_well
    check_style
    check_at_limits
    check_seen
    echo "The descriptions are right, after $SECONDS s."
}

# A stream that is read to its first event holds its place for some seconds more.
check_well() {
    local secondary1 followers=(--max-followers 10000)
    start secondary1 "$secondary_bin" --chaos 1 "${followers[@]}"
    secondary1=$address
    start secondary2 "$secondary_bin" --chaos 1
    start master "$master_bin" --secondaries "http://$secondary1,http://$address" "${followers[@]}"
    append messages
    check master "$address"
    # From here on its log is no copy any more.
    check secondary1 "$secondary1"
    start alone "$secondary_bin" --chaos 1 --accept-original 1 "${followers[@]}"
    append replicate
    check alone "$address"
}

# By the rules that redocly recommends; what it warns of is no error.
check_style() {
    REDOCLY_TELEMETRY=off npx --yes @redocly/cli@2.77.0 lint --format=stylish \
        "$work/master.json" "$work/secondary1.json" >"$work/report" 2>&1 ||
        { cat "$work/report"; fail "redocly finds errors"; }
}

# append PATH: an entry that there is from the beginning.
append() {
    curl --silent --fail --output "$work/answer" --data '{"msg":"the first"}' "http://$address/$1" ||
        fail "nothing could be appended at $address"
}

# Where right requests are refused too, only the form of the answers can be looked at.
check_at_limits() {
    local not=not_a_server_error,positive_data_acceptance,negative_data_rejection,unsupported_method
    local form=(--phases coverage --exclude-checks "$not")
    local nobody=http://127.0.0.1:1
    start small-secondary "$secondary_bin" --accept-original 1 --max-log-bytes 60 --max-followers 0
    check small-secondary "$address" "${form[@]}"
    start plain-secondary "$secondary_bin"
    start small-master "$master_bin" --secondaries "$nobody,http://$address" --recovery-timeout-ms 0 \
        --max-log-bytes 24 --max-followers 0 --max-message-bytes 40 --wtimeout-ms 100
    check small-master "$address" "${form[@]}"
    start followed "$secondary_bin"
    local followed=http://$address
    start reigning-master "$master_bin" --secondaries "$followed"
    append messages
    start standby "$master_bin" --secondaries "$followed" --max-followers 0
    until curl --silent "http://$address/ready" | grep -q '"standby"'; do sleep 0.1; done
    check standby "$address" "${form[@]}"
    start lonely-master "$master_bin" --secondaries $nobody --recovery-timeout-ms 0 --quorum 2 \
        --heartbeat-ms 10 --max-followers 0
    check lonely-master "$address" "${form[@]}"
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

# check NAME ADDRESS OPTION...: of a node.
check() {
    local name=$1 address=$2
    shift 2
    curl --silent --fail --output "$work/$name.json" "http://$address/openapi.json" || fail "$name describes nothing"
    "$venv/bin/openapi-spec-validator" "$work/$name.json"
    "$venv/bin/schemathesis" --config-file .ci/schema.toml run "http://$address/openapi.json" --checks all \
        --seed "${SEED:-7}" --max-examples "${MAX_EXAMPLES:-30}" --request-timeout 10 \
        --continue-on-failure --no-color "$@" >"$work/report" 2>&1 ||
        { cat "$work/report"; fail "an answer of $name is not as described"; }
    echo "$name: $(sed -n 's/^ *\(.* generated\)/\1/p' "$work/report"), after $SECONDS s"
}

# What was described was also there to be looked at.
check_seen() {
    saw POST /messages 201 307 400 413 422 502 503 507
    saw GET /messages 200 307 400 503
    saw HEAD /messages 200 307 400 503
    saw GET '/messages/{seq}' 200 307 404
    saw GET /messages/stream 200 307 400 503
    saw GET /events 200 503
    saw GET /ready 200 503
    saw PUT '/secondaries/{index}/chaos' 200 400 404 413 502
    saw POST /replicate 200 400 409 507
    saw POST /heartbeat 200 400
    saw POST /promise 200 400 409
    saw GET /entries 200 400 404
    saw PUT /chaos 200 400 404
}

# saw METHOD PATH STATUS...
saw() {
    local call="$1 $2" status
    for status in "${@:3}"; do
        grep -qxF "$call $status" "$SEEN" || fail "$call was never answered $status"
    done
}

main
