"""DFPlanner: current state and goal in, plan out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfplan.actions import denoise_actions
from dfplan.checkpoint import Checkpoint, load_checkpoint, push_checkpoint, save_checkpoint
from dfplan.errors import unknown_name
from dfplan.guidance import CheckedGuidance, Guidance
from dfplan.models.base import Cond
from dfplan.noise import add_noise, normal_like
from dfplan.plan import Plan
from dfplan.sampler import Samples, sample
from dfplan.schedule import make_schedule, start_below
from dfplan.selection import arrival_steps, feasible, select
from dfplan.tokens import CONTEXT, GOAL, STATE, goal_token, unpack_actions
from dfplan.training import PRECISIONS, use_bf16

ATTENTIONS = ("causal", "full")
Generators = torch.Generator | Sequence[torch.Generator] | None


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
        self.device = checkpoint.model.position.device
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
        obs, goal = self._inputs(obs, goal)
        B, N = len(obs), samples if samples is not None else c.samples
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
        generators = self._generators(generator, B)
        priors = None if warm_start is None else self._priors(warm_start, elapsed, B)
        rows = [
            self._plan_one(
                obs[b], None if goal is None else goal[b], N, S, attention, eta, hold, guidance, generators[b],
                None if priors is None else priors[b], actions, trace,
            )
            for b in range(B)
        ]  # fmt: skip
        seconds = (time.perf_counter() - began) / B
        return self._join(rows, goal, seconds)

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
        obs, _ = self._inputs(obs, None)
        states = torch.as_tensor(plan_states, dtype=torch.float32, device=self.device)
        states = states.unsqueeze(0) if states.ndim == 2 else states
        n = states.shape[1]
        if states.shape != (len(obs), n, self.spec.obs_dim) or not 1 <= n <= self.spec.horizon:
            raise ValueError(
                f"plan_states must have shape (B={len(obs)}, n in 1..{self.spec.horizon}, O={self.spec.obs_dim}), "
                f"got {tuple(states.shape)}"
            )
        if self.spec.kind != "path":
            raise ValueError("bundle tokens carry their actions; use plan(actions=True).actions[:, :stride]")
        x = torch.zeros(len(obs), 1 + n, self.spec.width, device=self.device)
        x[:, 0, self.spec.obs_slice] = self.norm.obs(obs)
        x[:, 1:, self.spec.obs_slice] = self.norm.obs(states)
        tokens = torch.cat([torch.tensor([STATE]), CONTEXT + torch.arange(n), torch.tensor([self.spec.plan_tokens])])
        return self._actions(x, tokens, steps or self.config.action_steps, attention, generator)

    # ---- inside

    def _priors(self, warm_start: Plan, elapsed: Any, B: int) -> Tensor:
        """Read the states (B, H, O) that an earlier plan has at the times of the new one's tokens."""
        if len(warm_start) != B:
            raise ValueError(f"warm_start must hold one plan per environment ({B}), got {len(warm_start)}")
        since = torch.as_tensor(elapsed, dtype=torch.float32)
        if since.shape not in ((), (1,), (B,)):
            raise ValueError(f"elapsed must be a number or have shape ({B},), got {tuple(since.shape)}")
        times = (torch.arange(self.spec.horizon, dtype=torch.float32) + 1) * self.spec.stride
        return warm_start.states_at(since.expand(B)[:, None] + times)

    def _generators(self, generator: Generators, B: int) -> list[torch.Generator | None]:
        if generator is None or isinstance(generator, torch.Generator):
            return [generator] * B
        if len(generator) != B:
            raise ValueError(f"pass one generator, or one per environment ({B}), got {len(generator)}")
        return list(generator)

    def _inputs(self, obs: Any, goal: Any) -> tuple[Tensor, Tensor | None]:
        """Check and convert observations (B, O) and goals (B, G)."""
        o = torch.as_tensor(obs, dtype=torch.float32, device=self.device)
        o = o.unsqueeze(0) if o.ndim == 1 else o
        if o.ndim != 2 or o.shape[1] != self.spec.obs_dim:
            raise ValueError(
                f"obs must have shape (B, {self.spec.obs_dim}) or ({self.spec.obs_dim},), got {tuple(o.shape)}"
            )
        if not bool(torch.isfinite(o).all()):
            raise ValueError("obs holds NaN or infinity; a plan from an unknown state is no plan")
        if goal is None:
            return o, None
        if not self.spec.goal_columns:
            raise TypeError("this checkpoint was trained without goals; pass goal=None and use guidance")
        g = torch.as_tensor(goal, dtype=torch.float32, device=self.device)
        g = g.unsqueeze(0) if g.ndim == 1 else g
        if g.shape not in ((len(o), len(self.spec.goal_columns)), (1, len(self.spec.goal_columns))):
            raise ValueError(f"goal must have shape (B={len(o)}, {len(self.spec.goal_columns)}), got {tuple(g.shape)}")
        if not bool(torch.isfinite(g).all()):
            raise ValueError("goal holds NaN or infinity; pass None if no goal is known")
        return o, g.expand(len(o), -1)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=use_bf16(self.config.precision, self.device))

    def _model(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        with self._autocast():
            x0_hat: Tensor = self.checkpoint.model(x, k, cond)
        return x0_hat.float()

    def _plan_one(
        self, obs: Tensor, goal: Tensor | None, N: int, S: Tensor, attention: str, eta: float, hold: str,
        guidance: Guidance | None, generator: torch.Generator | None, prior: Tensor | None, actions: bool, trace: bool,
    ) -> dict[str, Any]:  # fmt: skip
        """Sample N candidates for one environment and choose one."""
        spec = self.spec
        context = (
            [STATE] if goal is None else [STATE, GOAL]
        )  # an unknown goal would be at level K: leaving it out is the same
        tokens = torch.tensor([*context, *range(CONTEXT, spec.plan_tokens)])
        mask, draw = self._mask[tokens].to(self.device), normal_like(generator)
        x = torch.zeros(N, len(tokens), spec.width, device=self.device)
        x[:, 0, spec.obs_slice] = self.norm.obs(obs)
        if goal is not None:
            x[:, 1] = goal_token(spec, self.norm, goal[None])
        future = slice(len(context), None)
        clean = torch.zeros_like(x[:, future])
        if prior is not None:
            clean[..., spec.obs_slice] = self.norm.obs(prior.to(self.device))
        x[:, future] = add_noise(clean, S[0].expand(N, -1), draw(clean), self._alpha_bar) * mask[future]
        full_S = torch.cat([torch.zeros(len(S), len(context), dtype=torch.int64), S], 1)
        log_cost = None if guidance is None else self._log_cost(guidance, len(context))
        out = sample(
            self._model, full_S, x, alpha_bar=self._alpha_bar, tokens=tokens, order=self._order[tokens],
            causal=attention == "causal", eta=eta, hold=hold, log_cost=log_cost, draw=draw, mask=mask, trace=trace,
        )  # fmt: skip
        return self._choose(out, goal, len(context), actions, attention, generator)

    def _log_cost(self, guidance: Guidance, context: int) -> Any:
        checked = guidance if isinstance(guidance, CheckedGuidance) else CheckedGuidance(guidance)

        def log_cost(x0_hat: Tensor, k: Tensor) -> Tensor:
            keep = [0, *range(context, x0_hat.shape[1])]
            return checked(self.norm.obs_back(x0_hat[:, keep, self.spec.obs_slice]), k[keep])

        return log_cost

    def _choose(
        self,
        out: Samples,
        goal: Tensor | None,
        context: int,
        actions: bool,
        attention: str,
        generator: torch.Generator | None,
    ) -> dict[str, Any]:
        spec = self.spec
        keep = [0, *range(context, out.x.shape[1])]
        states = self.norm.obs_back(out.x[:, keep, spec.obs_slice])
        limit = torch.full((spec.obs_dim,), float("inf"), device=self.device)
        limit[list(spec.goal_columns)] = self.norm.max_move.to(limit)[list(spec.goal_columns)]
        if goal is None:
            arrival = torch.full((len(states),), float("inf"), device=self.device)
        else:
            arrival = arrival_steps(states, goal, spec.goal_columns, self.config.goal_radius, spec.stride)
        possible = feasible(states, limit, arrival, spec.stride)
        chosen = int(
            select(
                arrival[None],
                possible[None],
                states[None],
                spec.goal_columns or tuple(range(spec.obs_dim)),
                spec.stride,
            )
        )
        calls, acts = out.network_evaluations, None
        if actions:
            acts = self._plan_actions(out.x[chosen : chosen + 1, keep], attention, generator)[0]
            calls += self.config.action_steps if spec.kind == "path" else 0
        return {
            "states": states, "arrival": arrival, "possible": possible, "chosen": chosen, "actions": acts, "calls":
            calls, "S": out.S, "trace": None if out.trace is None else self.norm.obs_back(out.trace[:, :, keep,
            spec.obs_slice]),
        }  # fmt: skip

    def _plan_actions(self, plan: Tensor, attention: str, generator: torch.Generator | None) -> Tensor:
        """Denoise the actions along a clean plan (1, H+1, D): (1, H*F, A)."""
        spec = self.spec
        if spec.kind == "bundle":
            return unpack_actions(spec, self.norm, plan[:, 1:])
        tokens = torch.cat([torch.tensor([STATE]), CONTEXT + torch.arange(2 * spec.horizon)])
        return self._actions(plan, tokens, self.config.action_steps, attention, generator)

    def _actions(self, x: Tensor, tokens: Tensor, steps: int, attention: str, generator: Generators) -> Tensor:
        ladder = make_schedule("full_sequence", 1, self.levels, steps=steps)[:, 0]
        draw, causal = normal_like(generator), attention == "causal"
        mask = self._mask.to(self.device)
        chunks = denoise_actions(self._model, x, tokens, ladder, self._alpha_bar, mask=mask, causal=causal, draw=draw)
        return unpack_actions(self.spec, self.norm, chunks)

    def _join(self, rows: list[dict[str, Any]], goal: Tensor | None, seconds: float) -> Plan:
        """Stack the environments' results into one `Plan` on the CPU."""

        def stack(name: str) -> Tensor:
            return torch.stack([r[name] for r in rows]).cpu()

        candidates, selected = stack("states"), torch.tensor([r["chosen"] for r in rows])
        index = torch.arange(len(rows))
        arrival = stack("arrival")
        return Plan(
            observations=candidates[index, selected], actions=stack("actions") if rows[0]["actions"] is not None else
            None, score=-arrival[index, selected], candidates=candidates, arrival_steps=arrival,
            feasible=stack("possible"), selected=selected, goal=None if goal is None else goal.cpu(),
            schedule=rows[0]["S"], trace=torch.stack([r["trace"] for r in rows], 1).cpu() if rows[0]["trace"] is not
            None else None, stride=self.spec.stride, dt_s=self.spec.dt_s, network_evaluations=rows[0]["calls"],
            seconds=seconds,
        )  # fmt: skip
