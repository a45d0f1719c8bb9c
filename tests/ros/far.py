"""Starts robots of other processes for the tests, on this machine's loopback and a domain of this process's own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DOMAIN = 20 + os.getpid() % 180
PATH = os.pathsep.join(str(ROOT / part) for part in (".", "envs", "policies", "benchmarks"))


class Process:
    """A process whose lines are collected."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        surroundings = {**os.environ, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1", **(environment or {})}
        self.process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        if self.process.stdout is not None:
            self.lines.extend(iter(self.process.stdout.readline, ""))

    def stop(self) -> str:
        """End it; returns what it wrote to its standard error."""
        if self.process.poll() is None:
            self.process.terminate()
        _, errors = _finish(self.process)
        return errors


def _finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)
    return "", process.stderr.read() if process.stderr else ""


@contextlib.contextmanager
def far_side(
    *steps: dict[str, Any], domain: int = DOMAIN, environment: dict[str, str] | None = None
) -> Iterator[Process]:
    """Run a robot until the block ends."""
    process = Process(
        sys.executable, str(HERE / "far_side.py"), str(domain), json.dumps(steps), environment=environment
    )
    try:
        assert until(lambda: "ready\n" in process.lines, 60), process.stop()
        yield process
    finally:
        process.stop()


def until(true: Callable[[], object], seconds: float = 20.0) -> bool:
    """Wait until something holds; says whether it did in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.01)
    return bool(true())
