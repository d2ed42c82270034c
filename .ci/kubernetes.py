#!/usr/bin/env python3
"""Rendered manifests of docker/kubernetes: kubernetes.py MASTER SECONDARY RENDERED

Each must be valid in the newest versions of Kubernetes, and all must agree with each other and with
both binaries, on whose processes the settings of the pods are tried. Needs what kubernetes.sh made.
"""
import base64
import contextlib
import itertools
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import yaml
from kubernetes_validate import utils as kubernetes
from live import SOON, Node, check

VERSIONS = 3  # the newest minor ones
UNITS = {"": 1, "Mi": 1 << 20, "Gi": 1 << 30}
IMAGE_USER = 65532  # in docker/Dockerfile
GUARDS = {  # of every container
    "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


class Role:
    """A StatefulSet and its binary."""

    def __init__(self, manifest, binary):
        self.name, self.spec = manifest["metadata"]["name"], manifest["spec"]
        self.namespace, self.binary = manifest["metadata"]["namespace"], binary
        template = self.spec["template"]
        self.labels, self.pod = template["metadata"]["labels"], template["spec"]
        [self.container] = self.pod["containers"]
        self.ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self.pods = [f"{self.name}-{number}" for number in range(self.spec["replicas"])]
        help_text = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True).stdout
        defaults = re.findall(r"--\S+ <.*?\[default: (.*?)\] \[env: (\w+)=", help_text)
        self.defaults = {setting: default for default, setting in defaults}

    def address(self, pod):
        """As the headless Service gives it."""
        return f"{pod}.{self.spec['serviceName']}.{self.namespace}.svc:{self.ports['http']}"

    def settings(self, pod):
        """What the node of this pod is told, and variables that only other values use."""
        facts = {"metadata.name": pod, "metadata.namespace": self.namespace}
        settings, used = {}, set()
        for entry in self.container["env"]:
            value = entry.get("value") or facts[entry["valueFrom"]["fieldRef"]["fieldPath"]]
            names = re.findall(r"\$\((\w+)\)", value)
            require(set(names) <= set(settings), f"{entry['name']} uses {names} before they are set")
            used.update(names)
            for name in names:
                value = value.replace(f"$({name})", settings[name])
            settings[entry["name"]] = value
        unknown = set(settings) - set(self.defaults) - used
        require(not unknown, f"a {self.name} does not know {unknown}")
        return settings

    def mount_of(self, path):
        """The name of the volume that this path is on."""
        mounts = [mount for mount in self.container["volumeMounts"]
                  if pathlib.PurePath(path).is_relative_to(mount["mountPath"])]
        return mounts[0]["name"] if mounts else None


def require(is_so, problem):
    if not is_so:
        raise SystemExit(f"FAILED: {problem}")


def check_schemas(manifests):
    minor = dict.fromkeys(kubernetes.major_minor(version) for version in kubernetes.all_versions())
    newest = list(minor)[-VERSIONS:]
    for version, manifest in itertools.product(newest, manifests):
        what = f"{manifest['kind']} {manifest['metadata']['name']}"
        try:
            kubernetes.validate(manifest, version, strict=True)
        except kubernetes.ValidationError as error:
            path = ".".join(str(part) for part in error.path)
            raise SystemExit(f"FAILED: {what} in {version}: {path}: {error.message}") from None
        except kubernetes.SchemaNotFoundError as error:
            raise SystemExit(f"FAILED: {what}: {error.message}") from None
    check(True, f"{len(manifests)} manifests are valid in Kubernetes {', '.join(newest)}")


def check_selectors(kinds, roles):
    """Each selector selects the pods that it is for, and no others."""
    def selected(labels):
        return {role.name for role in roles.values() if labels.items() <= role.labels.items()}

    def check_selects(what, labels, *names):
        require(selected(labels) == set(names), f"{what} selects {selected(labels)}, not {names}")

    for role in roles.values():
        check_selects(role.name, role.spec["selector"]["matchLabels"], role.name)
        apart = role.pod["affinity"]["podAntiAffinity"]
        [term] = apart["requiredDuringSchedulingIgnoredDuringExecution"]
        check_selects(f"affinity of {role.name}", term["labelSelector"]["matchLabels"], role.name)
        require(term["topologyKey"] == "kubernetes.io/hostname", "one machine has two pods of a role")
    of_role = {"master": "master", "masters": "master", "secondaries": "secondary", "copies": "secondary"}
    services = {service["metadata"]["name"]: service["spec"] for service in kinds["Service"]}
    require(set(services) == set(of_role), f"Services are {set(services)}")
    for name, service in services.items():
        role = roles[of_role[name]]
        check_selects(f"Service {name}", service["selector"], role.name)
        # Only a Service without an address gives names to pods, ready or not.
        is_headless = name == role.spec["serviceName"]
        found = (service.get("clusterIP") == "None", service.get("publishNotReadyAddresses", False))
        require(found == (is_headless, is_headless), f"Service {name}: headless, shows pods that are not ready: {found}")
        for port in service["ports"]:
            require(role.ports.get(port["targetPort"]) == port["port"], f"Service {name}: port {port}")
    [budget] = kinds["PodDisruptionBudget"]
    check_selects("PodDisruptionBudget", budget["spec"]["selector"]["matchLabels"], "secondary")
    check_policies(kinds["NetworkPolicy"], roles, check_selects)
    check(True, "selectors and ports agree")


