"""The rows of the table and how they are run; the weights of baselines are made by ``benchmarks/fruit_swap.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dfplan.checkpoint import list_pretrained, locate, read_config
from dfplan.episode import EpisodeModel
from dfplan.errors import unknown_name
from dfplan.evaluation import evaluate
from dfplan.evaluation.films import film
from dfplan.plotting import Bar, Line, Panel, panels_figure
from dfplan_bench.fruit_swap import cloning
from dfplan_bench.parts import kept
from dfplan_policies.episode import EpisodePolicy

ENV = "fruit-swap-v0"
MADE = Path("runs") / "fruit-swap"
EPISODES = 100
Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """Say what is judged.

    Attributes:
        label: In the table.
        weights: Name of a bundled checkpoint, or of a folder in ``runs/fruit-swap``.
        env: With what the environment is made.
        policy: Arguments of `EpisodePolicy`.
        short: In the figure.
    """

    label: str
    weights: str
    env: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    short: str = ""


DARK = {"occlude": 0.3, "occlude_state": True}
IMAGE = {"obs": "image", "camera_every": 6}  # the policies look at the beginning of a block of six steps only
DARK_IMAGE = {**IMAGE, "occlude": 0.3}
CLEAN = {"missing": "clean"}
STATE_ROWS = {
    "state": Row("**state policy, whole episode as memory**", "fruit-swap", short="whole memory"),
    "memoryless": Row("no memory: the last observation", "memoryless", short="no memory"),
    "next_frame": Row("next-frame diffusion, whole memory", "next-frame", policy=CLEAN, short="next frame"),
    "cloning": Row("recurrent behaviour cloning", "cloning", short="cloning"),
    "dark": Row("30 % of the time no fruits, labelled k > 0", "fruit-swap", DARK, short="dark, k > 0"),
    "dark_clean": Row("the same, labelled clean", "fruit-swap", DARK, CLEAN, short="dark, clean"),
    "next_frame_dark": Row("the same, next-frame diffusion", "next-frame", DARK, CLEAN, short="dark, next frame"),
    "pushed": Row("one external push", "fruit-swap", {"push": 1}, short="pushed"),
}
IMAGE_ROWS = {
    "image": Row("**image policy, whole episode as memory**", "fruit-swap-image", IMAGE, short="image"),
    "image_memoryless": Row("no memory: the last pictures", "memoryless-image", IMAGE, short="image, no memory"),
    "image_dark": Row(
        "30 % of the time dark, labelled k > 0", "fruit-swap-image", DARK_IMAGE, short="image, dark, k > 0"
    ),
    "image_dark_clean": Row(
        "the same, labelled clean", "fruit-swap-image", DARK_IMAGE, CLEAN, short="image, dark, clean"
    ),
    "image_distracted": Row(
        "four objects beside the plates", "fruit-swap-image", {**IMAGE, "distractors": 4}, short="image, distracted"
    ),
    "image_next_frame": Row("next-frame diffusion", "next-frame-image", IMAGE, CLEAN, short="image, next frame"),
    "image_next_frame_dark": Row(
        "the same, 30 % of the time dark", "next-frame-image", DARK_IMAGE, CLEAN, short="image, dark, next frame"
    ),
}  # fmt: skip
ROWS = {**STATE_ROWS, **IMAGE_ROWS}


def build(row: Row, seed: int, made: Path = MADE) -> tuple[Any, str] | None:
    """Build a row's policy and name its weights; None if there are none."""
    folder = made / row.weights
    if row.weights == "cloning":
        if not (folder / "cloning.json").is_file():
            return None
        policy: Any = cloning.load(folder)
        return policy, _digest(folder / "cloning.safetensors")
    bundled = {found["name"] for found in list_pretrained()}
    source = row.weights if row.weights in bundled else folder / "checkpoint"
    if row.weights not in bundled and not (folder / "checkpoint" / "config.json").is_file():
        return None
    config = read_config(locate(source))
    return EpisodePolicy(EpisodeModel.from_pretrained(source), seed=seed, **row.policy), config["weights_sha256"][:12]


def named(names: str) -> dict[str, Row]:
    """Return the rows of these names, separated by commas.

    Raises:
        ValueError: If there is no such row.
    """
    for name in names.split(","):
        if name not in ROWS:
            raise unknown_name("row", name, list(ROWS))
    return {name: ROWS[name] for name in names.split(",")}


def run(
    out: Path, *, seed: int = 0, quick: bool = False, say: Say = print, rows: Mapping[str, Row] | str | None = None,
    made: Path = MADE,
) -> dict[str, Any]:  # fmt: skip
    """Judge every row, or those named with commas, whose weights are there; what the run folder holds is used again."""
    rows = named(rows) if isinstance(rows, str) else rows
    episodes, found = 2 if quick else EPISODES, dict[str, Any]()
    for name, row in (ROWS if rows is None else rows).items():
        built = build(row, seed, made)
        if built is None:
            say(
                f"{name}: no weights {row.weights!r}, so it is left out (python benchmarks/fruit_swap.py {row.weights})"
            )
            continue
        policy, weights = built
        settings = {
            "row": name, "env": dict(row.env), "policy": dict(row.policy), "weights": weights, "episodes": episodes,
            "seed": seed,
        }  # fmt: skip
        found[name] = {"label": row.label, "short": row.short} | kept(
            out, name, settings, partial(_judge, out, name, row, policy, weights, episodes, seed)
        )
        say(_line(found[name]))
    if not found:
        raise ValueError("there are weights for no row; train them first, see benchmarks/fruit_swap.py")
    _figure(out / "fruit-swap.png", found)
    return {"headline": [_line(row) for row in found.values()], "rows": found, "episodes": episodes}


def _judge(out: Path, name: str, row: Row, policy: Any, weights: str, episodes: int, seed: int) -> dict[str, Any]:
    report = evaluate(policy, ENV, episodes, seed, num_envs=1, env_kwargs=row.env, progress=True)
    film(report, {**row.env, "render_size": 160}, 2, out / "films" / name)
    m = report.metrics
    return {
        "success": m["success"], "stages": m["stages"], "predict_seconds": m["predict_seconds"],
        "steps": m["first_reach_steps"], "weights": weights, "environment": dict(row.env), "policy": dict(row.policy),
    }  # fmt: skip


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _line(row: Mapping[str, Any]) -> str:
    rate = row["success"]
    return f"{row['label']}: {100 * rate['rate']:.0f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"


def _figure(path: Path, found: Mapping[str, Any]) -> None:
    """Draw success of every row, and how far episodes came."""
    bars = [
        Bar(row["short"], 100 * row["success"]["rate"], 50 * (row["success"]["high"] - row["success"]["low"]))
        for row in found.values()
    ]
    panels = [Panel("success", "% of episodes, 95 % interval", "", bars=bars)]
    lines = []
    for name in ("state", "memoryless", "cloning", "image", "image_memoryless"):
        if name in found:
            rates = [1.0, *(found[name]["stages"][stage]["rate"] for stage in ("1", "2", "3"))]
            lines.append(Line(found[name]["short"], [0.0, 1.0, 2.0, 3.0], [100 * r for r in rates]))
    panels.append(Panel("how far they come", "stage", "% of episodes", lines=lines))
    panels_figure(path, panels)
