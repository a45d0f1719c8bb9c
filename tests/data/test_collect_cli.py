"""`dfplan data collect`, `mix` and `filter` from the outside: runs that go on, what is written, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from typer.testing import CliRunner

from dfplan.cli.main import app
from dfplan.data import Episodes, load_episodes, save_npz


@pytest.fixture
def run(datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, ["data", *map(str, arguments)])


def collected(run: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    result = run("collect", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


def test_collect_into_both_forms(run: Callable[..., Any]) -> None:
    """Catches a dataset without its environment, one-hot actions in place of its own, and lost ends."""
    minari = pytest.importorskip("minari")
    facts = collected(run, "--env", "CartPole-v1", "--episodes", 3, "--id", "cart/random-v0", "--npz", "c.npz")
    episodes = load_episodes("c.npz")
    assert load_episodes("cart/random-v0").digest() == episodes.digest() == facts["digest"]
    assert len(episodes) == 3
    assert episodes.terminated.all()
    assert set(np.unique(episodes.actions)) == {-1.0, 1.0}
    assert episodes.meta["env"] == "CartPole-v1"
    assert episodes.meta["command"] == "dfplan data collect --env CartPole-v1 --policy random --episodes 3 --seed 0"
    stored = minari.load_dataset("cart/random-v0")
    assert stored.action_space == gymnasium.spaces.Discrete(2)
    assert stored.recover_environment().spec.id == "CartPole-v1"
    metadata = json.loads((Path(facts["path"]) / "data" / "metadata.json").read_text())
    for key in ("author", "algorithm_name", "code_permalink", "description", "env_spec", "requirements"):
        assert metadata[key], key
    text = run("show", "cart/random-v0").stdout
    assert "ended by the environment: 100.0% of the episodes" in text
    assert "visits" not in text  # no place, no map


def test_a_run_goes_on_and_the_data_do_not_depend_on_it(run: Callable[..., Any]) -> None:
    """Catches episodes collected twice, and data that depend on --num-envs or on the number of calls."""
    ask = ("--env", "Pendulum-v1", "--max-steps", 9, "--noise", 0.2, "--epsilon", 0.1, "--seed", 5, "--overwrite")
    whole = collected(run, *ask, "--episodes", 5, "--num-envs", 1, "--npz", "a.npz", "--out", "a")
    collected(run, *ask, "--episodes", 2, "--npz", "b.npz", "--out", "b")
    parts = collected(run, *ask, "--episodes", 5, "--num-envs", 3, "--npz", "b.npz", "--out", "b")
    assert parts["digest"] == whole["digest"]
    less = collected(run, *ask, "--episodes", 3, "--npz", "c.npz", "--out", "b")
    assert less["episodes"] == 3
    assert not load_episodes("a.npz").terminated.any()
    assert np.abs(load_episodes("a.npz").actions).max() <= 1  # in halves of the range; the environment takes [-2, 2]
    other = run("collect", *ask, "--episodes", 5, "--npz", "d.npz", "--out", "b", "--noise", 0.3)
    assert other.exit_code == 2
    assert "b was begun with something else: noise 0.2 there, 0.3 asked" in other.stderr


def test_ctrl_c_keeps_what_has_ended(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches finished episodes that are lost on Ctrl-C, and a message that says so."""
    import dfplan.data.collecting as collecting

    ask = ("--env", "CartPole-v1", "--episodes", 6, "--num-envs", 2, "--npz", "a.npz", "--out", "a")
    original = collecting.collect

    def interrupted(*arguments: Any) -> Any:
        for index, rollout in enumerate(original(*arguments)):
            if index == 3:
                raise KeyboardInterrupt
            yield rollout

    monkeypatch.setattr(collecting, "collect", interrupted)
    result = run("collect", *ask)
    assert result.exit_code == 130
    assert "stopped: 3 of 6 episodes are kept in a; the same command goes on from there" in result.stderr
    assert not Path("a.npz").exists()
    monkeypatch.setattr(collecting, "collect", original)
    again = run("collect", *ask, "--json")
    assert "3 of 6 episodes are in a; going on" in again.stderr
    whole = collected(run, *ask[:-3], "b.npz", "--out", "b")
    assert json.loads(again.stdout)["digest"] == whole["digest"]


def test_a_saved_algorithm_collects(run: Callable[..., Any]) -> None:
    """Catches actions in another scale than the environment's, and rounding that depends on the batch."""
    sb3 = pytest.importorskip("stable_baselines3")
    model = sb3.SAC("MlpPolicy", "Pendulum-v1", seed=0, policy_kwargs={"net_arch": [8]}, buffer_size=10)
    model.save("agent.zip")
    ask = ("--env", "Pendulum-v1", "--policy", "sb3:agent.zip", "--max-steps", 5, "--episodes", 4)
    facts = collected(run, *ask, "--npz", "a.npz", "--num-envs", 1)
    again = collected(run, *ask, "--npz", "b.npz", "--num-envs", 4, "--out", "other")
    assert facts["digest"] == again["digest"]
    episodes = load_episodes("a.npz")
    observations, actions, _ = episodes.episode(2)
    expected = model.predict(observations[3], deterministic=True)[0] / 2
    np.testing.assert_allclose(actions[3], expected, atol=1e-5)
    assert episodes.meta["policy"] == "sb3:agent.zip"
    assert len(episodes.meta["policy_sha256"]) == 64
    sb3.SAC("MlpPolicy", "Pendulum-v1", seed=1, policy_kwargs={"net_arch": [8]}, buffer_size=10).save("agent.zip")
    changed = run("collect", *ask, "--npz", "c.npz", "--out", "other")
    assert "was begun with something else: policy_sha256" in changed.stderr


