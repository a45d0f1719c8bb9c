"""D4RL's reference scores, and the normalised score.

Normalised = (return - min) / (max - min). The maxima are the returns of a controller that does not re-plan after its
first episode and fails about half of the time, so 1.0 does not mean solved: the same controller, re-planned, scores
1.46 / 1.56 / 2.03 on umaze / medium / large.

D4RL's other names (locomotion, antmaze, kitchen, adroit) have their published constants here too, for returns in
D4RL's own environments; today's environments of the same bodies (Hopper-v5 ...) are not the same tasks and have none.

Source: D4RL `infos.py`; the eval mazes' and the v0 scores stand in its environment registration only.
"""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import NDArray

from dfplan_envs.registry import ENVS, resolve

# Returns of the random policy and of the reference controller, by id of this package's mazes.
REFERENCE_SCORES: dict[str, tuple[float, float]] = {
    "maze2d-open-v0": (0.01, 20.66),
    "maze2d-open-dense-v0": (11.17817, 27.166538620695782),
    "maze2d-umaze-v0": (0.94, 62.6),
    "maze2d-medium-v0": (5.77, 85.14),
    "maze2d-large-v0": (4.83, 191.99),
    "maze2d-umaze-v1": (23.85, 161.86),
    "maze2d-medium-v1": (13.13, 277.39),
    "maze2d-large-v1": (6.7, 273.99),
    "maze2d-umaze-dense-v1": (68.537689, 193.66285642381482),
    "maze2d-medium-dense-v1": (44.264742, 297.4552547777125),
    "maze2d-large-dense-v1": (30.569041, 303.4857382709002),
    "maze2d-eval-umaze-v1": (36.63, 141.4),
    "maze2d-eval-medium-v1": (13.07, 204.93),
    "maze2d-eval-large-v1": (16.4, 302.22),
    "maze2d-eval-umaze-dense-v1": (56.95455, 178.21373133248397),
    "maze2d-eval-medium-dense-v1": (42.28578, 235.5658957482388),
    "maze2d-eval-large-dense-v1": (56.95455, 326.09647655082637),
    # Multi2D is scored with the single-goal constants (arXiv 2205.09991).
    "maze2d-multi-umaze-v1": (23.85, 161.86),
    "maze2d-multi-medium-v1": (13.13, 277.39),
    "maze2d-multi-large-v1": (6.7, 273.99),
}


LOCOMOTION = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
}
ADROIT = {
    "pen": (96.262799, 3076.8331017826877),
    "hammer": (-274.856578, 12794.134825156867),
    "relocate": (-6.425911, 4233.877797728884),
    "door": (-56.512833, 2880.5693087298737),
}
ANTMAZES = ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")


def _d4rl_scores() -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for body, pair in LOCOMOTION.items():
        for data in ("random", "medium", "expert", "medium-replay", "medium-expert", "full-replay"):
            for version in ("v0", "v1", "v2") if data != "full-replay" else ("v1", "v2"):
                found[f"{body}-{data}-{version}"] = pair
    for task, pair in ADROIT.items():
        found |= {
            f"{task}-{data}-{version}": pair for data in ("human", "cloned", "expert") for version in ("v0", "v1")
        }
    found |= {f"antmaze-{maze}-{version}": (0.0, 1.0) for maze in ANTMAZES for version in ("v0", "v2")}
    return found | {f"kitchen-{data}-v0": (0.0, 4.0) for data in ("complete", "partial", "mixed")}


D4RL_SCORES: dict[str, tuple[float, float]] = _d4rl_scores()
"""D4RL's (min, max) returns of the tasks that are not environments here, by D4RL's name."""


def reference_scores(env_id: str) -> tuple[float, float]:
    """Return the returns that count as 0 and as 1.

    Args:
        env_id: an id of this package or a name of D4RL's ("hopper-medium-v2"); without its version the newest.

    Returns:
        (min, max) returns of one episode.

    Raises:
        ValueError: unknown id, or an id without reference scores (custom mazes).
    """
    for name in (env_id, f"{env_id}-v2", f"{env_id}-v1", f"{env_id}-v0"):
        if name in D4RL_SCORES:
            return D4RL_SCORES[name]
    full = resolve(env_id)
    scores = ENVS[full].reference_scores if full in ENVS else None
    if scores is None:
        raise ValueError(
            f"{full} has no reference scores (custom mazes and most other environments have none); "
            "report the plain return instead"
        )
    return scores


@overload
def get_normalized_score(env_id: str, episode_return: float) -> float: ...
@overload
def get_normalized_score(env_id: str, episode_return: NDArray[np.floating]) -> NDArray[np.float64]: ...
def get_normalized_score(env_id: str, episode_return: float | NDArray[np.floating]) -> float | NDArray[np.float64]:
    """Put an episode's return on D4RL's scale: (return - min) / (max - min).

    Args:
        env_id: an id of this package or a name of D4RL's; without its version the newest.
        episode_return: sum of rewards over one episode, or an array of them.

    Returns:
        A fraction (tables show it times 100); an array for an array.

    Raises:
        ValueError: unknown id, or an id without reference scores.
    """
    low, high = reference_scores(env_id)
    if np.ndim(episode_return) == 0:
        return (float(episode_return) - low) / (high - low)
    return (np.asarray(episode_return, dtype=np.float64) - low) / (high - low)