def check_policies(policies, roles, check_selects):
    """Only masters and labelled pods come in, and masters reach the secondaries."""
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in policies}
    default = policies.pop("nodes")
    check_selects("default policy", default["podSelector"]["matchLabels"], *roles)
    require(not {"ingress", "egress"} & set(default) and len(default["policyTypes"]) == 2, "nodes are open")
    for name, policy in policies.items():
        check_selects(f"policy {name}", policy["podSelector"]["matchLabels"], name)
        for rule in policy["ingress"]:
            found = [port["port"] for port in rule["ports"]]
            require(found == list(roles[name].ports.values()), f"policy {name}: ports {found}")
            for peer in rule["from"]:
                require("podSelector" in peer and "ipBlock" not in peer, f"policy {name} lets {peer} in")
    [masters, readers] = policies["secondary"]["ingress"][0]["from"]
    check_selects("policy secondary, masters", masters["podSelector"]["matchLabels"], "master")
    check_selects("policy secondary, readers", readers["podSelector"]["matchLabels"])
    [out, _] = policies["master"]["egress"]
    check_selects("policy master", out["to"][0]["podSelector"]["matchLabels"], "secondary")
    found = [port["port"] for port in out["ports"]]
    require(found == list(roles["secondary"].ports.values()), f"policy master: ports {found}")


def check_pods(kinds, roles):
    """Probes, rights, volumes and sizes."""
    [secret] = kinds["Secret"]
    for role in roles.values():
        settings = {**role.defaults, **role.settings(role.pods[0])}
        guards = role.pod["securityContext"]
        is_safe = guards["runAsNonRoot"] and guards["seccompProfile"]["type"] == "RuntimeDefault" and \
            GUARDS.items() <= role.container["securityContext"].items() and \
            role.pod["automountServiceAccountToken"] is False
        require(is_safe, f"{role.name} has more rights than it needs")
        users = {guards["runAsUser"], guards["runAsGroup"], guards["fsGroup"]}
        require(users == {IMAGE_USER}, f"{role.name} runs as {users}")
        for probe, path in {"startup": "/health", "liveness": "/health", "readiness": "/ready"}.items():
            found = role.container[f"{probe}Probe"]["httpGet"]
            require(found["path"] == path and found["port"] in role.ports, f"{role.name}: {probe} {found}")
        grace, timeout = role.pod["terminationGracePeriodSeconds"], int(settings["SHUTDOWN_TIMEOUT_MS"])
        require(grace * 1000 > timeout, f"{role.name} is killed after {grace} s, before {timeout} ms")
        # The default is "8000 for a master, 8001 for a secondary".
        port = int(re.search(rf"^\d+$|\d+(?= for a {role.name})", settings["PORT"])[0])
        require(port == role.ports["http"], f"{role.name} listens on {port}")
        # A standby is never ready, and the first secondary is not before there are others.
        expected = ("Parallel", {"master": "OnDelete", "secondary": "RollingUpdate"}[role.name])
        found = (role.spec["podManagementPolicy"], role.spec["updateStrategy"]["type"])
        require(found == expected, f"{role.name} is started and updated by {found}")
        require(settings.get("RECOVERY", "quorum") == "quorum", "a first reign begins without secondaries")
        check_volumes(role, settings, secret)
        check_sizes(role, int(settings["MAX_LOG_BYTES"]))
    check(True, "probes, rights, volumes and sizes of pods are right")


def check_volumes(role, settings, secret):
    claims = [claim["metadata"]["name"] for claim in role.spec["volumeClaimTemplates"]]
    found = role.mount_of(settings["DATA_DIR"])
    require(found in claims, f"{role.name}: DATA_DIR is on {found}")
    secrets = {volume["name"]: volume["secret"] for volume in role.pod["volumes"]}
    for setting in ("CLUSTER_TOKEN_FILE", "API_TOKEN_FILE"):
        path = pathlib.PurePath(settings[setting])
        volume = secrets.get(role.mount_of(path), {})
        is_there = volume.get("secretName") == secret["metadata"]["name"] and path.name in secret["data"]
        require(is_there, f"{role.name}: {setting}={path} is in no Secret")


