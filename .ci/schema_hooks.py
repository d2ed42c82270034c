"""For schemathesis, in .ci/schema.sh: what a description cannot tell it.

Requests that are right by themselves are changed where they would take too long, disturb those that
follow, or contradict what only this cluster knows. Those that are wrong are sent as they are, and
must be refused.
"""

import os

import schemathesis

SHORT_MS = 20
LONG_MS = 5_000
LONGEST_MS = 86_400_000
LONGEST_WAIT_MS = 60_000
MOST = 2**60
NEAR = 2**51  # well before the epoch of today
NODES = 3


def number(value):
    """What a node may read here; None if it is no number from 0 on."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and value >= 0 else None


def change(values, name, bounds, to, whole=True):
    """Only what is right, and to its own type: in a body a text of digits is wrong, and stays so."""
    found = number(values.get(name))
    if found is None or (whole and found % 1):
        return
    if bounds[0] <= found <= bounds[1]:
        values[name] = type(values[name])(to)


def change_read(query):
    change(query, "wait", (1, LONGEST_WAIT_MS), SHORT_MS)
    # Of parameters that depend on each other a description can say nothing but words.
    if "wait" in query:
        query.setdefault("from", 1)
    if says(query, "confirmed", "true") and ("wait" in query or says(query, "committed", "false")):
        del query["confirmed"]


def says(query, name, word):
    return str(query.get(name)).lower() == word


def change_stream(case):
    """Begins with an entry that is there: nothing else comes before the request times out. It need
    not be committed: nobody tells a secondary without a master."""
    if "committed" not in case.query or says(case.query, "committed", "true"):
        case.query["committed"] = "false"
    change(case.query, "from", (1, 2**64 - 1), 1)
    change(case.headers, "Last-Event-ID", (0, 2**64 - 1), 0)


def change_write(body):
    # With fewer milliseconds than a node may need, a write is not acknowledged.
    change(body, "wtimeout", (1, LONGEST_MS), LONG_MS)
    # The description does not know how many nodes there are.
    change(body, "w", (NODES + 1, float("inf")), NODES)


def change_epochs(body):
    # Those that are more than a day ahead of the clock are refused.
    for name in ("epoch", "entry_epoch", "prev_epoch", "committed_epoch", "reign_start_epoch"):
        change(body, name, (NEAR, MOST), NEAR)


def change_call(body):
    # As with parameters: no master sends entries of a reign after its own.
    epoch = number(body.get("epoch", 0))
    if epoch is not None and epoch <= MOST:
        change(body, "entry_epoch", (epoch, MOST), epoch)


def change_faults(body):
    change(body, "delay_ms", (1, LONGEST_MS), SHORT_MS)
    for name in ("error_rate", "error_after_store"):
        change(body, name, (0, 1), 0, whole=False)


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
    elif case.path in ("/replicate", "/heartbeat", "/promise") and is_object:
        change_epochs(case.body)
        if case.path == "/replicate":
            change_call(case.body)
    elif case.path.endswith("/chaos") and is_object:
        change_faults(case.body)


@schemathesis.hook
def after_call(context, case, response):
    with open(os.environ["SEEN"], "a", encoding="utf-8") as seen:
        print(response.request.method, case.path, response.status_code, file=seen)
