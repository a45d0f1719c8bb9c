"""`dfplan data make fruit-swap`: workers, going on after a stop, what is kept, and training on what was made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pybullet", reason="needs pybullet")

import typer

from dfplan.cli import data_fruit_swap
from dfplan.cli.data_fruit_swap import default_id, make_demonstrations
from dfplan.data import load_episodes
from dfplan_envs.arm import demonstrations
from dfplan_envs.arm.demonstrations import Demonstrations

WHAT = Demonstrations(seed=2, pushed=0.5, options=(("obs", "state"), ("bumps", 0.8)))
PLAY = data_fruit_swap._play_one


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let episodes end after a few steps, those with even numbers with success; returns the numbers that are played."""
    monkeypatch.setattr(demonstrations, "MAX_STEPS", 14)
    played = []

    def play(what: Any, number: int) -> Any:
        played.append(number)
        found = PLAY(what, number)
        reward = np.where(np.arange(14) == 13, float(number % 2 == 0), 0.0).astype(np.float32)
        return replace(found, rewards=reward, success=number % 2 == 0, ended=number % 2 == 0)

    monkeypatch.setattr(data_fruit_swap, "_play_one", play)
    return played


def make(folder: Path, episodes: int = 4, what: Demonstrations = WHAT, **options: Any) -> Any:
    return make_demonstrations(what, episodes, folder=folder, **{"keep": "all", **options})


def equal(one: Any, two: Any) -> bool:
    names = ("observations", "actions", "rewards", "lengths", "terminated")
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in names)


def test_two_workers_give_the_same_bits_as_one(tmp_path: Path) -> None:
    """Catches draws that count across episodes, episodes in the order in which they end, a worker's own seed."""
    one, two = (make(tmp_path / str(workers), 2, workers=workers) for workers in (1, 2))
    assert equal(one[0], two[0]) and one[3] == two[3] == {"played": 2, "successes": 2, "kept": 2}
    assert one[0].terminated.all() and one[0].observations.shape[1] == 31


