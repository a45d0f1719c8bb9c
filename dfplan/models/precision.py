"""Run a denoiser's forward pass in bf16 and hand out float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfplan.models.base import Cond


class MixedPrecision:
    """Wrap a denoiser that remembers; the contract is the same.

    Args:
        model: The denoiser.
        device: Where it is.
        bf16: Whether to use bf16; if not, this passes everything on.
    """

    def __init__(self, model: Any, device: torch.device, *, bf16: bool) -> None:
        self.model, self.device, self.bf16 = model, device, bf16

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def __call__(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
        """Return x0_hat (B, n, D)."""
        with self._autocast():
            x0_hat: Tensor = self.model(x, k, cond)
        return x0_hat.to(x.dtype)

    def advance(self, x: Tensor, k: Tensor, cond: Cond, keep: int) -> tuple[Tensor, Any]:
        """Return x0_hat (B, n, D) and the memory extended by the first ``keep`` tokens."""
        with self._autocast():
            x0_hat, memory = self.model.advance(x, k, cond, keep)
        return x0_hat.to(x.dtype), memory
