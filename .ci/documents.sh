#!/usr/bin/env bash
# What the READMEs refer to: documents.sh [DIRECTORY]
#
# Every link between them leads to a file and a heading that exist, and every test that README.md
# names stands in the file that it names. DIRECTORY is the repository, or another tree.
set -euo pipefail
cd "${1:-"$(dirname "${BASH_SOURCE[0]}")/.."}"

documents=(README.md docker/README.md master/examples/README.md master/benches/README.md)
wrong=0 links=0 tests=0

main() {
    local document
    for document in "${documents[@]}"; do
        [ -f "$document" ] || { complain "$document: does not exist"; continue; }
        check_links "$document"
    done
    check_tests
    [ "$tests" -ge 25 ] || complain "README.md: only $tests files of tests are named in its tables"
    [ "$wrong" = 0 ] || { echo "DOCUMENTS FAILED: $wrong complaints" >&2; exit 1; }
    echo "$links links and $tests references to tests are right."
}

# check_links DOCUMENT: [text](file#heading), and [name]: file.
check_links() {
    local link file heading
    while read -r link; do
        case $link in
            *://*) continue ;;
            "#"*) file=$1 ;;
            *) file=$(dirname "$1")/${link%%#*} ;;
        esac
        links=$((links + 1))
        [ -e "$file" ] || { complain "$1: $link leads nowhere"; continue; }
        [[ $link = *"#"* ]] || continue
        heading=${link#*#}
        headings "$file" | grep -qxF "$heading" || complain "$1: $file has no heading '$heading'"
    done < <(grep -oE '\]\([^) ]+\)|^\[[^]]+\]: +[^ ]+' "$1" |
        sed -E 's/^\]\((.*)\)$/\1/; s/^\[[^]]*\]: +//')
}

# headings DOCUMENT: as a link names them.
# shellcheck disable=SC2016  # Markdown's backticks
headings() {
    sed -nE '/^```/,/^```$/d; s/^#+ +//p' "$1" | tr '[:upper:]' '[:lower:]' |
        sed 's/[^a-z0-9 _-]//g; s/ /-/g'
}

# In the tables of README.md: `file.rs`, or `file.rs`: `a_test`, `another_test`. A name without a
# folder is one of master/tests/.
# shellcheck disable=SC2016  # Markdown's backticks
check_tests() {
    local mention file name
    while read -r mention; do
        file=${mention%%:*}
        [[ $file = */* ]] || file=master/tests/$file
        tests=$((tests + 1))
        compgen -G "$file" >/dev/null || { complain "README.md: $file does not exist"; continue; }
        [[ $mention = *:* ]] || continue
        for name in ${mention#*:}; do
            grep -q "^ *fn $name()" "$file" || complain "README.md: $file has no test $name"
        done
    done < <(grep '^|' README.md | grep -oE '`[a-z_/*]+\.rs`(: `[a-z0-9_]+`(, `[a-z0-9_]+`)*)?' |
        tr -d '`,')
}

complain() {
    echo "$1" >&2
    wrong=$((wrong + 1))
}

main
