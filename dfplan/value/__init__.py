"""A learned return: a small model that reads noisy tokens and predicts the return of the plan they are becoming.

``model(x, k, tokens)`` estimates ``E[return | x]``, the mean over the clean plans that the noisy tokens x at levels k
may still become. Its gradient guides sampling (`ValueGuidance`), and with clean tokens it scores finished plans.
"""

from __future__ import annotations

from dfplan.value.files import load_value, save_value
from dfplan.value.guidance import ValueGuidance
from dfplan.value.model import ValueConfig, ValueModel
from dfplan.value.training import ValueTraining, start_return, train_value, window_return

__all__ = [
    "ValueConfig",
    "ValueGuidance",
    "ValueModel",
    "ValueTraining",
    "load_value",
    "save_value",
    "start_return",
    "train_value",
    "window_return",
]
