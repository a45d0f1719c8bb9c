"""The normaliser: statistics of the data, by which tokens come to zero mean and unit variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dfplan.returns import ReturnStats


@dataclass(frozen=True)
class Normalizer:
    """Shift and scale observations and actions to zero mean and unit variance; computed from data, never typed.

    Attributes:
        obs_mean: float32 (O,).
        obs_std: float32 (O,).
        act_mean: float32 (A,).
        act_std: float32 (A,).
        max_move: float32 (O,), largest change of each observation column over one token (``stride`` steps) in the data.
        returns: Statistics of rewards and returns, or None if the layout holds neither (or an old one raw rewards).
    """

    obs_mean: Tensor
    obs_std: Tensor
    act_mean: Tensor
    act_std: Tensor
    max_move: Tensor
    returns: ReturnStats | None = None

    @classmethod
    def fit(cls, observations: Tensor, actions: Tensor, max_move: Tensor) -> Normalizer:
        """Compute the statistics of observations (n, O) and actions (m, A).

        A column whose standard deviation is below 1e-6 of its size (or is 0) is only shifted: dividing by it would
        blow up.

        Raises:
            ValueError: If there are no rows or a value is not finite.
        """
        for name, value in (("observations", observations), ("actions", actions)):
            if value.ndim != 2 or len(value) == 0:
                raise ValueError(f"{name} must have shape (n, width) with n > 0, got {tuple(value.shape)}")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} hold NaN or infinity; clean the data set first")

        def stats(x: Tensor) -> tuple[Tensor, Tensor]:
            mean, std = x.double().mean(0), x.double().std(0, unbiased=False)
            std = torch.where(std > 1e-6 * mean.abs().clamp_min(1.0), std, torch.ones_like(std))
            return mean.float(), std.float()

        obs_mean, obs_std = stats(observations)
        act_mean, act_std = stats(actions)
        return cls(obs_mean, obs_std, act_mean, act_std, max_move.float())

    def obs(self, observations: Tensor) -> Tensor:
        """Normalise observations (..., O)."""
        return (observations - self.obs_mean.to(observations)) / self.obs_std.to(observations)

    def obs_back(self, normalised: Tensor) -> Tensor:
        """Undo ``obs``."""
        return normalised * self.obs_std.to(normalised) + self.obs_mean.to(normalised)

    def act(self, actions: Tensor) -> Tensor:
        """Normalise actions (..., A)."""
        return (actions - self.act_mean.to(actions)) / self.act_std.to(actions)

    def act_back(self, normalised: Tensor) -> Tensor:
        """Undo ``act``."""
        return normalised * self.act_std.to(normalised) + self.act_mean.to(normalised)

    def reward(self, rewards: Tensor) -> Tensor:
        """Normalise rewards."""
        return rewards if self.returns is None else (rewards - self.returns.reward_mean) / self.returns.reward_std

    def reward_back(self, normalised: Tensor) -> Tensor:
        """Undo ``reward``."""
        return normalised if self.returns is None else normalised * self.returns.reward_std + self.returns.reward_mean

    def tensors(self) -> dict[str, Tensor]:
        """Return the statistics of the columns by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        own: dict[str, Any] = {name: [float(v) for v in value] for name, value in self.tensors().items()}
        return own if self.returns is None else {**own, "returns": self.returns.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Normalizer:
        """Rebuild from ``to_dict``.

        Raises:
            ValueError: If an entry is missing or a standard deviation is not positive.
        """
        names = ("obs_mean", "obs_std", "act_mean", "act_std", "max_move")
        missing = [n for n in names if n not in values]
        if missing:
            raise ValueError(f"normalizer lacks {missing}; it needs {list(names)}")
        returns = ReturnStats.from_dict(values["returns"]) if values.get("returns") else None
        out = cls(**{n: torch.tensor(values[n], dtype=torch.float32) for n in names}, returns=returns)
        if not bool((out.obs_std > 0).all() and (out.act_std > 0).all()):
            raise ValueError("normalizer has a standard deviation that is not positive; compute it again from the data")
        return out
