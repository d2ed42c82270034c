"""For schemathesis, in .ci/schema.sh: keeps a run short.

A wait or a delay that is within its bounds may be as long as a day; these are shortened. Errors on
demand would be found as errors. What is out of bounds is sent as it is, and must be refused.
"""
import schemathesis

SHORT_MS = 20
LONGEST_MS = {"wait": 60_000, "wtimeout": 86_400_000, "delay_ms": 86_400_000}
NODES = 3


def shorten(values):
    if not isinstance(values, dict):
        return
    for name, longest in LONGEST_MS.items():
        text = str(values.get(name, ""))
        if text.isascii() and text.isdigit() and SHORT_MS < int(text) <= longest:
            values[name] = type(values[name])(SHORT_MS)


@schemathesis.hook
def before_call(context, case, kwargs):
    shorten(case.query)
    if case.method.upper() == "PUT" and isinstance(case.body, dict):
        shorten(case.body)
        for name in ("error_rate", "error_after_store"):
            if isinstance(case.body.get(name), (int, float)) and 0 < case.body[name] <= 1:
                case.body[name] = 0
    if case.path == "/messages" and isinstance(case.body, dict):
        w = case.body.get("w")
        # The description cannot know how many nodes there are. With fewer seconds to wait than a
        # node may need, a write is not acknowledged.
        if isinstance(w, int) and w > NODES:
            case.body["w"] = NODES
