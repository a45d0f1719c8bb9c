"""The loop: deadlines, statistics, the log and its replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfplan_policies.ros.backends import BACKENDS, make_backend
from dfplan_policies.ros.backends.sim import SimBackend
from dfplan_policies.ros.core import TickInput
from dfplan_policies.ros.judge import Command as WireCommand
from dfplan_policies.ros.judge import Judge as WireJudge
from dfplan_policies.ros.judge import Rules as WireRules
from dfplan_policies.ros.modes import Mode
from dfplan_policies.ros.record import Recorder, replay
from dfplan_policies.ros.wire import Backend, ImageSample, JointSample
from tests.ros.rig import LIMITS, NAMES, Rig, Waves, config


def test_deadlines_are_absolute_and_missed_ones_are_left_out() -> None:
    # Catches: a late tick that shifts all later ones; a burst of ticks that makes up for a stall.
    rig = Rig()
    times: list[float] = []
    slow = {50: 0.004, 100: 0.035}

    def each(loop: Any) -> None:
        times.append(rig.now)
        rig.clock.now_s += slow.get(len(times), 0.0)

    begin = rig.now
    rig.loop.run(duration_s=3.0, each=each)
    numbers = (np.array(times) - begin) / rig.config.period_s
    assert np.allclose(numbers, np.round(numbers), atol=1e-6)
    assert (np.diff(numbers) > 0.5).all() and rig.loop.missed == 3
    assert rig.judge.breaches() == []


class Busy:
    """A computer that keeps a command back between its tick and the wire, and the loop after a tick; s, by number."""

    def __init__(self, rig: Rig, before: dict[int, float], after: dict[int, float]) -> None:
        self.rig, self.before, self.after, self.count = rig, before, after, 0
        self._tick = rig.core.tick
        rig.core.tick = self.tick  # type: ignore[method-assign]
        limits = np.array([list(LIMITS[name].values()) for name in NAMES])
        self.judge = WireJudge(WireRules(NAMES, *(tuple(column) for column in limits.T), rig.config.period_s))
        rig.backend.heard.append(lambda t, s: self.judge.see(WireCommand(t, s.names, (tuple(s.position),))))

    def tick(self, given: TickInput) -> Any:
        decided = self._tick(given)
        self.count += 1
        self.rig.clock.now_s += self.before.get(self.count, 0.0)
        return decided

    def each(self, _: Any) -> None:
        self.rig.clock.now_s += self.after.pop(self.count, 0.0)


def test_a_stall_is_a_silence_on_the_wire_not_between_ticks() -> None:
    # Catches: a hard stop because two ticks are far apart, though the commands were not: the first of them left late.
    rig = Rig()
    busy = Busy(rig, {200: 0.008}, {200: 0.018})
    rig.loop.run(duration_s=4.0, each=busy.each)
    assert rig.loop.missed == 2 and busy.judge.report()["ok"] and rig.judge.breaches() == []
    assert not any("stalled" in text for _, text, _ in rig.backend.told)


@pytest.mark.parametrize("late_s", [0.0141, 0.0171, 0.0271, 0.2031])
def test_a_command_that_comes_too_late_is_withdrawn(late_s: float, tmp_path: Path) -> None:
    # Catches: motion that goes on after the arm had stopped by itself, as a command was kept back after its tick; a
    # stop where it had not; a replay that knows nothing of it.
    rig = Rig()
    busy = Busy(rig, {200: late_s}, {})
    rig.loop.log = log = Recorder(tmp_path / "log.jsonl", rig.config)
    rig.loop.run(duration_s=4.0)
    log.close()
    assert busy.judge.report()["counts"] == {} and rig.judge.breaches() == []
    (late,) = np.flatnonzero(np.diff(rig.judge.times) > 0.0101)
    stopped = np.array_equal(rig.judge.places[late], rig.judge.places[late + 1])
    assert stopped == (late_s > 0.015) and replay(tmp_path / "log.jsonl").same


@pytest.mark.parametrize("late_s", [0.0111, 0.0171, 0.0271, 0.0411, 0.2031])
def test_a_command_that_is_kept_back_on_its_way_out(late_s: float, tmp_path: Path) -> None:
    # Catches: full speed after a step that an arm at rest was given, because it left long after it had been looked at;
    # an arm that is taken to rest for ever, or though it was late by little; a replay that knows nothing of it.
    rig = Rig()
    busy, write, count = Busy(rig, {}, {}), rig.backend.write, 0

    def slow(setpoint: Any) -> None:
        nonlocal count
        count += 1
        rig.clock.now_s += late_s if count == 200 else 0.0
        write(setpoint)

    rig.backend.write = slow  # type: ignore[method-assign]
    rig.loop.log = log = Recorder(tmp_path / "log.jsonl", rig.config)
    rig.loop.run(duration_s=4.0)
    log.close()
    assert busy.judge.report()["counts"] == {} and replay(tmp_path / "log.jsonl").same
    (late,) = np.flatnonzero(np.diff(rig.judge.times) > 0.0101)
    stays = np.flatnonzero((np.diff(rig.judge.places[late + 1 : -60], axis=0) == 0).all(1))
    assert stays.tolist() == ([0] if late_s > 0.025 else [])


def test_the_run_ends_at_rest_and_diagnostics_say_how_it_went() -> None:
    # Catches: a duration that cuts the run off in motion; a status that is never published, or at every tick.
    rig = Rig()
    rig.loop.run(duration_s=4.0)
    assert rig.core.finished and rig.judge.breaches() == []
    assert np.allclose(rig.judge.speeds()[-1], 0)
    texts = [text for _, text, _ in rig.backend.told]
    assert 6 < len(texts) < 14 and any(text == "RUN: running" for text in texts)
    level, _, values = next(row for row in rig.backend.told if row[1] == "RUN: running")
    assert level == 0 and values["clamped_rate"] == "0"


def record(path: Path, seed: int, seconds: float = 6.0) -> Rig:
    """Run with random trouble and a log."""
    rng = np.random.default_rng(seed)
    source = Waves(change=lambda c, n: type(c)(c.observed_s, c.times_s, c.positions + rng.normal(0, 0.05)))
    settings_ = config(topics={"cameras": {"front": "/front"}})
    rig = Rig(source, delay_s=lambda _: float(rng.uniform(0, 0.2)), settings=settings_)
    rig.loop.log = log = Recorder(path, rig.config)

    def trouble(now_s: float, samples: list[Any]) -> list[Any]:
        if rng.random() < 0.02:
            return []
        if rng.random() < 0.004:
            samples = [*samples, JointSample(now_s, ("a",), np.array([np.nan]), np.zeros(0), None, "x", "/t")]
        return samples

    rig.backend.disturb.append(trouble)
    for _ in range(int(seconds / 0.5)):
        rig.run(0.5)
        if rig.mode == Mode.FAULT:
            rig.press("rearm").run(0.05).press("rearm", False)
    log.close()
    return rig


@pytest.mark.parametrize("name", ["run.jsonl", "run.jsonl.gz"])
def test_a_replay_gives_the_same_commands_bit_for_bit(tmp_path: Path, name: str) -> None:
    # Catches: anything that a decision depends on and the log does not hold; numbers that lose digits in the file.
    rig = record(tmp_path / name, 3)
    found = replay(tmp_path / name)
    assert found.same and found.commands == len(rig.judge.times) > 200
    assert found.modes["RUN"] > 50 and found.faults
    assert rig.judge.breaches() == []


def test_a_replay_sees_a_single_bit(tmp_path: Path) -> None:
    # Catches: a comparison with a tolerance, or none at all.
    path = tmp_path / "run.jsonl"
    record(path, 4, 3.0)
    lines = path.read_text().splitlines(keepends=True)
    k = next(k for k, line in enumerate(lines) if k > 250 and '"c":[' in line)
    start = lines[k].index('"c":[') + 5
    value = lines[k][start:].split(",")[0]
    other = repr(float(np.nextafter(float(value), 9.0)))
    lines[k] = lines[k][:start] + other + lines[k][start + len(value) :]
    path.write_text("".join(lines))
    found = replay(path)
    assert found.different == 1 and other in found.differences[0]


def test_a_log_that_was_cut_off_can_be_replayed(tmp_path: Path) -> None:
    # Catches: the log of a crash that nobody can read; a file of another kind taken for a log.
    path = tmp_path / "run.jsonl"
    record(path, 5, 2.0)
    path.write_bytes(path.read_bytes()[:-40])
    assert replay(path).same and replay(path).ticks > 100
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="is no log"):
        replay(path)
    with pytest.raises(ValueError, match="there is no log"):
        replay(tmp_path / "none")


@settings(max_examples=6)
@given(st.integers(0, 10_000))
def test_random_runs_break_nothing(seed: int) -> None:
    # Catches: whatever the faults one by one do not: several at once, at random times, with re-arming in between.
    rng = np.random.default_rng(seed)
    source = Waves(change=lambda c, n: type(c)(c.observed_s, c.times_s, c.positions * rng.uniform(0.2, 4.0)))
    rig = Rig(source, delay_s=lambda _: float(rng.exponential(0.15)))
    kinds = ("drop", "nan", "late", "jump", "stop", "enable", "writer", "reader", "stall", "none")
    active = ["none"]

    def trouble(now_s: float, samples: list[Any]) -> list[Any]:
        states = [s for s in samples if isinstance(s, JointSample)]
        rest = [s for s in samples if not isinstance(s, JointSample)]
        if active[0] in ("drop", "late"):
            return rest
        if active[0] in ("nan", "jump") and states:
            spoilt = states[-1].position.copy()
            spoilt[0] = np.nan if active[0] == "nan" else spoilt[0] + 0.5
            states[-1] = JointSample(now_s, states[-1].names, spoilt, np.zeros(0), states[-1].stamp_s)
        return rest + states

    rig.backend.disturb.append(trouble)
    for _ in range(25):
        active[0] = str(rng.choice(kinds))
        if active[0] == "jump" and rig.mode not in (Mode.RAMP_IN, Mode.RUN):
            active[0] = "none"  # an arm that stands still elsewhere before a start cannot be told from the truth
        rig.backend.writers, rig.backend.readers = int(active[0] == "writer"), int(active[0] != "reader")
        rig.backend.enabled = active[0] != "enable"
        if active[0] == "stop":
            rig.press("stop")
        if active[0] == "stall":
            rig.clock.now_s += float(rng.uniform(0, 0.4))
        rig.run(float(rng.choice([0.02, 0.1, 0.4])))
        active[0] = "none"
        rig.backend.writers, rig.backend.readers, rig.backend.enabled = 0, 1, True
        rig.press("stop", False).press("rearm", False).press("rearm").run(float(rng.uniform(0.1, 0.6)))
    assert rig.judge.moved() and rig.judge.breaches() == []


def test_back_ends_are_looked_up_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a name that is not known passed on; a missing package that shows as a traceback.
    settings_ = config()
    found = make_backend("sim", settings_, lambda: 0.0)
    assert isinstance(found, Backend) and set(BACKENDS) == {"dds", "rclpy", "sim"}
    with pytest.raises(ValueError, match=r"unknown back end 'dss'\. Did you mean 'dds'"):
        make_backend("dss", settings_, lambda: 0.0)


def test_the_simulated_arm_follows_and_stops() -> None:
    # Catches: an arm that jumps, or that goes on after its command has ended.
    now = [0.0]
    arm = SimBackend(config(topics={"cameras": {"front": "/front"}}), lambda: now[0], np.zeros(3))
    arm.open()
    from dfplan_policies.ros.wire import Setpoint

    arm.write(Setpoint(("a", "b", "c"), np.array([1.0, 0, 0]), None, 0.1))
    assert np.allclose(arm.place(0.05), [0.5, 0, 0]) and np.allclose(arm.place(5.0), [1, 0, 0])
    now[0] = 0.5
    samples = arm.poll(0.5)
    assert sum(isinstance(s, JointSample) for s in samples) == 50
    assert sum(isinstance(s, ImageSample) for s in samples) == 5
