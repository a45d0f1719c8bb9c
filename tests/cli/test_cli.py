"""The command line: output, files, errors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dfplan.cli import main
from tests.evaluation.helpers import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "import sys; sys.argv[0] = 'dfplan'; from dfplan.cli import main; main()"


def environment() -> dict[str, str]:
    sources = [str(ROOT), str(ROOT / "envs"), str(ROOT / "policies"), str(ROOT / "benchmarks")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sources), "OMP_NUM_THREADS": "1"}


def test_help_and_import_leave_torch_alone() -> None:
    # Catches: a heavy import at the top of a command's module, which makes every --help slow.
    heavy = ("torch", "numpy", "gymnasium", "mujoco", "matplotlib", "h5py", "scipy")
    code = (
        "import sys, dfplan.cli as cli\nsys.argv = ['dfplan', *sys.argv[1:]]\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('LOADED', [m for m in {heavy} if m in sys.modules])"
    )
    for arguments in (["--help"], ["eval", "--help"], ["plan", "--help"], ["train", "--help"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], env=environment(), capture_output=True, text=True, check=True
        )
        assert done.stdout.strip().splitlines()[-1] == "LOADED []", arguments


def test_commands_are_all_there(dfplan: Any) -> None:
    code, out, _ = dfplan("--help")
    assert code == 0
    for command in ("eval", "plan", "train", "data", "envs", "policies", "checkpoints"):
        assert re.search(rf"^  {command} ", out, re.M), command
    from dfplan import __version__

    assert dfplan("--version") == (0, f"dfplan {__version__}\n", "")


def test_lists(dfplan: Any) -> None:
    code, out, _ = dfplan("envs")
    assert code == 0 and re.search(r"maze2d-large-v1 +800 +6.70 / 273.99", out)
    code, out, _ = dfplan("policies")
    assert code == 0
    for name in ("df", "waypoint", "random", "replay:FILE", "sb3:FILE", "path", "diffused_actions"):
        assert re.search(rf"(policy|executor) +{re.escape(name)} +\w", out), name
    assert {row["id"] for row in json.loads(dfplan("envs", "--json")[1])} >= {"maze2d-umaze-v1"}
    assert dfplan("checkpoints")[0] == 0
    assert isinstance(json.loads(dfplan("checkpoints", "--json")[1]), list)


def test_eval_prints_a_table_and_writes_a_run_folder(dfplan: Any, tmp_path: Path) -> None:
    code, out, _ = dfplan("eval", "--env", "maze2d-umaze", "--policy", "waypoint", "--episodes", 2)
    assert code == 0
    folder = Path(out.strip().splitlines()[-1].removeprefix("run folder: "))
    assert folder.parent == Path("runs") and folder.name.startswith("maze2d-umaze-v1-waypoint-")
    metrics = json.loads((tmp_path / folder / "metrics.json").read_text())
    assert re.search(rf"strict score +{metrics['score']['strict']['mean']:.1f} ± ", out)
    assert re.search(r"success rate +1.000", out)
    assert metrics["command"] == "dfplan eval --env maze2d-umaze --policy waypoint --episodes 2"
    assert (tmp_path / folder / "episodes.json").is_file()


def test_json_is_all_there_is_on_standard_output_and_equals_the_file(dfplan: Any, tmp_path: Path) -> None:
    # Catches: progress, tables or the folder's name on standard output.
    arguments = ("--env", "maze2d-umaze", "--policy", "random", "--episodes", 2, "--out", "x", "--json")
    code, out, err = dfplan("eval", *arguments)
    assert code == 0
    assert out == (tmp_path / "x" / "metrics.json").read_text()
    assert json.loads(out)["policy"] == "random"
    assert "run folder: x" in err


def test_eval_and_plan_with_a_planner(dfplan: Any, tmp_path: Path) -> None:
    # Catches: an option that does not reach the planner; a configuration without the defaults that were used.
    tiny = tiny_checkpoint(tmp_path / "tiny")
    options = ("--checkpoint", tiny, "--samples", 2, "--schedule", "full_sequence", "--attention", "full")
    code, out, err = dfplan(
        "eval",
        "--env",
        "maze2d-umaze",
        *options,
        "--episodes",
        2,
        "--lookahead",
        0.5,
        "--replan-every",
        100,
        "--out",
        "x",
    )
    assert code == 0, err
    assert re.search(r"time per plan +median \d", out) and re.search(r"network evaluations +6 per plan", out)
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert (config["executor"], config["executor_options"]["lookahead"], config["replan_every"]) == ("path", 0.5, 100)
    assert (config["planner"]["samples"], config["planner"]["schedule"]) == (2, "full_sequence")
    assert config["planner"]["steps"] == 4
    files = {p.name for p in (tmp_path / "x").iterdir()}
    assert files >= {"config.json", "metrics.json", "episodes.json", "actions.npz", "trajectories.npz"}
    code, out, _ = dfplan(
        "plan", "--env", "maze2d-umaze", *options, "--start", "3,1", "--goal", "1,1", "--out", "p", "--json"
    )
    assert code == 0
    plan = json.loads(out)
    assert plan["samples"] == 2 and plan["network_evaluations"] == 6 and plan["goal"] == [1, 1]
    code, out, _ = dfplan("plan", "--env", "maze2d-umaze", *options, "--budget-ms", 0.001, "--out", "q", "--json")
    assert code == 0 and json.loads(out)["samples"] == 2  # one batch at least
    assert json.loads((tmp_path / "q" / "config.json").read_text())["budget_ms"] == 0.001
    code, _, err = dfplan("plan", "--env", "maze2d-umaze", *options, "--budget-ms", 0, "--out", "r")
    assert code != 0 and "budget_ms must be above 0, got 0" in err
    assert abs(plan["start"][0] - 3) <= 0.1 and abs(plan["start"][1] - 1) <= 0.1
    pytest.importorskip("matplotlib")
    assert files >= {"paths.png", "denoising.gif"}
    assert {p.name for p in (tmp_path / "p").iterdir()} == {"config.json", "plan.json", "plan.png", "denoising.gif"}


def test_plan_keeps_out_of_forbidden_discs(dfplan: Any, tmp_path: Path) -> None:
    # Catches: discs that do not reach the planner, or only the last of them.
    tiny = tiny_checkpoint(tmp_path / "tiny")
    seen = []
    for avoid in (["--avoid", "2,3,0.9"], ["--avoid", "3,1,0.9", "--avoid", "2,3,0.9"]):
        options = ("--checkpoint", tiny, "--samples", 2, "--start", "3,1", "--json", *avoid)
        code, out, err = dfplan("plan", "--env", "maze2d-umaze", *options, "--out", "p")
        assert code == 0, err
        seen.append(json.loads(out)["states"])
    assert seen[0] != seen[1]
    config = json.loads((tmp_path / "p" / "config.json").read_text())
    assert config["avoid"] == [[3.0, 1.0, 0.9], [2.0, 3.0, 0.9]]


def test_without_the_extra_the_numbers_come_all_the_same(
    dfplan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Catches: an evaluation lost because figures cannot be drawn; a silent lack of figures.
    for module in [m for m in sys.modules if m.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    code, out, err = dfplan(
        "eval", "--env", "maze2d-umaze", "--policy", "random", "--episodes", 1, "--out", "x", "--json"
    )
    assert code == 0
    assert json.loads(out)["episodes"] == 1
    assert len([line for line in err.splitlines() if "pip install 'dfplan[viz]'" in line]) == 1
    assert not (tmp_path / "x" / "paths.png").exists()


def test_replay_on_other_starts_is_refused(dfplan: Any) -> None:
    assert dfplan("eval", "--env", "maze2d-umaze", "--policy", "random", "--episodes", 1, "--out", "x")[0] == 0
    code, _, err = dfplan("eval", "--env", "maze2d-umaze", "--policy", "replay:x", "--episodes", 1, "--seed", 1)
    assert code == 2 and "with seed 0, got maze2d-umaze-v1 with seed 1" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "--env", "maze2d-lrge"], "unknown environment 'maze2d-lrge'. Did you mean 'maze2d-large-v1'?"),
        (
            ["eval", "--env", "maze2d-umaze", "--policy", "wypoint"],
            "unknown policy 'wypoint'. Did you mean 'waypoint'?",
        ),
        (["eval", "--env", "maze2d-umaze", "--checkpoint", "TINY", "--executor", "pth"], "Did you mean 'path'?"),
        (["eval", "--env", "maze2d-umaze", "--checkpoint", "TINY", "--schedule", "pyramd"], "Did you mean 'pyramid'?"),
        (
            ["eval", "--env", "maze2d-umaze", "--checkpoint", "TINY", "--samples", "0"],
            "samples must be at least 1, got 0",
        ),
        (["eval", "--env", "maze2d-umaze", "--checkpoint", "TINY", "--eta", "2"], "eta must lie in [0, 1], got 2"),
        (["eval", "--env", "maze2d-umaze", "--checkpoint", "TINY", "--slope", "-1"], "slope must"),
        (["eval", "--env", "maze2d-umaze", "--checkpoint", "TINY", "--device", "cdua"], "Did you mean 'cuda'?"),
        (
            ["eval", "--env", "maze2d-umaze", "--policy", "random", "--samples", "3"],
            "does not plan and has no --samples",
        ),
        (
            ["eval", "--env", "maze2d-umaze", "--policy", "random", "--episodes", "0"],
            "episodes must be at least 1, got 0",
        ),
        (["eval", "--env", "maze2d-umaze", "--policy", "replay:nowhere"], "no recorded actions at nowhere"),
        (["eval", "--env", "maze2d-umaze", "--policy", "random", "--out", "file.txt"], "but file.txt is a file"),
        (["eval", "--env", "maze2d-open"], "no checkpoint is bundled for maze2d-open-v0"),
        (["plan", "--env", "maze2d-umaze", "--checkpoint", "TINY", "--start", "3;1"], "must be two numbers ROW,COLUMN"),
        (
            ["plan", "--env", "maze2d-umaze", "--checkpoint", "TINY", "--avoid", "2,3"],
            "three numbers ROW,COLUMN,RADIUS",
        ),
        (["plan", "--env", "maze2d-umaze", "--checkpoint", "TINY", "--start", "0,0"], "must be a free cell"),
        (["plan", "--env", "maze2d-umaze", "--checkpoint", "nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_errors_are_one_message_without_a_traceback(
    arguments: list[str], message: str, dfplan: Any, tmp_path: Path
) -> None:
    (tmp_path / "file.txt").write_text("x")
    if "TINY" in arguments:
        tiny = tiny_checkpoint(tmp_path / "tiny")
        arguments = [str(tiny) if a == "TINY" else a for a in arguments]
    code, out, err = dfplan(*arguments)
    assert code == 2
    assert message in err and err.startswith("error: ") and len(err.strip().splitlines()) == 1
    assert "Traceback" not in err and out == ""
    assert not (tmp_path / "runs").exists()


def test_wrong_commands_and_options_name_the_nearest(dfplan: Any) -> None:
    code, _, err = dfplan("evl")
    assert code == 2 and "'eval'" in err
    code, _, err = dfplan("eval", "--env", "x", "--episods", 3)
    assert code == 2 and "--episodes" in err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["dfplan", "--debug", "eval", "--env", "nowhere"])
    with pytest.raises(ValueError, match="unknown environment 'nowhere'"):
        main()


def test_a_checkpoint_for_another_maze_is_pointed_out(dfplan: Any, tmp_path: Path) -> None:
    tiny = tiny_checkpoint(tmp_path / "tiny", env="maze2d-large-v1")
    code, _, err = dfplan("plan", "--env", "maze2d-umaze", "--checkpoint", tiny)
    assert code == 0 and "trained for maze2d-large-v1, not for maze2d-umaze-v1" in err


def test_the_loss_weight_reaches_the_training(dfplan: Any) -> None:
    # Catches: an option that is read and not used.
    code, _, err = dfplan("train", "--env", "maze2d-umaze", "--weighting", "min-snr")
    assert code != 0 and "unknown weighting 'min-snr'. Did you mean 'min_snr'?" in err


def test_ctrl_c_leaves_no_results(dfplan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: partial results written as if they were final; a traceback; exit code 0 or 1.
    from dfplan_policies import RandomPolicy

    calls = []

    def act(self: Any, memory: Any, observation: Any, goal: Any) -> Any:
        calls.append(1)
        if len(calls) > 100:
            raise KeyboardInterrupt
        return [0.0, 0.0], memory

    monkeypatch.setattr(RandomPolicy, "act", act)
    code, out, err = dfplan("eval", "--env", "maze2d-umaze", "--policy", "random", "--out", "x", "--json")
    assert (code, out) == (130, "")
    assert "no results were written" in err and "Traceback" not in err
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a process group")
def test_ctrl_c_ends_the_workers_too(tmp_path: Path) -> None:
    # Catches: workers that print tracebacks or live on.
    command = [
        "eval",
        "--env",
        "maze2d-large",
        "--policy",
        "random",
        "--episodes",
        "4000",
        "--workers",
        "2",
        "--out",
        "x",
    ]
    # A shell that runs the tests in the background makes them ignore SIGINT, and their children inherit that.
    listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    process = subprocess.Popen(
        [sys.executable, "-c", listening + PROGRAM, *command],
        env=environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        workers = wait_for_children(process.pid, 2)
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "no results were written" in err and out == ""
    assert not (tmp_path / "x").exists()
    assert not any(alive(worker) for worker in workers)


def wait_for_children(parent: int, count: int) -> list[int]:
    """Wait until a process has that many worker processes (multiprocessing's resource tracker does not count)."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    if not children.exists():
        pytest.skip("needs /proc to see child processes")
    for _ in range(600):
        pids = [int(p) for p in children.read_text().split()]
        spawned = [p for p in pids if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
        if len(spawned) >= count:
            return spawned
        time.sleep(0.1)
    raise AssertionError("the workers never started")


def alive(pid: int) -> bool:
    """Tell whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
