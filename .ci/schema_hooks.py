"""For schemathesis, in .ci/schema.sh: what a description cannot tell it.

Requests that are right by themselves are changed where they would take too long, disturb those that
follow, or contradict what only this cluster knows. Those that are wrong are sent as they are, and
must be refused.
"""

import json
import os

import schemathesis
from jsonschema import Draft202012Validator

SHORT_MS = 20
LONG_MS = 5_000
LONGEST_MS = {"wait": 60_000, "wtimeout": 86_400_000, "delay_ms": 86_400_000}
NODES = 3


def number(value):
    """What a node reads here; None if it is no number from 0 on."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and value >= 0 else None


def is_within(values, name, least, most):
    found = number(values.get(name))
    return found is not None and least <= found <= most


def bound(values, name, milliseconds):
    """A day is within the bounds too, and a millisecond less than a node may need."""
    if is_within(values, name, 1, LONGEST_MS[name]) and number(values[name]) % 1 == 0:
        values[name] = type(values[name])(milliseconds)


def change_read(query):
    bound(query, "wait", SHORT_MS)
    # Of parameters that depend on each other a description can say nothing but words.
    if "wait" in query:
        query.setdefault("from", 1)
        if str(query.get("committed")).lower() == "true":
            del query["committed"]


def change_stream(case):
    """Begins with an entry that is there: nothing else comes before the request times out."""
    if is_within(case.query, "from", 1, 2**64 - 1):
        case.query["from"] = 1
    if is_within(case.headers, "Last-Event-ID", 0, 2**64 - 1):
        case.headers["Last-Event-ID"] = "0"


def change_write(body):
    bound(body, "wtimeout", LONG_MS)
    # The description does not know how many nodes there are.
    if is_within(body, "w", NODES + 1, float("inf")):
        body["w"] = NODES


def change_faults(body):
    bound(body, "delay_ms", SHORT_MS)
    for name in ("error_rate", "error_after_store"):
        if is_within(body, name, 0, 1):
            body[name] = 0


@schemathesis.hook
def before_call(context, case, kwargs):
    is_object = isinstance(case.body, dict)
    if is_object:
        case.body = dict(case.body)
    if case.path == "/messages":
        change_read(case.query)
        if is_object:
            change_write(case.body)
    elif case.path == "/messages/stream" and case.method == "GET":
        change_stream(case)
    elif case.path.endswith("/chaos") and is_object:
        change_faults(case.body)


@schemathesis.hook
def after_call(context, case, response):
    with open(os.environ["SEEN"], "a", encoding="utf-8") as seen:
        print(response.request.method, case.path, response.status_code, file=seen)


@schemathesis.check
def event_conformance(ctx, response, case):
    """To a validator a contentSchema is no more than a remark."""
    if not response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        return
    described = case.operation.schema.raw_schema
    content = described["paths"][case.path]["get"]["responses"]["200"]["content"]
    schema = content["text/event-stream"]["schema"]["properties"]["data"]["contentSchema"]
    validator = Draft202012Validator({**schema, "components": described["components"]})
    for line in response.content.decode().splitlines():
        if line.startswith("data: "):
            validator.validate(json.loads(line.removeprefix("data: ")))
