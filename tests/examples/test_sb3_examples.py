"""The scripts for stable-baselines3's loops run in their short form, and go on where they stopped."""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = ("sb3_evaluate", "sb3_warm_start", "sb3_residual", "sb3_hierarchy")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Import a script as Python runs it, with its folder first on the path."""
    for package in ("stable_baselines3", "matplotlib"):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    yield importlib.import_module
    for name in (*NAMES, "sb3_common"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", NAMES)
def test_short_form(name: str, script: Any, tmp_path: Path) -> None:
    # Catches: a script that an interface has left behind, a result without its curve, parts that are made again.
    main, out = script(name).main, tmp_path / "run"
    there, figure = tmp_path / "there.json", tmp_path / "there.png"
    options = ["--short", "--out", str(out), "--json", str(there), "--figure", str(figure)]
    result = main(options)
    label = name.replace("_", "-")
    written = json.loads((out / f"{label}.json").read_text())
    assert written["example"] == label and written["settings"]["short"] is True
    assert written["command"].startswith(f"python examples/{name}.py --short --out ")
    assert json.loads(there.read_text()) == written and figure.read_bytes().startswith(b"\x89PNG")
    assert json.loads(json.dumps(result)).items() <= written.items()
    assert (out / f"{label}.png").read_bytes().startswith(b"\x89PNG")
    made = {path: path.stat().st_mtime_ns for path in (out / "parts").iterdir()}
    assert made
    began = time.perf_counter()
    assert main(options) == result
    assert {path: path.stat().st_mtime_ns for path in (out / "parts").iterdir()} == made
    assert time.perf_counter() - began < 60


def test_steps_to_a_threshold(script: Any) -> None:
    # Catches: the last point in place of the first, a threshold that nobody reached taken for the end.
    reached = script("sb3_warm_start").reached
    curve = [{"steps": s, "return": r} for s, r in ((0, 1.0), (10, 3.0), (20, 2.0), (30, 4.0))]
    assert (reached(curve, 3.0), reached(curve, 4.0), reached(curve, 5.0)) == (10, 30, None)


def test_curves_are_averaged_with_their_error(script: Any) -> None:
    # Catches: the spread in place of the error of the mean, or over the wrong axis.
    common = script("sb3_common")
    curves = [[{"steps": 0, "return": a}, {"steps": 5, "return": b}] for a, b in ((1.0, 2.0), (3.0, 6.0))]
    line = common.mean_line("x", curves, "return")
    assert (list(line.x), list(line.y), list(line.err)) == ([0, 5], [2.0, 4.0], [1.0, 2.0])
    assert common.mean_line("x", curves[:1], "return").err is None
