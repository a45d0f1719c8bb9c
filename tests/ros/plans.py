"""Sources for planner processes: they are built where the test cannot reach, so they are named by their place."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np

from dfplan_policies.ros.chunks import Chunk
from dfplan_policies.ros.signals import Observation


class Slow:
    """Stay where the command is, moving the first joint by 0.1; misbehave from the third question on."""

    def __init__(self, request: Any) -> None:
        self.how = request.options.get("how", "well")
        self.count = 0
        if self.how == "no start":
            raise ValueError("this source cannot be built")

    def chunk(self, seen: Observation) -> Chunk:
        self.count += 1
        times = seen.observed_s + np.array([0.0, 0.5, 1.0])
        move = np.array([[0.0], [0.1], [0.1]]) * np.eye(len(seen.command))[0]
        if self.count > 2:
            self.misbehave()
        return Chunk(seen.observed_s, times, seen.command + move)

    def misbehave(self) -> None:
        if self.how == "raise":
            raise ArithmeticError("it broke")
        if self.how == "refuse":
            raise ValueError("not this one")
        if self.how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "hang":
            time.sleep(600)
        if self.how == "slow":
            time.sleep(0.2)
        if self.how == "burn":
            end = time.process_time() + 0.2
            while time.process_time() < end:
                pass


def slow(request: Any) -> Slow:
    return Slow(request)


def where(request: Any) -> Slow:
    """Tell about the process in place of a plan."""
    source = Slow(request)

    def chunk(seen: Observation) -> Chunk:
        import torch

        facts = [torch.get_num_threads(), os.nice(0), int(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)]
        return Chunk(seen.observed_s, np.array([1.0]), np.array([facts], dtype=float))

    source.chunk = chunk  # type: ignore[method-assign]
    return source
