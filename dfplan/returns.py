"""What a start is worth: the discounted mean reward per step from there on, and its statistics in a data set.

The return of a step is ``sum_j discount^j r_{t+j} / sum_j discount^j``, a mean reward per step that looks about
``1 / (1 - discount)`` steps ahead. Where an episode was cut short by its time limit both sums end there, so that late
starts are not worth less for being late. Where it terminated (a fall) the rewards after it are 0 for ever, and the
lower sum goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
QUANTILES = 21


@dataclass(frozen=True)
class ReturnStats:
    """Hold statistics of rewards and returns.

    Attributes:
        discount: Per environment step, in [0, 1).
        reward_mean: Mean reward of a step.
        reward_std: Its standard deviation.
        mean: Mean return of a start.
        std: Its standard deviation.
        quantiles: Returns at the shares 0, 0.05, ..., 1 of all starts.
    """

    discount: float
    reward_mean: float
    reward_std: float
    mean: float
    std: float
    quantiles: tuple[float, ...]

    @classmethod
    def fit(cls, rewards: FloatArray, returns: FloatArray, discount: float) -> ReturnStats:
        """Compute the statistics of rewards (n,) and returns (n,)."""
        shares = np.quantile(returns, np.linspace(0, 1, QUANTILES))
        return cls(
            discount, float(rewards.mean()), _spread(rewards), float(returns.mean()), _spread(returns),
            tuple(float(v) for v in shares),
        )  # fmt: skip

    def at(self, share: float) -> float:
        """Return the return that a share of all starts stays below.

        Raises:
            ValueError: If the share is not in [0, 1].
        """
        if not 0 <= share <= 1:
            raise ValueError(f"a share of the data must lie in [0, 1], got {share}")
        return float(np.interp(share, np.linspace(0, 1, len(self.quantiles)), self.quantiles))

    def for_mixture(self, parts: Sequence[FloatArray], shares: Sequence[float]) -> ReturnStats:
        """Return the same scale with the quantiles of a mixture: what is asked for moves, the network's units do not.

        Args:
            parts: Returns of all starts in each data set, (n_i,).
            shares: Probability of each data set; within one all starts are equally likely.

        Raises:
            ValueError: If the shares do not add up to 1.
        """
        if len(parts) != len(shares) or min(shares) < 0 or not math.isclose(sum(shares), 1.0):
            raise ValueError(f"shares must be one per data set, at least 0 and 1 in sum, got {list(shares)}")
        used = [(np.asarray(part, dtype=np.float64), share) for part, share in zip(parts, shares, strict=True) if share]
        values = np.concatenate([part for part, _ in used])
        weights = np.concatenate([np.full(len(part), share / len(part)) for part, share in used])
        order = np.argsort(values, kind="stable")
        values, weights = values[order], weights[order]
        place = (np.cumsum(weights) - weights) / max(weights.sum() - weights[-1], 1e-12)  # from 0 to 1
        found = np.interp(np.linspace(0, 1, QUANTILES), place, values)
        return replace(self, quantiles=tuple(float(v) for v in found))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReturnStats:
        """Rebuild from ``to_dict``.

        Raises:
            ValueError: If an entry is missing, or a spread is not positive.
        """
        try:
            out = cls(**{**values, "quantiles": tuple(values["quantiles"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"statistics of returns are damaged ({error}); compute them again") from error
        if not (out.reward_std > 0 and out.std > 0 and 0 <= out.discount < 1):
            raise ValueError(f"statistics of returns are out of range: {values}; compute them again from the data")
        return out


def discounted_returns(
    rewards: FloatArray, lengths: NDArray[np.int64], terminated: NDArray[np.bool_] | None, discount: float
) -> NDArray[np.float32]:
    """Compute the return of every step.

    Args:
        rewards: (sum(T_i),).
        lengths: (E,) steps of each episode.
        terminated: bool (E,), which episodes ended by termination; None is none of them.
        discount: Per step, in [0, 1).

    Returns:
        float32 (sum(T_i),), in rewards per step.

    Raises:
        ValueError: If the discount is out of range or a reward is not finite.
    """
    if not 0 <= discount < 1:
        raise ValueError(f"discount must lie in [0, 1), got {discount}")
    rewards = np.asarray(rewards, dtype=np.float64)
    if not np.isfinite(rewards).all():
        raise ValueError("rewards hold NaN or infinity; clean the data set first")
    ends = np.zeros(len(lengths), dtype=bool) if terminated is None else np.asarray(terminated, dtype=bool)
    out, begin = np.empty(len(rewards)), 0
    for length, ended in zip(np.asarray(lengths).tolist(), ends.tolist(), strict=True):
        own = rewards[begin : begin + length]
        total, weight = 0.0, 1 / (1 - discount) if ended else 0.0
        for t in range(length - 1, -1, -1):
            total, weight = own[t] + discount * total, 1 + discount * weight
            out[begin + t] = total / weight
        begin += length
    return out.astype(np.float32)


def _spread(values: FloatArray) -> float:
    """Return the standard deviation, or 1 where there is none to speak of."""
    std = float(np.asarray(values, dtype=np.float64).std())
    return std if math.isfinite(std) and std > 1e-6 * max(1.0, abs(float(values.mean()))) else 1.0
