"""The planner's process: the newest observation only, and every way in which it can fail."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest

from dfplan_policies.ros.planner_process import InlinePlanner, PlannerProcess, Reply
from dfplan_policies.ros.signals import Observation
from dfplan_policies.ros.sources import SourceRequest
from tests.ros.rig import Waves, config

made: list[PlannerProcess] = []


@pytest.fixture(autouse=True)
def _end() -> Iterator[None]:
    yield
    while made:
        made.pop().close()


def start(how: str, where: str = "slow", timeout_s: float = 1.0, threads: int = 1) -> PlannerProcess:
    request = SourceRequest(config(), f"source:tests.ros.plans:{where}", options={"how": how})
    made.append(PlannerProcess(request, time.monotonic, timeout_s=timeout_s, threads=threads))
    return made[-1]


def look(observed_s: float) -> Observation:
    return Observation(observed_s, np.zeros(3), np.full(3, 0.5), pictures={"big": np.zeros((480, 640, 3), np.uint8)})


def until(planner: PlannerProcess, seconds: float = 120.0) -> Reply | str:
    """Return the next reply, or what is wrong."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        reply = planner.poll(time.monotonic())
        if reply is not None:
            return reply
        problem = planner.problem(time.monotonic())
        if problem:
            return problem
        time.sleep(0.005)
    return "nothing"


def ask(planner: PlannerProcess, observed_s: float) -> Reply | str:
    assert planner.offer(look(observed_s), time.monotonic())
    return until(planner)


def test_one_question_at_a_time_and_the_loop_never_waits() -> None:
    # Catches: questions that queue (the answer to an old one comes first), a call that waits for a pipe.
    planner = start("slow")
    assert not planner.offer(look(0.0), time.monotonic())
    planner.wait()
    for k in range(3):
        found = ask(planner, float(k))
        assert isinstance(found, Reply) and found.observed_s == k
        assert found.chunk is not None and np.allclose(found.chunk.positions[0], 0.5)
    begun = time.process_time()
    assert planner.offer(look(10.0), time.monotonic())
    taken = [planner.offer(look(11.0 + k), time.monotonic()) for k in range(1000)]
    assert not any(taken) and time.process_time() - begun < 0.5
    found = until(planner)
    assert isinstance(found, Reply) and found.observed_s == 10.0
    assert planner.poll(0.0) is None


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("raise", "raised ArithmeticError: it broke"),
        ("die", r"ended \(exit code -9\)"),
        ("hang", "has not answered for 1"),
    ],
)
def test_faults_13_14_15_failures_are_told(how: str, text: str) -> None:
    # Catches: a death, an exception or a hang that goes unseen; a planner that is asked again after it.
    planner = start(how)
    planner.wait()
    assert isinstance(ask(planner, 0.0), Reply) and isinstance(ask(planner, 1.0), Reply)
    found = ask(planner, 2.0)
    assert isinstance(found, str) and re.search(text, found)
    assert not planner.offer(look(3.0), time.monotonic())
    begun = time.monotonic()
    planner.close()
    planner.close()
    assert time.monotonic() - begun < 5 and not planner.process.is_alive()


def test_fault_14_death_while_idle_and_while_stopped() -> None:
    # Catches: a planner whose death shows only at the next question; a pipe to a stopped process that blocks.
    planner = start("well")
    planner.wait()
    assert planner.process.pid is not None
    os.kill(planner.process.pid, signal.SIGSTOP)
    begun = time.process_time()
    assert planner.offer(look(0.0), time.monotonic())
    found = until(planner)
    assert isinstance(found, str) and "has not answered" in found
    assert time.process_time() - begun < 3
    os.kill(planner.process.pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while planner.process.is_alive() and time.monotonic() < end:
        time.sleep(0.01)
    assert "exit code -9" in planner.problem(time.monotonic()) or "not answered" in planner.problem(time.monotonic())


def test_a_refusal_is_an_answer() -> None:
    # Catches: an observation that cannot be used that ends the run.
    planner = start("refuse")
    planner.wait()
    assert isinstance(ask(planner, 0.0), Reply) and isinstance(ask(planner, 1.0), Reply)
    found = ask(planner, 2.0)
    assert isinstance(found, Reply) and found.chunk is None and "not this one" in found.problem


def test_what_cannot_be_built_says_why() -> None:
    # Catches: an error of the child that is lost, a wait without end.
    with pytest.raises(RuntimeError, match="could not be loaded: ValueError: this source cannot be built"):
        start("no start").wait()


def test_the_process_keeps_to_its_threads_and_leaves_signals_to_the_loop() -> None:
    # Catches: torch on all cores beside the loop; a Ctrl-C that kills the planner before the arm is held.
    planner = start("well", "where", timeout_s=110.0, threads=2)
    planner.wait()
    found = ask(planner, 0.0)
    assert isinstance(found, Reply) and found.chunk is not None
    threads, nice, ignored = found.chunk.positions[0].tolist()
    assert threads == 2 and ignored == 1 and nice > os.nice(0)


def test_the_planner_in_virtual_time_behaves_the_same() -> None:
    # Catches: a stand-in that queues, answers early or never hangs.
    planner = InlinePlanner(Waves(), 0.1, timeout_s=0.5)
    assert planner.offer(look(0.0), 1.0) and not planner.offer(look(0.1), 1.05)
    assert planner.poll(1.09) is None and planner.problem(1.09) == ""
    reply = planner.poll(1.1)
    assert reply is not None and reply.observed_s == 0.0 and planner.poll(1.2) is None
    slow = InlinePlanner(Waves(), 9.0, timeout_s=0.5)
    slow.offer(look(0.0), 1.0)
    assert "not answered" in slow.problem(1.6)
