"""Cut training windows out of episodes: a start, a goal the data reached, and what came between.

A window with a goal ends at goal contact and is padded with the goal at rest; one without a goal runs to the end of its
episode and is padded with tokens that are marked invalid. The history of a window near the start of its episode is
padded likewise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dfplan.returns import ReturnStats, discounted_returns
from dfplan.tokens import CONTEXT, GOAL, STATE, Normalizer, TokenSpec, pack

FloatArray = NDArray[np.float32]


class EpisodeArrays(Protocol):
    """What a window needs of a data set (`dfplan.data.Episodes` has it)."""

    @property
    def observations(self) -> FloatArray:
        """float32 (sum(T_i + 1), O)."""
        ...

    @property
    def actions(self) -> FloatArray:
        """float32 (sum(T_i), A)."""
        ...

    @property
    def rewards(self) -> FloatArray:
        """float32 (sum(T_i),)."""
        ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (E,), T_i."""
        ...


def terminated_of(episodes: EpisodeArrays) -> NDArray[np.bool_] | None:
    """Return which episodes (E,) ended by termination, None if the data do not say."""
    return getattr(episodes, "terminated", None)


@dataclass(frozen=True)
class Batch:
    """Hold normalised tokens and what counts in the loss.

    Attributes:
        x0: (B, T, D) clean tokens.
        weight: (B, T, D), 1 where an entry counts in the loss, 0 where it is padding.
        valid: bool (B, T), False where a token is padding that nobody may see (its level is K).
    """

    x0: Tensor
    weight: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Replay:
    """Say what is trained on beside the data.

    Attributes:
        episodes: Episodes of the same columns, for example those that a policy has collected.
        share: Probability that a window is cut out of them, in [0, 1].
    """

    episodes: EpisodeArrays
    share: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"the share of the replay must lie in [0, 1], got {self.share}")

    def identity(self) -> dict[str, Any]:
        """Return plain JSON values that are others for another replay."""
        from dfplan.data.episodes import Episodes

        e = self.episodes
        whole = Episodes(e.observations, e.actions, e.rewards, e.lengths, terminated=terminated_of(e))  # type: ignore[arg-type]
        return {"episodes": whole.digest(), "share": self.share}


def fit_normalizer(episodes: EpisodeArrays, stride: int, *, discount: float | None = None) -> Normalizer:
    """Compute means, standard deviations and the largest move of each column over ``stride`` steps inside an episode.

    Args:
        episodes: The data.
        stride: F, environment steps per token.
        discount: Of returns, per step; None leaves rewards and returns out.

    Raises:
        ValueError: If no episode is longer than ``stride`` steps, or a value is not finite.
    """
    obs = torch.from_numpy(np.ascontiguousarray(episodes.observations))
    act = torch.from_numpy(np.ascontiguousarray(episodes.actions))
    lengths = np.asarray(episodes.lengths)
    episode = np.repeat(np.arange(len(lengths)), lengths + 1)
    same = torch.from_numpy(episode[stride:] == episode[:-stride])
    if not bool(same.any()):
        raise ValueError(
            f"no episode is longer than the stride of {stride} steps; the longest has {int(lengths.max(initial=0))}"
        )
    moves = (obs[stride:] - obs[:-stride]).abs()[same]
    norm = Normalizer.fit(obs, act, moves.max(0).values)
    if discount is None:
        return norm
    returns = discounted_returns(episodes.rewards, lengths, terminated_of(episodes), discount)
    return replace(norm, returns=ReturnStats.fit(np.asarray(episodes.rewards), returns, discount))


