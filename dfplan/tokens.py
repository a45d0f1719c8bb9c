"""What a token is: the layout of a sequence, who may look at whom.

A sequence is ``[state, goal, future 1..H, action chunk 1..H]``. The *state* is the measured observation, the *goal* is
an optional clean token (level K means that no goal is known), each *future* token stands for ``stride`` environment
steps.

Three kinds of future token exist:

``path``
    The observation every ``stride`` steps. The actions between two observations are a token of their own, a leaf that
    sees the states and is seen by nobody, so that a planner can leave it out and a controller can ask for it with the
    states given.
``bundle``
    All ``stride`` steps of ``(a, r, o')`` in one token, as in the paper; there are no separate action tokens.
``interleaved``
    The positions of ``path``, and after them ``history`` past observations and ``history`` past action chunks, oldest
    first. Action tokens are seen by the others and every token has a level of its own, so that the pattern of levels
    alone chooses the question. The causal order is goal, o_-h, a_-h, ..., o_-1, a_-1, o_0 (the state), a_1, o_1, a_2,
    ...: chunk a_i leads from o_{i-1} to o_i. Causally o_i sees a_i (a world model) and a_{i+1} sees o_i (a policy);
    a_i sees o_i (inverse dynamics) with full attention only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dfplan.errors import unknown_name
from dfplan.normalizer import Normalizer as Normalizer  # seen from here by those who use tokens

KINDS = ("path", "bundle", "interleaved")
CONTEXT = 2  # the state token and the goal token
STATE, GOAL = 0, 1


@dataclass(frozen=True)
class TokenSpec:
    """Describe the tokens of one task.

    Attributes:
        obs_dim: O, width of an observation.
        act_dim: A, width of an action.
        stride: F, environment steps per future token.
        horizon: H, future tokens.
        dt_s: Seconds per environment step.
        kind: ``"path"``, ``"bundle"`` or ``"interleaved"``.
        goal_columns: Observation columns that make up a goal; empty if the task has none.
        rest_columns: Observation columns that are 0 when the system rests (velocities).
        rewards: Whether bundles hold rewards.
        returns: Whether the goal token holds the return that is wanted (`dfplan.returns`), behind a goal if there is
            one.
        history: h, past observations and past action chunks, ``stride`` steps apart; of the kind ``interleaved`` only.
    """

    obs_dim: int
    act_dim: int
    stride: int
    horizon: int
    dt_s: float = 0.01
    kind: str = "path"
    goal_columns: tuple[int, ...] = (0, 1)
    rest_columns: tuple[int, ...] = (2, 3)
    rewards: bool = False
    history: int = 0
    returns: bool = False

    def __post_init__(self) -> None:
        for name in ("obs_dim", "act_dim", "stride", "horizon"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.kind not in KINDS:
            raise unknown_name("token kind", self.kind, KINDS)
        if self.kind != "bundle" and self.rewards:
            raise ValueError(f"{self.kind} tokens hold no rewards; use kind='bundle'")
        if not isinstance(self.history, int) or self.history < 0:
            raise ValueError(f"history must be an integer of 0 or more, got {self.history!r}")
        if self.history and self.kind != "interleaved":
            raise ValueError(f"{self.kind} tokens have no history, got history={self.history}; use kind='interleaved'")
        for name in ("goal_columns", "rest_columns"):
            columns = tuple(int(c) for c in getattr(self, name))
            object.__setattr__(self, name, columns)
            if any(not 0 <= c < self.obs_dim for c in columns):
                raise ValueError(f"{name} must lie in 0..{self.obs_dim - 1}, got {columns}")

    @property
    def chunked(self) -> bool:
        """Whether the actions between two observations are a token of their own."""
        return self.kind != "bundle"

    @property
    def steps(self) -> int:
        """Environment steps that a whole plan covers."""
        return self.horizon * self.stride

    @property
    def obs_columns(self) -> int:
        """Columns that hold observations; the last ``obs_dim`` of them are the newest."""
        return self.obs_dim * (self.stride if self.kind == "bundle" else 1)

    @property
    def act_columns(self) -> int:
        """Columns that hold the ``stride`` actions of a token, the first action first."""
        return self.act_dim * self.stride

    @property
    def width(self) -> int:
        """D: observations, then rewards, then the return, then actions."""
        return self.obs_columns + (self.stride if self.rewards else 0) + int(self.returns) + self.act_columns

    @property
    def goal_width(self) -> int:
        """Numbers that the goal token is made of: the goal's, then the return."""
        return len(self.goal_columns) + int(self.returns)

    @property
    def reward_slice(self) -> slice:
        """Columns of the rewards of a token; empty if there are none."""
        return slice(self.obs_columns, self.return_column)

    @property
    def return_column(self) -> int:
        """Column of the return in the goal token, if there is one."""
        return self.obs_columns + (self.stride if self.rewards else 0)

    @property
    def plan_tokens(self) -> int:
        """Tokens that a planner denoises or is given: state, goal, future."""
        return CONTEXT + self.horizon

    @property
    def tokens(self) -> int:
        """T: all token positions."""
        return self.past_tokens + 2 * self.history

    @property
    def past_tokens(self) -> int:
        """Tokens before the history: state, goal, future, action chunks; the position of the oldest observation."""
        return self.plan_tokens + (self.horizon if self.chunked else 0)

    @property
    def obs_slice(self) -> slice:
        """Columns of the newest observation of a token."""
        return slice(self.obs_columns - self.obs_dim, self.obs_columns)

    @property
    def act_slice(self) -> slice:
        """Columns of the actions of a token."""
        return slice(self.width - self.act_columns, self.width)

    def action_token(self, chunk: int) -> int:
        """Return the position of the token that holds action chunk ``chunk`` (0-based)."""
        if not 0 <= chunk < self.horizon:
            raise ValueError(f"chunk must lie in 0..{self.horizon - 1}, got {chunk}")
        return (self.plan_tokens if self.chunked else CONTEXT) + chunk

    def column_mask(self) -> Tensor:
        """Build the bool (T, D) mask of the columns that each token uses; the others are always 0."""
        mask = torch.zeros(self.tokens, self.width, dtype=torch.bool)
        mask[STATE, self.obs_slice] = True
        first = self.obs_columns - self.obs_dim
        mask[GOAL, [first + c for c in self.goal_columns]] = True
        if self.returns:
            mask[GOAL, self.return_column] = True
        if self.kind == "bundle":
            mask[CONTEXT:, : self.return_column] = True
            mask[CONTEXT:, self.act_slice] = True
            return mask
        first_past = self.past_tokens
        mask[CONTEXT : self.plan_tokens, self.obs_slice] = True
        mask[self.plan_tokens : first_past, self.act_slice] = True
        mask[first_past : first_past + self.history, self.obs_slice] = True
        mask[first_past + self.history :, self.act_slice] = True
        return mask

    def order(self) -> Tensor:
        """Build the int64 (T,) causal order.

        ``path`` and ``bundle``: context 0, future token i (0-based) at 2i + 2, its action chunk at 2i + 3.
        ``interleaved``: the goal 0, then past observations and chunks in turn, the state at 2h + 1, then chunk i at
        2h + 2i + 2 and future token i at 2h + 2i + 3.
        """
        if self.kind == "interleaved":
            h, i, past = self.history, 2 * torch.arange(self.horizon), 2 * torch.arange(self.history)
            return torch.cat([torch.tensor([2 * h + 1, 0]), 2 * h + 3 + i, 2 * h + 2 + i, past + 1, past + 2])
        future = 2 * torch.arange(self.horizon) + 2
        parts = [torch.zeros(CONTEXT, dtype=torch.int64), future]
        return torch.cat([*parts, future + 1] if self.kind == "path" else parts)

    def attention(self, causal: bool) -> Tensor:
        """Build the bool (T, T) mask of who (row) may look at whom (column).

        Causal: only tokens at or before one's own place in ``order``. Full: everything. In both, an action token of the
        kind ``path`` is seen by itself alone.
        """
        order = self.order()
        allowed = order[None, :] <= order[:, None] if causal else torch.ones(self.tokens, self.tokens, dtype=torch.bool)
        if self.kind == "path":
            allowed[:, self.plan_tokens :] = torch.eye(self.tokens, dtype=torch.bool)[:, self.plan_tokens :]
        return allowed

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; without returns there is no entry for them, so that old runs resume."""
        values = asdict(self)
        return values if self.returns else {n: v for n, v in values.items() if n != "returns"}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TokenSpec:
        """Rebuild from ``to_dict``."""
        return cls(
            **{**values, "goal_columns": tuple(values["goal_columns"]), "rest_columns": tuple(values["rest_columns"])}
        )


def pack(
    spec: TokenSpec,
    norm: Normalizer,
    obs: Tensor,
    act: Tensor,
    goal: Tensor,
    rewards: Tensor | None = None,
    past: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Pack a window of environment steps into normalised tokens.

    Args:
        spec: The layout.
        norm: The statistics.
        obs: Observations (B, H*F + 1, O).
        act: Actions (B, H*F, A).
        goal: Goals (B, G) in environment units, G = ``spec.goal_width``: the goal, then the return.
        rewards: (B, H*F), needed if ``spec.rewards``.
        past: Observations (B, h, O) and actions (B, h*F, A) before the window, oldest first, needed if
            ``spec.history``.

    Returns:
        x0 (B, T, D); columns that a token does not use are 0.

    Raises:
        ValueError: If a shape does not fit the layout.
    """
    B, L = len(obs), spec.steps
    expected = {
        "obs": (obs, (B, L + 1, spec.obs_dim)),
        "act": (act, (B, L, spec.act_dim)),
        "goal": (goal, (B, spec.goal_width)),
    }
    for name, (value, shape) in expected.items():
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
    n_obs, n_act = norm.obs(obs), norm.act(act)
    x0 = obs.new_zeros(B, spec.tokens, spec.width)
    x0[:, STATE, spec.obs_slice] = n_obs[:, 0]
    x0[:, GOAL] = goal_token(spec, norm, goal)
    future = slice(CONTEXT, spec.plan_tokens)
    chunks = n_act.reshape(B, spec.horizon, spec.act_columns)
    if spec.chunked:
        x0[:, future, spec.obs_slice] = n_obs[:, spec.stride :: spec.stride]
        x0[:, spec.plan_tokens : spec.past_tokens, spec.act_slice] = chunks
        if spec.history:
            if past is None:
                raise ValueError("this layout holds history; pass past=(observations (B, h, O), actions (B, h*F, A))")
            x0[:, spec.past_tokens :] = history_tokens(spec, norm, *past)
        return x0
    x0[:, future, : spec.obs_columns] = n_obs[:, 1:].reshape(B, spec.horizon, spec.obs_columns)
    x0[:, future, spec.act_slice] = chunks
    if spec.rewards:
        if rewards is None:
            raise ValueError("this layout holds rewards; pass rewards (B, H*F)")
        x0[:, future, spec.reward_slice] = norm.reward(rewards).reshape(B, spec.horizon, spec.stride)
    return x0


