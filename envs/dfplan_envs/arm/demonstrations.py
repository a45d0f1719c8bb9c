"""Demonstrations of the fruit swap by the scripted expert: an episode per number, the same bits wherever it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from dfplan_envs.arm.expert import ORDERS, SwapExpert
from dfplan_envs.arm.fruit_swap import FruitSwapEnv

ENV_ID = "fruit-swap-v0"
MAX_STEPS = 300
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Demonstrations:
    """Say what is demonstrated.

    Attributes:
        seed: Of everything; with an episode's number it decides its start, its order and all draws.
        noise: Of the expert's grips, m; see `SwapExpert`.
        order: "balanced" (even numbers move the apple first, odd ones the orange), "apple" or "orange".
        pushed: Share of the episodes with external pushes or knocks, in [0, 1].
        pushes: How many those episodes have, 1 to 10.
        misses: Probability that a try to grip goes beside the fruit, in [0, 1): what follows shows how to go on.
        distracted: Share of the episodes with objects that are only seen, in [0, 1].
        distractors: How many those episodes have, 0 to 8.
        options: Of the environment: `obs`, `image_size`, `bumps`, ....
    """

    seed: int = 0
    noise: float = 0.004
    order: str = "balanced"
    pushed: float = 0.0
    pushes: int = 1
    misses: float = 0.0
    distracted: float = 0.0
    distractors: int = 4
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: An unknown order, or a number out of its range.
        """
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        if self.order not in ("balanced", *ORDERS[1:]):
            raise ValueError(f"order must be 'balanced', 'apple' or 'orange', got {self.order!r}")
        for name in ("pushed", "distracted"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be a share in [0, 1], got {getattr(self, name)}")
        if not 0.0 <= self.misses < 1.0:
            raise ValueError(f"misses must be a probability in [0, 1), got {self.misses}")

    def first(self, number: int) -> str:
        """Return the fruit that goes first in episode ``number``."""
        return ORDERS[1 + number % 2] if self.order == "balanced" else self.order

    def is_pushed(self, number: int) -> bool:
        """Tell whether episode ``number`` has a push; both orders have their share in every run of episodes."""
        pair = number // 2  # of one episode of each order
        return int((pair + 1) * self.pushed) > int(pair * self.pushed)

    def is_distracted(self, number: int) -> bool:
        """Tell whether episode ``number`` has distractors: those of a push do not have them more often than others."""
        return (number // 2 * GOLDEN) % 1.0 < self.distracted

    def kind(self, number: int) -> tuple[tuple[str, int], ...]:
        """Return what sets the environment of episode ``number`` apart, as its options."""
        pushed = (("push", self.pushes),) if self.is_pushed(number) else ()
        return (*pushed, ("distractors", self.distractors)) if self.is_distracted(number) else pushed

    def make(self, number: int | None = None) -> FruitSwapEnv:
        """Make the environment of episode ``number`` and all others of its kind; of None the one without extras."""
        kind = () if number is None else self.kind(number)
        made = gymnasium.make(ENV_ID, disable_env_checker=True, **dict(self.options), **dict(kind))
        env: FruitSwapEnv = made.unwrapped  # type: ignore[assignment]
        return env


@dataclass(frozen=True)
class Demonstration:
    """Hold one episode of T steps.

    Attributes:
        observations: T + 1 rows of each entry; "state" for the environment's vector.
        actions: float32 (T, 4), "delta".
        rewards: float32 (T,).
        stage: The furthest stage, 0 to 3; see `FruitSwapEnv`.
        success: Whether the swap was done.
        ended: Whether the environment ended the episode: success, or a lost fruit.
        pushes: External pushes.
    """

    observations: dict[str, NDArray[Any]]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    stage: int
    success: bool
    ended: bool
    pushes: int

    def __len__(self) -> int:
        """Count the steps."""
        return len(self.actions)


def demonstrate(what: Demonstrations, number: int, env: FruitSwapEnv | None = None) -> Demonstration:
    """Let the expert play one episode.

    Args:
        what: What is demonstrated.
        number: Of the episode, at least 0.
        env: An environment that `what.make` returned for an episode of the same kind, to be used again.

    Returns:
        The episode; it ends with success, with a lost fruit, or after 300 steps.
    """
    made = env if env is not None else what.make(number)
    start, draws = (int(word) for word in np.random.SeedSequence([what.seed, number]).generate_state(2))
    seen, info = made.reset(seed=start)
    expert = SwapExpert(draws, what.first(number), what.noise, what.misses)
    rows, over = [_entries(seen)], False
    actions: list[NDArray[np.float32]] = []
    rewards: list[float] = []
    while not over and len(actions) < MAX_STEPS:
        actions.append(expert.act(made.view()))
        seen, reward, over, _, info = made.step(actions[-1])
        rows.append(_entries(seen))
        rewards.append(reward)
    columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    if env is None:
        made.close()
    return Demonstration(
        columns, np.stack(actions).astype(np.float32), np.array(rewards, np.float32), int(info["stage"]),
        bool(info["success"]), over, int(info["pushes"]),
    )  # fmt: skip


def _entries(seen: Any) -> dict[str, NDArray[Any]]:
    return dict(seen) if isinstance(seen, dict) else {"state": seen}
