#!/usr/bin/env bash
# The manifests of docker/kubernetes, without a cluster: kubernetes.sh MASTER SECONDARY VENV_DIR
#
# MASTER and SECONDARY are the binaries, VENV_DIR a Python environment with .ci/requirements.txt,
# which brings kubectl too. MANIFESTS is another directory to look at.
set -euo pipefail
master_bin=$(realpath "$1") secondary_bin=$(realpath "$2") venv=$(realpath "$3")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'exit 143' INT TERM HUP
trap 'rm -rf "$work"' EXIT
export NO_PROXY='*' KUBECONFIG=/dev/null

render() { "$venv/bin/kubectl" kustomize "$work/manifests" >"$work/rendered.yaml"; }

# In a copy, so that no token of this clone is used.
cp -r "${MANIFESTS:-docker/kubernetes}" "$work/manifests"
rm -rf "$work/manifests/tokens"
if render 2>"$work/refusal"; then
    echo "KUBERNETES FAILED: without tokens the manifests can be applied" >&2
    exit 1
fi
mkdir "$work/manifests/tokens"
for token in cluster api; do head -c 32 /dev/urandom | base64 >"$work/manifests/tokens/$token-token"; done
render
"$venv/bin/python" -B .ci/kubernetes.py "$master_bin" "$secondary_bin" "$work/rendered.yaml"
