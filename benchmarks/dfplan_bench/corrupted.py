"""Noisy and missing observations: what is known about an observation is told to the model as a noise level.

The same maze policy, the same starts, the same failures of the sensor. *Labelled*: a missing observation is at level K
and the state is what the model imagines; a noisy one is at the level of its noise. *As if clean*: the last observation
that was seen stands for a missing one, a noisy one is taken at face value.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dfplan.evaluation import evaluate
from dfplan.planner import DFPlanner
from dfplan.plotting import Line, Panel, panels_figure
from dfplan_bench.common import CAREFUL_PLAN, mean_interval
from dfplan_bench.corruption import CorruptedPolicy, Corruption
from dfplan_policies import DFPolicy

CHECKPOINT, ENV = "maze2d-umaze-interleaved", "maze2d-umaze"
SHARES = (0.25, 0.5, 0.75)
NOISES = (0.3, 0.6, 1.0)  # in standard deviations of the data's observations
OUTAGE = 25.0
NOTHING = {"mean": 0.0, "stderr": 0.0, "count": 0}
PANELS = (
    ("missing", "missing, path executor", "share of observations missing"),
    ("missing_own_actions", "missing, the model's own actions", "share of observations missing"),
    ("noise", "noisy, path executor", "noise, std of the data"),
)


def returns(policy: Any, corruption: Corruption, episodes: int, seed: int) -> Any:
    """Return the strict return of every episode (episodes,)."""
    report = evaluate(CorruptedPolicy(policy, corruption), ENV, episodes, seed, num_envs=8)
    return np.array([r.strict_return for r in report.records])


def compare(
    labelled: tuple[Any, Corruption],
    clean: tuple[Any, Corruption],
    episodes: int,
    seed: int,
    scale: Callable[[Any], Any],
) -> dict[str, Any]:
    """Run both ways of telling the model on the same starts and failures; scores with intervals, and the difference."""
    found = {
        name: scale(returns(policy, corruption, episodes, seed))
        for name, (policy, corruption) in (("labelled", labelled), ("as_if_clean", clean))
    }
    return {name: mean_interval(v) for name, v in found.items()} | {
        "difference": mean_interval(found["labelled"] - found["as_if_clean"])
    }


def run(
    out: Path, *, seed: int = 0, quick: bool = False, say: Callable[[str], None] = print, checkpoint: str = CHECKPOINT
) -> dict[str, Any]:
    """Evaluate the policy under missing and under noisy observations."""
    from dfplan_envs import get_normalized_score

    planner = DFPlanner.from_pretrained(checkpoint, **CAREFUL_PLAN)
    episodes, shares, noises = (2, SHARES[1:2], NOISES[1:2]) if quick else (12, SHARES, NOISES)
    std = planner.norm.obs_std.double().numpy()

    def scale(values: Any) -> Any:
        return 100 * get_normalized_score(ENV, values)

    own: dict[str, Any] = {"executor": "diffused_actions", "executor_options": {"requery_every": 4, "phase": "nearest"}}
    movers: tuple[tuple[str, dict[str, Any]], ...] = (("missing", {}), ("missing_own_actions", own))
    rows: dict[str, dict[str, Any]] = {}
    for kind, options in movers:
        plain: Any = DFPolicy(planner, seed=seed, **options)
        whole = mean_interval(scale(returns(plain, Corruption(seed=seed), episodes, seed)))
        rows[kind] = {"0": {"labelled": whole, "as_if_clean": whole, "difference": NOTHING}}
        for share in shares:
            say(f"{kind}: {share:.0%} of the observations missing, outages of {OUTAGE:g} steps")
            sight = Corruption(share, OUTAGE, seed=seed)
            held = Corruption(share, OUTAGE, hold=True, seed=seed)
            rows[kind][f"{share:g}"] = compare((plain, sight), (plain, held), episodes, seed, scale)
    plain = DFPolicy(planner, seed=seed)
    rows["noise"] = {"0": rows["missing"]["0"]}
    for ratio in noises:
        say(f"noise of {ratio:g} standard deviations")
        noisy = Corruption(noise=ratio * std, seed=seed)
        told = DFPolicy(planner, seed=seed, obs_noise=ratio * std)
        rows["noise"][f"{ratio:g}"] = compare((told, noisy), (plain, noisy), episodes, seed, scale)
    _figure(out / "corrupted.png", rows)
    headline = [
        f"{title}, {list(rows[kind])[-1]}: labelled {r['labelled']['mean']:.1f} +- {r['labelled']['stderr']:.1f}, "
        f"as if clean {r['as_if_clean']['mean']:.1f} +- {r['as_if_clean']['stderr']:.1f}, difference "
        f"{r['difference']['mean']:.1f} +- {r['difference']['stderr']:.1f}"
        for kind, title, _ in PANELS
        for r in [list(rows[kind].values())[-1]]
    ]
    return {
        "headline": headline, "checkpoint": planner.name, "env": ENV, "episodes": episodes, "outage_steps": OUTAGE,
        "noise_unit": std.tolist(), **rows,
    }  # fmt: skip


def _figure(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    panels = []
    for kind, title, xlabel in PANELS:
        found = rows[kind]
        x = [float(v) for v in found]
        lines = [
            Line(name.replace("_", " "), x, [r[name]["mean"] for r in found.values()],
                 [r[name]["stderr"] for r in found.values()])
            for name in ("labelled", "as_if_clean")
        ]  # fmt: skip
        panels.append(Panel(title, xlabel, "score", lines=lines))
    panels_figure(path, panels)