def test_mazes_show_their_goal(run: Callable[..., Any]) -> None:
    """Catches a goal that the controller does not see, and an achieved goal stored twice."""
    pytest.importorskip("mujoco")
    ask = ("--env", "maze2d-umaze", "--policy", "waypoint", "--episodes", 1, "--max-steps", 40)
    facts = collected(run, *ask, "--npz", "m.npz")
    assert facts["meta"]["spaces"]["observation"]["goal_columns"] == [0, 1]
    assert facts["meta"]["reference_scores"] == {"min": 23.85, "max": 161.86}
    episodes = load_episodes("m.npz")
    assert episodes.observations.shape == (41, 4)
    goal = np.array([1.0, 1.0])
    away = np.linalg.norm(episodes.observations[:, :2] - goal, axis=1)
    assert away.min() < away[0]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--env", "Pendlum-v1"], "unknown environment 'Pendlum-v1'. Did you mean 'Pendulum-v1'?"),
        (["--env", "CartPole-v9"], "Environment version `v9` for environment `CartPole` doesn't exist"),
        (["--env", "no_such_package:Thing-v0"], "cannot make the environment 'no_such_package:Thing-v0'"),
        (["--env", "Blackjack-v1"], "the observation space Tuple"),
        (["--env", "CartPole-v1", "--policy", "rnadom"], "unknown policy 'rnadom'. Did you mean 'random'?"),
        (["--env", "CartPole-v1", "--policy", "sb3:none.zip"], "no stable-baselines3 file at none.zip"),
        (["--env", "CartPole-v1", "--noise", "0.1"], "noise is for Box actions, got a Discrete; use epsilon"),
        (["--env", "CartPole-v1", "--npz", "a.zip"], "an episode file must be named *.npz"),
        (["--env", "CartPole-v1", "--id", "a b"], "a dataset id must be (namespace/)name-vN"),
    ],
)
def test_what_cannot_be_collected_is_refused(run: Callable[..., Any], arguments: list[str], match: str) -> None:
    pytest.importorskip("minari")
    result = run("collect", *arguments)
    assert result.exit_code == 2
    assert match in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not Path("runs").exists()


def test_mix_and_filter(run: Callable[..., Any], episodes: Episodes) -> None:
    """Catches a weight that is taken for a part of the name, and an origin that is not written down."""
    save_npz(episodes, "a.npz")
    save_npz(episodes.select([1]), "b.npz")
    mixed = run("mix", "a.npz:2", "b.npz", "--npz", "m.npz", "--json")
    assert mixed.exit_code == 0, mixed.stderr
    meta = json.loads(mixed.stdout)["meta"]
    assert [part["kept"] for part in meta["mixed"]] == [6, 1]
    assert [part["meta"]["source"] for part in meta["mixed"]] == ["a.npz", "b.npz"]
    assert meta["command"] == "dfplan data mix a.npz:2 b.npz --seed 0"
    assert load_episodes("m.npz").lengths.tolist() == [3, 3, 1, 1, 5, 5, 1]
    kept = run("filter", "m.npz", "--top", 0.25, "--npz", "f.npz", "--json")
    assert kept.exit_code == 0, kept.stderr
    assert load_episodes("f.npz").lengths.tolist() == [5, 5]
    assert json.loads(kept.stdout)["meta"]["command"] == "dfplan data filter m.npz --top 0.25"
    for arguments, match in (
        (("mix", "a.npz", "b.npz"), "name the result: --id ID for a Minari dataset, --npz FILE.npz"),
        (("mix", "a.npz:much", "--npz", "x.npz"), "a weight must be a number, got 'much' in 'a.npz:much'"),
        (("mix", "a.npz:-1", "--npz", "x.npz"), "a weight must be above 0"),
        (("filter", "a.npz", "--min-return", 99, "--npz", "x.npz"), "no episode has a return in [99, inf]"),
        (("filter", "a.npz", "--top", 0.5, "--npz", "m.npz"), "m.npz exists; pass --overwrite"),
    ):
        refused = run(*arguments)
        assert refused.exit_code == 2
        assert match in refused.stderr


def test_import_of_a_locomotion_file(run: Callable[..., Any], write_h5: Callable[..., Path]) -> None:
    """Catches a file of another kind read as a maze's tour, and reference scores of nobody."""
    arrays = {
        "observations": np.arange(24.0).reshape(8, 3),
        "next_observations": np.arange(24.0).reshape(8, 3) + 3,
        "actions": np.zeros((8, 2)),
        "rewards": np.ones(8),
        "terminals": np.arange(8) == 3,
        "timeouts": np.arange(8) == 7,
    }
    file = write_h5(arrays, "hopper_medium-v2.hdf5")
    result = run("import", file, "--no-minari", "--npz", "h.npz", "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert (facts["episodes"], facts["steps"]) == (2, 8)
    assert facts["meta"]["env"] == "hopper-medium-v2"
    assert facts["meta"]["reference_scores"] == {"min": -20.272305, "max": 3234.3}
    assert load_episodes("h.npz").terminated.tolist() == [True, False]
    shown = json.loads(run("show", "h.npz", "--json").stdout)
    assert shown["normalized_return"] == pytest.approx((4 + 20.272305) / (3234.3 + 20.272305))
    renamed = write_h5(arrays, "mine.hdf5")
    named = run("import", renamed, "--env", "walker2d-expert", "--no-minari", "--npz", "w.npz", "--json")
    assert json.loads(named.stdout)["meta"]["env"] == "walker2d-expert-v2"
    assert "--relabel is for mazes" in run("import", file, "--relabel", "--no-minari", "--npz", "x.npz").stderr
