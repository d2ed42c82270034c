#!/usr/bin/env bash
# The proxy of docker/tls in front of a cluster: tls.sh MASTER SECONDARY, both binaries.
#
# Needs haproxy, curl with HTTP/2, openssl and python3. All of it listens on 127.0.0.1.
set -euo pipefail
master_bin=$(realpath "$1") secondary_bin=$(realpath "$2")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. .ci/ends.sh

PATH=$PATH:/usr/sbin
name=log.example.com token=of-clients
export CURL_HOME=$work CLUSTER_TOKEN=of-nodes API_TOKEN=$token ALLOWED_HOSTS=$name

main() {
    start_cluster
    start_proxy
    check_writes
    check_streams
    check_refusals
    check_other_lines
    check_connections
    check_takeover
    check_rate
    echo "The proxy does what it should, after $SECONDS s."
}

start_cluster() {
    start secondary1 "$secondary_bin"
    SECONDARY1=$address
    start secondary2 "$secondary_bin"
    SECONDARY2=$address
    local secondaries=(--secondaries "http://$SECONDARY1,http://$SECONDARY2" --heartbeat-ms 200)
    start master "$master_bin" "${secondaries[@]}"
    MASTER=$address master_pid=$node_pid
    wait_until 10 curl --silent --fail --output /dev/null "http://$MASTER/ready" || fail "no master reigns"
    start standby "$master_bin" "${secondaries[@]}"
    STANDBY=$address
    export MASTER STANDBY SECONDARY1 SECONDARY2
}

# start NAME COMMAND...: sets $address to where it listens, and $node_pid.
start() {
    NODE_NAME=$1 start_node "${@:2}" --port 0 >"$work/$1"
    wait_until 10 grep -q 'ready addr=' "$work/$1" || fail "$1 is not ready"
    address=$(sed -n 's/.*ready addr=\([^ ]*\).*/\1/p' "$work/$1")
}

start_proxy() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=$name" \
        -addext "subjectAltName=DNS:$name" -keyout "$work/key" -out "$work/cert" 2>"$work/openssl"
    cat "$work/cert" "$work/key" >"$work/pem"
    read -r plain tls copies < <(python3 -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(one.getsockname()[1] for one in sockets))')
    CERTIFICATE=$work/pem PLAIN=127.0.0.1:$plain MASTER_TLS=127.0.0.1:$tls COPIES_TLS=127.0.0.1:$copies \
        start_node haproxy -f docker/tls/haproxy.cfg >"$work/haproxy" 2>&1
    cat >"$work/.curlrc" <<END
silent
show-error
cacert = "$work/cert"
max-time = 30
connect-to = "$name:443:127.0.0.1:$tls"
connect-to = "$name:8443:127.0.0.1:$copies"
connect-to = "$name:80:127.0.0.1:$plain"
connect-to = "evil.example:443:127.0.0.1:$tls"
END
    # A node is taken to be ready until it has been asked.
    wait_until 10 grep -q 'Server masters/standby is DOWN' "$work/haproxy" || fail "the standby is taken for a master"
    wait_until 10 answers 200 "https://$name/ready" || fail "the proxy finds no master"
    wait_until 10 answers 200 "https://$name:8443/ready" || fail "the proxy finds no secondary"
}

# answers STATUS CURL-ARGUMENTS...: with $token; the body is in $work/answer.
answers() {
    status=$(curl --output "$work/answer" --header "Authorization: Bearer $token" --write-out '%{http_code}' "${@:2}") || return 1
    [ "$status" = "$1" ]
}

expect() {
    answers "$@" || fail "'${*:2}' is answered with $status, not $1: $(head -c 300 "$work/answer")"
}

check_writes() {
    local version count
    for version in 1.1 2; do
        expect 201 "--http$version" --data "{\"msg\":\"over $version\"}" "https://$name/messages"
        count=$(curl "--http$version" --output "$work/answer" --write-out '%{http_version}' "https://$name/health")
        [ "$count" = "$version" ] || fail "HTTP/$count is spoken, not $version"
    done
    { printf '{"msg":"'; head -c 1000000 /dev/zero | tr '\0' x; printf '"}'; } >"$work/large"
    expect 201 --data "@$work/large" --header 'Prefer: return=minimal' "https://$name/messages"
    expect 201 --data '{"msg":"to a copy"}' --header 'Prefer: return=minimal' "https://$name:8443/messages"
    expect 200 "https://$name:8443/health"
    grep -q '"delay_ms"' "$work/answer" || fail "reads lead to no secondary: $(cat "$work/answer")"
    expect 200 "https://$name:8443/messages/4"
    grep -q '^{"seq":4,' "$work/answer" || fail "a copy shows $(cat "$work/answer")"
    echo "Writes and reads are answered over HTTP/1.1 and HTTP/2, a message of 1 MB too."
}

