"""Fine-tuning: what a round learns from, what stays, and runs that die at any moment yet end in the same bits."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file

import dfplan.finetuning.loop as loop
from dfplan.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dfplan.data import Episodes, load_npz, save_npz
from dfplan.data.collecting import CollectConfig, collect
from dfplan.data.shards import ShardFolder
from dfplan.data.trajectories import Trajectories, join
from dfplan.finetuning import FinetuneConfig, finetune
from dfplan.models import TransformerConfig, make_denoiser
from dfplan.planner import DFPlanner
from dfplan.returns import discounted_returns
from dfplan.spaces import Spaces
from dfplan.tokens import TokenSpec
from dfplan.value import ValueConfig, ValueModel
from dfplan.windows import fit_normalizer
from dfplan_policies import DFPolicy

ENV = "tests/Push-v0"
CONFIG = FinetuneConfig(
    rounds=2, episodes=2, steps=4, share=0.5, noise=0.2, lr=1e-2, batch=6, ema=0.5, value_steps=2, evaluate_episodes=2,
    seed=3, precision="fp32", save_every=1,
)  # fmt: skip
ASK = (
    "--env", ENV, "--checkpoint", "base", "--data", "old.npz", "--episodes", 2, "--steps", 4, "--batch", 6,
    "--value-steps", 2, "--evaluate-episodes", 2, "--precision", "fp32",
)  # fmt: skip


class Push(gymnasium.Env[Any, Any]):
    """A point on a line is pushed; the reward is minus its distance from 0."""

    observation_space = spaces.Box(-9.0, 9.0, (2,), np.float32)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = np.array([self.np_random.uniform(-1, 1), 0.0], dtype=np.float32)
        return self.place.copy(), {}

    def step(self, action: Any) -> Any:
        speed = np.clip(0.5 * self.place[1] + 0.3 * float(action[0]), -2, 2)
        self.place = np.array([np.clip(self.place[0] + speed, -9, 9), speed], dtype=np.float32)
        return self.place.copy(), -float(abs(self.place[0])), False, False, {}


@pytest.fixture(scope="module", autouse=True)
def registered() -> Any:
    gymnasium.register(ENV, Push, max_episode_steps=7)
    yield
    del gymnasium.registry[ENV]


@pytest.fixture(scope="module")
def data() -> Episodes:
    env = gymnasium.make(ENV)
    found = list(collect([env], None, range(8), CollectConfig(seed=9)))
    lengths = np.array([len(r.rewards) for r in found])
    columns = (join([getattr(r, name) for r in found]) for name in ("observations", "actions", "rewards"))
    return Trajectories(*columns, lengths, lengths < 0, env.observation_space, env.action_space).to_episodes({})


@pytest.fixture(scope="module")
def base(data: Episodes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = TokenSpec(2, 1, 2, 2, kind="bundle", goal_columns=(), rest_columns=(), rewards=True, returns=True)
    torch.manual_seed(0)
    model = make_denoiser(spec, TransformerConfig(width=16, layers=1, heads=2, levels=10))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    value = ValueModel(spec, ValueConfig(width=8, layers=1, heads=2, levels=10))
    checkpoint = Checkpoint(
        "push", ENV, model, spec, fit_normalizer(data, 2, discount=0.9),
        {"samples": 2, "steps": 2, "precision": "fp32"}, {"training": {"causal": 1.0, "no_goal": 0.25, "batch": 999}},
        Spaces.from_dict(data.meta["spaces"]), value,
    )  # fmt: skip
    return save_checkpoint(checkpoint, tmp_path_factory.mktemp("base") / "base")


def results(folder: Path) -> dict[str, Any]:
    """Return what must be the same to the bit, whatever happened on the way."""
    names = ("checkpoint/model.safetensors", "checkpoint/config.json", "checkpoint/value.safetensors", "metrics.jsonl")
    found: dict[str, Any] = {name: (folder / name).read_bytes() for name in names}
    return {**found, "replay": load_npz(folder / "replay.npz").digest()}


@pytest.fixture(scope="module")
def whole(base: Path, data: Episodes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert finetune(base, ENV, data, CONFIG, folder) == folder / "checkpoint"
    return folder


class Killed(BaseException):
    """Stands for a kill; no handler of ordinary errors sees it."""


def after(events: int) -> Callable[[dict[str, Any]], None]:
    left = [events]

    def log(event: dict[str, Any]) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    return log


# ---- what is there in the end


def test_units_stay_and_what_is_asked_for_moves(whole: Path, base: Path, data: Episodes) -> None:
    # Catches: a normaliser fitted anew, under which the network reads other numbers than it was trained on; a return
    # to ask for that is never raised; a learned return, spaces or planner options that get lost.
    old, new = load_checkpoint(base), load_checkpoint(whole / "checkpoint")
    assert new.spec == old.spec and new.spaces == old.spaces and new.planner == old.planner
    for name, value in old.norm.tensors().items():
        assert torch.equal(new.norm.tensors()[name], value), name
    before, stats = old.norm.returns, new.norm.returns
    assert before is not None and stats is not None
    replay = load_npz(whole / "replay.npz")
    parts = [discounted_returns(e.rewards, e.lengths, None, 0.9) for e in (data, replay)]
    assert stats == before.for_mixture(parts, [0.5, 0.5]) and stats.quantiles != before.quantiles
    assert old.value is not None and new.value is not None and float(new.value.std) == float(old.value.std)
    moved = [n for n, v in new.model.state_dict().items() if not torch.equal(v, old.model.state_dict()[n])]
    assert moved and any(not torch.equal(v, old.value.state_dict()[n]) for n, v in new.value.state_dict().items())


def test_a_round_acts_with_the_last_round_s_policy(whole: Path) -> None:
    # Catches: a base policy that collects for ever; starts that repeat from round to round; noise left out.
    replay, env = load_npz(whole / "replay.npz"), gymnasium.make(ENV)
    for source, numbers in ((whole / "rounds" / "001" / "checkpoint", [2, 3]),):
        policy = DFPolicy(DFPlanner.from_pretrained(source), seed=3)
        found = sorted(collect([env], policy, numbers, CollectConfig(3, 0.2)), key=lambda r: r.number)
        for rollout in found:
            observations, actions, _ = replay.episode(rollout.number)
            np.testing.assert_array_equal(observations, rollout.observations)
            np.testing.assert_allclose(actions, rollout.actions / 2, atol=1e-6)
    assert len({replay.episode(i)[0][0, 0] for i in range(4)}) == 4


def test_metrics_and_provenance(whole: Path, base: Path) -> None:
    # Catches: returns of another round, noisy returns shown as the policy's, a standard error over steps.
    metrics = json.loads((whole / "metrics.json").read_text())
    rows, replay = metrics["rounds"], load_npz(whole / "replay.npz")
    assert [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()] == rows
    assert [row["env_steps"] for row in rows] == [0, 14, 28] and rows[0]["collected"] is None
    for number in (1, 2):
        own = replay.returns[2 * number - 2 : 2 * number]
        found = rows[number]["collected"]["return"]
        assert found["mean"] == pytest.approx(own.mean()) and found["stderr"] == pytest.approx(own.std(ddof=1) / 2**0.5)
    from dfplan.evaluation import evaluate

    for number, folder in ((0, base), (2, whole / "checkpoint")):
        policy = DFPolicy(DFPlanner.from_pretrained(folder), seed=3)
        report = evaluate(policy, ENV, 2, metrics["evaluation_seed"])
        assert rows[number]["evaluated"]["return"] == report.metrics["return"]["strict"]
    assert metrics["evaluation_seed"] not in (3, None)
    origin = load_checkpoint(whole / "checkpoint").provenance
    assert origin["finetuned"]["round"] == 2 and origin["finetuned"]["base"]["name"] == "push"
    assert origin["finetuned"]["replay"] == replay.digest() and origin["base"]["training"]["batch"] == 999
    assert not (whole / "rounds" / "001" / "state").exists() and (whole / "rounds" / "002" / "state").is_dir()


def test_the_replay_is_a_minari_dataset(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: columns in place of the environment's own actions, a dataset that Minari does not find.
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(whole / "minari"))
    found, replay = minari.load_dataset("replay-v0"), load_npz(whole / "replay.npz")
    assert found.total_episodes == 4 and found.action_space == Push.action_space
    assert found.storage.metadata["dfplan"]["env"] == ENV  # its class was registered itself, which no file can hold
    for i, episode in enumerate(found.iterate_episodes()):
        np.testing.assert_allclose(episode.actions / 2, replay.episode(i)[1], atol=1e-6)


def test_what_each_round_is_trained_on(
    base: Path, data: Episodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Catches: a second round that starts from the base or from an optimiser that knows nothing, a replay of the last
    # round only, a network trained by other shares than its own, windows that repeat.
    calls: list[tuple[Any, dict[str, Any]]] = []
    real = loop.train

    def spy(*arguments: Any, **options: Any) -> Path:
        calls.append((arguments, options))
        return real(*arguments, **options)

    monkeypatch.setattr(loop, "train", spy)
    finetune(base, ENV, data, replace(CONFIG, evaluate_episodes=0, share=0.75), tmp_path)
    (first, one), (second, two) = calls
    assert [len(options["replay"].episodes) for options in (one, two)] == [2, 4]
    assert one["initial"].updates == 0 and two["initial"].updates == 4 and two["replay"].share == 0.75
    old = load_checkpoint(base).model.state_dict()
    assert all(torch.equal(one["initial"].tensors[f"ema/{n}"], v) for n, v in old.items())
    kept = load_file(tmp_path / "rounds" / "001" / "checkpoint" / "model.safetensors")
    assert all(torch.equal(two["initial"].tensors[f"ema/{n}"].half(), v) for n, v in kept.items())
    for arguments in (first, second):
        assert arguments[0] is data and (arguments[3].causal, arguments[3].no_goal) == (1.0, 0.25)
        assert (arguments[3].holdout, arguments[3].batch, arguments[3].ema) == (0.0, 6, 0.5)
    assert first[3].seed != second[3].seed
    assert [row["evaluated"] for row in json.loads((tmp_path / "metrics.json").read_text())["rounds"]] == [None] * 3


# ---- resume


@pytest.mark.parametrize(("events", "hard"), [(3, False), (5, True)])
def test_a_run_that_dies_again_and_again_ends_in_the_same_bits(
    events: int, hard: bool, base: Path, data: Episodes, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Catches: episodes collected by the policy of another round, a training that starts over from other weights, a
    # learned return trained twice, lines written twice. A hard kill leaves no time to write what waits.
    deaths, flush = 0, ShardFolder.flush
    if hard:
        monkeypatch.setattr(ShardFolder, "flush", lambda self: None if sys.exc_info()[0] is Killed else flush(self))
    while deaths < 60:
        try:
            finetune(base, ENV, data, CONFIG, tmp_path, log=after(events))
            break
        except Killed:
            deaths += 1
    assert 4 <= deaths < 60
    assert results(tmp_path) == results(whole)


def test_more_rounds_go_on_and_a_finished_run_is_left_alone(
    base: Path, data: Episodes, whole: Path, tmp_path: Path
) -> None:
    # Catches: rounds that depend on how many were asked for; a finished run that is trained on or judged anew.
    finetune(base, ENV, data, replace(CONFIG, rounds=1), tmp_path)
    assert results(tmp_path) != results(whole)
    finetune(base, ENV, data, CONFIG, tmp_path)
    assert results(tmp_path) == results(whole)
    stages: list[str] = []
    finetune(base, ENV, data, CONFIG, tmp_path, log=lambda event: stages.append(event["stage"]))
    assert stages == ["result"] and results(tmp_path) == results(whole)
    with pytest.raises(ValueError, match=r"holds 2 finished rounds, 1 are asked for; ask for 2 or more"):
        finetune(base, ENV, data, replace(CONFIG, rounds=1), tmp_path)


# ---- refusals


def test_what_does_not_go_together_is_refused_before_any_work(base: Path, data: Episodes, tmp_path: Path) -> None:
    # Catches: a shape error in the middle of a round; a folder that is begun before everything is checked.
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"'push' was trained for tests/Push-v0 with observations \(2,\) and actions"):
        finetune(base, "Pendulum-v1", data, CONFIG, out)
    wide = Episodes(np.zeros((10, 3)), np.zeros((9, 1)), np.zeros(9), np.array([9]))
    with pytest.raises(ValueError, match="the data have 3 columns of observations and 1 of actions"):
        finetune(base, ENV, wide, CONFIG, out)
    with pytest.raises(ValueError, match="unknown target_return 'best'"):
        finetune(base, ENV, data, replace(CONFIG, policy={"target_return": "best"}), out)
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\], got 1.5"):
        replace(CONFIG, share=1.5)
    with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
        replace(CONFIG, episodes=0)
    assert not out.exists()


def test_folders_of_others_are_refused(base: Path, data: Episodes, whole: Path, tmp_path: Path) -> None:
    # Catches: a run that goes on with other options or data, files put among somebody else's.
    before = results(whole)
    for config, told in (
        (replace(CONFIG, noise=0.1), "noise 0.2 there, 0.1 asked"),
        (replace(CONFIG, policy={"samples": 1}), "policy.samples None there, 1 asked"),
    ):
        with pytest.raises(ValueError, match=f"was begun with something else: {told}"):
            finetune(base, ENV, data, config, whole)
    with pytest.raises(ValueError, match=r"was begun with something else: data '\w+' there, '\w+' asked"):
        finetune(base, ENV, data.select(range(4)), CONFIG, whole)
    assert results(whole) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else than a fine-tuning run"):
        finetune(base, ENV, data, CONFIG, tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is the folder of another kind of run"):
        finetune(base, ENV, data, CONFIG, tmp_path / "other")
    with pytest.raises(ValueError, match=r"cannot be (written to|read) .+; name another folder \(--out\)"):
        finetune(base, ENV, data, CONFIG, tmp_path / "notes.txt" / "run")


# ---- the command


def test_the_command(base: Path, data: Episodes, dfplan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: options that do not arrive, Ctrl-C that ends in a traceback or loses its place, a checkpoint that
    # `eval` does not load, a replay that `train` does not find under its name.
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    (tmp_path / "base").symlink_to(base)
    save_npz(data, tmp_path / "old.npz")
    ask = ("finetune", *ASK, "--rounds", 1, "--noise", 0.1, "--target-return", -0.5, "--out", "run")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train_value", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        code, _, err = dfplan(*ask)
    assert code == 130 and "stopped in round 1 (train); the same command goes on from there" in err
    code, out, err = dfplan(*ask, "--json", "--id", "push/tuned-v0")
    assert code == 0, err
    metrics = json.loads(out)
    assert metrics["checkpoint"] == "run/checkpoint" and len(metrics["rounds"]) == 2
    asked = json.loads((tmp_path / "run" / "config.json").read_text())
    assert asked["run"]["policy"] == {"target_return": -0.5} and asked["run"]["noise"] == 0.1
    assert asked["about"]["command"].startswith("dfplan finetune") and asked["about"]["data"]["id"] == "old.npz"
    assert (tmp_path / "run" / "learning_curve.png").is_file()
    code, _, err = dfplan("eval", "--env", ENV, "--checkpoint", "run/checkpoint", "--episodes", 1, "--out", "e")
    assert code == 0, err
    minari = pytest.importorskip("minari")
    assert minari.load_dataset("push/tuned-v0").total_episodes == 2
    code, _, err = dfplan(*ask, "--id", "push/tuned-v0")
    assert code == 2 and "the dataset push/tuned-v0 exists" in err
    code, _, err = dfplan(*ask, "--data", "none.npz")
    assert code == 2 and "no such file: none.npz" in err
    code, _, err = dfplan("finetune", "--env", "CartPole-v1", "--checkpoint", "base", "--data", "old.npz", "--out", "x")
    assert code == 2 and "pass a checkpoint of CartPole-v1 (--checkpoint)" in err
