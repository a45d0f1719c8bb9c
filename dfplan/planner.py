"""DFPlanner: current state and goal in, plan out."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfplan.checkpoint import Checkpoint, load_checkpoint, push_checkpoint, save_checkpoint
from dfplan.errors import unknown_name
from dfplan.guidance import Guidance
from dfplan.models.base import Cond
from dfplan.plan import Plan
from dfplan.planner_inputs import Generators, check_goal, check_obs, check_states, share_generators, warm_states
from dfplan.planning import Setting, Walk, actions_along, join, plan_one
from dfplan.schedule import make_schedule, start_below
from dfplan.tokens import CONTEXT, STATE
from dfplan.training import PRECISIONS, use_bf16

ATTENTIONS = ("causal", "full")


@dataclass(frozen=True)
class PlannerConfig:
    """Default arguments of `DFPlanner.plan`.

    Attributes:
        samples: N, candidates per environment.
        schedule: Name of the scheduling matrix.
        slope: Slope of the zig-zag, rows per token.
        steps: Reverse steps per token.
        attention: ``"causal"`` or ``"full"``.
        warm_level: Share of K at which a warm-started plan begins.
        goal_radius: Radius of the goal disc, environment units.
        action_steps: Reverse steps for action tokens.
        precision: ``"auto"`` (bf16 where the processor has it), ``"fp32"`` or ``"bf16"``.
    """

    samples: int = 16
    schedule: str = "pyramid"
    slope: float = 1.0
    steps: int = 20
    attention: str = "causal"
    warm_level: float = 0.5
    goal_radius: float = 0.5
    action_steps: int = 1
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.attention not in ATTENTIONS:
            raise unknown_name("attention", self.attention, ATTENTIONS)
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        for name in ("samples", "steps", "action_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.warm_level <= 1:
            raise ValueError(f"warm_level must lie in (0, 1], got {self.warm_level}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PlannerConfig:
        """Build from a dictionary; an unknown entry is an error that names the nearest one."""
        names = [f.name for f in fields(cls)]
        for key in values:
            if key not in names:
                raise unknown_name("planner option", key, names)
        return cls(**values)


class DFPlanner:
    """Plan by denoising a whole future, every token along its own column of a scheduling matrix.

    Args:
        checkpoint: Model, layout, statistics.
        config: Defaults; those of the checkpoint if None.
    """

    def __init__(self, checkpoint: Checkpoint, config: PlannerConfig | None = None) -> None:
        self.checkpoint = checkpoint
        self.name, self.spec, self.norm = checkpoint.name, checkpoint.spec, checkpoint.norm
        self.config = config or PlannerConfig.from_dict(checkpoint.planner)
        self.device = checkpoint.model.device
        self.levels = checkpoint.model.levels
        self._alpha_bar = checkpoint.model.alpha_bar
        self._order, self._mask = self.spec.order(), self.spec.column_mask().float()

    @classmethod
    def from_pretrained(cls, source: str | Path, *, device: str = "cpu", **options: Any) -> DFPlanner:
        """Load a bundled checkpoint, a folder or a Hugging Face Hub id.

        Args:
            source: For example ``"maze2d-large"``, ``"runs/x/checkpoint"`` or ``"owner/name"``.
            device: ``"cpu"``, ``"cuda"``, ...
            options: Entries of `PlannerConfig` that replace the checkpoint's defaults.

        Raises:
            FileNotFoundError: If a folder is not a checkpoint.
            ValueError: If a name is unknown or a file is damaged.
        """
        checkpoint = load_checkpoint(source, device=device)
        return cls(checkpoint, PlannerConfig.from_dict({**checkpoint.planner, **options}))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the checkpoint with this planner's defaults to a folder."""
        return save_checkpoint(replace(self.checkpoint, planner=asdict(self.config)), folder)

    def push_to_hub(self, repo: str, *, private: bool = False) -> str:
        """Upload to the Hugging Face Hub; returns the address of the commit."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            return push_checkpoint(self.save_pretrained(folder), repo, private=private)

    @property
    def horizon_steps(self) -> int:
        """Environment steps that a plan covers."""
        return self.spec.steps

    def plan(
        self,
        obs: Any,
        goal: Any = None,
        *,
        samples: int | None = None,
        schedule: str | Tensor | None = None,
        slope: float | None = None,
        steps: int | None = None,
        attention: str | None = None,
        eta: float = 0.0,
        hold: str = "copy",
        guidance: Guidance | None = None,
        generator: Generators = None,
        warm_start: Plan | None = None,
        elapsed: Any = 0,
        actions: bool = False,
        trace: bool = False,
    ) -> Plan:
        """Plan for a batch of environments.

        Each environment is planned on its own, so its plan does not depend on who else is in the batch.

        Args:
            obs: Current observations (B, O) or (O,), environment units.
            goal: Goals (B, G) or (G,), environment units; None if no goal is known.
            samples: N, candidates per environment.
            schedule: A name, or an int64 matrix (M+1, H) of your own.
            slope: Rows by which each token lags behind the one before.
            steps: Reverse steps per token, 1..K.
            attention: ``"causal"`` or ``"full"``.
            eta: 0 (DDIM) to 1 (DDPM).
            hold: What happens to a token that keeps its level in a row: ``"copy"`` or ``"resample"``.
            guidance: ``log_c(states (N, H+1, O), k (H+1,)) -> (N,)`` in environment units.
            generator: One for all, or one per environment; None is torch's global one.
            warm_start: An earlier plan of the same environments; it is shifted, re-noised part of the way and denoised
                again.
            elapsed: Environment steps since that plan was made, a number or (B,).
            actions: Whether to fill in the model's own actions along the selected plan.
            trace: Whether to keep all candidates after every row.

        Returns:
            A `Plan` on the CPU.

        Raises:
            ValueError: If a shape, a name or a number is wrong, or an observation is not finite.
            TypeError: If the task has no goal but one is given.
        """
        began = time.perf_counter()
        c = self.config
        obs = check_obs(self.spec, obs, self.device)
        goal, B = check_goal(self.spec, goal, len(obs), self.device), len(obs)
        N = samples if samples is not None else c.samples
        if N < 1:
            raise ValueError(f"samples must be at least 1, got {N}")
        attention = attention if attention is not None else c.attention
        if attention not in ATTENTIONS:
            raise unknown_name("attention", attention, ATTENTIONS)
        S = make_schedule(
            schedule if schedule is not None else c.schedule, self.spec.horizon, self.levels,
            steps=steps if steps is not None else c.steps, slope=slope if slope is not None else c.slope,
        )  # fmt: skip
        if warm_start is not None:
            S = start_below(S, max(1, round(c.warm_level * self.levels)))
        generators = share_generators(generator, B)
        priors = warm_states(self.spec, warm_start, elapsed, B)
        setting, walk = self._setting(), Walk(N, S, attention == "causal", eta, hold, guidance, actions, trace)
        rows = [
            plan_one(
                setting, walk, obs[b], None if goal is None else goal[b], None if priors is None else priors[b],
                generators[b],
            )
            for b in range(B)
        ]  # fmt: skip
        return join(setting, rows, goal, (time.perf_counter() - began) / B)

    def first_actions(
        self,
        obs: Any,
        plan_states: Any,
        *,
        steps: int | None = None,
        attention: str = "causal",
        generator: Generators = None,
    ) -> Tensor:
        """Denoise the actions of the next ``stride`` steps, given the measured state and the states planned next.

        This asks the same weights the inverse-dynamics question: states clean, actions noisy.

        Args:
            obs: Measured observations (B, O) or (O,).
            plan_states: Planned states (B, n, O) at ``stride``, 2 ``stride``, ... steps from now, 1 <= n <= H.
            steps: Reverse steps, 1..K; with one step the result is the conditional mean.
            attention: ``"causal"`` sees the first of them, ``"full"`` all.
            generator: As in `plan`.

        Returns:
            Actions (B, stride, A), environment units, not clipped.

        Raises:
            ValueError: If shapes do not fit, or the layout has no separate action tokens.
        """
        obs = check_obs(self.spec, obs, self.device)
        states = check_states(self.spec, plan_states, len(obs), self.device)
        n = states.shape[1]
        if self.spec.kind != "path":
            raise ValueError("bundle tokens carry their actions; use plan(actions=True).actions[:, :stride]")
        x = torch.zeros(len(obs), 1 + n, self.spec.width, device=self.device)
        x[:, 0, self.spec.obs_slice] = self.norm.obs(obs)
        x[:, 1:, self.spec.obs_slice] = self.norm.obs(states)
        tokens = torch.cat([torch.tensor([STATE]), CONTEXT + torch.arange(n), torch.tensor([self.spec.plan_tokens])])
        return actions_along(
            self._setting(), x, tokens, steps or self.config.action_steps, attention == "causal", generator
        )

    # ---- inside

    def _setting(self) -> Setting:
        return Setting(
            self._model, self.spec, self.norm, self._alpha_bar, self._order, self._mask, self.device,
            self.config.goal_radius, self.config.action_steps,
        )  # fmt: skip

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=use_bf16(self.config.precision, self.device))

    def _model(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        with self._autocast():
            x0_hat: Tensor = self.checkpoint.model(x, k, cond)
        return x0_hat.float()
