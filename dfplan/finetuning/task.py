"""What is fine-tuned and where: the checkpoint, the environment and the old data, checked against each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium import Env
from gymnasium.spaces import Box, Dict

from dfplan.checkpoint import Checkpoint, load_checkpoint, locate, read_config
from dfplan.data.collecting import check_exploration
from dfplan.data.episodes import Episodes
from dfplan.data.shards import ShardFolder
from dfplan.data.trajectories import Trajectories, vector_spaces
from dfplan.evaluation.rollout import make_env
from dfplan.finetuning.config import FinetuneConfig
from dfplan.planner import DFPlanner
from dfplan.recipes import policy_options
from dfplan.spaces import Spaces
from dfplan_envs import resolve
from dfplan_policies import DFPolicy

Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Task:
    """Hold what all rounds share.

    Attributes:
        source: Folder of the checkpoint that is fine-tuned.
        base: That checkpoint.
        env_id: The environment.
        env: The one that is collected in.
        codecs: How its observations and actions become columns: the checkpoint's rules.
        data: The old data.
        config: How.
        folder: Run folder.
        device: Where networks run.
        log: Called with what happens.
        progress: Whether evaluations show a bar.
    """

    source: Path
    base: Checkpoint
    env_id: str
    env: Env[Any, Any]
    codecs: Spaces
    data: Episodes
    config: FinetuneConfig
    folder: Path
    device: str
    log: Log
    progress: bool

    def identity(self) -> dict[str, Any]:
        """Return what the results depend on, as plain JSON values."""
        stored = read_config(self.source)
        base = {"name": self.base.name, "weights_sha256": stored["weights_sha256"]}
        return {"env": self.env_id, "base": base, "data": self.data.digest(), **self.config.identity()}

    def round(self, number: int) -> Path:
        """Return the folder of a round, 0 for what is known before the first."""
        return self.folder / "rounds" / f"{number:03d}"

    def checkpoint(self, number: int) -> Path:
        """Return the checkpoint after a round."""
        return self.round(number) / "checkpoint" if number else self.source

    def policy(self, number: int) -> DFPolicy:
        """Load the policy as it is after a round."""
        planner = DFPlanner.from_pretrained(self.checkpoint(number), device=self.device)
        options = {**policy_options(self.env_id), **self.config.policy}
        return DFPolicy(planner, seed=self.config.seed, **options)

    def native(self, shards: ShardFolder, number: int) -> Trajectories:
        """Read what was collected up to and with a round, in the environment's own spaces."""
        spaces = self.env.observation_space, self.env.action_space
        return shards.read(number * self.config.episodes, *spaces)

    def replay(self, shards: ShardFolder, number: int, command: str = "") -> Episodes:
        """Read what was collected up to and with a round, as the columns of the checkpoint."""
        about = {"env": self.env_id, "finetuned": self.base.name, "seed": self.config.seed, "command": command}
        return self.native(shards, number).to_episodes(about, self.codecs)


def make_task(
    source: str | Path, env_id: str, data: Episodes, config: FinetuneConfig, folder: Path, device: str, log: Log,
    progress: bool,
) -> Task:  # fmt: skip
    """Load and check everything before any work.

    Raises:
        ValueError: If the environment, the checkpoint and the data do not go together.
    """
    base, env_id = load_checkpoint(source, device=device), resolve(env_id)
    env = make_env(env_id)
    if env.spec is not None and env.spec.max_episode_steps is None:
        raise ValueError(f"{env_id} has no time limit, so an episode may never end; wrap it in TimeLimit")
    check_exploration(env.action_space, config.collecting())
    codecs = _codecs(base, env, env_id)
    _check_data(base, data)
    task = Task(locate(source), base, env_id, env, codecs, data, config, folder, device, log, progress)
    task.policy(0)  # its options are checked here
    return task


def _codecs(base: Checkpoint, env: Env[Any, Any], env_id: str) -> Spaces:
    """Return how columns follow from the environment: the checkpoint's rules, if they are this environment's too."""
    spec, asked = base.spec, Spaces.from_env(env)
    if base.spaces is None:
        shown = env.observation_space
        own = shown.spaces["observation"] if isinstance(shown, Dict) else shown
        widths = [math.prod(s.shape) if isinstance(s, Box) else None for s in (own, env.action_space)]
        fits = widths == [spec.obs_dim, spec.act_dim]
        known = Spaces.from_dict(vector_spaces(spec.obs_dim, spec.act_dim))
    else:
        known = base.spaces
        fits = _rules(known) == _rules(asked)
    if not fits:
        raise ValueError(
            f"the checkpoint {base.name!r} was trained for {base.env or 'another environment'} with {_told(known)}, "
            f"but {env_id} has {_told(asked)}; pass a checkpoint of {env_id} (--checkpoint), or the environment of "
            "this one (--env)"
        )
    return known


def _rules(spaces: Spaces) -> Any:
    """Return what must agree; where in an observation a goal stands is for the training data to say."""
    seen = spaces.observation.to_dict()
    return {k: v for k, v in seen.items() if k != "goal_columns"}, spaces.action.to_dict()


def _told(spaces: Spaces) -> str:
    seen, taken = spaces.observation, spaces.action
    bounds = f" in [{min(taken.low):g}, {max(taken.high):g}]" if taken.kind == "box" else ""
    goal = f" and goals ({seen.goal_width},)" if seen.kind == "goal" else ""
    shapes = [str(codec.shape) if codec.kind != "discrete" else f"{codec.count} values" for codec in (seen, taken)]
    return f"observations {shapes[0]}{goal} and actions {shapes[1]}{bounds}"


def _check_data(base: Checkpoint, data: Episodes) -> None:
    found, known = data.meta.get("spaces"), base.spaces
    if found and known is not None and Spaces.from_dict(found) != known:
        raise ValueError(
            f"the data have {_told(Spaces.from_dict(found))}, but the checkpoint {base.name!r} was trained on "
            f"{_told(known)}; pass data of its environment (--data)"
        )
    widths = data.observations.shape[1], data.actions.shape[1]
    if widths != (base.spec.obs_dim, base.spec.act_dim):
        raise ValueError(
            f"the data have {widths[0]} columns of observations and {widths[1]} of actions, but the checkpoint "
            f"{base.name!r} has {base.spec.obs_dim} and {base.spec.act_dim}; pass data of its environment (--data)"
        )