class WindowSampler:
    """Draw random windows as normalised tokens.

    Every observation but the last of each episode is an equally likely start. The goal is the end of the episode with
    probability ``end_goal`` (if it lies within the horizon), else an observation 1 to H*F steps ahead in the same
    episode, uniformly. A share ``no_goal`` of the windows has no goal: they are not cut at a contact, so their states
    and actions obey the dynamics throughout. In a layout with returns the goal token holds the return of the start
    (`dfplan.returns`) and is hidden in that share; without a goal no window is cut.

    Args:
        episodes: The data.
        spec: The layout.
        norm: The statistics.
        end_goal: Share of the windows with a goal whose goal is where the episode ended.
        no_goal: Share of windows without a goal (and return); 1 if the layout has neither.
        begin: Share of the windows that start where their episode does, so that far goals are not rare.

    Raises:
        ValueError: If the data's widths do not fit the layout, or no episode is as long as a token.
    """

    def __init__(
        self,
        episodes: EpisodeArrays,
        spec: TokenSpec,
        norm: Normalizer,
        *,
        end_goal: float = 0.5,
        no_goal: float = 0.3,
        begin: float = 0.0,
    ) -> None:
        self.spec, self.norm, self.end_goal, self.begin = spec, norm, end_goal, begin
        self.no_goal = no_goal if spec.goal_width else 1.0
        for name, array, width in (
            ("observations", episodes.observations, spec.obs_dim),
            ("actions", episodes.actions, spec.act_dim),
        ):
            if array.ndim != 2 or array.shape[1] != width:
                raise ValueError(
                    f"{name} must have shape (n, {width}), got {array.shape}; the layout and the data differ"
                )
        lengths = np.asarray(episodes.lengths, dtype=np.int64)
        if lengths.max(initial=0) < spec.stride:
            raise ValueError(
                f"no episode is as long as a token of {spec.stride} steps; the longest has {lengths.max(initial=0)}"
            )
        self._obs, self._act, self._rew = episodes.observations, episodes.actions, episodes.rewards
        self._returns = self._start_returns(episodes, lengths)
        episode = np.repeat(np.arange(len(lengths)), lengths)
        action_start = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        self._offset = np.arange(int(lengths.sum())) - action_start[episode]  # step inside the episode, per transition
        self._obs_row = np.arange(int(lengths.sum())) + episode  # each episode has one observation more than actions
        self._left = lengths[episode] - self._offset  # transitions left, this one included
        self._first = np.flatnonzero(self._offset == 0)
        self._long = np.flatnonzero(self._left >= spec.stride)  # starts from which at least one token is whole

    def _start_returns(self, episodes: EpisodeArrays, lengths: NDArray[np.int64]) -> FloatArray | None:
        """Compute the return of every start, if the layout holds returns."""
        if not self.spec.returns:
            return None
        if self.norm.returns is None:
            raise ValueError("this layout holds returns; fit the normaliser with discount=")
        return discounted_returns(episodes.rewards, lengths, terminated_of(episodes), self.norm.returns.discount)

    def __len__(self) -> int:
        """Count the possible starts."""
        return len(self._left)

    def draw(self, batch: int, rng: np.random.Generator) -> Batch:
        """Draw ``batch`` windows.

        Args:
            batch: B.
            rng: Source of randomness.

        Returns:
            A `Batch`; the same generator state gives the same windows.
        """
        known = rng.random(batch) >= self.no_goal
        cut = known & bool(self.spec.goal_columns)
        start = np.where(cut, rng.integers(0, len(self), batch), self._long[rng.integers(0, len(self._long), batch)])
        if self.begin > 0:
            first = self._first[rng.integers(0, len(self._first), batch)]
            start = np.where(cut & (rng.random(batch) < self.begin), first, start)
        reach = np.minimum(self._left[start], self.spec.steps)
        to_end = (rng.random(batch) < self.end_goal) & (self._left[start] <= self.spec.steps)
        ahead = np.where(to_end | ~cut, reach, rng.integers(1, reach + 1))
        return self.window(start, ahead, known)

    def window(self, start: NDArray[np.int64], ahead: NDArray[np.int64], known: NDArray[np.bool_]) -> Batch:
        """Build given windows.

        Args:
            start: int64 (B,), the transitions at which they begin.
            ahead: int64 (B,), steps until the goal is met, or until the window ends if it has no goal.
            known: bool (B,), whether the goal token is known.
        """
        spec = self.spec
        cut = known & bool(spec.goal_columns)
        step = np.arange(spec.steps + 1)[None, :]
        obs = self._obs[self._obs_row[start][:, None] + np.minimum(step, ahead[:, None])]
        transition = start[:, None] + np.minimum(step[:, :-1], ahead[:, None] - 1)
        over = step[:, 1:] > ahead[:, None]
        act = np.where(over[..., None], np.float32(0), self._act[transition])
        goal = obs[:, -1][:, list(spec.goal_columns)]
        if self._returns is not None:
            goal = np.concatenate([goal, self._returns[start][:, None]], axis=1)
        resting = (cut[:, None] & (step >= ahead[:, None]))[..., None]
        obs = np.where(resting & np.isin(np.arange(spec.obs_dim), spec.rest_columns), np.float32(0), obs)
        past_obs, past_act, lived = self._past(start)
        arrays = (obs, act, goal, self._rew[transition], past_obs, past_act)
        o, a, g, r, *past = (torch.from_numpy(np.ascontiguousarray(v)) for v in arrays)
        x0 = pack(spec, self.norm, o, a, g, r, (past[0], past[1]))
        ended = torch.from_numpy(over).reshape(len(start), spec.horizon, spec.stride).any(-1)
        return self._weigh(x0, ended, torch.from_numpy(known), torch.from_numpy(cut), torch.from_numpy(lived))

    def _past(self, start: NDArray[np.int64]) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
        """Cut histories: observations (B, h, O), actions (B, h*F, A), and which of the h lie in the episode (B, h)."""
        spec = self.spec
        ago = spec.stride * np.arange(spec.history, 0, -1)[None, :]
        lived = self._offset[start][:, None] >= ago
        obs = self._obs[self._obs_row[start][:, None] - np.where(lived, ago, 0)]
        steps = (ago[..., None] - np.arange(spec.stride)).reshape(1, -1)
        known = np.repeat(lived, spec.stride, axis=1)
        act = self._act[start[:, None] - np.where(known, steps, 0)]
        return np.where(lived[..., None], obs, np.float32(0)), np.where(known[..., None], act, np.float32(0)), lived

    def _weigh(self, x0: Tensor, ended: Tensor, known: Tensor, cut: Tensor, lived: Tensor) -> Batch:
        """Mark padding.

        Args:
            x0: The tokens (B, T, D).
            ended: bool (B, H), which future tokens go past the contact or the end.
            known: bool (B,), in which windows the goal token is known.
            cut: bool (B,), which windows end at a goal.
            lived: bool (B, h), which past tokens lie in the episode.

        With a goal, future tokens go on as the goal at rest; separate action tokens end, since rest there is only a
        way of speaking. Without a goal everything ends. Context and history are given, not learned, but for the state
        of the kind ``interleaved``, which is learned where it is noised.
        """
        spec = self.spec
        valid = torch.ones(x0.shape[:2], dtype=torch.bool)
        valid[:, GOAL] = known
        valid[:, CONTEXT : spec.plan_tokens] = ~ended | cut[:, None]
        if spec.chunked:
            valid[:, spec.plan_tokens : spec.past_tokens] = ~ended
        valid[:, spec.past_tokens :] = lived.repeat(1, 2)
        weight = spec.column_mask().float() * valid.unsqueeze(-1)
        weight[:, GOAL if spec.kind == "interleaved" else STATE : CONTEXT] = 0
        weight[:, spec.past_tokens :] = 0
        return Batch(x0, weight, valid)


class MixedWindows:
    """Draw each window from the replay with probability ``share``, else from the data.

    Args:
        data: Windows of the data.
        replay: Windows of the replay, of the same layout.
        share: In [0, 1].
    """

    def __init__(self, data: WindowSampler, replay: WindowSampler, share: float) -> None:
        self.data, self.replay, self.share = data, replay, share

    def draw(self, batch: int, rng: np.random.Generator) -> Batch:
        """Draw ``batch`` windows, those of the replay last; the same generator state gives the same windows."""
        fresh = int((rng.random(batch) < self.share).sum())
        drawn = [(self.data, batch - fresh), (self.replay, fresh)]
        parts = [windows.draw(count, rng) for windows, count in drawn if count]
        return Batch(*(torch.cat([getattr(p, name) for p in parts]) for name in ("x0", "weight", "valid")))
