"""DFPlanner: current state and goal in, plan out."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfplan import planner_inputs as inputs
from dfplan import questions
from dfplan.checkpoint import Checkpoint, load_checkpoint, push_checkpoint, save_checkpoint
from dfplan.context import Context, History
from dfplan.guidance import Guidance
from dfplan.models.precision import MixedPrecision
from dfplan.plan import Plan
from dfplan.planner_config import ATTENTIONS, PlannerConfig, check_weight
from dfplan.planner_inputs import Generators, or_default
from dfplan.planning import Setting, Walk, join
from dfplan.questions import Trajectories
from dfplan.schedule import make_schedule, start_below
from dfplan.searching import plan_each, shared, tree_options
from dfplan.selection import Score
from dfplan.steering import Steering
from dfplan.training import use_bf16
from dfplan.tree import TreeConfig


class DFPlanner:
    """Plan by denoising a whole future, every token along its own column of a scheduling matrix.

    Args:
        checkpoint: Model, layout, statistics.
        config: Defaults; those of the checkpoint if None.
    """

    def __init__(self, checkpoint: Checkpoint, config: PlannerConfig | None = None) -> None:
        self.checkpoint = checkpoint
        self.name, self.spec, self.norm = checkpoint.name, checkpoint.plan_spec, checkpoint.norm
        self.config = config or PlannerConfig.from_dict(checkpoint.planner)
        self.device, self.spaces = checkpoint.model.device, checkpoint.spaces
        self.levels, self._alpha_bar = checkpoint.model.levels, checkpoint.model.alpha_bar
        self.steering = Steering.towards(checkpoint.value, self.config.value_scale)
        bf16 = use_bf16(self.config.precision, self.device)
        self._model: Any = MixedPrecision(checkpoint.model, self.device, bf16=bf16)
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
        steering: Steering | None = None,
        score: Score | None = None,
        budget_ms: float | None = None,
        search: TreeConfig | None = None,
        generator: Generators = None,
        warm_start: Plan | None = None,
        elapsed: Any = 0,
        actions: bool = False,
        trace: bool = False,
        horizon: int | None = None,
        obs_level: Any = None,
        obs_noise: Any = None,
        history: History | None = None,
        plausibility: float | None = None,
    ) -> Plan:
        """Plan for a batch of environments.

        Each environment is on its own, and its plan the same whoever else is there, unless the planner is ``batched``.

        Args:
            obs: Current observations (B, O) or (O,), environment units; NaN where missing.
            goal: Goals (B, G) or (G,), environment units, the wanted return last if the layout holds returns; or None.
            samples: N, candidates per environment; with a budget, per batch; with a search, at most.
            schedule: A name, or an int64 matrix (M+1, horizon) of your own.
            slope: Rows by which each token lags behind the one before; with ``search`` at least ``steps / block``.
            steps: Reverse steps per token, 1..K.
            attention: ``"causal"`` or ``"full"``.
            eta: 0 (DDIM) to 1 (DDPM).
            hold: What happens to a token that keeps its level in a row: ``"copy"`` or ``"resample"``.
            guidance: ``log_c(states (N, H+1, O), k (H+1,)) -> (N,)`` in environment units.
            steering: How guidance acts: Monte Carlo Guidance, a learned return (by default the checkpoint's), weights.
            score: Value of candidates, states (N, H+1, O) in environment units to (N,): the best feasible one is
                chosen. None takes the one that arrives first; without goals the one worth most.
            budget_ms: Time budget in milliseconds: batch after batch is drawn until it is used up (at least one).
            search: Search a tree of sub-plans with different guidance scales; see `search`.
            generator: One for all, or one per environment; None is torch's global one.
            warm_start: An earlier plan of the same environments; it is shifted, re-noised part of the way and denoised
                again.
            elapsed: Environment steps since that plan was made, a number or (B,).
            actions: Whether to fill in the model's own actions along the selected plan.
            trace: Whether to keep all candidates after every row.
            horizon: Future tokens, 1..H; H if None. The same weights plan one token ahead or many.
            obs_level: Level of the observations, one or (B,): 0 is clean, K is missing. A layout of the kind
                ``interleaved`` then samples the state too, once per candidate; the others keep it noisy.
            obs_noise: In its place, the standard deviation of Gaussian noise on the observations in environment units:
                a number, (O,) or (B, O); see `dfplan.context.level_of_noise`.
            history: What was observed and done before, for layouts with history.
            plausibility: Weight of the model's own judgement among candidates; see `PlannerConfig`.

        Returns:
            A `Plan` on the CPU.

        Raises:
            ValueError: If a shape, a name or a number is wrong, or an observation is not finite.
            TypeError: If the task has no goal but one is given.
        """
        began, c, spec = time.perf_counter(), self.config, self.spec
        N, n = inputs.check_samples(or_default(samples, c.samples)), inputs.check_horizon(spec, horizon)
        given, goals = self._given(obs, goal, obs_level, obs_noise, history)
        B, causal, rows_per_token = len(given.x), self._causal(attention), or_default(steps, c.steps)
        lag = c.lag(slope, rows_per_token, None if search is None else search.block)
        S = make_schedule(or_default(schedule, c.schedule), n, self.levels, steps=rows_per_token, slope=lag)
        if warm_start is not None:
            S = start_below(S, max(1, round(c.warm_level * self.levels)))
        priors = inputs.warm_states(spec, warm_start, elapsed, B, n)
        setting = self._setting()
        walk = Walk(
            N, S, rows_per_token, causal, eta, hold, guidance, steering or self.steering, actions, trace, score,
            budget_ms, shared(search, budget_ms, B), check_weight(or_default(plausibility, c.plausibility)), c.batched,
        )  # fmt: skip
        known = [given.row(b, self.levels) for b in range(B)]
        rows = plan_each(setting, walk, known, goals, priors, inputs.share_generators(generator, B))
        return join(setting, rows, goals, (time.perf_counter() - began) / B)

    def search(self, obs: Any, goal: Any = None, *, guidance: Guidance | None = None, **options: Any) -> Plan:
        """Search a tree of sub-plans that differ by guidance scale and noise.

        Args:
            obs: As in `plan`.
            goal: As in `plan`.
            guidance: What the scales weigh; without it pass ``scales=(0,)`` and ``copies`` to branch by noise alone.
            options: Fields of `dfplan.tree.TreeConfig` (``scales``, ``expansions``, ``budget_ms``, ``block``, ...) and
                arguments of `plan`.

        Returns:
            A `Plan` with the best ``samples`` plans found as candidates, the best first, and the trees in ``search``.

        Raises:
            ValueError: As in `plan`, or if an option does not go with a search.
        """
        config, rest = tree_options(options)
        return self.plan(obs, goal, guidance=guidance, search=config, **rest)

    def act(
        self,
        obs: Any,
        goal: Any = None,
        *,
        history: History | None = None,
        obs_level: Any = None,
        obs_noise: Any = None,
        steps: int | None = None,
        attention: str | None = None,
        generator: Generators = None,
    ) -> Tensor:
        """Denoise the next ``stride`` actions and nothing after them: the model as a policy.

        Args:
            obs: Current observations (B, O) or (O,), environment units; NaN where missing.
            goal: Goals (B, G) or (G,), or None.
            history: As in `plan`.
            obs_level: As in `plan`.
            obs_noise: As in `plan`.
            steps: Reverse steps, 1..K; with one the result is the conditional mean.
            attention: ``"causal"`` or ``"full"``.
            generator: As in `plan`.

        Returns:
            Actions (B, stride, A), environment units, not clipped.

        Raises:
            ValueError: If a shape, a level or a number is wrong.
        """
        given, _ = self._given(obs, goal, obs_level, obs_noise, history)
        steps = or_default(steps, self.config.steps)
        return questions.act(self._setting(), given, steps, self._causal(attention), generator)

    def estimate(
        self,
        obs: Any,
        goal: Any = None,
        *,
        history: History | None = None,
        obs_level: Any = None,
        obs_noise: Any = None,
        samples: int = 1,
        steps: int = 1,
        generator: Generators = None,
    ) -> Tensor:
        """Estimate the current state from an observation that is noisy or missing, and from the history.

        Args:
            obs: As in `act`, and so are ``goal``, ``history``, ``obs_level`` and ``obs_noise``.
            goal: Goals, or None.
            history: What was observed and done before.
            obs_level: Level of the observations.
            obs_noise: Its standard deviation, in place of a level.
            samples: N, samples per environment.
            steps: Reverse steps; with one every sample is the conditional mean.
            generator: As in `plan`.

        Returns:
            (B, N, O), environment units; a clean observation is returned as it is.

        Raises:
            ValueError: If an argument is wrong, or this checkpoint was trained with the state always given.
        """
        given, _ = self._given(obs, goal, obs_level, obs_noise, history)
        return questions.estimate(self._setting(), given, samples, steps, True, generator)

    def imagine(
        self,
        obs: Any,
        actions: Any,
        *,
        history: History | None = None,
        samples: int | None = None,
        obs_level: Any = None,
        obs_noise: Any = None,
        schedule: str | Tensor = "autoregressive",
        slope: float | None = None,
        steps: int | None = None,
        generator: Generators = None,
    ) -> Tensor:
        """Denoise the states that given actions lead to: the model as a world model.

        Args:
            obs: Current observations (B, O) or (O,), environment units; NaN where missing.
            actions: (B, n*F, A) or (n*F, A), environment units, 1 <= n <= H.
            history: As in `plan`.
            samples: N, futures per environment; None is one, without an axis of its own.
            obs_level: As in `plan`.
            obs_noise: As in `plan`.
            schedule: Name of the scheduling matrix, or the matrix (M+1, n).
            slope: Of a zig-zag.
            steps: Reverse steps per token, 1..K; with one each state is the mean given those before it.
            generator: As in `plan`.

        Returns:
            (B, n+1, O), or (B, N, n+1, O) if ``samples`` is given: the current state, then one every ``stride`` steps.

        Raises:
            ValueError: If an argument is wrong, or in this layout states do not see actions.
        """
        questions.check_visible_actions(self.spec.kind)
        given, _ = self._given(obs, None, obs_level, obs_noise, history)
        chosen = inputs.check_actions(self.spec, actions, len(given.x), self.device)
        found = questions.imagine(
            self._setting(), given, chosen, or_default(samples, 1), schedule, or_default(slope, self.config.slope),
            or_default(steps, self.config.steps), generator,
        )  # fmt: skip
        return found[:, 0] if samples is None else found

    def infer_actions(
        self, states: Any, *, steps: int | None = None, attention: str | None = None, generator: Generators = None
    ) -> Tensor:
        """Denoise the actions that lead along given states: the model as inverse dynamics.

        Args:
            states: (B, n+1, O) or (n+1, O), environment units: measured now, and every ``stride`` steps from now.
            steps: Reverse steps, 1..K; with one the result is the conditional mean.
            attention: ``"causal"`` or ``"full"``, of the kind ``path``; interleaved tokens always need full.
            generator: As in `plan`.

        Returns:
            Actions (B, n*F, A), environment units, not clipped.

        Raises:
            ValueError: If shapes do not fit, or the layout has no separate action tokens.
        """
        B = len(states) if torch.as_tensor(states).ndim == 3 else 1
        known = inputs.check_states(self.spec, states, B, self.device, first=1)
        steps = or_default(steps, self.config.action_steps)
        n = known.shape[1] - 1
        return questions.infer_actions(self._setting(), known, n, steps, self._causal(attention), generator)

    def prior(
        self,
        samples: int = 1,
        *,
        schedule: str | Tensor | None = None,
        slope: float | None = None,
        steps: int | None = None,
        attention: str | None = None,
        generator: torch.Generator | None = None,
    ) -> Trajectories:
        """Sample trajectories from nothing: no observation, no goal, no action is given.

        Args:
            samples: N.
            schedule: A name, or an int64 matrix (M+1, 2H+1): the state, the first chunk of actions, ...
            slope: Rows by which each token lags behind the one before.
            steps: Reverse steps per token.
            attention: ``"causal"`` or ``"full"``.
            generator: Source of noise.

        Raises:
            ValueError: If an argument is wrong, or this checkpoint was trained with the state always given.
        """
        c = self.config
        return questions.prior(
            self._setting(), samples, or_default(schedule, c.schedule), or_default(slope, c.slope),
            or_default(steps, c.steps), self._causal(attention), generator,
        )  # fmt: skip

    def first_actions(
        self,
        obs: Any,
        plan_states: Any,
        *,
        steps: int | None = None,
        attention: str | None = "causal",
        generator: Generators = None,
    ) -> Tensor:
        """Denoise the actions of the next ``stride`` steps, given the measured state and the states planned next.

        This asks the same weights the inverse-dynamics question: states clean, actions noisy.

        Args:
            obs: Measured observations (B, O) or (O,).
            plan_states: Planned states (B, n, O) at ``stride``, 2 ``stride``, ... steps from now, 1 <= n <= H.
            steps: Reverse steps, 1..K; with one step the result is the conditional mean.
            attention: ``"causal"`` sees the first of them, ``"full"`` all; interleaved tokens always need full.
            generator: As in `plan`.

        Returns:
            Actions (B, stride, A), environment units, not clipped.

        Raises:
            ValueError: If shapes do not fit, or the layout has no separate action tokens.
        """
        given, _ = self._given(obs, None, None, None, None)
        planned = inputs.check_states(self.spec, plan_states, len(given.x), self.device)
        first = torch.as_tensor(obs, dtype=torch.float32, device=self.device).reshape(len(planned), 1, -1)
        states, steps = torch.cat([first, planned], 1), or_default(steps, self.config.action_steps)
        return questions.infer_actions(self._setting(), states, 1, steps, self._causal(attention), generator)

    # ---- inside

    def _causal(self, attention: str | None) -> bool:
        return inputs.check_attention(or_default(attention, self.config.attention))

    def _given(self, *known: Any) -> tuple[Context, Tensor | None]:
        return inputs.read_known(self.spec, self.norm, self._alpha_bar, self.device, *known)

    def _setting(self) -> Setting:
        return Setting(
            self._model, self.spec, self.norm, self._alpha_bar, self._order, self._mask, self.device,
            self.config.goal_radius, self.config.action_steps,
            max(1, round(self.config.plausibility_level * self.levels)),
        )  # fmt: skip


__all__ = ["ATTENTIONS", "DFPlanner", "History", "PlannerConfig", "Trajectories"]
