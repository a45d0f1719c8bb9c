"""Policies by name: ``load_policy("df")``, ``load_policy("replay:runs/x")`` ..."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfplan.errors import unknown_name
from dfplan.spaces import Spaces
from dfplan_policies.protocol import FloatArray, Policy

if TYPE_CHECKING:
    from dfplan_policies.baselines.sampling_mpc import Oracle
    from dfplan_policies.baselines.waypoint import ControllerFactory

GROUP = "dfplan.policies"


@dataclass(frozen=True)
class PolicyRequest:
    """Say what a policy is to be built from; each policy takes what it needs.

    Attributes:
        argument: What stands behind the colon of the name, or "".
        checkpoint: Name, folder or Hub id of a planner's checkpoint.
        planner: A planner, in place of ``checkpoint``.
        controller: Makes the dataset's controller (``waypoint``).
        oracle: Knows the true dynamics and the map (``mppi``, ``cem``).
        act_dim: A, width of an action (``random``, ``mlp``, ``py``).
        spaces: The environment's spaces (``random``); None for actions in [-1, 1].
        goal: (G,), for observations that bring no ``desired_goal``.
        seed: Seed of the policy's draws.
        device: Where networks run.
        options: Arguments of the policy itself, for `DFPolicy` ``executor``, ``replan_every``, ``samples`` ...
    """

    argument: str = ""
    checkpoint: str | Path | None = None
    planner: Any = None
    controller: ControllerFactory | None = None
    oracle: Oracle | None = None
    act_dim: int | None = None
    spaces: Spaces | None = None
    goal: FloatArray | None = None
    seed: int = 0
    device: str = "cpu"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PolicyEntry:
    """Describe one policy.

    Attributes:
        name: How it is asked for.
        description: One line.
        build: Makes it.
        argument: What must stand behind ``name:``, or "" if nothing may.
        plans: Whether it takes a checkpoint and the planner's options.
    """

    name: str
    description: str
    build: Callable[[PolicyRequest], Policy]
    argument: str = ""
    plans: bool = False

    @property
    def usage(self) -> str:
        """How it is written on the command line."""
        return f"{self.name}:{self.argument}" if self.argument else self.name


def _planner(request: PolicyRequest, name: str) -> Any:
    """Return the request's planner, or load its checkpoint."""
    if request.planner is not None:
        return request.planner
    if request.checkpoint is None:
        raise ValueError(f"the policy {name!r} needs a checkpoint, got none; pass a bundled name, a folder or a Hub id")
    from dfplan import DFPlanner

    return DFPlanner.from_pretrained(request.checkpoint, device=request.device)


def _df(request: PolicyRequest) -> Policy:
    if request.planner is None and request.checkpoint is not None and _of_episodes(request.checkpoint):
        return _episode(request)
    from dfplan_policies.df import DFPolicy

    return DFPolicy(_planner(request, "df"), goal=request.goal, seed=request.seed, **request.options)


def _of_episodes(checkpoint: str | Path) -> bool:
    """Tell whether a checkpoint holds whole episodes."""
    from dfplan.checkpoint import locate, read_config
    from dfplan.episode.layout import KIND

    return bool(read_config(locate(checkpoint))["tokens"].get("kind") == KIND)


def _act(request: PolicyRequest) -> Policy:
    from dfplan_policies.act import ActPolicy

    _check_options("act", ActPolicy, request.options)
    return ActPolicy(_planner(request, "act"), goal=request.goal, seed=request.seed, **request.options)


def _mpc(request: PolicyRequest) -> Policy:
    from dfplan_policies.mpc import ModelPredictivePolicy

    _check_options("mpc", ModelPredictivePolicy, request.options)
    return ModelPredictivePolicy(_planner(request, "mpc"), goal=request.goal, seed=request.seed, **request.options)


def _episode(request: PolicyRequest) -> Policy:
    from dfplan.episode import EpisodeModel
    from dfplan_policies.episode import EpisodePolicy

    _check_options("episode", EpisodePolicy, request.options)
    if request.checkpoint is None:
        raise ValueError("the policy 'episode' needs a checkpoint, got none; pass a bundled name, a folder or a Hub id")
    model = EpisodeModel.from_pretrained(request.checkpoint, device=request.device)
    return EpisodePolicy(model, seed=request.seed, **request.options)


def _check_options(name: str, policy: type, options: Mapping[str, Any]) -> None:
    """Refuse options that a policy does not have."""
    filled = ("planner", "model", "oracle", "method", "act_dim", "goal", "seed")
    known = [p for p in signature(policy).parameters if p not in filled]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of the policy {name!r}", option, known)


def _waypoint(request: PolicyRequest) -> Policy:
    from dfplan_policies.baselines.waypoint import WaypointPolicy

    if request.controller is None:
        raise ValueError(
            "the policy 'waypoint' needs a controller, got none; pass controller=partial(WaypointController, 'large')"
        )
    return WaypointPolicy(request.controller, seed=request.seed, goal=request.goal)