def test_a_stopped_run_goes_on_and_gives_the_same_bits(
    short: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches finished episodes that are lost or played twice, an exit code of success, another order of episodes."""
    whole = make(tmp_path / "whole")[0]
    play = data_fruit_swap._play_one

    def stopping(what: Any, number: int) -> Any:
        if number == 2:
            raise KeyboardInterrupt
        return play(what, number)

    monkeypatch.setattr(data_fruit_swap, "_play_one", stopping)
    with pytest.raises(typer.Exit) as end:
        make(tmp_path / "stopped")
    assert end.value.exit_code == 130
    monkeypatch.setattr(data_fruit_swap, "_play_one", play)
    short.clear()
    again = make(tmp_path / "stopped")[0]
    assert short == [2, 3] and equal(again, whole)
    short.clear()
    fewer = make(tmp_path / "stopped", 3)[0]
    assert short == [] and len(fewer) == 3 and np.array_equal(fewer.actions, whole.actions[: 3 * 14])
    with pytest.raises(ValueError, match="was begun with something else: seed 2 there, 3 asked"):
        make(tmp_path / "stopped", what=replace(WHAT, seed=3))


def test_failures_are_left_out(short: list[int], tmp_path: Path) -> None:
    """Catches failures that are kept, rows of another episode in their place, and counts of what was kept only."""
    whole, *_ = make(tmp_path / "a")
    kept, native, spec, counts = make(tmp_path / "a", keep="success")
    assert counts == {"played": 4, "successes": 2, "kept": 2} and spec.id == "fruit-swap-v0"
    np.testing.assert_array_equal(
        kept.observations, np.concatenate([whole.observations[:15], whole.observations[30:45]])
    )
    np.testing.assert_array_equal(kept.actions, np.concatenate([whole.actions[:14], whole.actions[28:42]]))
    assert kept.terminated.all() and not whole.terminated[[1, 3]].any() and len(native) == 2
    assert kept.meta["successes"] == 2 and kept.meta["options"] == {"obs": "state", "bumps": 0.8}
    none = replace(WHAT, seed=9)
    shards = tmp_path / "b"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_fruit_swap, "_play_one", PLAY)  # after 14 steps nobody has succeeded
        with pytest.raises(ValueError, match="no episode succeeded, so none is kept; pass --keep all"):
            make(shards, 1, none, keep="success")
    with pytest.raises(ValueError, match="keep must be 'success' or 'all', got 'failures'"):
        make(shards, 1, none, keep="failures")


def test_the_name_says_what_is_observed() -> None:
    """Catches two sizes of pictures under one name."""
    assert default_id("state", 64) == "fruit-swap/state-v0" and default_id("both", 32) == "fruit-swap/both-32-v0"


FILE = ("--no-minari", "--npz", "x.npz")
SMALL = ("--steps", 2, "--batch", 2, "--width", 16, "--layers", 1, "--heads", 2, "--device", "cpu", "--save-every", 1)


def test_data_training_and_evaluation_fit_together(short: list[int], dfplan: Any, tmp_path: Path) -> None:
    """Catches columns chosen for training that a policy does not choose, and an evaluation that needs plans."""
    made = ("data", "make", "fruit-swap", "--episodes", 3, "--workers", 1, *FILE, "--keep", "all")
    code, out, err = dfplan(*made, "--json")
    assert code == 0, err
    assert json.loads(out)["npz"] and load_episodes("x.npz").observations.shape == (3 * 15, 31)
    train = ("train", "--env", "fruit-swap", "--data", "x.npz", "--out", "run", *SMALL)
    on_the_way = ("--evaluate-every", 2, "--evaluate-episodes", 1)
    code, out, err = dfplan(*train, *on_the_way)
    assert code == 0, err
    config = json.loads(Path("run/checkpoint/config.json").read_text())
    assert config["tokens"] == {
        "kind": "episode", "obs_dim": 16, "act_dim": 4, "stride": 6, "blocks": 50, "dt_s": 0.1, "whole": True
    }  # fmt: skip
    assert config["spaces"]["observation"]["keep"] == [7, 8, 9, 16, 17, 18, 19, 24, 25, 26]
    assert config["spaces"]["observation"]["differences"] == [[17 + i, 7 + i] for i in range(3)] + [
        [24 + i, 7 + i] for i in range(3)
    ]
    assert config["model"]["positions"] == "rotary" and config["provenance"]["training"]["phases"] == 6
    row = json.loads(Path("run/evaluations.jsonl").read_text())
    assert row["success_rate"] == 0.0 and row["step"] == 2
    forgetful = ("--out", "forgetful", *SMALL, "--forgetful", "--horizon", 1, "--columns", "7-9,17-18")
    code, _, err = dfplan(*train[:5], *forgetful)
    assert code == 0, err
    config = json.loads(Path("forgetful/checkpoint/config.json").read_text())
    assert (config["tokens"]["whole"], config["tokens"]["blocks"], config["tokens"]["obs_dim"]) == (False, 1, 5)
    assert "phases" not in config["provenance"]["training"]
    asked = ("--episodes", 1, "--occlude", 0.3, "--steps", 2, "--videos", 0, "--out", "judged", "--json")
    code, out, err = dfplan("eval", "--env", "fruit-swap", "--checkpoint", "forgetful/checkpoint", *asked)
    assert code == 0, err
    found = json.loads(out)
    assert found["stages"]["1"]["trials"] == 1 and found["predict_seconds"]["median"] > 0
    assert found["success"]["rate"] == 0.0


def test_ctrl_c_on_the_command_line(short: list[int], dfplan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a trace in place of a line that says what is kept and how to go on."""

    def stopping(what: Any, number: int) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(data_fruit_swap, "_play_one", stopping)
    code, _, err = dfplan("data", "make", "fruit-swap", "--episodes", 2, "--workers", 1, *FILE)
    assert code == 130 and "stopped: 0 of 2 episodes are kept in runs/make-fruit-swap-" in err
    assert not Path("x.npz").exists() and "Traceback" not in err


def test_training_on_pictures(short: list[int], dfplan: Any) -> None:
    """Catches latents in other columns than the policy's, an autoencoder that is not saved with the checkpoint."""
    pytest.importorskip("minari", reason="needs minari")
    from dfplan_policies import load_policy

    made = ("data", "make", "fruit-swap", "--episodes", 2, "--workers", 1, "--obs", "both", "--image-size", 32)
    code, _, err = dfplan(*made, "--keep", "all", "--overwrite", "--distracted", 1, "--distractors", 2, "--pushes", 3)
    assert code == 0, err
    train = ("train", "--env", "fruit-swap", "--obs", "image", "--out", "run", *SMALL, "--encoder-steps", 1)
    code, _, err = dfplan(*train)
    assert code != 0 and "pictures need --data, a Minari id" in err
    code, _, err = dfplan(*train, "--data", "fruit-swap/both-32-v0,fruit-swap/both-32-v0")
    assert code == 0, err
    assert " in 4 episodes" in err
    parts = json.loads(Path("run/config.json").read_text())["data"]["parts"]
    assert [(part["distracted"], part["distractors"]) for part in parts] == [(1.0, 2)] * 2
    assert "--pushed 0.3 --pushes 3 --bumps 0.8" in parts[0]["command"] and parts[0]["pushes"] == 3
    assert "--distracted 1 --distractors 2 --keep all" in parts[0]["command"]
    policy: Any = load_policy("df", checkpoint=Path("run/checkpoint"), steps=2)
    codec = policy.spaces.observation
    assert "phases" not in policy.model.checkpoint.provenance["training"]  # a picture is as old as its block
    assert codec.keep == (7, 8, 9, *range(16, 87)) and policy.model.encoder is not None
    assert codec.differences == ((81, 7), (82, 8), (83, 9), (84, 7), (85, 8), (86, 9))
    env = Demonstrations(options=(("obs", "image"), ("image_size", 32))).make()
    seen, _ = env.reset(seed=0)
    action, _ = policy.predict(seen)
    assert env.action_space.contains(action)
    env.close()
    code, _, err = dfplan("train", "--env", "fruit-swap", "--obs", "stat", "--data", "x.npz")
    assert code != 0 and "--obs must be state or image, got 'stat'" in err
