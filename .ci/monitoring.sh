#!/usr/bin/env bash
# What docker/prometheus.yaml, docker/alerts.yaml and docker/grafana/ say, on a live cluster:
# monitoring.sh MASTER SECONDARY, both binaries.
#
# Needs prometheus and promtool, as Debian's package `prometheus` brings them. Nothing can be seen
# of Grafana itself here, but every expression of its dashboard is asked, and must have an answer.
# DASHBOARD is another dashboard to look at.
set -euo pipefail
master_bin=$(realpath "$1") secondary_bin=$(realpath "$2")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. .ci/ends.sh

dashboard=${DASHBOARD:-docker/grafana/replicated-log.json}

main() {
    check_compose
    promtool check config docker/prometheus.yaml
    promtool test rules .ci/alerts.test.yaml
    start_cluster
    append 3
    check_metrics "$master"
    check_metrics "$secondary1"
    start_prometheus
    append 3
    check_expressions
    check_alerts_fire
    echo "Monitoring is well, after $SECONDS s."
}

# Monitoring is off unless it is asked for.
check_compose() {
    local compose found
    if docker compose version >/dev/null 2>&1; then
        compose=(docker compose)
    elif command -v docker-compose >/dev/null; then
        compose=(docker-compose)
    else
        echo "No compose is installed here to look at docker/compose.yaml with."
        return
    fi
    "${compose[@]}" -f docker/compose.yaml --profile monitoring --profile standby config -q || fail "compose.yaml is not valid"
    found=$(services_without_profile "${compose[@]}")
    [ "$found" = "master secondary1 secondary2" ] || fail "compose starts '$found' by default"
    echo "compose.yaml is valid, and starts by default: $found"
}

# docker-compose 1 names all services, whatever their profile, so its whole output is looked at.
services_without_profile() {
    "$@" -f docker/compose.yaml config | awk '
        /^[a-z]/ { inside = $1 == "services:" }
        inside && /^  [a-z]/ { service = $1; sub(":", "", service); all[service] }
        inside && /^    profiles:/ { delete all[service] }
        END { for (service in all) print service }' | sort | paste -sd ' '
}

start_cluster() {
    start secondary1 "$secondary_bin"
    secondary1=$address
    start secondary2 "$secondary_bin"
    secondary2=$address secondary2_pid=$node_pid
    start master "$master_bin" --secondaries "http://$secondary1,http://$secondary2" --heartbeat-ms 200
    master=$address
}

# start NAME COMMAND...: sets $address to where it listens, and $node_pid.
start() {
    local name=$1
    shift
    NODE_NAME=$name start_node "$@" --port 0 >"$work/$name"
    wait_until 10 grep -q 'ready addr=' "$work/$name" || fail "$name is not ready"
    address=$(sed -n 's/.*ready addr=\([^ ]*\).*/\1/p' "$work/$name")
}

append() {
    local count
    for ((count = 0; count < $1; count++)); do
        curl --silent --output "$work/answer" --data '{"msg":"monitored"}' "http://$master/messages"
    done
}

# promtool reads the older text format, in which a counter is declared by its whole name.
check_metrics() {
    curl --silent --fail "http://$1/metrics" >"$work/metrics"
    awk '/^# HELP/ { help = $0; next }
        /^# TYPE/ {
            if ($4 == "counter") { sub($3, $3 "_total", help); sub($3, $3 "_total") }
            print help
        }
        { print }' "$work/metrics" >"$work/metrics.text"
    promtool check metrics <"$work/metrics.text" || fail "promtool finds fault with the metrics above"
    echo "$(grep -c '^# TYPE' "$work/metrics") metrics of $1 are as they should be."
}

# With the shipped settings, but for the addresses of this cluster.
start_prometheus() {
    local found
    sed "s/master:8000/$master/; s/secondary1:8001/$secondary1/; s/secondary2:8001/$secondary2/" \
        docker/prometheus.yaml >"$work/prometheus.yaml"
    cp docker/alerts.yaml "$work/"
    start_node prometheus --config.file="$work/prometheus.yaml" --storage.tsdb.path="$work/data" \
        --web.listen-address=127.0.0.1:0 >"$work/prometheus" 2>&1
    wait_until 15 grep -q 'ready to receive web requests' "$work/prometheus" || fail "prometheus is not ready"
    found=$(sed -n 's/.*msg="Listening on" address=\([0-9.:]*\).*/\1/p' "$work/prometheus")
    prometheus=http://$found
    wait_until 15 all_nodes_are_up || fail "prometheus cannot read the metrics of all three nodes"
}

all_nodes_are_up() {
    [ "$(curl --silent "$prometheus/api/v1/query?query=count(up==1)" | grep -o '"3"')" = '"3"' ]
}

# Each of the dashboard's must have data. Each alert must be about metrics that there are, and have
# nothing to say of a cluster that is well.
check_expressions() {
    python3 - "$prometheus" "$dashboard" <<'END' || fail "an expression has no answer"
import json, math, re, sys, time, urllib.parse, urllib.request

prometheus, dashboard = sys.argv[1:]

def get(path):
    with urllib.request.urlopen(f"{prometheus}/api/v1/{path}", timeout=10) as answer:
        return json.load(answer)["data"]

def ask(expression):
    result = get("query?" + urllib.parse.urlencode({"query": expression}))["result"]
    return [sample for sample in result if not math.isnan(float(sample["value"][1]))]

panels = json.load(open(dashboard))["panels"]
wanted = [target["expr"] for panel in panels for target in panel["targets"]]
deadline = time.monotonic() + 15  # rates need two samples
while missing := [expression for expression in wanted if not ask(expression)]:
    if time.monotonic() > deadline:
        sys.exit("No data: " + "\n         ".join(missing))
    time.sleep(0.5)
rules = [rule for group in get("rules")["groups"] for rule in group["rules"]]
for rule in rules:
    found = ask(rule["query"])
    if found or rule["health"] == "err":
        sys.exit(f"{rule['name']}: {rule.get('lastError', found)}")
    for metric in re.findall(r"replog_\w+", rule["query"]):
        if not ask(metric):
            sys.exit(f"{rule['name']}: there is no {metric}")
print(f"{len(wanted)} expressions of the dashboard have data; {len(rules)} alerts are silent.")
END
}

# A secondary is killed, and a POST is not acknowledged.
check_alerts_fire() {
    local alert
    kill -KILL "$secondary2_pid"
    wait "$secondary2_pid" 2>/dev/null || true
    append 1
    for alert in PostsNotAcknowledged NodeDown SecondaryLags; do
        wait_until 25 fires $alert || fail "$alert does not fire"
    done
    echo "Three alerts fire for a secondary that was killed."
}

fires() {
    curl --silent --get "$prometheus/api/v1/query" \
        --data-urlencode "query=ALERTS{alertname=\"$1\",alertstate=\"firing\"}" | grep -q '"value"'
}

show_logs() { tail -n 5 "$work/master" "$work/prometheus" 2>/dev/null || true; }

main
