#!/usr/bin/env bash
# `make demo`: shows with curl what the replicated log does, and checks every answer.
#
# It uses the cluster that answers on ports 8000 (master), 8001 and 8002 (secondaries), or on PORT
# and the two after it. Where none does, it builds one, starts it as plain processes and stops them in
# the end. Exit code 0: every answer was right. 1: one was not, or something could not be started; the
# last lines say what.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. docker/nodes.sh

given=${PORT:+PORT=$PORT }
choose_ports
master=http://127.0.0.1:$port
secondary1=http://127.0.0.1:$port1
secondary2=http://127.0.0.1:$port2

# Neither the reader's locale nor a setting of theirs may change what is shown here.
export LC_ALL=C LOG_LEVEL=info
unset DELAY_MS NODE_NAME SECONDARIES PORT HOST DATA_DIR CHAOS ADVERTISE_URL STANDBY

work=$(mktemp -d)
trap 'exit 130' INT
trap 'exit 143' TERM HUP
trap clean_up EXIT

# What every call has in common, kept out of the lines that are shown: no progress bar, no proxy,
# no waiting for ever, the way to the master that reigns now, and the status and the time after the
# answer. This file also takes the place of the reader's own ~/.curlrc.
export CURL_HOME=$work
cat >"$work/.curlrc" <<'END'
silent
show-error
noproxy = "*"
max-time = 60
location
write-out = "\n%{http_code} in %{time_total} s\n"
END
if [ -n "${API_TOKEN:-}" ]; then
    (umask 077 && echo "header = \"Authorization: Bearer ${API_TOKEN%%,*}\"" >>"$work/.curlrc")
fi

main() {
    stamp=$(date +%H:%M:%S)  # in every message, to know it among older ones
    checks=0
    page="Open $master/ to see it live."
    find_or_start_cluster
    show_nodes
    show_blocking_post
    show_equal_logs
    show_posts_at_once
    show_bad_body
    show_without_delay
    show_page
    stop_nodes
    if [ "$unclean" -ne 0 ]; then fail "$unclean of the nodes started here did not exit with 0"; fi
    say "" "All $checks checks passed." "$page"
}

# ---- the steps ----------------------------------------------------------------------------------

show_page() {
    step "The master has a live page"
    ask "$master/" --head
    check "the answer is 200" [ "$status" = 200 ]
    check "it is a page" has "Content-Type: text/html"
    ok "$master/ shows the logs grow, who is slow, and what is wrong"
}

find_or_start_cluster() {
    local node
    say "A replicated log: a POST is answered when every secondary has the message." \
        "Below each call stand its answer, its status and the time it took." ""
    if answers "$master"; then
        for node in $secondary1 $secondary2; do
            answers "$node" || fail "a cluster answers on $master, but nothing does on $node"
        done
        say "Using the cluster that answers on ports $port, $port1 and $port2."
        return
    fi
    page="Run '${given}make run' and open $master/ to see it live."
    say "No cluster answers on port $port, so this demo starts its own. Building it, if need be:"
    build_nodes || fail "the nodes could not be built"
    launch secondary1 "$secondary_bin" --port "$port1"
    launch secondary2 "$secondary_bin" --port "$port2" --delay-ms 1500
    launch master "$master_bin" --port "$port" --secondaries $secondary1,$secondary2
}

show_nodes() {
    local node delay
    step "Three nodes answer"
    delay_ms=0
    for node in $master $secondary1 $secondary2; do
        ask "$node/health"
        check "$node answers 200" [ "$status" = 200 ]
        delay=$(sed -n 's/.*"delay_ms": *\([0-9]*\).*/\1/p' <<<"$body")
        if [ "${delay:-0}" -gt "$delay_ms" ]; then delay_ms=$delay; fi
    done
    ok "three answers 200; the slowest secondary has a delay of $delay_ms ms"
}

