"""`dfplan data` from the outside: files that appear, what is printed where, and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("mujoco")

from dfplan.cli.main import app
from dfplan.data import load_episodes
from dfplan_envs.maze2d import generate_tour


@pytest.fixture
def run(datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, ["data", *map(str, arguments)])


def same_path() -> dict[str, str]:
    """Return this process's environment, with its import path for a child."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def d4rl_file(path: Path, steps: int = 1500, aligned: bool = False) -> Path:
    """Write made data the way D4RL publishes it: rewards one row late, the row after a reached target repeated."""
    tour = generate_tour("umaze", steps, seed=0, noisy=True)
    rows = np.arange(steps)
    rows[1:][tour["timeouts"][:-1]] -= 1
    arrays = dict(tour, observations=tour["observations"][rows])
    if not aligned:
        distance = np.linalg.norm(arrays["observations"][:, :2] - (1, 1), axis=1)
        arrays["rewards"] = (distance <= 0.5).astype(np.float32)
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file.create_dataset(key, data=value, compression="gzip")
    return path


def test_make_list_show(run: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("minari")
    made = run("make", "maze2d-umaze", "--steps", 1200, "--seed", 2, "--npz", "u.npz", "--json", "--author", "me")
    assert made.exit_code == 0, made.stderr
    facts = json.loads(made.stdout)
    assert facts["id"] == "maze2d/umaze-noisy-v0"
    assert facts["meta"]["command"] == "dfplan data make maze2d-umaze --steps 1200 --noisy --seed 2"
    assert load_episodes("u.npz").digest() == load_episodes(facts["id"]).digest() == facts["digest"]
    listed = json.loads(run("list", "--json").stdout)
    assert [row["id"] for row in listed["minari"]] == [facts["id"]]
    assert listed["minari"][0]["steps"] == facts["steps"]
    assert (listed["minari"][0]["env"], listed["minari"][0]["author"]) == ("maze2d-umaze-v1", ["me"])
    assert listed["d4rl"] == []
    assert "maze2d/umaze-noisy-v0" in run("list").stdout
    shown = json.loads(run("show", facts["id"], "--json").stdout)
    assert (shown["steps"], shown["digest"]) == (facts["steps"], facts["digest"])
    text = run("show", "u.npz").stdout
    assert "observation[2] vx" in text
    assert "darker: more often" in text
    assert text.count("@@") >= 1
    metadata = json.loads((Path(facts["path"]) / "data" / "metadata.json").read_text())
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (23.85, 161.86)
    for key in (
        "author",
        "algorithm_name",
        "code_permalink",
        "description",
        "requirements",
        "eval_env_spec",
        "env_spec",
    ):
        assert metadata[key], key


def test_make_without_minari(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    refused = run("make", "maze2d-umaze", "--steps", 1200, "--npz", "u.npz")
    assert refused.exit_code == 2
    assert "pip install 'dfplan[minari]'; or write the compact file only: --no-minari --npz" in refused.stderr
    assert not Path("u.npz").exists()
    made = run("make", "maze2d-umaze", "--steps", 1200, "--npz", "u.npz", "--no-minari", "--clean")
    assert made.exit_code == 0, made.stderr
    assert load_episodes("u.npz").meta["noisy"] is False
    listed = run("list")
    assert listed.exit_code == 0
    assert "pip install 'dfplan[minari]'" in listed.stderr
    assert "no data on this machine" in listed.stdout


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["make", "maze2d-lage"], "unknown environment 'maze2d-lage'. Did you mean 'maze2d-large-v1'"),
        (["make", "maze2d-umaze", "--no-minari"], "nothing to write: --no-minari needs --npz FILE.npz"),
        (["make", "maze2d-umaze", "--npz", "a.zip"], "an episode file must be named *.npz, got 'a.zip'"),
        (["make", "maze2d-umaze", "--id", "a b"], "a dataset id must be (namespace/)name-vN"),
        (["make", "maze2d-umaze", "--npz", "there.npz"], "there.npz exists; pass --overwrite"),
        (["make", "maze2d-umaze", "--maze", "none.txt"], "No such file or directory: 'none.txt'"),
        (["import", "none.hdf5"], "no such file: none.hdf5"),
        (["import", "there.npz"], "there.npz: found no HDF5 file but bytes"),
        (["import", "there.npz", "--relabel"], "--relabel needs the environment"),
        (["show", "nothing-v0"], "no dataset in"),
        (["show", "there.npz"], "there.npz is not a readable episode file: it is not a zip archive"),
        (["fetch", "maze2d-lage"], "unknown D4RL dataset 'maze2d-lage'"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(run: Callable[..., Any], arguments: list[str], match: str) -> None:
    pytest.importorskip("minari")
    Path("there.npz").write_text("not episodes")
    result = run(*arguments)
    assert result.exit_code == 2
    assert match in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert Path("there.npz").read_text() == "not episodes"


def test_an_existing_dataset_is_refused_before_any_work(run: Callable[..., Any]) -> None:
    pytest.importorskip("minari")
    assert run("make", "maze2d-umaze", "--steps", 600).exit_code == 0
    again = run("make", "maze2d-umaze", "--steps", 900_000_000)
    assert again.exit_code == 2
    assert "exists at" in again.stderr
    assert run("make", "maze2d-umaze", "--steps", 700, "--overwrite").exit_code == 0
    assert load_episodes("maze2d/umaze-noisy-v0").meta["simulated_steps"] == 700


def test_interrupted_make_says_so(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, datasets: Path) -> None:
    import dfplan.data.minari_io as minari_io

    pytest.importorskip("minari")

    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(minari_io, "_buffers", interrupted)
    result = run("make", "maze2d-umaze", "--steps", 600)
    assert result.exit_code == 130
    assert result.stdout == ""
    assert list(datasets.rglob("*")) == []


def test_import_gives_real_transitions_with_the_environments_rewards(run: Callable[..., Any], tmp_path: Path) -> None:
    """Catches rewards left one row late, which `reward_agreement` would show."""
    file = d4rl_file(tmp_path / "maze2d-umaze-sparse-v1.hdf5")
    result = run("import", file, "--no-minari", "--npz", "i.npz", "--json")
    assert result.exit_code == 0, result.stderr
    assert "warning" not in result.stderr
    meta = json.loads(result.stdout)["meta"]
    assert meta["env"] == "maze2d-umaze-v1"
    assert meta["reward_agreement"] == 1.0
    assert len(meta["sha256"]) == 64
    assert meta["reference_scores"] == {"min": 23.85, "max": 161.86}
    assert load_episodes("i.npz").digest() == load_episodes(file).digest()


def test_import_warns_of_rewards_that_are_not_the_environments(run: Callable[..., Any], tmp_path: Path) -> None:
    file = d4rl_file(tmp_path / "mine.hdf5")
    with h5py.File(file, "a") as handle:
        handle["rewards"][...] = 0
    arguments = ("import", file, "--no-minari", "--overwrite", "--npz", "i.npz", "--json")
    silent = run(*arguments)
    assert silent.exit_code == 0
    assert "reward_agreement" not in json.loads(silent.stdout)["meta"]
    warned = run(*arguments, "--env", "maze2d-umaze")
    assert "warning: mine.hdf5: rewards agree with maze2d-umaze-v1 on" in warned.stderr
    assert load_episodes("i.npz").rewards.sum() == 0
    fixed = run(*arguments, "--env", "maze2d-umaze", "--relabel")
    assert "warning" not in fixed.stderr
    episodes = load_episodes("i.npz")
    distance = np.linalg.norm(episodes.observations[episodes.next_rows, :2] - (1, 1), axis=1)
    np.testing.assert_array_equal(episodes.rewards, distance <= 0.5)


def test_import_into_minari(run: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("minari")
    file = d4rl_file(tmp_path / "maze2d-umaze-sparse-v1.hdf5")
    assert run("import", file).exit_code == 0
    assert load_episodes("d4rl-hdf5/maze2d-umaze-v1").digest() == load_episodes(file).digest()
    named = run("import", d4rl_file(tmp_path / "my own (2).hdf5"))
    assert "id: d4rl-hdf5/my-own-2-v0" in named.stdout


def test_show_draws(run: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    d4rl_file(tmp_path / "maze2d-umaze-sparse-v1.hdf5")
    result = run("show", "maze2d-umaze-sparse-v1.hdf5", "--plot", "out/c.png")
    assert result.exit_code == 0, result.stderr
    assert "coverage drawn in out/c.png" in result.stdout
    assert Path("out/c.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in Path("out").iterdir()] == ["c.png"]
    assert "must be named *.png" in run("show", "maze2d-umaze-sparse-v1.hdf5", "--plot", "c.txt").stderr


def test_import_of_the_module_is_light() -> None:
    """Catches a heavy import at the top of the command line: `dfplan --help` has 0.4 s."""
    heavy = {"torch", "numpy", "h5py", "gymnasium", "minari", "matplotlib"}
    code = f"import sys, dfplan.cli.data; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=same_path())
    assert found.stdout.strip() == "[]"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_make_leaves_nothing(datasets: Path) -> None:
    """Catches a termination signal that skips the clean-up."""
    pytest.importorskip("minari")
    code = "import dfplan.cli.data_make as m; m.SHARD_STEPS = 10**8; from dfplan.cli.main import main; main()"
    arguments = ["data", "make", "maze2d-umaze", "--steps", "100000000", "--workers", "1", "--npz", "killed.npz"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, cwd=datasets.parent, env=same_path()
    )
    stderr = process.stderr
    assert stderr is not None
    assert stderr.read(9) == b"\rsimulate"  # the bar: work has begun
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert [path.name for path in datasets.parent.rglob("*") if path.is_file()] == []
