#!/usr/bin/env bash
# The clients of master/examples/README.md, run as they stand there: clients.sh README VENV_DIR URL
#
# URL is the master of a running cluster, VENV_DIR a Python environment with .ci/requirements.txt.
# Between each client and the master stands a proxy that loses answers, redirects and breaks off. The
# message must be in the log once all the same, also when the client is run twice, and the client
# must print every entry once.
set -euo pipefail
readme=$(realpath "$1") venv=$(realpath "$2") url=$3
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. .ci/ends.sh

python=$venv/bin/python
client_pid=
proxy_pid=

# Nothing but the proxy of this script is to stand between them.
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY

main() {
    local built
    block rust | diff - master/examples/client.rs ||
        fail "the Rust client of $readme is not master/examples/client.rs"
    built=$(cargo build --locked --quiet --package master --example client \
        --message-format=json-render-diagnostics)
    rust_client=$(executable_of client <<<"$built")
    [ -x "$rust_client" ] || fail "cargo built no client"
    check_client sh 0
    check_client python 1
    check_client js 1
    check_client rust 1
}

# block LANGUAGE: the block of that language.
block() {
    awk -v fence="\`\`\`$1" '/^```/ { inside = $0 == fence; next } inside' "$readme"
}

# check_client LANGUAGE CUTS
check_client() {
    local language=$1 message found later="after $1 $$" begin=$SECONDS
    start_proxy "$2"
    block "$language" | sed "s#http://localhost:8000#$proxy#" >"$work/client.$language"
    message=$(grep -o 'hello from [A-Za-z]*' "$work/client.$language") ||
        fail "$readme has no client in $language that says hello"

    start_client "$language" "$work/first"
    wait_until 60 prints "$work/first" "$message" ||
        fail_with "the client in $language did not print '$message'"
    wait_until 60 was_answered 1 || fail_with "it did not post until it was answered"
    grep -q '^lost' "$work/proxy" || fail_with "no answer was lost"
    grep -q '^refused' "$work/proxy" || fail_with "nothing was refused"
    grep -q '^led' "$work/proxy" || fail_with "no redirect was followed"
    [ "$2" = 0 ] || wait_until 60 grep -q '^cut' "$work/proxy" || fail_with "nothing was broken off"
    curl --silent --fail --output "$work/answer" --data "{\"msg\":\"$later\"}" "$url/messages"
    wait_until 60 prints "$work/first" "$later" || fail_with "it did not follow the log"
    found=$(grep -E 'hello from|after ' "$work/first" | sort | uniq -d)
    [ -z "$found" ] || fail_with "it printed an entry twice: $found"
    stop_client

    start_client "$language" "$work/second"
    wait_until 60 was_answered 2 || fail_with "run again, it was not answered 201"
    wait_until 60 prints "$work/second" "$message" ||
        fail_with "run again, it did not print '$message'"
    wait_until 60 prints "$work/second" "$later" || fail_with "run again, it did not print '$later'"
    found=$(times_in_log "$message")
    [ "$found" = 1 ] || fail_with "'$message' is in the log $found times"
    stop_client
    end "$proxy_pid"
    proxy_pid=
    echo "$language: '$message' is in the log once, and was followed; $((SECONDS - begin)) s"
}

start_proxy() {
    "$python" .ci/lossy.py "$url" "$1" >"$work/proxy" 2>&1 &
    proxy_pid=$!
    wait_until 10 grep -q '^http://' "$work/proxy" || fail_with "the proxy does not start"
    proxy=$(head -n 1 "$work/proxy")
}

# start_client LANGUAGE OUTPUT: it follows the log until it is ended.
start_client() {
    local command
    case $1 in
        sh) command=(bash "$work/client.sh") ;;
        python) command=("$python" "$work/client.python") ;;
        js) ln -f "$work/client.js" "$work/client.mjs"; command=(node "$work/client.mjs") ;;
        rust) command=("$rust_client" "$proxy") ;;
    esac
    : >"$2"
    setsid "${command[@]}" >"$2" 2>&1 &
    client_pid=$!
    client_language=$1
    client_output=$2
}

# A shell is ended together with the curl that it waits for; the others end what they started.
stop_client() {
    [ -n "$client_pid" ] || return 0
    if [ "$client_language" = sh ]; then kill -TERM -- "-$client_pid" 2>/dev/null || true; fi
    end "$client_pid"
    client_pid=
}

# end PID: of a child of this script; by force after 10 s.
end() {
    local tenths
    kill -TERM "$1" 2>/dev/null || true
    for ((tenths = 0; tenths < 100; tenths++)); do
        kill -0 "$1" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

# prints FILE TEXT
prints() { grep -qF "$2" "$1"; }

was_answered() { [ "$(grep -c '^posted 201' "$work/proxy")" = "$1" ]; }

times_in_log() {
    curl --silent --fail "$url/messages" | grep -oF "\"$1\"" | wc -l
}

fail_with() {
    echo "--- the proxy:"; cat "$work/proxy"
    echo "--- the client:"; cat "${client_output:-/dev/null}"
    fail "$1"
} >&2

stop_others() {
    stop_client
    if [ -n "$proxy_pid" ]; then end "$proxy_pid"; fi
}

main
