"""What a planner is given: the measured observation, the goal and the history, each at a level that says its worth.

A clean token is at level 0. An observation with known Gaussian noise is at the level of the same noise-to-signal ratio,
and one that is missing is at level K, which is the same as leaving its token out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dfplan.tokens import GOAL, STATE, Normalizer, TokenSpec, goal_token, history_tokens


@dataclass(frozen=True)
class History:
    """Hold what was observed and done before now, oldest first, in environment units.

    Attributes:
        obs: (B, h, O), the observations of h*F, ..., 2F, F steps ago; at most as many as the layout's ``history``.
        act: (B, h*F, A), the actions taken since the oldest of them.
        levels: int64 (B, h), the level of each observation, 0 (clean) to K (missing; it may be NaN); all 0 if None.
        valid: bool (B, h), False where the episode had not begun: neither the observation nor the actions after it
            count. All True if None.
    """

    obs: Tensor
    act: Tensor
    levels: Tensor | None = None
    valid: Tensor | None = None


@dataclass(frozen=True)
class Context:
    """Hold the tokens that are given.

    Attributes:
        tokens: int64 (c,), positions, the state first.
        x: (B, c, D), at their levels.
        k: int64 (B, c).
    """

    tokens: Tensor
    x: Tensor
    k: Tensor

    def without(self, position: int) -> Context:
        """Return the context without one position."""
        keep = self.tokens != position
        return Context(self.tokens[keep], self.x[:, keep], self.k[:, keep])

    def with_state(self, state: Tensor) -> Context:
        """Return the context with normalised clean state tokens (B, D) in place of what it knew of them."""
        rest = self.without(STATE)
        none = rest.k.new_zeros(len(state), 1)
        return Context(
            torch.cat([torch.tensor([STATE]), rest.tokens]),
            torch.cat([state.unsqueeze(1), rest.x], 1),
            torch.cat([none, rest.k], 1),
        )

    def added(self, tokens: Tensor, x: Tensor) -> Context:
        """Return the context with clean tokens (B, n, D) appended."""
        return Context(
            torch.cat([self.tokens, tokens]),
            torch.cat([self.x, x], 1),
            torch.cat([self.k, self.k.new_zeros(len(x), len(tokens))], 1),
        )

    def repeated(self, n: int) -> Context:
        """Return the context with every row repeated ``n`` times."""
        return replace(self, x=self.x.repeat_interleave(n, 0), k=self.k.repeat_interleave(n, 0))

    def groups(self, levels: int) -> list[tuple[Tensor, Context]]:
        """Part the batch into rows whose tokens have the same levels, leaving out the tokens at level K.

        Returns:
            Pairs of int64 row numbers (B',) and their context.
        """
        patterns: dict[tuple[int, ...], list[int]] = {}
        for b, row in enumerate(self.k.tolist()):
            patterns.setdefault(tuple(row), []).append(b)
        return [(torch.tensor(rows), self._part(torch.tensor(rows), levels)) for rows in patterns.values()]

    def row(self, b: int, levels: int) -> Context:
        """Return one row of the batch, leaving out the tokens at level K."""
        return self._part(torch.tensor([b]), levels)

    def _part(self, rows: Tensor, levels: int) -> Context:
        keep = self.k[rows[0]] < levels
        x = self.x[rows.to(self.x.device)][:, keep.to(self.x.device)]
        return Context(self.tokens[keep], x, self.k[rows][:, keep])


def build_context(
    spec: TokenSpec, norm: Normalizer, alpha_bar: Tensor, obs: Tensor, level: Tensor, goal: Tensor | None,
    history: History | None,
) -> Context:  # fmt: skip
    """Turn what is known into tokens at their levels.

    A measured value ``obs = x0 + sigma eps`` (normalised) is, times ``sqrt(abar_k)``, a token at the level k with
    ``sigma^2 = (1 - abar_k) / abar_k``.

    Args:
        spec: The layout.
        norm: The statistics.
        alpha_bar: Table (K+1,).
        obs: (B, O), checked; ignored where the level is K.
        level: int64 (B,).
        goal: (B, G) or None.
        history: Checked by `check_history`, or None.
    """
    B = len(obs)
    state = obs.new_zeros(B, 1, spec.width)
    state[..., spec.obs_slice] = norm.obs(obs).unsqueeze(1)
    tokens, x, k = [torch.tensor([STATE])], [scaled(state, level[:, None], alpha_bar)], [level[:, None]]
    if goal is not None:
        tokens.append(torch.tensor([GOAL]))
        x.append(goal_token(spec, norm, goal).unsqueeze(1))
        k.append(torch.zeros(B, 1, dtype=torch.int64))
    if history is not None and history.levels is not None and history.valid is not None:
        h, K = history.obs.shape[1], len(alpha_bar) - 1
        past = history_tokens(replace(spec, history=h), norm, torch.nan_to_num(history.obs), history.act)
        levels = torch.cat([history.levels, torch.zeros_like(history.levels)], 1)
        levels = torch.where(history.valid.repeat(1, 2), levels, K)
        newest = spec.history - h + torch.arange(h)
        tokens.append(spec.past_tokens + torch.cat([newest, spec.history + newest]))
        x.append(scaled(past, levels, alpha_bar))
        k.append(levels)
    return Context(torch.cat(tokens), torch.cat(x, 1), torch.cat(k, 1))


def scaled(values: Tensor, k: Tensor, alpha_bar: Tensor) -> Tensor:
    """Multiply tokens (B, n, D) by ``sqrt(abar_k)``; clean ones are returned bit for bit."""
    return values * alpha_bar[k.to(alpha_bar.device)].sqrt().to(values).unsqueeze(-1)


def level_of_noise(spec: TokenSpec, norm: Normalizer, alpha_bar: Tensor, noise: Any, B: int) -> Tensor:
    """Find the level that stands for Gaussian noise on the observations.

    It is the lowest level whose noise-to-signal ratio ``sqrt((1 - abar) / abar)`` is at least ``noise / std`` of the
    data in every column; a column with less noise is then trusted less than it could be.

    Args:
        spec: The layout.
        norm: The statistics.
        alpha_bar: Table (K+1,).
        noise: Standard deviation in environment units: a number, (O,) or (B, O). Infinity is level K.
        B: Number of environments.

    Returns:
        int64 (B,).

    Raises:
        ValueError: If the shape is wrong or a value is negative or NaN.
    """
    sigma = torch.as_tensor(noise, dtype=torch.float64).cpu()
    if sigma.shape not in ((), (spec.obs_dim,), (B, spec.obs_dim)):
        raise ValueError(f"obs_noise must be a number or have shape ({spec.obs_dim},) or ({B}, {spec.obs_dim}), got "
                         f"{tuple(sigma.shape)}")  # fmt: skip
    if not bool((sigma >= 0).all()):
        raise ValueError("obs_noise is a standard deviation and must be at least 0; infinity if nothing is known")
    worst = (sigma / norm.obs_std.double().cpu()).expand(B, -1).max(1).values
    table = alpha_bar.double().cpu()
    ratio = ((1 - table) / table).sqrt()
    return torch.bucketize(worst, ratio * (1 + 1e-6))


def check_level(spec: TokenSpec, norm: Normalizer, alpha_bar: Tensor, level: Any, noise: Any, B: int) -> Tensor:
    """Check and convert the level of the measured observations to int64 (B,).

    Raises:
        TypeError: If levels are not integers.
        ValueError: If both a level and a noise are given, or a shape or range is wrong.
    """
    K = len(alpha_bar) - 1
    if noise is not None:
        if level is not None:
            raise ValueError("pass obs_level or obs_noise, not both; the level follows from the noise")
        return level_of_noise(spec, norm, alpha_bar, noise, B)
    k = torch.as_tensor(0 if level is None else level).cpu()
    if k.is_floating_point() or k.dtype == torch.bool:
        raise TypeError(f"obs_level must be an integer or an integer tensor, got {k.dtype}; use k.long()")
    if k.shape not in ((), (1,), (B,)):
        raise ValueError(f"obs_level must be one level or have shape ({B},), got {tuple(k.shape)}")
    if int(k.min()) < 0 or int(k.max()) > K:
        raise ValueError(f"obs_level must lie in 0..{K}, got {int(k.min())}..{int(k.max())}; {K} is missing")
    return k.long().expand(B)


def check_history(
    spec: TokenSpec, history: History | None, B: int, levels: int, device: torch.device
) -> History | None:
    """Check and convert a history; fills in levels and validity.

    Raises:
        ValueError: If the layout has no history, a shape or level is wrong, or a value that counts is not finite.
    """
    if history is None:
        return None
    if not spec.history:
        raise ValueError(
            f"this checkpoint ({spec.kind}, history={spec.history}) takes no history; pass history=None, or train "
            "with --tokens interleaved --history 4"
        )
    obs = torch.as_tensor(history.obs, dtype=torch.float32, device=device)
    act = torch.as_tensor(history.act, dtype=torch.float32, device=device)
    h = obs.shape[1] if obs.ndim == 3 else -1
    shapes = ((B, h, spec.obs_dim), (B, h * spec.stride, spec.act_dim))
    if not 1 <= h <= spec.history or (tuple(obs.shape), tuple(act.shape)) != shapes:
        raise ValueError(
            f"history must hold obs (B={B}, h in 1..{spec.history}, {spec.obs_dim}) and act (B, h*{spec.stride}, "
            f"{spec.act_dim}), got {tuple(obs.shape)} and {tuple(act.shape)}"
        )
    k = torch.zeros(B, h, dtype=torch.int64) if history.levels is None else torch.as_tensor(history.levels).cpu().long()
    valid = torch.ones(B, h, dtype=torch.bool) if history.valid is None else torch.as_tensor(history.valid).cpu().bool()
    for name, value in (("levels", k), ("valid", valid)):
        if tuple(value.shape) != (B, h):
            raise ValueError(f"history.{name} must have shape ({B}, {h}), got {tuple(value.shape)}")
    if int(k.min()) < 0 or int(k.max()) > levels:
        raise ValueError(f"history.levels must lie in 0..{levels}, got {int(k.min())}..{int(k.max())}")
    used, done = (valid & (k < levels)).to(device), valid.to(device).repeat_interleave(spec.stride, 1)
    if not bool(torch.isfinite(obs[used]).all()) or not bool(torch.isfinite(act[done]).all()):
        raise ValueError(f"history holds NaN or infinity; give what is missing the level {levels}, or valid=False")
    obs = torch.where(used.unsqueeze(-1), obs, torch.zeros_like(obs))
    return History(obs, torch.where(done.unsqueeze(-1), act, torch.zeros_like(act)), k, valid)
