"""The one place where stable-baselines3 is imported for those who can do without it."""

from __future__ import annotations

from typing import Any

from dfplan.errors import missing_extra


def stable_baselines3(purpose: str) -> Any:
    """Import the package.

    Args:
        purpose: What it is needed for, as a noun phrase.

    Raises:
        ImportError: If it is not installed; the text names the extra.
    """
    try:
        import stable_baselines3
    except ImportError as error:
        raise missing_extra("stable_baselines3", "sb3", purpose) from error
    return stable_baselines3
