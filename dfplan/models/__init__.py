"""Denoisers: one contract, ``model(x, k, cond) -> x0_hat``, and two networks that keep it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dfplan.errors import unknown_name
from dfplan.layout import Layout
from dfplan.models.base import Cond, Denoiser, RememberingDenoiser, remember
from dfplan.models.recurrent import RecurrentConfig, RecurrentDenoiser
from dfplan.models.transformer import TransformerConfig, TransformerDenoiser

Network = TransformerDenoiser | RecurrentDenoiser
NetworkConfig = TransformerConfig | RecurrentConfig

DENOISERS: dict[str, tuple[Callable[..., NetworkConfig], Callable[[Any, Any], Network]]] = {
    "transformer": (TransformerConfig, TransformerDenoiser),
    "recurrent": (RecurrentConfig, RecurrentDenoiser),
}

__all__ = [
    "DENOISERS",
    "Cond",
    "Denoiser",
    "Network",
    "NetworkConfig",
    "RecurrentConfig",
    "RecurrentDenoiser",
    "RememberingDenoiser",
    "TransformerConfig",
    "TransformerDenoiser",
    "kind_of",
    "make_config",
    "make_denoiser",
    "remember",
]


def make_config(kind: str, values: Mapping[str, Any] | None = None) -> NetworkConfig:
    """Build a network's configuration by name.

    Args:
        kind: A key of ``DENOISERS``.
        values: Its fields.

    Raises:
        ValueError: If the name is unknown or a value is out of range.
        TypeError: If a field is unknown.
    """
    if kind not in DENOISERS:
        raise unknown_name("kind of denoiser", kind, DENOISERS)
    return DENOISERS[kind][0](**(values or {}))


def kind_of(config: NetworkConfig) -> str:
    """Return the name of a configuration's kind."""
    return "recurrent" if isinstance(config, RecurrentConfig) else "transformer"


def make_denoiser(spec: Layout, config: NetworkConfig) -> Network:
    """Build the network that belongs to a configuration.

    Args:
        spec: The token layout.
        config: A `TransformerConfig` or a `RecurrentConfig`.
    """
    return DENOISERS[kind_of(config)][1](spec, config)
