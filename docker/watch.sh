#!/usr/bin/env bash
# `make watch`: follows the log of the master, or of the node at PORT or URL, until Ctrl-C. FROM=N
# begins with entry N. COMMITTED=false shows entries before a majority has held them. When the connection
# breaks, it goes on where it was. API_TOKEN is the token that the nodes ask clients for.
set -euo pipefail

url=${URL:-http://127.0.0.1:${PORT:-8000}}
next=${FROM:-1}
committed=${COMMITTED:-true}
trap 'exit 0' INT TERM

# In no list of processes.
show_token() {
    if [ -n "${API_TOKEN:-}" ]; then printf 'header = "Authorization: Bearer %s"\n' "${API_TOKEN%%,*}"; fi
}

while :; do
    # An answer that is no stream is one line without an end: why it was refused.
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in
            "id: "*) next=$((${line#id: } + 1)) ;;
            "data: "*) printf '%s\n' "${line#data: }" ;;
            "{"*) printf '%s\n' "$line" >&2 ;;
        esac
    done < <(curl --config <(show_token) --silent --location --no-buffer --show-error "$url/messages/stream?from=$next&committed=$committed")
    echo "No more from $url; trying again in a second." >&2
    sleep 1
done