# An entry is seen at once by a client that has waited for it, at the master and at a copy.
check_streams() {
    local port path message seq=4
    for port in 443 8443; do
        for path in stream poll; do
            seq=$((seq + 1)) message="for the $path at $port"
            case $path in
                stream) path="messages/stream?from=$((seq - 1))" ;;
                poll) path="messages?from=$seq&wait=20000" ;;
            esac
            : >"$work/followed"
            start_node curl --no-buffer --header "Authorization: Bearer $token" --output "$work/followed" "https://$name:$port/$path"
            if [[ $path = *stream* ]]; then
                wait_until 10 grep -q "^id: $((seq - 1))$" "$work/followed" || fail "/$path shows no entry"
            else
                sleep 1
                kill -0 "$node_pid" || fail "/$path does not wait: $(cat "$work/followed")"
            fi
            expect 201 --data "{\"msg\":\"$message\"}" --header 'Prefer: return=minimal' "https://$name/messages"
            wait_until 3 grep -qF "$message" "$work/followed" || fail "/$path does not show an entry at once"
        done
    done
    echo "Streams and long polls show an entry at once."
}

check_refusals() {
    local path
    token=wrong expect 401 "https://$name/messages"
    expect 421 --insecure https://evil.example/health
    for path in replicate heartbeat promise entries chaos secondaries/0/chaos %72eplicate %73econdaries%2F0/chaos; do
        token=$CLUSTER_TOKEN expect 403 --data '{}' "https://$name/$path"
    done
    expect 308 --data '{"msg":"seen by others"}' "http://$name/messages"
    echo "A wrong token, a foreign name, calls of nodes and plain HTTP are refused."
}

descriptors() { find "/proc/$master_pid/fd" | wc -l; }

# Heads that cost a node two descriptors each cost it none behind the proxy, over TLS or not.
# A folded line of a head is none to the node.
check_other_lines() {
    local before after
    before=$(descriptors)
    python3 - "${MASTER##*:}" 20 <<<"$raw_lines"
    after=$(descriptors)
    [ "$after" -ge $((before + 30)) ] || fail "20 such heads past the proxy cost $((after - before)) descriptors"
    before=$after
    python3 - "$plain" 100 <<<"$raw_lines"
    python3 - "$tls" 100 "$work/cert" <<<"$raw_lines"
    after=$(descriptors)
    [ "$after" -lt $((before + 20)) ] || fail "200 through the proxy cost $((after - before)) descriptors"
    python3 - "$tls" fold "$work/cert" <<<"$raw_lines"
    echo "200 heads that a node would lose did not reach it: $before descriptors, $after afterwards."
}

# PORT COUNT [CERTIFICATE]
raw_lines='
import contextlib, socket, ssl, sys

LINES = "GET /health HTTP/2.0", "GET /health HTTP/3.0", "POST /messages HTTP/1.1\r\nContent-Length: 2147483648"

def connect():
    raw = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10)
    if len(sys.argv) < 4:
        return raw
    return ssl.create_default_context(cafile=sys.argv[3]).wrap_socket(raw, server_hostname="log.example.com")

def say(line):
    with connect() as link, contextlib.suppress(OSError):
        # With more of a body than the proxy waits for.
        body = "x" * 20_000 if line.startswith("POST") else ""
        link.sendall("\r\n".join([line, "Host: log.example.com", "Connection: close", "", body]).encode())
        # To the end, but a node that has lost the connection does not answer.
        link.settimeout(0.2)
        while link.recv(4096):
            pass

if sys.argv[2] == "fold":
    with connect() as link:
        own = "Host: log.example.com\r\nAuthorization: Bearer of-clients\r\n"
        request = f"GET /messages/1 HTTP/1.1\r\n{own}X: y\r\n Content-Length: 9\r\n\r\n"
        last = f"GET /messages/2 HTTP/1.1\r\n{own}Connection: close\r\n\r\n"
        link.sendall((request + last).encode())
        answers = b"".join(iter(lambda: link.recv(4096), b"")).decode()
        sys.exit(answers.count("HTTP/1.1 200") != 2 and f"The folded line was believed: {answers}")
for number in range(int(sys.argv[2])):
    say(LINES[number % 3])
'

# A client with more connections than it may have is refused more, and goes on with those.
check_connections() {
    python3 - "$tls" <<'END' || fail "one address has more connections than it may have"
import contextlib, socket, sys, time

links = []
for _ in range(80):
    with contextlib.suppress(OSError):
        links.append(socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10))
time.sleep(1)

def is_open(link):
    link.setblocking(False)
    try:
        return link.recv(1) != b""
    except OSError as error:
        return isinstance(error, BlockingIOError)

count = sum(map(is_open, links))
print(f"Of 80 connections of one address {count} are kept.")
sys.exit(not 30 <= count <= 50)
END
    wait_until 5 answers 200 "https://$name/health" || fail "the address is refused for ever"
}

# The proxy finds the master that reigns.
check_takeover() {
    kill -KILL "$master_pid"
    wait "$master_pid" 2>/dev/null || true
    wait_until 20 answers 201 --data '{"msg":"to the next"}' --header 'Prefer: return=minimal' "https://$name/messages" ||
        fail "the standby is not found: $(head -c 300 "$work/answer")"
    echo "The proxy finds the standby that has taken over."
}

check_rate() {
    curl --parallel --parallel-max 5 --output /dev/null --write-out '%{http_code}\n' "https://$name/health?[1-1100]" \
        >"$work/statuses" 2>"$work/errors" || true
    grep -q '^200$' "$work/statuses" || fail "no request is answered"
    grep -q '^429$' "$work/statuses" || fail "1100 requests at once are not too many"
    echo "$(grep -c '^429$' "$work/statuses") of 1100 requests at once are too many."
}

show_logs() { tail -n 5 "$work"/{master,standby,haproxy} 2>/dev/null || true; }

main
