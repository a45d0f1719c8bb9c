"""A robot in another process: publishes what it is told to, and says on its output what it received.

Usage: python far_side.py DOMAIN JSON, a list of steps: {"topic", "type", "fields", "rate_hz", "reliable", "skew_s"} to
publish (with "skew_s" the header has the time and that much more), or {"topic", "type", "listen": true, "reliable"} to
write every message that comes, as JSON lines.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Any

import numpy as np

from dfplan_policies.ros import messages
from dfplan_policies.ros.backends.cdr import Codecs
from dfplan_policies.ros.backends.node import Node


def build(codecs: Codecs, kind: str, fields: dict[str, Any]) -> Any:
    """Make a message from plain values; a dict with "type" is a message in it, one with "zeros" bytes."""
    return codecs.make(kind, **{key: value(codecs, part) for key, part in fields.items()})


def value(codecs: Codecs, part: Any) -> Any:
    if isinstance(part, dict) and "zeros" in part:
        return np.zeros(part["zeros"], dtype=np.uint8)
    if isinstance(part, dict):
        return build(codecs, part["type"], {key: inner for key, inner in part.items() if key != "type"})
    return [value(codecs, inner) for inner in part] if isinstance(part, list) else part


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # leave in order, so that others know at once
    domain, steps = int(sys.argv[1]), json.loads(sys.argv[2])
    codecs = Codecs()
    node = Node(codecs, domain=domain, interface="lo")
    spoken = [
        (step, node.writer(step["topic"], step["type"], reliable=step.get("reliable", True), depth=10),
         build(codecs, step["type"], step.get("fields", {}))) for step in steps if not step.get("listen")
    ]  # fmt: skip
    heard = [node.reader(step["topic"], step["type"], reliable=step.get("reliable", True)) for step in steps
             if step.get("listen")]  # fmt: skip
    say("ready")
    start, sent = time.monotonic(), [0] * len(spoken)
    while time.monotonic() - start < 120:
        for k, (step, writer, message) in enumerate(spoken):
            if time.monotonic() - start >= sent[k] / step.get("rate_hz", 100):
                if "skew_s" in step:
                    message.header = messages.header(codecs.make, time.time() + step["skew_s"])
                writer.write(message)
                sent[k] += 1
        for reader in heard:
            for got in reader.take():
                say(json.dumps(plain(got.message)))
        time.sleep(0.001)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def plain(message: Any) -> Any:
    if isinstance(message, np.ndarray):
        return message.tolist()
    if isinstance(message, list):
        return [plain(part) for part in message]
    if hasattr(message, "__msgtype__"):
        return {key: plain(part) for key, part in vars(message).items() if key != "__msgtype__"}
    return message


if __name__ == "__main__":
    main()
