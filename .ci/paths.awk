# Prints FILE:LINE PATH for every path that Rust files use, in full: in common/src/http/framing.rs
# `super::Reply` is common::http::reply::Reply, for http/mod.rs takes it from there. Comments, texts
# and tests are left out; a method's call is `method::NAME`, and unsafe is `keyword::unsafe`.
# The files are formatted as rustfmt does it.

FNR == 1 {
    module = FILENAME
    sub(/\.rs$/, "", module)
    sub(/\/src\//, "::", module)
    gsub(/\//, "::", module)
    sub(/::(lib|main|mod)$/, "", module)
    in_test = 0
    statement = ""
}

# The item after #[cfg(test)] goes as far as a line on the same column that ends it.
in_test {
    item = substr($0, column)
    if (item ~ /^}/ || item ~ /^[^ #].*[;}]$/) in_test = 0
    next
}
/^ *#\[cfg\(test\)\]/ { column = index($0, "#"); in_test = 1; next }

{
    code = $0
    if (statement == "") line = FNR
    gsub(/\047\\?.\047/, "", code)
    gsub(/"([^"\\]|\\.)*"/, "", code)
    sub(/\/\/.*/, "", code)
}

# An import, on one line or several.
statement == "" && code ~ /^ *(pub(\([a-z]+\))? )?use / {
    exported = code ~ /^ *pub/
    sub(/^ *(pub(\([a-z]+\))? )?use /, "", code)
    statement = " "
}
statement != "" {
    statement = statement code
    if (code !~ /;/) next
    gsub(/ +/, " ", statement)
    import("", substr(statement, 1, index(statement, ";") - 1))
    statement = ""
    next
}

code ~ /(^|[^A-Za-z0-9_])unsafe([^A-Za-z0-9_]|$)/ { note("keyword::unsafe") }
{
    while (match(code, /[A-Za-z_][A-Za-z0-9_]*(::[A-Za-z_][A-Za-z0-9_]*)+|\.[a-z_]+\(/)) {
        path = substr(code, RSTART, RLENGTH)
        code = substr(code, RSTART + RLENGTH)
        if (path ~ /^\./) path = "method::" substr(path, 2, length(path) - 2)
        note(path)
    }
}

END {
    for (i = 1; i <= count; i++) print place[i], source(path_at[i])
}

function note(path) {
    place[++count] = FILENAME ":" line
    path_at[count] = absolute(path)
}

# From the crate down.
function absolute(path,    parent) {
    parent = module
    if (path ~ /^crate(::|$)/) { sub(/::.*/, "", parent); sub(/^crate/, parent, path) }
    sub(/^self::/, module "::", path)
    if (path ~ /^super::/) {
        while (sub(/^super::/, "", path)) sub(/::[^:]*$/, "", parent)
        path = parent "::" path
    }
    return path
}

# Takes a::{b, c::{d, e}} apart.
function import(prefix, tree,    depth, i, letter, piece, open, inner) {
    for (i = 1; i <= length(tree) + 1; i++) {
        letter = i <= length(tree) ? substr(tree, i, 1) : ","
        if (letter != "," || depth > 0) {
            depth += (letter == "{") - (letter == "}")
            piece = piece letter
            continue
        }
        gsub(/^ +| +$/, "", piece)
        open = index(piece, "{")
        if (open) {
            inner = substr(piece, open + 1, length(piece) - open - 1)
            import(prefix substr(piece, 1, open - 1), inner)
        } else if (piece != "") {
            import_one(prefix piece)
        }
        piece = ""
    }
}

# A crate under another name is all of it. A name that is passed on is known by where it comes from;
# `pub use reply::Reply` begins with a module beside it.
function import_one(path,    name) {
    name = path
    sub(/.*( as |::)/, "", name)
    sub(/ as .*/, "", path)
    sub(/::self$/, "", path)
    if (path !~ /::/) path = path "::*"
    note(path)
    if (!exported || name == "*") return
    path = path_at[count]
    if (path !~ /^(std|common|master|secondary)::/) path = module "::" path
    passed_on[module "::" name] = path
}

# Where a path leads that goes by way of names that are passed on.
function source(path,    head, tries) {
    for (tries = 0; tries < 5; tries++) {
        head = path
        while (!(head in passed_on)) if (!sub(/::[^:]*$/, "", head)) return path
        path = passed_on[head] substr(path, length(head) + 1)
    }
    return path
}
