"""`dfplan data collect`: episodes from any Gymnasium environment with any policy. Heavy imports are inside."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfplan.cli.data_common import (
    AuthorOption,
    EmailOption,
    IdOption,
    JsonFlag,
    NpzOption,
    OverwriteFlag,
    authors,
    check_outputs,
    progress_bar,
    report,
    say,
    stops_cleanly,
    write_outputs,
)

if TYPE_CHECKING:
    from gymnasium import Env

    from dfplan.data.collecting import CollectConfig
    from dfplan.data.shards import ShardFolder

INTERRUPTED = 130
RANDOM = "random"


def collect_command(
    env: Annotated[str, typer.Option(help="Any Gymnasium id: Hopper-v5, maze2d-umaze, package:Id-v0.")],
    policy: Annotated[str, typer.Option(help="random, sb3:FILE, or a name of `dfplan policies`.")] = RANDOM,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes in all; more than there are go on.")] = 100,
    noise: Annotated[
        float, typer.Option(min=0.0, help="Std of Gaussian noise on Box actions, in halves of their range.")
    ] = 0.0,
    epsilon: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Probability of a uniformly random action at each step.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="With an episode's number it decides its start and all draws.")] = 0,
    num_envs: Annotated[int, typer.Option(min=1, help="Environments side by side; the data do not depend on it.")] = 8,
    batched: Annotated[
        bool,
        typer.Option("--batched", help="Ask the policy for all environments at once; last bits depend on --num-envs."),
    ] = False,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Cut episodes after so many steps.", show_default="the environment's")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint of a policy that plans.", metavar="NAME|DIR|HUB")
    ] = None,
    dataset_id: IdOption = None,
    npz: NpzOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder of finished episodes.", show_default="one in runs/, by the options")
    ] = None,
    overwrite: OverwriteFlag = False,
    author: AuthorOption = "dfplan",
    author_email: EmailOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Collect episodes with any policy; stopped and called again, it goes on where it was."""
    with stops_cleanly():
        from dfplan.data.collecting import CollectConfig
        from dfplan.data.shards import ShardFolder

        begin = time.perf_counter()
        config = CollectConfig(seed, noise, epsilon, max_steps, batched)
        name = f"{_slug(env)}-{_slug(policy.partition(':')[0])}"
        dataset_id = dataset_id or (f"collected/{name}-v0" if npz is None else None)
        check_outputs(dataset_id or "", dataset_id is not None, npz, overwrite, "--npz FILE.npz")
        made = make_env(env, max_steps)
        acting = build_policy(policy, made, seed, checkpoint, config)
        what = _identity(env, policy, checkpoint, config, num_envs)
        folder = ShardFolder(out or Path("runs") / f"collect-{name}-{_digest(what)}", what)
        _run(folder, made, env, acting, episodes, num_envs, config)
        native = folder.read(episodes, made.observation_space, made.action_space)
        collected = native.to_episodes(_meta(env, made, what, _command(what, episodes)))
        about = {
            "description": f"{env}: {episodes} episodes of the policy {what['policy']}{_exploration(config)}.",
            "algorithm_name": str(what["policy"]) + _exploration(config),
            "requirements": ["gymnasium>=1.0"],
            **authors(author, author_email),
        }
        minari = dataset_id is not None
        written = write_outputs(collected, dataset_id or "", minari, npz, overwrite, made.spec, about, native)
        facts: dict[str, Any] = {**written, "run": str(folder.folder)}
        report(collected, {**facts, "seconds": round(time.perf_counter() - begin, 3)}, as_json)


def _run(
    folder: ShardFolder, made: Env[Any, Any], env: str, policy: Any, episodes: int, num_envs: int, config: CollectConfig
) -> None:
    """Collect what is missing; what has ended is kept whatever happens."""
    from dfplan.data.collecting import collect

    missing = folder.missing(episodes)
    if not missing:
        return
    if len(missing) < episodes:
        say(f"{episodes - len(missing)} of {episodes} episodes are in {folder.folder}; going on")
    envs = [made, *(make_env(env, config.max_steps) for _ in range(min(num_envs, len(missing)) - 1))]
    steps = 0

    def count(taken: int) -> None:
        nonlocal steps
        steps += taken
        advance.note(f"{steps:,} steps, {steps / (time.perf_counter() - begin):,.0f}/s")

    try:
        begin = time.perf_counter()
        with progress_bar(f"collect {env}", len(missing), "episodes") as advance:
            for rollout in collect(envs, policy, missing, config, count):
                folder.add(rollout)
                advance(1)
    except KeyboardInterrupt:
        folder.flush()
        done = episodes - len(folder.missing(episodes))
        say(
            f"\nstopped: {done} of {episodes} episodes are kept in {folder.folder}; the same command goes on from there"
        )
        raise typer.Exit(INTERRUPTED) from None
    finally:
        folder.flush()
        for one in envs[1:]:
            one.close()


