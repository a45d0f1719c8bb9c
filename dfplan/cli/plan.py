"""`dfplan plan`: make one plan and draw it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfplan.cli import options as o

if TYPE_CHECKING:
    from dfplan import Plan
    from dfplan.guidance import Guidance

Disc = tuple[float, float, float]


def plan_command(
    env: o.Env,
    start: Annotated[
        str | None, typer.Option(metavar="ROW,COLUMN", help="Cell to start in; drawn if not given.")
    ] = None,
    goal: Annotated[str | None, typer.Option(metavar="ROW,COLUMN", help="Goal; by default the environment's.")] = None,
    avoid: Annotated[
        list[str] | None,
        typer.Option(metavar="ROW,COLUMN,RADIUS", help="Forbidden disc, in cells; may be given several times."),
    ] = None,
    seed: o.Seed = 0,
    checkpoint: o.CheckpointName = None,
    samples: o.Samples = None,
    schedule: o.Schedule = None,
    slope: o.Slope = None,
    steps: o.Steps = None,
    attention: o.Attention = None,
    eta: o.Eta = None,
    plausibility: o.Plausibility = None,
    budget_ms: Annotated[
        float | None,
        typer.Option(help="Draw batch after batch of candidates for this many milliseconds (at least one batch)."),
    ] = None,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    out: o.Out = None,
    json: o.Json = False,
) -> None:
    """Make one plan, print when it arrives, and draw it being denoised (extra viz)."""
    from dfplan.evaluation import episode_seed
    from dfplan_envs import resolve

    env_id = resolve(env)
    folder = o.run_folder(out, f"{env_id}-plan")
    reset_options = o.given(location=_cell("start", start), goal=_place("goal", goal))
    discs = [_disc(text) for text in avoid or []]
    observation = _reset(env_id, episode_seed(seed, 0), reset_options)
    o.check_device(device)
    import torch

    from dfplan import DFPlanner

    if threads is not None:
        torch.set_num_threads(threads)
    planner = DFPlanner.from_pretrained(o.choose_checkpoint(checkpoint, env_id), device=device)
    o.warn_if_foreign(planner.checkpoint.env, env_id)
    chosen = o.given(samples=samples, schedule=schedule, slope=slope, steps=steps, attention=attention, eta=eta)
    chosen |= o.given(plausibility=plausibility)
    o.check_plan_options(planner, chosen)
    chosen |= o.given(budget_ms=budget_ms)
    generator = torch.Generator().manual_seed(seed)
    measured, target = observation["observation"], observation["desired_goal"]
    plan = planner.plan(measured, target, generator=generator, trace=True, guidance=_guidance(discs), **chosen)
    result = _describe(env_id, planner.name, plan, measured, target)
    _write(
        folder,
        result,
        {"env": env_id, "seed": seed, "checkpoint": checkpoint or planner.name, "avoid": discs, **chosen},
    )
    if json:
        from dfplan.evaluation.files import to_json

        typer.echo(to_json(result), nl=False)
    else:
        typer.echo(_sentence(result))
    _draw(plan, env_id, folder, chosen.get("schedule", planner.config.schedule), discs)
    typer.echo(f"run folder: {folder}", err=json)


def _place(name: str, text: str | None) -> tuple[float, float] | None:
    """Read two numbers separated by a comma."""
    if text is None:
        return None
    try:
        row, column = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--{name} must be two numbers ROW,COLUMN, got {text!r}; for example --{name} 7,9") from None
    return row, column


def _cell(name: str, text: str | None) -> tuple[int, int] | None:
    """Read a cell, two whole numbers."""
    place = _place(name, text)
    if place is None:
        return None
    if any(value != int(value) for value in place):
        raise ValueError(f"--{name} must be a cell, two whole numbers ROW,COLUMN, got {text!r}")
    return int(place[0]), int(place[1])


def _disc(text: str) -> Disc:
    """Read a disc, three numbers separated by commas."""
    try:
        row, column, radius = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"--avoid must be three numbers ROW,COLUMN,RADIUS, got {text!r}; for example --avoid 2,3,0.4"
        ) from None
    return row, column, radius


def _guidance(discs: Sequence[Disc]) -> Guidance | None:
    """Keep plans out of all discs, with a tenth of a cell to spare."""
    from dfplan.guidance import DiscObstacle, all_of

    return all_of(*(DiscObstacle(disc[:2], disc[2], margin=0.1) for disc in discs)) if discs else None


def _reset(env_id: str, seed: int, options: dict[str, Any]) -> Any:
    from dfplan.evaluation.rollout import make_env

    env = make_env(env_id)
    try:
        return env.reset(seed=seed, options=options or None)[0]
    finally:
        env.close()


def _describe(env_id: str, checkpoint: str, plan: Plan, start: Any, goal: Any) -> dict[str, Any]:
    """Collect what is worth knowing about a plan; steps that are infinite become null."""
    arrival = float(plan.arrival_steps[0, int(plan.selected[0])])
    return {
        "env": env_id,
        "checkpoint": checkpoint,
        "start": start,
        "goal": goal,
        "arrival_steps": arrival,
        "arrival_seconds": arrival * plan.dt_s,
        "samples": plan.candidates.shape[1],
        "samples_that_arrive": int(plan.arrival_steps[0].isfinite().sum()),
        "samples_feasible": int(plan.feasible[0].sum()),
        "plan_seconds": plan.seconds,
        "network_evaluations": plan.network_evaluations,
        "states": plan.observations[0].tolist(),
        "stride": plan.stride,
    }


def _sentence(result: dict[str, Any]) -> str:
    arrives = math.isfinite(result["arrival_steps"])
    when = (
        f"arrives after {result['arrival_steps']:.0f} steps ({result['arrival_seconds']:.2f} s)"
        if arrives
        else "does not arrive within its horizon"
    )
    return (
        f"{result['env']}: the selected plan {when}; {result['samples_feasible']} of {result['samples']} samples are "
        f"feasible; planned in {result['plan_seconds']:.3f} s with {result['network_evaluations']} network evaluations"
    )


def _write(folder: Path, result: dict[str, Any], config: dict[str, Any]) -> None:
    from dfplan import provenance
    from dfplan.evaluation.files import write_json

    write_json(folder / "config.json", config)
    about = {
        "versions": provenance.versions(),
        "git": provenance.git(),
        "hardware": provenance.hardware(),
        "command": provenance.command(),
    }
    write_json(folder / "plan.json", {**result, **about})


def _draw(plan: Plan, env_id: str, folder: Path, schedule: str, discs: Sequence[Disc]) -> None:
    """Draw the plan; without the extra, say in one line what brings the figures."""
    from dfplan.evaluation import figures
    from dfplan_policies.df import view_plan

    view = view_plan(plan, None if plan.goal is None else plan.goal[0].numpy())
    try:
        maze = figures.maze_map(env_id)
        when = f"arrives after {view.arrival_steps * view.dt_s:.2f} s" if view.arrives else "does not arrive"
        figures.draw_plan(plan, view, maze, folder / "plan.png", f"{env_id}: {when}", discs)
        figures.draw_denoising(plan, maze, folder / "denoising.gif", f"{env_id}: one plan, schedule {schedule}")
    except ImportError as error:
        typer.echo(f"no figures: {error}", err=True)