show_blocking_post() {
    step "A POST waits for the slowest secondary"
    ask "$master/messages" -d "{\"msg\":\"first $stamp\"}"
    blocked=$took
    check "the answer is 201" [ "$status" = 201 ]
    check "both secondaries acknowledged" [ "$(count '"ack":"ok"')" = 2 ]
    check "the answer shows the log, the message at its end" has "\"first $stamp\"]"
    ok "201, acknowledged by both secondaries, the message is in the log"
    check "it takes the delay of $delay_ms ms at least" [ "$took_ms" -ge "$delay_ms" ]
    check "it takes less than a second longer" [ "$took_ms" -lt $((delay_ms + 1000)) ]
    ok "it took $took, the delay is $delay_ms ms"
}

show_equal_logs() {
    step "All three logs are equal"
    ask_all_logs
    check "the log ends with the message" ends_with "\"first $stamp\"]}"
    ok "three equal logs, the message at their end"
}

show_posts_at_once() {
    local i total_ms
    step "Eight POSTs at once do not queue up behind each other"
    TIMEFORMAT=%R
    { time post_eight; } 2>"$work/time"
    total_ms=$(milliseconds "$(tail -n 1 "$work/time")")
    check "eight answers 201" [ "$(cat "$work"/post.* | grep -c '^201 in ')" = 8 ]
    if [ "$delay_ms" -ge 1000 ]; then
        check "together they take less than two delays" [ "$total_ms" -lt $((2 * delay_ms)) ]
    fi
    ok "eight answers 201, all together after $total_ms ms"
    ask_all_logs
    for i in 1 2 3 4 5 6 7 8; do
        check "message $i of 8 is there once" [ "$(count "\"at once $i $stamp\"")" = 1 ]
    done
    ok "three equal logs, each of the eight messages in them once"
}

show_bad_body() {
    step "A body that is not a message is refused and changes nothing"
    ask "$master/messages" -d "not JSON"
    check "the answer is 400" [ "$status" = 400 ]
    check "it says what was expected" has "Expected JSON with string field 'msg'"
    ask "$master/messages"
    check "the log is as it was" [ "$body" = "$log" ]
    ok "400, and the log is as it was"
}

show_without_delay() {
    local first second round best best_ms
    step "The same POST without a delay"
    if ! command -v cargo >/dev/null && [ -z "${master_bin:-}" ]; then
        say "   Left out: it needs a second cluster, and there is no cargo here to build one."
        return
    fi
    say "   A second cluster, on free ports and without a delay:"
    if [ -z "${master_bin:-}" ]; then
        say "   (of plain processes; building them, if need be)"
        build_nodes || fail "the nodes could not be built"
    fi
    launch undelayed1 "$secondary_bin" --port 0
    first=http://$addr
    launch undelayed2 "$secondary_bin" --port 0
    second=http://$addr
    launch undelayed "$master_bin" --port 0 --secondaries "$first,$second"
    best_ms=
    for round in 1 2 3; do
        ask "http://$addr/messages" -d "{\"msg\":\"undelayed $round\"}"
        check "the answer is 201" [ "$status" = 201 ]
        check "both secondaries acknowledged" [ "$(count '"ack":"ok"')" = 2 ]
        if [ -z "$best_ms" ] || [ "$took_ms" -lt "$best_ms" ]; then
            best_ms=$took_ms
            best=$took
        fi
    done
    if [ "$delay_ms" -ge 100 ]; then
        check "without the delay it takes less than half of it" [ "$best_ms" -lt $((delay_ms / 2)) ]
    fi
    ok "$best without a delay, $blocked with one of $delay_ms ms"
}

# ---- asking and checking ------------------------------------------------------------------------

