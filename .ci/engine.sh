# shellcheck shell=bash
# A Docker engine of our own for .ci/run, which sources this file. Its data is kept between runs:
# a kept base image and build cache save about two minutes.

engine_root=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/replicated-log-docker
export DOCKER_HOST=unix://$engine_root/docker.sock
# The older client and docker-compose 1 do not build with BuildKit unless they are told to.
export DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1
engine_pid=

start_engine() {
    # The engine's own client first: another one on PATH may come without BuildKit.
    PATH=/usr/bin:$PATH
    mkdir -p "$engine_root"
    # One run at a time. The engine must not inherit descriptor 9, or it would hold the lock.
    exec 9>"$engine_root/lock"
    flock -w 1200 9 || fail "another run has been using $engine_root for 20 minutes"
    end_left_over_engine
    if ! try_to_start_engine; then
        echo "The engine does not start with the data that was kept, so it gets an empty folder."
        tail -n 5 "$engine_root/log"
        stop_engine
        end_left_over_engine
        discard_engine_data
        try_to_start_engine || { tail -n 20 "$engine_root/log"; fail "the Docker engine does not start"; }
    fi
    # A run that was cut off leaves containers, and the engine restarts those.
    docker ps --all --quiet | xargs --no-run-if-empty docker rm --force >/dev/null
    docker network prune --force >/dev/null
    docker volume prune --force >/dev/null
}

try_to_start_engine() {
    local tenths
    setsid dockerd --host "$DOCKER_HOST" --data-root "$engine_root/data" \
        --exec-root "$engine_root/exec" --pidfile "$engine_root/pid" \
        >"$engine_root/log" 2>&1 9>&- &
    engine_pid=$!
    for ((tenths = 0; tenths < 600; tenths++)); do
        if docker version >/dev/null 2>&1; then return 0; fi
        if ! kill -0 "$engine_pid" 2>/dev/null; then return 1; fi
        sleep 0.1
    done
    return 1
}

stop_engine() {
    [ -n "$engine_pid" ] || return 0
    end_process "$engine_pid"
    wait "$engine_pid" 2>/dev/null || true
    engine_pid=
}

# What a run that was killed may have left: the engine and its containerd, told by the process ids
# in their own files and by our folder on their command line.
end_left_over_engine() {
    local file pid
    for file in "$engine_root/pid" "$engine_root/exec/containerd/containerd.pid"; do
        pid=$(cat "$file" 2>/dev/null) || continue
        if { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF "$engine_root"; then
            echo "Ending process $pid, left over by an earlier run."
            end_process "$pid"
        fi
        rm -f "$file"
    done
}

# end_process PID: asks it to stop, and ends it by force after 30 s.
end_process() {
    local tenths
    kill -TERM "$1" 2>/dev/null || return 0
    for ((tenths = 0; tenths < 300; tenths++)); do
        if ! kill -0 "$1" 2>/dev/null; then return 0; fi
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
}

discard_engine_data() {
    local mount
    cut -d ' ' -f 2 /proc/mounts | grep -F "$engine_root/" | sort -r | while read -r mount; do
        umount --lazy "$mount"
    done
    rm -rf "$engine_root/data" "$engine_root/exec"
}

# provide_base_image SCRIPT: the base image that the Dockerfile names, from a registry or, where none
# answers, made of this machine's own toolchain by SCRIPT under that very name, so that the
# Dockerfile is built as it is.
provide_base_image() {
    local name made_of label script=$1
    name=$(sed -n 's/^FROM \(rust:[^ ]*\).*/\1/p' docker/Dockerfile)
    made_of=$(rustc --version --verbose | sha256sum | cut -c 1-16)
    if label=$(docker image inspect --format '{{index .Config.Labels "made-of-host"}}' "$name" 2>/dev/null); then
        if [ -z "$label" ] || [ "$label" = "$made_of" ]; then return; fi
    elif timeout 60 docker pull --quiet "$name" 2>/dev/null; then
        return
    fi
    [ -x "$script" ] || fail "no registry gives $name, and there is no $script to make it"
    echo "No registry gives $name: making it of this machine's own toolchain."
    "$script" rust | docker import -c "LABEL made-of-host=$made_of" \
        -c 'ENV RUSTUP_HOME=/usr/local/rustup' -c 'ENV CARGO_HOME=/usr/local/cargo' \
        -c 'ENV PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        -c 'CMD ["bash"]' - "$name"
}

# Keeps the kept folder from growing with every run.
tidy_engine() {
    docker image prune --force >/dev/null
    docker builder prune --force --keep-storage 4GB >/dev/null
}
