"""The live status line, drawn by a thread so that the loop never waits for a terminal."""

from __future__ import annotations

import threading
from typing import final

from rich.console import Console

from dfplan_policies.ros.loop import ControlLoop
from dfplan_policies.ros.modes import Mode

COLOURS = {Mode.RUN: "green", Mode.RAMP_IN: "green", Mode.HOLD: "yellow", Mode.FAULT: "bold red"}
PERIOD_S = 0.25


def status_text(loop: ControlLoop) -> str:
    """Put how a loop stands into one line."""
    decision, details = loop.decision, loop.details()
    if decision is None:
        return "starting"
    clamps = f"{details['clamped_position']}/{details['clamped_rate']}"
    return (
        f"{decision.mode.name:<10} state {details['state_age_ms']} ms | plan {details['plan_latency_ms']} ms, "
        f"{details['plan_left_ms']} ms left, {details['plans_taken']} taken {details['plans_late']} late "
        f"{details['plans_bad']} bad | clamps {clamps} | jitter p99 {details['jitter_p99_ms']} ms"
        + (f" | {decision.reason}" if decision.reason else "")
    )


@final
class StatusLine:
    """Show a loop on a terminal four times a second; elsewhere only changes of its mode.

    Args:
        loop: What is shown.
        console: Where.
    """

    def __init__(self, loop: ControlLoop, console: Console) -> None:
        self.loop, self.console = loop, console
        self._end = threading.Event()
        self._mode: Mode | None = None
        self._thread = threading.Thread(target=self._show, daemon=True, name="dfplan-status")

    def __enter__(self) -> StatusLine:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(2.0)
        self._print_change()

    def _show(self) -> None:
        if not self.console.is_terminal:
            while not self._end.wait(PERIOD_S):
                self._print_change()
            return
        with self.console.status("starting") as line:
            while not self._end.wait(PERIOD_S):
                mode = self.loop.core.state.mode
                line.update(f"[{COLOURS.get(mode, 'cyan')}]{status_text(self.loop)}[/]")

    def _print_change(self) -> None:
        mode = self.loop.core.state.mode
        if mode != self._mode:
            self._mode = mode
            self.console.print(status_text(self.loop), markup=False, highlight=False, soft_wrap=True)