def check_sizes(role, most):
    """Seen were 1.3 to 2 bytes of memory and of disk for a byte of the log, and 50 MB without one."""
    memory = in_bytes(role.container["resources"]["limits"]["memory"])
    require(memory >= 2 * most + (256 << 20), f"{role.name}: {memory} bytes of memory for a log of {most}")
    for claim in role.spec["volumeClaimTemplates"]:
        disk = in_bytes(claim["spec"]["resources"]["requests"]["storage"])
        require(disk >= 4 * most, f"{role.name}: {disk} bytes of disk for a log of {most}")


def in_bytes(quantity):
    number, unit = re.fullmatch(r"(\d+)(\D*)", quantity).groups()
    return int(number) * UNITS[unit]


def start_pods(stack, roles, secret, directory):
    """A process for each pod, with the pod's settings. Returns them by the pod's address."""
    for name, value in secret["data"].items():
        (directory / name).write_bytes(base64.b64decode(value))
    nodes = {}
    for role in (roles["secondary"], roles["master"]):
        started = {}
        for pod in role.pods:
            settings = role.settings(pod)
            settings["DATA_DIR"] = str(directory / pod)
            for setting in ("CLUSTER_TOKEN_FILE", "API_TOKEN_FILE"):
                settings[setting] = str(directory / pathlib.PurePath(settings[setting]).name)
            if "SECONDARIES" in settings:
                urls = {url.strip() for url in settings["SECONDARIES"].split(",")}
                expected = {f"http://{address}" for address in nodes}
                require(urls == expected, f"SECONDARIES are {urls}, not {expected}")
                settings["SECONDARIES"] = ",".join(node.url for node in nodes.values())
                require(settings["ADVERTISE_URL"] == f"http://{role.address(pod)}", f"{pod} is {settings['ADVERTISE_URL']}")
            started[role.address(pod)] = node = Node(role.binary, **settings)
            stack.callback(node.end)
        nodes |= started
    return nodes


def status(node, path, body=None, **headers):
    """The status of the answer, and where it leads."""
    request = urllib.request.Request(node.url + path, body and json.dumps(body).encode(), headers)
    opener = urllib.request.build_opener(StayHere)
    try:
        with opener.open(request, timeout=SOON) as answer:
            return answer.status, None
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Location"]


class StayHere(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def one_reigning(nodes, masters):
    """The address of the master that reigns, when everybody is ready but one standby."""
    ready = [address for address, node in nodes.items() if status(node, "/ready")[0] == 200]
    reigning = [address for address in ready if address in masters]
    return reigning[0] if len(ready) == len(nodes) - 1 and len(reigning) == 1 else None


def until(what, find):
    """What is found at last."""
    deadline = time.monotonic() + SOON
    while not (found := find()) and time.monotonic() < deadline:
        time.sleep(0.05)
    check(found, what)
    return found


def check_live(kinds, roles):
    """The settings of the pods make a cluster, when their addresses are exchanged for local ones."""
    [secret] = kinds["Secret"]
    token = base64.b64decode(secret["data"]["api-token"]).decode().strip()
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nodes = start_pods(stack, roles, secret, directory)
        masters = {address: node for address, node in nodes.items() if address.startswith("master-")}

        reigning = until("one master reigns", lambda: one_reigning(nodes, masters))
        message, authorized = {"msg": "from a pod", "w": "majority"}, {"Authorization": f"Bearer {token}"}
        for address, node in masters.items():
            expected = (201, None) if address == reigning else (307, f"http://{reigning}/messages")
            # A standby hears of the new reign a moment later.
            until(f"{address} answers a POST with {expected}",
                  lambda: status(node, "/messages", message, **authorized) == expected)
            require(status(node, "/messages", message)[0] == 401, f"{address} needs no token")
        copy = next(iter(nodes.values()))
        found = status(copy, "/replicate", {"msg": "from a reader"}, **authorized)[0]
        check(found == 401, f"a secondary answers a call with the clients' token with {found}")

        services = [f"{service['metadata']['name']}.{service['metadata']['namespace']}.{domain}"
                    for service in kinds["Service"] for domain in ("svc", "svc.cluster.local")]
        for host in [*nodes, *services]:
            found = {status(node, "/health", Host=host)[0] for node in nodes.values()}
            require(found == {200}, f"nodes answer to {host} with {found}")
        check(status(copy, "/health", Host="evil.example")[0] == 421, f"nodes answer to {len(nodes) + len(services)} names")


def main():
    master, secondary, rendered = sys.argv[1:]
    with open(rendered) as file:
        manifests = list(yaml.safe_load_all(file))
    check_schemas(manifests)
    kinds = {}
    for manifest in manifests:
        kinds.setdefault(manifest["kind"], []).append(manifest)
    binaries = {"master": master, "secondary": secondary}
    found = {manifest["metadata"]["name"]: manifest for manifest in kinds["StatefulSet"]}
    roles = {name: Role(found[name], binary) for name, binary in binaries.items()}
    check_selectors(kinds, roles)
    check_pods(kinds, roles)
    check_live(kinds, roles)


main()
