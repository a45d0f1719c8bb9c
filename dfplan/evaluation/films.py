"""Pictures of tasks in stages: how far episodes came, and films of some of them, played again from their actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dfplan.evaluation.report import Report
from dfplan.evaluation.rollout import EpisodeRecord, make_env
from dfplan.plotting import Line, Panel, panels_figure
from dfplan.vision import write_video

MISSING = "the environment does not play an episode again as it was"


def draw_stages(reports: Mapping[str, Report], path: str | Path) -> Path:
    """Draw, for each report, the share of episodes that came as far as each stage, with 95 % intervals.

    Raises:
        ImportError: If the extra ``viz`` is not installed.
        ValueError: If a report is of a task without stages.
    """
    lines = [
        stage_line(name, report.metrics["stages"], i, len(reports)) for i, (name, report) in enumerate(reports.items())
    ]
    env_id = next(iter(reports.values())).env_id
    return panels_figure(path, [Panel(env_id, "stage", "share of episodes", lines=lines, ylim=(-0.02, 1.02))])


def stage_line(name: str, stages: Mapping[str, Mapping[str, float]] | None, place: int = 0, count: int = 1) -> Line:
    """Return a report's curve over the stages, the interval as a band.

    Args:
        name: In the legend.
        stages: ``metrics["stages"]``.
        place: Which of ``count`` curves it is.
        count: Curves in the panel.

    Raises:
        ValueError: If there are no stages.
    """
    if not stages:
        raise ValueError("the task has no stages; draw its rewards instead")
    rates = [stages[stage] for stage in sorted(stages, key=int)]
    x = np.arange(len(rates) + 1.0)
    half = [0.0, *((rate["high"] - rate["low"]) / 2 for rate in rates)]
    return Line(name, x, np.array([1.0, *(rate["rate"] for rate in rates)]), np.array(half))


def film(report: Report, env_kwargs: Mapping[str, Any] | None, count: int, folder: Path) -> list[Path]:
    """Film episodes: play their actions again, from the same start; failures first, half of them if there are as many.

    Args:
        report: Of an environment that can be drawn and is deterministic.
        env_kwargs: With what it was made.
        count: How many films.
        folder: Where to.

    Returns:
        The files.

    Raises:
        ImportError: If what writes videos is not installed.
        ValueError: If the environment does not play an episode again.
    """
    failures = [r for r in report.records if r.first_reach is None]
    successes = [r for r in report.records if r.first_reach is not None]
    won = successes[: count - min(len(failures), (count + 1) // 2)]
    paths = []
    for record in [*failures[: count - len(won)], *won]:
        word = "failure" if record.first_reach is None else "success"
        path = folder / f"episode-{record.number}-{word}.mp4"
        paths.append(write_video(path, replayed(report.env_id, env_kwargs, record), fps=10.0))
    return paths


def replayed(env_id: str, env_kwargs: Mapping[str, Any] | None, record: EpisodeRecord) -> Iterator[NDArray[np.uint8]]:
    """Yield an episode's pictures (H, W, 3): the environment's own, after the reset and after every step."""
    plain = {name: value for name, value in (env_kwargs or {}).items() if name not in ("obs", "image_size")}
    env: Any = make_env(env_id, {**plain, "render_mode": "rgb_array"})
    try:
        env.reset(seed=record.seed)
        yield env.render()
        rewards = 0.0
        for action in record.actions:
            rewards += float(env.step(action)[1])
            yield env.render()
        if rewards != float(record.rewards.sum()):
            raise ValueError(f"{env_id}, episode {record.number}: {MISSING}")
    finally:
        env.close()
