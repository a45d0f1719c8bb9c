"""The far side: a robot in a process of its own, which follows commands and misbehaves when it is told to.

Usage: python -m dfplan_bench.ros_faults.arm DOMAIN JSON. It reads orders from its input, a JSON object a line:
{"fault": NAME} ("" ends it), {"switch": "stop" | "rearm", "value": true}, {"enable": true | false | null}. It writes
what happened and when, a JSON object a line: {"event": "ready" | "cruising" | "resting" | "fault" | "switch", "at": s}.
"""

from __future__ import annotations

import json
import queue
import signal
import sys
import threading
import time
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan_bench.ros_faults.robot import JOINTS, PERIOD_S, RATE_HZ, SPEED, START, TOPICS
from dfplan_bench.ros_faults.spoil import Spoiler, State
from dfplan_policies.ros import messages
from dfplan_policies.ros.backends.cdr import Codecs
from dfplan_policies.ros.backends.node import Node
from dfplan_policies.ros.follower import Follower
from dfplan_policies.ros.topics import IMAGE, JOINT_STATE, NUMBERS, SWITCH, TRAJECTORY

WINDOW_S = 12 * PERIOD_S
ENABLE_HZ = 0.2 / PERIOD_S


class Arm:
    """Play the robot.

    Args:
        domain: Of DDS.
        given: ``fault`` from the start, ``rate_hz``, ``start`` (J,), ``type`` "numbers" and ``reliable`` of the states,
            ``cameras``, names of topics with pictures, and ``camera_hz``.
    """

    def __init__(self, domain: int, given: dict[str, Any]) -> None:
        self.node, self.given = Node(Codecs(), domain=domain, interface="lo"), given
        self.make = self.node.codecs.make
        self.rate_hz = float(given.get("rate_hz", RATE_HZ))
        self.commands = self.node.reader(TOPICS["command"], TRAJECTORY, depth=10)
        kind = NUMBERS if given.get("type") == "numbers" else JOINT_STATE
        self.numbers = kind == NUMBERS
        reliable = bool(given.get("reliable", True))
        self.states = [self.node.writer(TOPICS["joint_states"], kind, reliable=reliable, depth=10)]
        self.switches = {name: self.node.writer(TOPICS[name], SWITCH, depth=10) for name in ("enable", "stop", "rearm")}
        self.follower = Follower(JOINTS, np.array(given.get("start", START)))
        self.spoiler = Spoiler(str(given.get("fault", "")))
        self.enable: bool | None = True
        self.heard: deque[tuple[float, NDArray[np.float64]]] = deque()
        self.cruising: bool | None = None
        self.orders: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self.orders.put(json.loads(line))

    def run(self) -> None:
        """Tick at the rate until the process is ended; time that is lost is not made up for."""
        say("ready")
        due, enable_s = time.monotonic(), 0.0
        while True:
            now = time.monotonic()
            if now < due:
                time.sleep(due - now)
            due = max(due + 1.0 / self.rate_hz, time.monotonic() - 0.02)
            self._obey()
            self._follow()
            self._publish()
            if self.enable is not None and time.monotonic() - enable_s >= 1.0 / ENABLE_HZ:
                enable_s = time.monotonic()
                self._press("enable", self.enable)

    def _obey(self) -> None:
        while not self.orders.empty():
            order = self.orders.get()
            if "fault" in order:
                self.spoiler = Spoiler(order["fault"])
                if not order["fault"]:
                    say("fault")
            elif "switch" in order:
                self._press(order["switch"], order["value"])
                say("switch")
            elif "enable" in order:
                self.enable = order["enable"]
                if self.enable is not None:
                    self._press("enable", self.enable)
                say("switch")

    def _press(self, name: str, value: bool) -> None:
        self.switches[name].write(self.make(SWITCH, data=value))

    def _follow(self) -> None:
        """Take commands over, and tell when they begin and cease to move at the path's speed."""
        now = time.monotonic()
        for got in self.commands.take():
            if got.message is not None and not self.follower.accept(got.message, now):
                self.heard.append((got.sent_s, np.array(got.message.points[0].positions)))
        while self.heard and self.heard[-1][0] - self.heard[0][0] > WINDOW_S:
            self.heard.popleft()
        if self.heard and time.time() - self.heard[-1][0] > WINDOW_S:
            self._tell(False)
        elif len(self.heard) > 3:
            (first_s, first), (last_s, last) = self.heard[0], self.heard[-1]
            speed = abs(last[0] - first[0]) / max(last_s - first_s, 1e-3)
            if 0.85 * SPEED < speed < 1.15 * SPEED:
                self._tell(True)
            elif speed < 0.05 * SPEED:
                self._tell(False)

    def _tell(self, cruising: bool) -> None:
        if cruising != self.cruising:
            self.cruising = cruising
            say("cruising" if cruising else "resting")

    def _publish(self) -> None:
        """Publish the joint states, spoiled or not."""
        position = self.follower.target(time.monotonic())
        good = State(time.time(), JOINTS, position, np.zeros(len(JOINTS)))
        first = not self.spoiler.began
        for writer, state in self.spoiler(good):
            while writer >= len(self.states):
                self.states.append(self.node.writer(TOPICS["joint_states"], JOINT_STATE, depth=10))
            self._write(writer, state)
        if first and self.spoiler.began:
            say("fault", self.spoiler.began)

    def _write(self, writer: int, state: State) -> None:
        if self.numbers:
            self.states[writer].write(messages.numbers(self.make, state.position))
            return
        made = self.make(
            JOINT_STATE, header=messages.header(self.make, state.stamp_s), name=list(state.names),
            position=state.position, velocity=state.velocity, effort=state.velocity,
        )  # fmt: skip
        self.states[writer].write(made)


def show(domain: int, given: dict[str, Any]) -> None:
    """Publish pictures of 640 x 480 until the process is ended."""
    node = Node(Codecs(), domain=domain, interface="lo")
    writers = [node.writer(topic, IMAGE, reliable=False) for topic in given["cameras"]]
    pixels = np.random.default_rng(0).integers(0, 256, 480 * 640 * 3, dtype=np.uint8)
    due, period = time.monotonic(), 1.0 / float(given["camera_hz"])
    say("ready")
    while True:
        head = messages.header(node.codecs.make, time.time())
        for writer in writers:
            made = node.codecs.make(
                IMAGE, header=head, height=480, width=640, encoding="rgb8", step=1920, data=pixels
            )  # fmt: skip
            writer.write(made)
        due = max(due + period, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def say(event: str, at: float | None = None) -> None:
    """Tell the conductor."""
    sys.stdout.write(json.dumps({"event": event, "at": time.time() if at is None else at}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the arm, or its cameras."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # leave in order, so that others know at once
    domain, given = int(sys.argv[1]), json.loads(sys.argv[2])
    if "cameras" in given:
        show(domain, given)
    else:
        Arm(domain, given).run()


if __name__ == "__main__":
    main()
