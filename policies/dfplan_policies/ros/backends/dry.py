"""The back end for a dry run: it sees everything and sends nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from dfplan_policies.ros.wire import Backend, Peer, Sample, Setpoint


@final
class DryBackend:
    """Wrap another back end and keep what would be sent.

    Args:
        inner: Where samples come from; nothing is ever written to it, neither commands nor diagnostics.

    Attributes:
        withheld: How many commands were not sent.
        last: The last of them.
    """

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.withheld = 0
        self.last: Setpoint | None = None

    def open(self) -> None:
        """Connect."""
        self.inner.open()

    def poll(self, now_s: float) -> Sequence[Sample]:
        """Return what came."""
        return self.inner.poll(now_s)

    def write(self, setpoint: Setpoint) -> None:
        """Keep a command."""
        self.withheld, self.last = self.withheld + 1, setpoint

    def command_readers(self) -> int:
        """Return how many readers would listen."""
        return self.inner.command_readers()

    def command_writers(self) -> int:
        """Return how many others write commands."""
        return self.inner.command_writers()

    def diagnose(self, level: int, text: str, values: Mapping[str, str]) -> None:
        """Do nothing."""

    def peers(self) -> Sequence[Peer]:
        """Return every endpoint that can be seen."""
        return self.inner.peers()

    def close(self) -> None:
        """Disconnect."""
        self.inner.close()
