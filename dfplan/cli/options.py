"""Options that `dfplan eval` and `dfplan plan` share, and what follows from them."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfplan.errors import unknown_name

if TYPE_CHECKING:
    from dfplan import DFPlanner
    from dfplan.spaces import Spaces
    from dfplan_policies import Policy

Env = Annotated[str, typer.Option(help="Environment, for example maze2d-large; `dfplan envs` lists them.")]
Seed = Annotated[int, typer.Option(help="Decides all starts and all draws.")]
CheckpointName = Annotated[
    str | None, typer.Option(metavar="NAME|DIR|HUB", help="Checkpoint; by default the environment's bundled one.")
]
Samples = Annotated[int | None, typer.Option(help="Candidates per plan.")]
Schedule = Annotated[
    str | None, typer.Option(help="Scheduling matrix: pyramid, full_sequence, autoregressive, trapezoid ...")
]
Slope = Annotated[float | None, typer.Option(help="Rows by which each token lags behind the one before.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps per token.")]
Attention = Annotated[str | None, typer.Option(help="causal or full.")]
Eta = Annotated[float | None, typer.Option(help="0 (DDIM) to 1 (DDPM).")]
Plausibility = Annotated[
    float | None, typer.Option(help="Weight of the model's own judgement in the choice of a candidate (0.4); 0: none.")
]
Device = Annotated[str, typer.Option(help="Where the network runs: cpu, cuda ...")]
Threads = Annotated[int | None, typer.Option(help="Threads of torch in each process; by default torch decides.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; by default a new one in runs/.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else there.")]


def given(**options: Any) -> dict[str, Any]:
    """Keep the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def number_or_word(text: str | None) -> float | str | None:
    """Read a number; a word stays one."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def base_name(env_id: str) -> str:
    """Return the maze's name: ``maze2d-large`` for ``maze2d-large-dense-v1`` and ``maze2d-multi-large-v1``."""
    return re.sub(r"-v\d+$", "", env_id).replace("multi-", "").replace("-dense", "")


def choose_checkpoint(checkpoint: str | None, env_id: str) -> str:
    """Return the checkpoint to use.

    Raises:
        ValueError: If none was given and none is bundled for the environment.
    """
    if checkpoint is not None:
        return checkpoint
    from dfplan.checkpoint import list_pretrained

    bundled = [row["name"] for row in list_pretrained()]
    name = base_name(env_id).lower()
    if name.startswith("ogbench-"):  # one environment, several data sets
        name = name.removeprefix("ogbench-") + "-navigate"
    if name not in bundled:
        listed = ", ".join(bundled) or "none"
        raise ValueError(
            f"no checkpoint is bundled for {env_id} (bundled: {listed}); pass --checkpoint or `dfplan train`"
        )
    return name


def check_plan_options(planner: DFPlanner, options: dict[str, Any]) -> None:
    """Check names and numbers before anything long begins.

    Raises:
        ValueError: As the planner itself would.
    """
    from dataclasses import fields, replace

    from dfplan.schedule import make_schedule

    known = {f.name for f in fields(planner.config)}
    config = replace(planner.config, **{name: value for name, value in options.items() if name in known})
    make_schedule(config.schedule, planner.spec.horizon, planner.levels, steps=config.steps, slope=config.slope)
    eta = options.get("eta", 0.0)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}; 0 is DDIM, 1 is DDPM")


def warn_if_foreign(trained_for: str, env_id: str) -> None:
    """Say so if a checkpoint was trained for another maze."""
    if trained_for and base_name(trained_for) != base_name(env_id):
        typer.echo(f"warning: this checkpoint was trained for {trained_for}, not for {env_id}", err=True)


def run_folder(out: Path | None, name: str) -> Path:
    """Return the folder to write to: the one asked for, or a new one in ``runs``."""
    if out is not None:
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out must name a folder, but {out} is a file; choose another name")
        return out
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_device(device: str) -> None:
    """Check that a device exists before anything is loaded onto it.

    Raises:
        ValueError: If its kind is unknown or it is not there.
    """
    import torch

    kind = device.partition(":")[0]
    kinds = ("cpu", "cuda", "mps")
    if kind not in kinds:
        raise unknown_name("device", device, kinds)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[kind]:
        raise ValueError(f"device {device!r} is not there; use --device cpu")
    torch.empty(0, device=device)


def build_policy(
    spec: str, env_id: str, *, seed: int, checkpoint: str | None, device: str, options: dict[str, Any]
) -> Policy:
    """Build a policy for an environment.

    Raises:
        ValueError: If the name is unknown, or options are given that the policy does not have.
    """
    from dfplan_policies import find_policy, load_policy

    entry, _ = find_policy(spec)
    if not entry.plans:
        asked = [*options, *(["checkpoint"] if checkpoint else [])]
        if asked:
            names = ", ".join("--" + name.replace("_", "-") for name in asked)
            raise ValueError(
                f"the policy {entry.name!r} does not plan and has no {names}; leave it out or use --policy df"
            )
        spaces = _spaces(env_id)
        known = {"controller": _controller(env_id), "oracle": _oracle(env_id), "act_dim": spaces.action.width}
        return load_policy(spec, seed=seed, device=device, spaces=spaces, **known)
    check_device(device)
    if entry.name == "df":
        from dfplan.recipes import policy_options

        options = {**policy_options(env_id), **options}
    chosen = choose_checkpoint(checkpoint, env_id)
    policy: Any = load_policy(spec, seed=seed, device=device, checkpoint=chosen, **options)
    if hasattr(policy, "planner"):
        check_plan_options(policy.planner, options)
    warn_if_foreign(_checkpoint(policy).env, env_id)
    return policy  # type: ignore[no-any-return]


def _checkpoint(policy: Any) -> Any:
    """Return the checkpoint of a policy that plans, or of one that remembers episodes; None of others."""
    owner = getattr(policy, "planner", getattr(policy, "model", None))
    return getattr(owner, "checkpoint", None)


def checkpoint_name(policy: Any) -> str | None:
    """Return the name of a policy's checkpoint, None if it has none."""
    return getattr(_checkpoint(policy), "name", None)


def _controller(env_id: str) -> Any:
    """Return what makes the environment's own controller."""
    from functools import partial

    from dfplan.evaluation.rollout import make_env
    from dfplan_envs.maze2d import WaypointController

    env: Any = make_env(env_id)
    if not hasattr(env.unwrapped, "maze"):
        return None
    return partial(WaypointController, env.unwrapped.maze)


def _oracle(env_id: str) -> Any:
    """Return what knows the environment's dynamics and map; it builds nothing until it is asked."""
    from dfplan.evaluation.rollout import make_env
    from dfplan_envs.maze2d import MazeOracle

    env: Any = make_env(env_id)
    return MazeOracle(env.unwrapped.maze) if hasattr(env.unwrapped, "maze") else None


def _spaces(env_id: str) -> Spaces:
    from dfplan.evaluation.rollout import make_env
    from dfplan.spaces import Spaces

    return Spaces.from_env(make_env(env_id))
