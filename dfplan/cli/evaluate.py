"""`dfplan eval`: judge a policy and leave a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfplan.cli import evaluate_arm as arm
from dfplan.cli import options as o

if TYPE_CHECKING:
    from dfplan.evaluation import Report


def evaluate_command(
    env: o.Env,
    policy: Annotated[str, typer.Option(help="`dfplan policies` lists them.")] = "df",
    executor: Annotated[
        str | None, typer.Option(help="path (default), diffused_actions, next_waypoint, kinematic.")
    ] = None,
    episodes: Annotated[int, typer.Option(help="Episodes; each one's start depends on --seed and its number.")] = 100,
    seed: o.Seed = 0,
    checkpoint: o.CheckpointName = None,
    samples: o.Samples = None,
    schedule: o.Schedule = None,
    slope: o.Slope = None,
    steps: o.Steps = None,
    attention: o.Attention = None,
    eta: o.Eta = None,
    plausibility: o.Plausibility = None,
    replan_every: Annotated[int | None, typer.Option(help="Control steps between plans (50).")] = None,
    lookahead: Annotated[float | None, typer.Option(help="path: distance of the chased point, in cells (1.2).")] = None,
    requery_every: Annotated[
        int | None, typer.Option(help="diffused_actions: steps between questions to the model (1).")
    ] = None,
    phase: Annotated[
        str | None, typer.Option(help="diffused_actions: paced (faster than the data), nearest or time (at its pace).")
    ] = None,
    action_steps: Annotated[int | None, typer.Option(help="diffused_actions: denoising steps per action.")] = None,
    warm_start: Annotated[bool | None, typer.Option(help="Start a re-plan from the plan in use.")] = None,
    target_return: Annotated[
        str | None,
        typer.Option(metavar="NUMBER|none", help="Return to ask for, in rewards per step, if there are returns."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="OGBench: 'all' or for example 1,3; --episodes of each, success with Wilson intervals."),
    ] = None,
    obs: arm.Obs = None,
    image_size: arm.ImageSize = None,
    occlude: arm.Occlude = None,
    push: arm.Push = None,
    distractors: arm.Distractors = None,
    missing: arm.Missing = None,
    missing_level: arm.MissingLevel = None,
    temperature: arm.Temperature = None,
    candidates: arm.Candidates = None,
    videos: arm.Videos = None,
    num_envs: Annotated[int, typer.Option(help="Environments side by side in each process.")] = 8,
    workers: Annotated[int, typer.Option(help="Processes; timings mean something with 1 only.")] = 1,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    out: o.Out = None,
    json: o.Json = False,
) -> None:
    """Judge a policy on matched starts: strict and latched score, success, planning time, figures (extra viz)."""
    from dfplan.cli.evaluate_tasks import by_task
    from dfplan.evaluation import evaluate
    from dfplan_envs import resolve

    env_id = resolve(env)
    folder = o.run_folder(out, f"{env_id}-{policy.partition(':')[0]}")
    executor_options = o.given(lookahead=lookahead, requery_every=requery_every, phase=phase)
    chosen = o.given(
        executor=executor,
        executor_options=executor_options or None,
        samples=samples,
        schedule=schedule,
        slope=slope,
        steps=steps,
        attention=attention,
        eta=eta,
        plausibility=plausibility,
        replan_every=replan_every,
        action_steps=action_steps,
        warm_start=warm_start,
        target_return=o.number_or_word(target_return),
        missing=missing,
        missing_level=missing_level,
        temperature=temperature,
        candidates=candidates,
    )
    made_with = arm.env_options(env_id, obs, image_size, occlude, push, distractors)
    if obs == "image" and checkpoint is None:
        checkpoint = f"{o.base_name(env_id)}-image"
    built = o.build_policy(policy, env_id, seed=seed, checkpoint=checkpoint, device=device, options=chosen)
    if tasks is not None:
        options = {"workers": workers, "threads": threads, "progress": True}
        by_task(built, env_id, tasks, folder, json, episodes=episodes, seed=seed, num_envs=num_envs, **options)
        return
    _check_replay(built, env_id, seed)
    labels: dict[str, Any] = {"policy": policy, "checkpoint": o.checkpoint_name(built)}
    report = evaluate(
        built, env_id, episodes, seed, num_envs, workers=workers, threads=threads, progress=True,
        labels={**labels, **({"environment": made_with} if made_with else {})}, env_kwargs=made_with,
    )  # fmt: skip
    config = {
        "env": env_id,
        "policy": policy,
        "episodes": episodes,
        "seed": seed,
        "num_envs": num_envs,
        "workers": workers,
        "threads": threads,
        "device": device,
        "checkpoint": checkpoint or labels["checkpoint"],
        **({"environment": made_with} if made_with else {}),
        **_resolved(built),
    }
    report.save(folder, config)
    if json:
        typer.echo(report.to_json(), nl=False)
    else:
        print_report(report)
    if report.metrics["stages"]:
        arm.draw(report, made_with, 2 if videos is None else videos, folder)
    else:
        _draw(report, built, folder, chosen)
    typer.echo(f"run folder: {folder}", err=json)


def _check_replay(policy: Any, env_id: str, seed: int) -> None:
    """Refuse to replay actions on other starts than those they were made for."""
    recorded = getattr(policy, "env", None), getattr(policy, "run_seed", None)
    if recorded[0] is not None and recorded != (env_id, seed):
        raise ValueError(
            f"{policy.path} holds actions for {recorded[0]} with seed {recorded[1]}, got {env_id} with seed {seed}; "
            "use the same --env and --seed"
        )


def _resolved(policy: Any) -> dict[str, Any]:
    """Return every setting of a planning policy as it was used, defaults included."""
    from dataclasses import asdict

    if hasattr(policy, "resolved"):
        return dict(policy.resolved())
    if not hasattr(policy, "executor_name"):
        return {}
    return {
        "executor": policy.executor_name,
        "executor_options": asdict(policy.executor),
        "replan_every": policy.replan_every,
        "warm_start": policy.warm_start,
        "keep_shorter": policy.keep_shorter,
        "action_steps": policy.action_steps,
        "planner": {**asdict(policy.planner.config), **policy.plan_options, "samples": policy.samples},
    }


def _draw(report: Report, policy: Any, folder: Path, chosen: dict[str, Any]) -> None:
    """Draw what can be drawn; without the extra, say in one line what brings the figures."""
    from dfplan.evaluation import figures

    try:
        if not figures.has_map(report.env_id):
            figures.draw_rewards(report, folder / "rewards.png")
            return
        figures.draw_paths(report, folder / "paths.png")
        if hasattr(policy, "plan_options"):
            record = figures.longest(report.records[: figures.PANELS])
            plan = figures.trace_plan(policy.planner, record, samples=policy.samples, **policy.plan_options)
            schedule = chosen.get("schedule", policy.planner.config.schedule)
            title = f"{report.env_id}, episode {record.number}: one plan, schedule {schedule}"
            figures.draw_denoising(plan, figures.maze_map(report.env_id), folder / "denoising.gif", title)
    except ImportError as error:
        typer.echo(f"no figures: {error}", err=True)


def print_report(report: Report) -> None:
    """Print the metrics as a table on standard output."""
    from rich.console import Console
    from rich.table import Table

    m = report.metrics
    names = " ".join(str(m[key]) for key in ("policy", "executor") if m.get(key))
    table = Table(title=f"{m['env']}, {names}", title_justify="left", show_header=False, box=None, pad_edge=False)
    for row in report_rows(m):
        table.add_row(*row)
    Console(width=80).print(table, highlight=False, markup=False)


def report_rows(m: Any) -> list[tuple[str, str]]:
    """Choose and format what the table shows."""

    def pm(entry: Any, digits: int = 1) -> str:
        if entry["mean"] is None:
            return "-"
        error = "" if entry["stderr"] is None else f" ± {entry['stderr']:.{digits}f}"
        return f"{entry['mean']:.{digits}f}{error}"

    kind = "score" if m["score"]["strict"]["mean"] is not None else "return"
    rows = [
        ("episodes", str(m["episodes"])),
        (f"strict {kind}" if m["success_rate"] is not None else kind, pm(m[kind]["strict"])),
        *([(f"latched {kind}", pm(m[kind]["latched"]))] if m[kind]["latched"]["mean"] is not None else []),
    ]
    if m["success_rate"] is not None:
        rows += [
            ("success rate", _rate(m["success"])),
            *((f"reached stage {stage}", _rate(rate)) for stage, rate in (m["stages"] or {}).items()),
            ("steps to first reach", pm(m["first_reach_steps"])),
            ("collisions per episode", pm(m["collisions"])),
        ]
    seconds = m["plan_seconds"]
    if seconds["median"] is not None:
        rows += [
            ("time per plan", f"median {seconds['median']:.3f} s, 95 % below {seconds['p95']:.3f} s"),
            (
                "plans per episode",
                f"{m['plans_per_episode']:.1f}, {m['stuck_plans_per_episode']:.1f} of them when stuck",
            ),
            (
                "network evaluations",
                f"{m['network_evaluations']:.0f} per plan, {m['network_evaluations_per_step']:.2f} per control step",
            ),
        ]
    if m["stages"]:
        call = m["predict_seconds"]
        rows.append(("time per call", f"median {1e3 * call['median']:.1f} ms, 95 % below {1e3 * call['p95']:.1f} ms"))
    return [*rows, ("control steps per second", "-" if m["control_hz"] is None else f"{m['control_hz']:.0f}")]


def _rate(rate: Any) -> str:
    return f"{rate['rate']:.3f} (95 %: {rate['low']:.3f} to {rate['high']:.3f})"