# ask URL [CURL OPTIONS]: shows the call, makes it, shows the answer; sets $body, $status, $took, $took_ms.
ask() {
    local answer shown
    show curl "$@"
    answer=$(curl "$@") || fail "no answer from $1"
    status=${answer##*$'\n'}
    body=${answer%$'\n'*}
    body=${body//$'\r'/}
    shown=$(shortened "$body")
    say "   ${shown//$'\n'/$'\n   '}" "   $status"
    took=${status#* in }
    took_ms=$(milliseconds "${took% s}")
    status=${status%% *}
}

# Shows the three logs, checks that they are equal, sets $log.
ask_all_logs() {
    ask "$master/messages"
    log=$body
    ask $secondary1/messages
    check "the log of secondary 1 is the master's" [ "$body" = "$log" ]
    ask $secondary2/messages
    check "the log of secondary 2 is the master's" [ "$body" = "$log" ]
}

# Eight POSTs in the background; waits for all.
post_eight() {
    local i pids=""
    for i in 1 2 3 4 5 6 7 8; do
        set -- -o /dev/null "$master/messages" -d "{\"msg\":\"at once $i $stamp\"}"
        show curl "$@" "&"
        curl "$@" >"$work/post.$i" 2>&1 &
        pids="$pids $!"
    done
    # shellcheck disable=SC2086  # a list of numbers
    wait $pids || true
    sed -n 's/^./   &/p' "$work"/post.*
}

# answers URL: is it a node? Something else, or something that stays silent, ends the demo.
answers() {
    local health code=0
    health=$(curl --max-time 5 "$1/health" 2>"$work/error") || code=$?
    case $code in
        0) [[ $health == *'"status"'* ]] || fail "something on $1 answers, but it is not a node" ;;
        7) return 1 ;;  # connection refused
        *) fail "asking $1/health: $(cat "$work/error")" ;;
    esac
}

# check WHAT COMMAND...: ends the demo where the command says no.
check() {
    local what=$1
    shift
    "$@" || fail "expected: $what"
    checks=$((checks + 1))
}

ok() { say "   ok: $1"; }

has() { [[ $body == *"$1"* ]]; }
ends_with() { [[ $body == *"$1" ]]; }

# count TEXT: how often it occurs in the last answer.
count() { { grep -oF -- "$1" <<<"$body" || true; } | wc -l | tr -d ' '; }

# milliseconds SECONDS: 1.5064 -> 1506
milliseconds() { awk -v seconds="$1" 'BEGIN { print int(seconds * 1000) }'; }

# ---- showing ------------------------------------------------------------------------------------

steps=0
step() {
    steps=$((steps + 1))
    say "" "$steps. $1."
}

say() { printf '%s\n' "$@"; }

# show COMMAND...: as one would type it.
show() {
    local word line="   \$"
    for word in "$@"; do
        case $word in
            "&" | [a-zA-Z0-9/-]*) [[ $word == *[\ \"\'\\]* ]] && word="'$word'" ;;
            *) word="'$word'" ;;
        esac
        line="$line ${word/#$PWD\//}"
    done
    say "$line"
}

# shortened TEXT: a long log's middle is of no use on a screen.
shortened() {
    local text=$1 left_out=$((${#1} - 400))
    if [ $left_out -gt 0 ]; then
        text="${text:0:80} [... $left_out characters ...] ${text: -320}"
    fi
    printf '%s\n' "$text"
}

# ---- the demo's own processes -------------------------------------------------------------------

# launch NAME COMMAND...: starts a node, waits until it is ready, sets $addr to where it listens.
launch() {
    local name=$1 tenths
    shift
    show "$@" "&"
    NODE_NAME=$name start_node "$@" >"$work/$name.log" 2>&1
    for ((tenths = 0; tenths < 100; tenths++)); do
        addr=$(sed -n '/ready/s/.*addr=\([0-9.]*:[0-9]*\).*/\1/p' "$work/$name.log" | head -n 1)
        if [ -n "$addr" ]; then return; fi
        if ! kill -0 "$node_pid" 2>/dev/null; then fail "$name did not start"; fi
        sleep 0.1
    done
    fail "$name was not ready within 10 s"
}

fail() {
    local file
    for file in "$work"/*.log; do
        [ -s "$file" ] || continue
        say "" "The last lines of $(basename "$file" .log):" >&2
        tail -n 15 "$file" >&2
    done
    say "" "WRONG: $1" >&2
    exit 1
}

clean_up() {
    stop_nodes
    rm -rf "$work"
}

main
