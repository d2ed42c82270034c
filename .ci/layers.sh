#!/usr/bin/env bash
# The arrows between the modules, as the crates' front pages tell them: layers.sh [DIRECTORY]
#
# Looks at every import and every path in the code, without comments, texts and tests, and prints
# what goes the wrong way: file, line, reason, path. DIRECTORY is the repository, or another tree.
set -euo pipefail
list_paths=$(realpath "$(dirname "${BASH_SOURCE[0]}")")/paths.awk
cd "${1:-"$(dirname "$list_paths")/.."}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
wrong=0

core=(common/src/{chunk,entries,json,wire}.rs master/src/{concern,health,waiters}.rs)
lines=master/src/lines  # all of it belongs to the core
settings=({common,master,secondary}/src/settings.rs)
rooms=(common/src/http/{server,reply,guard}.rs
    master/src/{routes,write,state,calls,scrape,metrics}.rs secondary/src/{routes,replica}.rs)

# Paths; each stands for everything below it too. `common::*` is the crate under another name as
# well, and a call of a method is `method::elapsed` here.
edges='(common|master)::\*|common::(http|client|store|node|follow|reading|metrics|logging)'
users='master::(bodies|routes|write|calls|couriers|state|recovery|fetch|events|timeline|metrics|scrape)'
machine='std::(net|thread|fs|os|process)|tiny_http|ureq|redb|socket2|libc|crossbeam|signal_hook'
clock='(std::time::)?(Instant::now|SystemTime)|method::elapsed|time::(.*::)?now_(utc|local)'
opening='std::(fs|process)|std::net::(Tcp|Udp|ToSocket).*|redb|common::store::(Store|Opened|open.*)'
opening+='|common::client::Client|method::(exists|is_dir|is_file|metadata|read_dir|canonicalize)'

main() {
    local file
    for file in "${core[@]}" "${settings[@]}" "${rooms[@]}" "$lines"/{mod,line}.rs; do
        [ -f "$file" ] || complain "$file: does not exist; its new name belongs into .ci/layers.sh"
    done
    for file in "$lines"/*.rs; do [[ $file = */tests.rs ]] || core+=("$file"); done
    find . -path '*/target' -prune -o -path '*/src/*.rs' ! -name tests.rs -print |
        sed 's#^\./##' | sort >"$work/files"
    xargs awk -f "$list_paths" <"$work/files" >"$work/paths"

    forbid "$edges" "the core knows no edge" "${core[@]}"
    forbid "$users" "the core knows nobody who uses it" "${core[@]}"
    forbid "$machine" "the core knows no socket, no thread and no disk" "${core[@]}"
    forbid "$clock" "the core is told the time, it reads no clock" "${core[@]}"
    forbid "$opening" "settings open nothing" "${settings[@]}"

    # Two circles that were cut.
    forbid common::http::server "server uses reply, not the other way" common/src/http/reply.rs
    forbid master::scrape "scrape shows it and is not known to it" master/src/{state,write,calls}.rs
    forbid 'master::(state|write|calls)' "metrics only count" master/src/metrics.rs

    # The way of a message has no way back up.
    forbid 'master::(routes|write|calls)' "state lies below those who use it" master/src/state.rs
    forbid 'master::(routes|write)' "calls lie below a write" master/src/calls.rs
    forbid master::routes "a write lies below the routes" master/src/write.rs
    forbid secondary::routes "the replica lies below the routes" secondary/src/{replica,promises}.rs

    only common/src/http/ tiny_http "http is the only user of tiny_http"
    only common/src/client ureq "client is the only user of ureq"
    only common/src/store redb "store is the only user of redb"
    only common/src/http/guard.rs keyword::unsafe "unsafe code stands in guard.rs only"

    check_way_of_a_write
    [ "$wrong" = 0 ] || { echo "LAYERS FAILED: $wrong complaints" >&2; exit 1; }
    echo "$(wc -l <"$work/paths") paths in $(wc -l <"$work/files") files, none of them wrong."
}

# forbid PATHS REASON FILES...: none of these files may use such a path.
forbid() {
    local paths=$1 reason=$2 file
    shift 2
    for file; do
        report "$reason" < <(grep -E "^$file:[0-9]+ ($paths)(::|$)" "$work/paths")
    done
}

# only PREFIX PATH REASON: only files whose name begins so may use it.
only() {
    report "$3" < <(grep -E "^[^ ]+ $2(::|$)" "$work/paths" | grep -v "^$1")
}

# report REASON: a complaint for each line of standard input.
report() {
    local place path
    while read -r place path; do complain "$place: $1: $path"; done
}

complain() {
    echo "$1" >&2
    wrong=$((wrong + 1))
}

# The README names the rooms that a write goes through: at most ten, and each exists.
check_way_of_a_write() {
    local room count=0
    while read -r room; do
        count=$((count + 1))
        [ -e "$room" ] || complain "README.md: a write travels through $room, which does not exist"
    done < <(awk '/^## / { inside = $0 == "## How a write travels" } inside' README.md |
        grep -oE '(common|master|secondary)/src/[a-z_/.]+')
    if [ "$count" -lt 8 ] || [ "$count" -gt 10 ]; then
        complain "README.md: a write travels through $count rooms, not through eight to ten"
    fi
}

main
