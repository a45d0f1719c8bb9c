"""Diffusion Forcing as both policy and planner.

Heavy modules are imported on first use, so that ``import dfplan`` and ``dfplan --help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfplan.plan import Plan
    from dfplan.planner import DFPlanner
    from dfplan.tokens import Normalizer, TokenSpec
    from dfplan.training import TrainConfig

try:
    __version__ = version("dfplan")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0.0.0+source"

_LAZY = {
    "DFPlanner": "dfplan.planner",
    "Plan": "dfplan.plan",
    "TokenSpec": "dfplan.tokens",
    "Normalizer": "dfplan.tokens",
    "TrainConfig": "dfplan.training",
}

__all__ = ["DFPlanner", "Normalizer", "Plan", "TokenSpec", "TrainConfig", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'dfplan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
