"""Plans for reward from data of mixed quality: the data, behaviour cloning on them, and what guidance adds.

Every row acts in the same episodes. The data are those of ``benchmarks/behaviour/make.py`` (`DATA`); the planner is the
bundled checkpoint of the task, trained on them; behaviour cloning is trained here on the same file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfplan import DFPlanner
from dfplan.checkpoint import list_pretrained
from dfplan.data import load_episodes
from dfplan.evaluation import evaluate
from dfplan.plotting import Bar, Panel, panels_figure
from dfplan.recipes import policy_options
from dfplan.spaces import Spaces
from dfplan_bench.cloning import clone
from dfplan_bench.common import mean_interval
from dfplan_bench.parts import kept
from dfplan_policies import DFPolicy

if TYPE_CHECKING:
    from dfplan.data import Episodes

DATA = Path("runs") / "behaviour"
EPISODES, CLONING_STEPS = 100, 5000
Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """Say what is compared in one environment.

    Attributes:
        env: Gymnasium's id.
        checkpoint: The planner's.
        samples: Candidates of the rows that choose.
        rows: Which of `ROWS` act; all of them if empty.
    """

    env: str
    checkpoint: str
    samples: int = 8
    rows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """Say how the planner is used.

    Attributes:
        label: In the table.
        policy: Arguments of `DFPolicy`.
        planner: Entries of `PlannerConfig`.
        many: Whether there are several candidates.
    """

    label: str
    policy: Mapping[str, Any] = field(default_factory=dict)
    planner: Mapping[str, Any] = field(default_factory=dict)
    many: bool = True


TASKS = {
    "pendulum": Task("Pendulum-v1", "pendulum"),
    "halfcheetah": Task("HalfCheetah-v5", "halfcheetah", samples=4, rows=("wanted",)),
    "cartpole": Task("CartPole-v1", "cartpole", rows=("plain", "wanted")),
}
ROWS = {
    "plain": Row("plans, nothing asked for", {"target_return": "none"}, many=False),
    "wanted": Row("+ a return asked for: **the default**", many=False),
    "chosen": Row("plans, nothing asked for, chosen by the learned return", {"target_return": "none"}),
    "pushed": Row("+ pushed by its gradient", {"target_return": "none"}, {"value_scale": 1.0}),
    "both": Row("a return asked for, chosen by the learned return"),
}


SHORT = {
    "data": "data", "cloning": "behaviour cloning", "plain": "plans", "wanted": "return asked for",
    "chosen": "chosen by learned return", "pushed": "pushed by its gradient", "both": "asked for and chosen",
}  # fmt: skip


def episode_returns(episodes: Episodes) -> list[float]:
    """Return the sum of rewards of every episode of the data."""
    ends = np.cumsum(episodes.lengths)
    return [float(r.sum()) for r in np.split(np.asarray(episodes.rewards, dtype=np.float64), ends[:-1])]


def run(
    out: Path, *, seed: int = 0, quick: bool = False, say: Say = print, tasks: Mapping[str, Task] | None = None,
    data: Path = DATA,
) -> dict[str, Any]:  # fmt: skip
    """Judge every row in every task whose data and checkpoint are there; what the run folder holds is used again."""
    episodes, cloning = (2, 20) if quick else (EPISODES, CLONING_STEPS)
    bundled = {row["name"] for row in list_pretrained()}
    found: dict[str, Any] = {}
    for name, task in (TASKS if tasks is None else tasks).items():
        file = data / name / "data.npz"
        if not file.is_file() or not (task.checkpoint in bundled or Path(task.checkpoint).is_dir()):
            say(f"{name}: no {file} or no checkpoint {task.checkpoint!r}, so it is left out "
                f"(python benchmarks/behaviour/make.py {name})")  # fmt: skip
            continue
        found[name] = _task(out, name, task, load_episodes(file), episodes, cloning, seed, say)
    if not found:
        raise ValueError(f"there are data for none of {', '.join(TASKS)} in {data}; see benchmarks/behaviour/make.py")
    _figure(out / "returns.png", found)
    return {"headline": [line for name, rows in found.items() for line in _lines(name, rows)], "tasks": found,
            "episodes": episodes}  # fmt: skip


def _task(
    out: Path, name: str, task: Task, data: Episodes, episodes: int, cloning: int, seed: int, say: Say
) -> dict[str, Any]:
    """Judge all rows of a task."""
    spaces, what = Spaces.from_dict(data.meta["spaces"]), {"task": name, "data": data.digest(), "seed": seed}
    rows: dict[str, Any] = {"data": {"label": "the data", "returns": mean_interval(episode_returns(data))}}

    def judged(policy: Any) -> dict[str, Any]:
        report = evaluate(policy, task.env, episodes, seed)
        plans = report.metrics["plan_seconds"]["median"]
        return {"returns": mean_interval([r.strict_return for r in report.records]), "plan_seconds": plans}

    settings = {**what, "episodes": episodes, "cloning": cloning}
    rows["cloning"] = {
        "label": "behaviour cloning",
        **kept(out, "cloning", settings, lambda: judged(clone(data, spaces, cloning, seed))),
    }
    for key in task.rows or tuple(ROWS):
        row = ROWS[key]
        planner = DFPlanner.from_pretrained(
            task.checkpoint, **{"samples": task.samples if row.many else 1, **row.planner}
        )
        options = {**policy_options(task.env), **row.policy}
        weights = planner.checkpoint.provenance.get("trained", ""), planner.name
        settings = {
            **what, "episodes": episodes, "row": key, "weights": list(weights),
            "policy": options, "planner": asdict(planner.config),
        }  # fmt: skip
        made = kept(out, key, settings, partial(judged, DFPolicy(planner, seed=seed, **options)))
        rows[key] = {"label": row.label, **made}
        say(f"{name}, {row.label}: {made['returns']['mean']:.1f} ± {made['returns']['stderr']:.1f}")
    return rows


def _lines(name: str, rows: dict[str, Any]) -> list[str]:
    return [f"{name}, {r['label']}: {r['returns']['mean']:.1f} ± {r['returns']['stderr']:.1f}" for r in rows.values()]


def _figure(path: Path, found: dict[str, Any]) -> None:
    """Draw the returns of every row, task by task."""
    panels = []
    for name, rows in found.items():
        bars = [
            Bar(SHORT[key], row["returns"]["mean"], 0.0 if math.isnan(e := row["returns"]["stderr"]) else e)
            for key, row in rows.items()
        ]
        panels.append(Panel(name, "return, mean ± s.e.", "", bars=bars))
    panels_figure(path, panels)
