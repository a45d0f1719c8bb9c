"""The planner in a process of its own: it gets the newest observation only, and nothing ever queues.

The control loop never waits: `offer` and `poll` hand over and take in memory; a thread does the talking and sleeps in
the pipe meanwhile. A planner that dies, raises or hangs is seen at the next tick.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol, final

from dfplan_policies.ros.chunks import Chunk
from dfplan_policies.ros.signals import Observation
from dfplan_policies.ros.sources import Source, SourceRequest, make_source


@dataclass(frozen=True, eq=False)
class Reply:
    """Hold one answer of a planner: a chunk, or why there is none."""

    observed_s: float
    chunk: Chunk | None
    problem: str = ""


class PlannerPort(Protocol):
    """What the control loop needs of a planner."""

    def offer(self, seen: Observation, now_s: float) -> bool:
        """Hand an observation over if the planner is idle; says whether it was taken."""
        ...

    def poll(self, now_s: float) -> Reply | None:
        """Return the answer that has come since the last call, or None."""
        ...

    def problem(self, now_s: float) -> str:
        """Say what is wrong with the planner, "" if nothing."""
        ...

    def ready(self) -> bool:
        """Tell whether it could be asked."""
        ...

    def close(self) -> None:
        """End it; safe to call twice."""
        ...


@final
class InlinePlanner:
    """Answer in this process, after a time of the loop's clock: for tests and replays.

    Args:
        source: Makes chunks.
        delay_s: Time from a question to its answer; a function of the time of the question if it varies.
        timeout_s: Time without an answer that is a problem.
    """

    def __init__(self, source: Source, delay_s: float | Callable[[float], float] = 0.0, timeout_s: float = 5.0) -> None:
        self.source, self.timeout_s = source, timeout_s
        self.delay = delay_s if callable(delay_s) else lambda _: delay_s
        self.failed = ""
        self._due: tuple[float, float, Reply] | None = None

    def offer(self, seen: Observation, now_s: float) -> bool:
        """Begin an answer if none is under way."""
        if self._due is not None or self.failed:
            return False
        reply = answer(self.source, seen)
        self._due = (now_s, now_s + self.delay(now_s), reply)
        return True

    def poll(self, now_s: float) -> Reply | None:
        """Return the answer once its time has come."""
        if self._due is None or now_s < self._due[1]:
            return None
        reply, self._due = self._due[2], None
        if reply.chunk is None and reply.problem.startswith("raised"):
            self.failed = f"the planner {reply.problem}"
            return None
        return reply

    def problem(self, now_s: float) -> str:
        """Say whether it raised, or hangs."""
        if self._due is not None and now_s - self._due[0] > self.timeout_s:
            return f"the planner has not answered for {self.timeout_s} s"
        return self.failed

    def ready(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Do nothing."""


def answer(source: Source, seen: Observation) -> Reply:
    """Ask a source; a `ValueError` is an answer, any other exception is a failure."""
    try:
        return Reply(seen.observed_s, source.chunk(seen))
    except ValueError as error:
        return Reply(seen.observed_s, None, f"no plan: {error}")
    except Exception as error:  # noqa: BLE001  (it becomes a fault of the safety filter)
        return Reply(seen.observed_s, None, f"raised {type(error).__name__}: {error}")