def _random(request: PolicyRequest) -> Policy:
    from dfplan_policies.baselines.random import RandomPolicy

    if request.act_dim is None:
        raise ValueError("the policy 'random' needs the width of an action, got none; pass act_dim=2 for a maze")
    return RandomPolicy(request.act_dim, seed=request.seed, spaces=request.spaces)


def _replay(request: PolicyRequest) -> Policy:
    from dfplan_policies.baselines.replay import ReplayPolicy

    return ReplayPolicy(request.argument)


def _sb3(request: PolicyRequest) -> Policy:
    from dfplan_policies.baselines.sb3 import SB3Policy

    return SB3Policy(request.argument, device=request.device)


def _py(request: PolicyRequest) -> Policy:
    from dfplan_policies.imported import import_policy

    policy: Policy = import_policy(request)
    return policy


def _mlp(request: PolicyRequest) -> Policy:
    from dfplan_policies.baselines.mlp import MLPPolicy

    return MLPPolicy(request.argument, act_dim=request.act_dim)


def _sampling(request: PolicyRequest, method: str) -> Policy:
    from dfplan_policies.baselines.sampling_mpc import SamplingMPC

    _check_options(method, SamplingMPC, request.options)
    if request.oracle is None:
        raise ValueError(f"the policy {method!r} needs an oracle, got none; pass oracle=MazeOracle('large')")
    return SamplingMPC(request.oracle, method=method, goal=request.goal, seed=request.seed, **request.options)


_BUILT_IN = (
    PolicyEntry(
        "df", "Diffusion Forcing: plans that an executor follows, or 'episode', by checkpoint", _df, plans=True
    ),
    PolicyEntry("act", "the same model without a plan: denoise the next actions, execute, ask again", _act, plans=True),
    PolicyEntry("episode", "acts on all that was seen and done since the episode began", _episode, plans=True),
    PolicyEntry("mpc", "optimise actions in the model's own imagination (interleaved tokens)", _mpc, plans=True),
    PolicyEntry("waypoint", "the controller that made the data: shortest cell path, waypoint by waypoint", _waypoint),
    PolicyEntry(
        "mppi",
        "an oracle: sampled action sequences in the true simulator with the maze's map, weighted mean",
        lambda request: _sampling(request, "mppi"),
    ),
    PolicyEntry("cem", "the same oracle, mean of the best sequences", lambda request: _sampling(request, "cem")),
    PolicyEntry("mlp", "a deterministic actor from one safetensors file (BC, IQL ...)", _mlp, argument="FILE"),
    PolicyEntry("random", "uniform random actions", _random),
    PolicyEntry("replay", "the recorded actions of an evaluation's run folder", _replay, argument="FILE"),
    PolicyEntry("sb3", "an algorithm saved by stable-baselines3 (extra: sb3)", _sb3, argument="FILE"),
    PolicyEntry("py", "any object with predict, or what makes one, by its place", _py, argument="MODULE:ATTRIBUTE"),
)


def policies() -> dict[str, PolicyEntry]:
    """Return all policies by name: the built-in ones and those that installed packages offer.

    A package offers one by an entry point in the group ``dfplan.policies`` that points at a `PolicyEntry`.
    """
    found = {entry.name: entry for entry in _BUILT_IN}
    for point in entry_points(group=GROUP):
        entry = point.load()
        if not isinstance(entry, PolicyEntry):
            raise TypeError(f"entry point {point.name!r} of {GROUP} must be a PolicyEntry, got {type(entry).__name__}")
        found[entry.name] = entry
    return found


def find_policy(spec: str) -> tuple[PolicyEntry, str]:
    """Look a policy up.

    Args:
        spec: ``"name"`` or ``"name:argument"``.

    Returns:
        The entry and the argument ("" if none).

    Raises:
        ValueError: If the name is unknown, or an argument is missing or too many.
    """
    name, colon, argument = spec.partition(":")
    known = policies()
    if name not in known:
        raise unknown_name("policy", name, known)
    entry = known[name]
    if bool(entry.argument) != bool(argument) or (colon and not argument):
        raise ValueError(f"the policy {name!r} is written {entry.usage!r}, got {spec!r}")
    return entry, argument


def load_policy(spec: str, **request: Any) -> Policy:
    """Build a policy by name.

    Args:
        spec: ``"df"``, ``"waypoint"``, ``"mppi"``, ``"mlp:FILE"``, ``"random"`` ... or one that another package offers.
        **request: Fields of `PolicyRequest`; what is not one of them goes to ``options``, for example
            ``executor="path"``.

    Returns:
        A policy with stable-baselines3's ``predict``.

    Raises:
        ValueError: If the name is unknown or something it needs is missing.
    """
    entry, argument = find_policy(spec)
    direct = {k: request.pop(k) for k in tuple(request) if k in PolicyRequest.__dataclass_fields__ and k != "argument"}
    direct["options"] = {**direct.get("options", {}), **request}
    return entry.build(PolicyRequest(argument=argument, **direct))
