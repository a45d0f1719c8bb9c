"""What acting costs: the benchmark times what it says it times."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfplan_bench import acting
from dfplan_bench.registry import BENCHMARKS


class Slow:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def predict(self, observation: Any, state: Any = None) -> Any:
        self.seen.append((observation["observation"].shape, observation["desired_goal"].shape, state))
        time.sleep(0.002)
        return np.zeros(2), len(self.seen)


def test_every_call_is_timed_with_its_own_state() -> None:
    # Catches: a state that is not passed on, a batch of another size, time outside the call.
    policy = Slow()
    seconds = acting.timed(policy, np.zeros((3, 4)), 5)
    assert len(seconds) == 3 and min(seconds) >= 0.002
    assert policy.seen == [((5, 4), (5, 2), None), ((5, 4), (5, 2), 1), ((5, 4), (5, 2), 2)]


def test_the_doubles_answer_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a network that is timed after all; a policy that is missing; a plan that is not followed.
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(acting, "_algorithm", lambda folder, seed: (_ for _ in ()).throw(ImportError("none")))
    chosen = acting.policies(tmp_path, 0)
    assert {name.partition(",")[0].partition(" ")[0] for name in chosen} == {"df", "act", "waypoint", "mlp", "random"}
    for name in ("df, path", "df, diffused_actions", "act"):
        policy = chosen[name]
        policy.planner.checkpoint.model.forward = None
        _, state = policy.predict({"observation": np.array([acting.START]), "desired_goal": np.array([acting.GOAL])})
        assert state.memories[0].episode == 0
    assert "acting" in BENCHMARKS