@final
class PlannerProcess:
    """Run a source in a spawned process.

    Args:
        request: Says which source.
        clock: The loop's clock.
        timeout_s: Time without an answer that is a problem.
        start_s: Time in which it must be ready.
        threads: Threads of torch.
        nicer: By how much it gives way to other programs.
    """

    def __init__(
        self, request: SourceRequest, clock: Callable[[], float], *, timeout_s: float = 5.0, start_s: float = 120.0,
        threads: int = 1, nicer: int = 5,
    ) -> None:  # fmt: skip
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, request, threads, nicer), daemon=True, name="dfplan-plan"
        )
        self._clock, self._timeout_s, self._start_s = clock, timeout_s, start_s
        self._lock = threading.Condition()
        self._question: Observation | None = None
        self._reply: Reply | None = None
        self._failed, self._ready, self._closed = "", False, False
        self._since_s = clock()
        self.process.start()
        theirs.close()
        self._thread = threading.Thread(target=self._talk, daemon=True, name="dfplan-plan-talk")
        self._thread.start()

    def offer(self, seen: Observation, now_s: float) -> bool:
        """Hand an observation over if the planner is idle."""
        with self._lock:
            if not self._ready or self._failed or self._question is not None or self._reply is not None:
                return False
            self._question, self._since_s = seen, now_s
            self._lock.notify_all()
            return True

    def poll(self, now_s: float) -> Reply | None:
        """Return the answer that has come, if any."""
        with self._lock:
            reply, self._reply = self._reply, None
            return reply

    def problem(self, now_s: float) -> str:
        """Say whether it died, raised, or does not answer."""
        with self._lock:
            if self._failed:
                return self._failed
            waiting = now_s - self._since_s
            if not self._ready:
                return "" if waiting <= self._start_s else f"the planner was not ready after {self._start_s} s"
            if self._question is not None and waiting > self._timeout_s:
                return f"the planner has not answered for {waiting:.1f} s, more than {self._timeout_s} s"
        return "" if self.process.is_alive() else self._died()

    def ready(self) -> bool:
        """Tell whether the planner is loaded."""
        with self._lock:
            return self._ready

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the planner is loaded; not to be called from the loop.

        Raises:
            RuntimeError: If it cannot be loaded, with its own words.
        """
        with self._lock:
            self._lock.wait_for(lambda: self._ready or bool(self._failed), timeout_s or self._start_s)
            if not self._ready:
                raise RuntimeError(self._failed or f"the planner was not ready after {self._start_s} s")

    def close(self) -> None:
        """End the process, whatever it does."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        if self.process.is_alive():
            self.process.kill()
        self.process.join(5.0)
        self._thread.join(5.0)
        self._pipe.close()

    def _died(self) -> str:
        return f"the planner's process ended (exit code {self.process.exitcode})"

    def _talk(self) -> None:
        """Ask and wait for the answer, one at a time."""
        try:
            self._hear(self._pipe.recv())
            while True:
                with self._lock:
                    self._lock.wait_for(lambda: self._closed or (self._question is not None and not self._failed))
                    if self._closed:
                        return
                    question = self._question
                self._pipe.send(question)
                self._hear(self._pipe.recv())
        except (EOFError, OSError):
            self.process.join(1.0)
            with self._lock:
                self._failed = self._failed or self._died()
                self._lock.notify_all()

    def _hear(self, message: Any) -> None:
        """Take a reply, a word that it is ready, or the text of an error."""
        with self._lock:
            if isinstance(message, Reply) and not message.problem.startswith("raised"):
                self._reply, self._question = message, None
            elif isinstance(message, Reply):
                self._failed, self._question = f"the planner {message.problem}", None
            elif message == "ready":
                self._ready = True
            else:
                self._failed = str(message)
            self._lock.notify_all()


def _serve(pipe: Connection, request: SourceRequest, threads: int, nicer: int = 0) -> None:
    """Answer questions until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the loop, which ends this process
    os.environ["OMP_NUM_THREADS"] = str(threads)
    with contextlib.suppress(OSError):
        os.nice(nicer)
    with contextlib.suppress(EOFError, OSError):
        try:
            source = make_source(request)
            if "torch" in sys.modules:  # else the variable above is what torch goes by
                sys.modules["torch"].set_num_threads(threads)
        except Exception as error:  # noqa: BLE001  (its text is shown by the loop's process)
            text = "".join(traceback.format_exception_only(error)).strip()
            pipe.send(f"the planner could not be loaded: {text}")
            return
        pipe.send("ready")
        while True:
            pipe.send(answer(source, pipe.recv()))