def goal_token(spec: TokenSpec, norm: Normalizer, goal: Tensor) -> Tensor:
    """Build the normalised goal token (B, D) from goals (B, G) in environment units, a return last if there is one."""
    out = goal.new_zeros(len(goal), spec.width)
    first = spec.obs_columns - spec.obs_dim
    columns = list(spec.goal_columns)
    mean, std = norm.obs_mean.to(goal)[columns], norm.obs_std.to(goal)[columns]
    out[:, [first + c for c in columns]] = (goal[:, : len(columns)] - mean) / std
    if spec.returns:
        if norm.returns is None:
            raise ValueError("this layout holds returns but the statistics do not; compute them again from the data")
        out[:, spec.return_column] = (goal[:, -1] - norm.returns.mean) / norm.returns.std
    return out


def history_tokens(spec: TokenSpec, norm: Normalizer, obs: Tensor, act: Tensor) -> Tensor:
    """Build the normalised history tokens (B, 2h, D): past observations, then past action chunks, oldest first.

    Args:
        spec: The layout.
        norm: The statistics.
        obs: Observations (B, h, O) at h*F, ..., 2F, F steps ago, environment units.
        act: Actions (B, h*F, A) from the oldest of them up to now, environment units.

    Raises:
        ValueError: If a shape does not fit the layout.
    """
    B, h = len(obs), spec.history
    for name, value, shape in (
        ("past observations", obs, (B, h, spec.obs_dim)),
        ("past actions", act, (B, h * spec.stride, spec.act_dim)),
    ):
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
    out = obs.new_zeros(B, 2 * h, spec.width)
    out[:, :h, spec.obs_slice] = norm.obs(obs)
    out[:, h:, spec.act_slice] = norm.act(act).reshape(B, h, spec.act_columns)
    return out


def unpack_states(spec: TokenSpec, norm: Normalizer, x: Tensor) -> Tensor:
    """Read the states (..., H+1, O) of the state token and the future tokens from tokens (..., >= 2 + H, D)."""
    keep = [STATE, *range(CONTEXT, spec.plan_tokens)]
    return norm.obs_back(x[..., keep, spec.obs_slice])


def unpack_actions(spec: TokenSpec, norm: Normalizer, chunks: Tensor) -> Tensor:
    """Read the actions (..., n*F, A) of n consecutive action-bearing tokens (..., n, D)."""
    flat = chunks[..., spec.act_slice]
    return norm.act_back(flat.reshape(*flat.shape[:-2], flat.shape[-2] * spec.stride, spec.act_dim))


def unpack_rewards(spec: TokenSpec, norm: Normalizer, bundles: Tensor) -> Tensor:
    """Read the rewards (..., n*F) of n consecutive bundles (..., n, D)."""
    return norm.reward_back(bundles[..., spec.reward_slice]).flatten(-2)
