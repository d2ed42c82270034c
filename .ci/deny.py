#!/usr/bin/env python3
"""What .deny.toml asks of dependencies, checked without cargo-deny: `cargo metadata | deny.py FILE`

Licences, bans, duplicates and sources, of all packages for all platforms, those of tests included.
Knows no setting but those that the file has, and refuses one that it does not know.
"""
import json
import re
import sys
import tomllib
from itertools import groupby
from pathlib import Path

SETTINGS = {
    "graph": {"all-features"},
    "licenses": {"allow"},
    "bans": {"multiple-versions", "wildcards", "allow-wildcard-paths", "skip", "deny"},
    "sources": {"unknown-registry", "unknown-git", "allow-registry"},
}


def is_named(package, specs):
    """Whether one of these is the package's name, or name@version or the beginning of that."""
    name, version = package["name"], package["version"]
    return any(spec["crate"] == name or f"{name}@{version}.".startswith(spec["crate"] + ".") for spec in specs)


def is_allowed(expression, allowed):
    """Whether a licence, or SPDX expression of licences, can be chosen from those allowed."""
    words = re.findall(r"[()]|\bAND\b|\bOR\b|/|(?:(?!\bAND\b|\bOR\b)[^()/])+", expression or "")
    words = [word.strip() for word in words if word.strip()]
    known = {"AND": "and", "OR": "or", "/": "or", "(": "(", ")": ")"}
    return bool(words) and eval(" ".join(known.get(word, str(word in allowed)) for word in words))


def complaints(rules, packages):
    bans, allowed = rules["bans"], set(rules["licenses"]["allow"])
    registries = [f"registry+{url}" for url in rules["sources"]["allow-registry"]]
    for package in packages:
        said = f"{package['name']} {package['version']}"
        if not is_allowed(package["license"], allowed):
            yield f"{said}: its licence is {package['license']}"
        if is_named(package, bans["deny"]):
            yield f"{said} is banned"
        if package["source"] is not None and package["source"] not in registries:
            yield f"{said} comes from {package['source']}"
        for wanted in package["dependencies"] if package["source"] is None else []:
            if wanted["req"] == "*" and "path" not in wanted:
                yield f"{said} takes any version of {wanted['name']}"
    kept = (package for package in packages if not is_named(package, bans["skip"]))
    for name, same in groupby(sorted(kept, key=lambda it: it["name"]), key=lambda it: it["name"]):
        versions = [package["version"] for package in same]
        if len(versions) > 1:
            yield f"{name} is there as {' and '.join(versions)}"


def main():
    rules = tomllib.loads(Path(sys.argv[1]).read_text())
    packages = json.load(sys.stdin)["packages"]
    found = [f"unknown setting {section}.{name}" for section, settings in rules.items()
             for name in settings if name not in SETTINGS.get(section, ())]
    found = found or list(complaints(rules, packages))
    if found:
        sys.exit("\n".join(["DEPENDENCIES FAILED:", *found]))
    print(f"{len(packages)} packages, as .deny.toml wants them.")


main()
