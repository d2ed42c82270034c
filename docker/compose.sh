#!/usr/bin/env bash
# compose.sh up|down|erase|logs: the cluster in containers, with whichever compose is installed.
# STANDBY=1 starts a second master too, which stands by.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Docker before 23 and docker-compose 1 need to be told to build with BuildKit.
export DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1

if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif docker-compose version >/dev/null 2>&1; then
    compose=(docker-compose)
else
    echo "Neither 'docker compose' nor 'docker-compose' is installed." >&2
    echo "'make demo' and 'make run' need no Docker: they start the same cluster as plain processes." >&2
    exit 1
fi
if ! problem=$(docker version --format '{{.Server.Version}}' 2>&1 >/dev/null); then
    echo "No Docker engine answers: $problem" >&2
    echo "'make demo' and 'make run' need none: they start the same cluster as plain processes." >&2
    exit 1
fi

# The nodes know each other by a secret of this clone. It is in the environment and in a file that git
# ignores, and in no list of processes.
token_file=docker/.cluster-token
if [ "${1:-}" = up ] && [ -z "${CLUSTER_TOKEN:-}" ] && [ ! -s "$token_file" ]; then
    (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$token_file")
fi
if [ -z "${CLUSTER_TOKEN:-}" ] && [ -s "$token_file" ]; then
    CLUSTER_TOKEN=$(<"$token_file")
    export CLUSTER_TOKEN
fi

services=(secondary1 secondary2 master)
if [ "${STANDBY:-0}" = 1 ]; then
    export COMPOSE_PROFILES=${COMPOSE_PROFILES:+$COMPOSE_PROFILES,}standby
    services+=(standby)
fi
# Whatever was started, also with a profile that nobody names now.
every_profile=monitoring,standby

# Waits until the health check of every service has passed; 60 s are plenty.
wait_until_healthy() {
    local service status tenths
    for service in "${services[@]}"; do
        for ((tenths = 0; tenths < 600; tenths += 5)); do
            status=$(docker inspect --format '{{.State.Health.Status}}' \
                "$("${compose[@]}" ps -q "$service")" 2>&1) || true
            if [ "$status" = healthy ]; then continue 2; fi
            sleep 0.5
        done
        echo "$service is not healthy after 60 s but '$status'. Its last lines:" >&2
        "${compose[@]}" logs --tail=20 "$service" >&2
        exit 1
    done
}

case ${1:-} in
    up)
        "${compose[@]}" up --build --detach
        wait_until_healthy
        echo "The cluster is up and healthy:"
        echo "  master      http://localhost:8000"
        echo "  secondary1  http://localhost:8001"
        echo "  secondary2  http://localhost:8002   (the slow one)"
        if [ "${STANDBY:-0}" = 1 ]; then
            echo "  standby     http://localhost:8010   (a second master: 'docker kill' the first)"
        fi
        if [[ ",${COMPOSE_PROFILES:-}," = *,monitoring,* ]]; then
            echo "  dashboard   http://localhost:3000"
            echo "  alerts      http://localhost:9090/alerts"
        fi
        echo "See it live: http://localhost:8000/. Next: make demo, make watch, make logs, make down."
        ;;
    down) COMPOSE_PROFILES=$every_profile "${compose[@]}" down ;;
    erase) COMPOSE_PROFILES=$every_profile "${compose[@]}" down --volumes ;;
    logs) COMPOSE_PROFILES=${COMPOSE_PROFILES:+$COMPOSE_PROFILES,}standby exec "${compose[@]}" logs --follow --tail=100 ;;
    *)
        echo "usage: compose.sh up|down|erase|logs" >&2
        exit 2
        ;;
esac