def make_env(env_id: str, max_steps: int | None = None) -> Env[Any, Any]:
    """Make an environment whose data can be stored: a registered id, "package:Id-v0", or a name of `dfplan envs`.

    Mazes of this package show their goal (a goal Dict), as in evaluation.

    Raises:
        ValueError: for an unknown id, spaces that are not served, or episodes without end.
    """
    import gymnasium

    from dfplan.data.trajectories import check_spaces
    from dfplan_envs.wrappers import show_goal

    name = env_id
    if env_id not in gymnasium.registry and ":" not in env_id:
        name = _complete(env_id)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # some packages greet on standard output
            made: Env[Any, Any] = gymnasium.make(name, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError, AssertionError, RuntimeError) as error:
        told = (
            str(error) or f"its package fails with {type(error).__name__}, perhaps for another version of a simulator"
        )
        raise ValueError(f"cannot make the environment {env_id!r}: {told}") from error
    made = show_goal(made)
    check_spaces(made.observation_space, made.action_space)
    if made.spec is not None and made.spec.max_episode_steps is None and max_steps is None:
        raise ValueError(f"{env_id} has no time limit, so an episode may never end; pass --max-steps")
    return made


def _complete(name: str) -> str:
    """Add the newest version to one of this package's names; refuse what nobody has registered."""
    import difflib

    import gymnasium

    import dfplan_envs

    with contextlib.suppress(ValueError):
        return dfplan_envs.resolve(name)
    if any(env_id.rpartition("-v")[0] == name.rpartition("-v")[0] for env_id in gymnasium.registry):
        return name  # another version: Gymnasium's own text says which there are
    near = difflib.get_close_matches(name, gymnasium.registry, n=1, cutoff=0.4)
    raise ValueError(
        f"unknown environment {name!r}.{f' Did you mean {near[0]!r}?' if near else ''} `dfplan envs` lists this "
        "package's; an id of another package is written 'package:Id-v0', as gymnasium_robotics:PointMaze_UMaze-v3"
    )


def build_policy(spec: str, env: Env[Any, Any], seed: int, checkpoint: str | None, config: CollectConfig) -> Any:
    """Build what acts; None stands for uniformly random actions.

    Raises:
        ValueError: for an unknown policy, something that it needs, or noise that the actions cannot take.
    """
    from dfplan.data.collecting import check_exploration

    check_exploration(env.action_space, config, spec != RANDOM)
    if spec == RANDOM:
        return None
    import dfplan_envs
    from dfplan.cli import options as o
    from dfplan_policies import find_policy, load_policy

    env_id = env.spec.id if env.spec is not None else ""
    if env_id in {info.id for info in dfplan_envs.list_envs()}:
        return o.build_policy(spec, env_id, seed=seed, checkpoint=checkpoint, device="cpu", options={})
    entry, _ = find_policy(spec)
    if entry.plans:
        return load_policy(spec, seed=seed, checkpoint=checkpoint)
    shape = env.action_space.shape
    return load_policy(spec, seed=seed, act_dim=shape[0] if shape else None)


def _identity(env: str, policy: str, checkpoint: str | None, config: CollectConfig, num_envs: int) -> dict[str, Any]:
    """Say what the episodes depend on: files by their content, so that another folder is the same run."""
    from dataclasses import asdict

    name, _, argument = policy.partition(":")
    file = Path(argument)
    is_file = bool(argument) and file.is_file()
    return {
        "env": env,
        "policy": f"{name}:{file.name}" if is_file else policy,
        **({"policy_sha256": hashlib.sha256(file.read_bytes()).hexdigest()} if is_file else {}),
        **({"checkpoint": Path(checkpoint).name} if checkpoint else {}),
        **asdict(config),
        **({"num_envs": num_envs} if config.batched else {}),
    }


def _digest(what: dict[str, Any]) -> str:
    return hashlib.sha256(repr(sorted(what.items())).encode()).hexdigest()[:8]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text.rpartition("/")[2]).strip("-") or "env"


def _exploration(config: CollectConfig) -> str:
    noise = f" with action noise N(0, {config.noise:g}^2) in halves of the range" if config.noise else ""
    return noise + (f" with a random action in {config.epsilon:.3g} of the steps" if config.epsilon else "")


def _command(what: dict[str, Any], episodes: int) -> str:
    flags = {key: what.get(key) for key in ("noise", "epsilon", "max_steps", "checkpoint", "num_envs")}
    given = "".join(f" --{key.replace('_', '-')} {value}" for key, value in flags.items() if value)
    ask = f"dfplan data collect --env {what['env']} --policy {what['policy']} --episodes {episodes}"
    return f"{ask} --seed {what['seed']}{given}{' --batched' if what['batched'] else ''}"


def _meta(env: str, made: Env[Any, Any], what: dict[str, Any], command: str) -> dict[str, Any]:
    import dfplan_envs
    from dfplan.cli.data_make import versions

    meta = {**what, "env": made.spec.id if made.spec is not None else env, "command": command}
    meta["versions"] = versions("numpy", "gymnasium", "mujoco", "stable-baselines3")
    with contextlib.suppress(ValueError):
        meta["reference_scores"] = dict(zip(("min", "max"), dfplan_envs.reference_scores(meta["env"]), strict=True))
    return meta
