"""Denoisers: one contract, ``model(x, k, cond) -> x0_hat``."""

from __future__ import annotations

from dfplan.models.base import Cond, Denoiser
from dfplan.models.transformer import TransformerConfig, TransformerDenoiser

__all__ = ["Cond", "Denoiser", "TransformerConfig", "TransformerDenoiser"]
