"""What an arm environment can be made with."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from dfplan_envs._errors import unknown
from dfplan_envs.arm._bullet import PHYSICS_HZ

OBSERVATIONS = ("state", "image", "both")
ACTIONS = ("delta", "absolute", "joint")
IMAGE_SIZES = (32, 64, 128)
CAMERAS = ("scene", "hand")
RATES_HZ = tuple(hz for hz in range(10, 21) if PHYSICS_HZ % hz == 0)  # 10, 12, 15, 16, 20


@dataclass(frozen=True)
class ArmOptions:
    """Say how an arm environment observes, acts and is disturbed."""

    obs: str = "state"
    """"state" (a vector), "image" (two cameras and the arm's own state) or "both"."""
    action: str = "delta"
    """"delta" (4,), "absolute" (4,) or "joint" (8,)."""
    control_hz: int = 10
    """Actions per second: 10, 12, 15, 16 or 20."""
    image_size: int = 64
    """Pixels, the side of an observed picture: 32, 64 or 128."""
    camera_every: int = 1
    """Steps from one picture to the next, 1 to 100; in between the last one is observed again, as with slow cameras."""
    max_steps: int | None = None
    """Steps after which an episode is truncated, None for the id's limit only. For longer episodes leave it out:
    gym.make(..., max_episode_steps=600)."""
    distractors: int = 0
    """Objects, 0 to 8, that are only seen: place and colour are drawn at every reset."""
    occlude: float = 0.0
    """Share of the time, 0 to 0.9, in which cameras are dark: one window at a random place in every 5 s."""
    occlude_cameras: tuple[str, ...] = CAMERAS
    """The cameras that go dark."""
    occlude_state: bool = False
    """Whether the objects' columns of the state are NaN while cameras are dark."""
    push: int = 0
    """Disturbances per episode, 0 to 10, each at a random time: a knock out of the gripper, or a push."""
    bumps: float = 0.0
    """Bumps of the arm per second, 0 to 2, at random times: for 0.2 to 0.5 s something adds a velocity of 3 to 15 cm/s
    to the tool's. For the actions "delta" and "absolute"."""
    randomize: float = 0.0
    """Spread, 0 to 0.9, of friction and mass: both are multiplied by U(1 - r, 1 + r) at every reset."""
    render_size: int = 256
    """Pixels, the side of a picture by `render`."""
    window: bool = False
    """Whether PyBullet's window shows it, to look on; it needs a display, and one window is all that a process has."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ValueError: an unknown choice or a number out of its range.
        """
        cameras = [name for name in self.occlude_cameras if name not in CAMERAS] or [self.occlude_cameras[0]]
        for kind, choice, choices in (
            ("obs", self.obs, OBSERVATIONS),
            ("action", self.action, ACTIONS),
            ("control_hz", self.control_hz, RATES_HZ),
            ("image_size", self.image_size, IMAGE_SIZES),
            ("camera", cameras[0], CAMERAS),
        ):
            if choice not in choices:
                raise unknown(kind, choice, map(str, choices))
        for name, value, low, high in (
            ("max_steps", 1 if self.max_steps is None else self.max_steps, 1, 100_000),
            ("camera_every", self.camera_every, 1, 100),
            ("distractors", self.distractors, 0, 8),
            ("occlude", self.occlude, 0.0, 0.9),
            ("push", self.push, 0, 10),
            ("bumps", self.bumps, 0.0, 2.0),
            ("randomize", self.randomize, 0.0, 0.9),
            ("render_size", self.render_size, 16, 2048),
        ):
            if not (math.isfinite(value) and low <= value <= high):
                raise ValueError(f"{name} must be from {low} to {high}, got {value!r}")

    @property
    def substeps(self) -> int:
        """Return the physics steps of one action."""
        return PHYSICS_HZ // self.control_hz

    @property
    def pictures(self) -> bool:
        """Say whether cameras are observed."""
        return self.obs != "state"


def read_options(values: dict[str, Any]) -> ArmOptions:
    """Make the options from keyword arguments.

    Raises:
        TypeError: an unknown name; the text lists the names and the nearest one.
        ValueError: a value out of its range.
    """
    names = [field.name for field in dataclasses.fields(ArmOptions)]
    for name in values:
        if name not in names:
            raise TypeError(str(unknown("option", name, names)))
    if "occlude_cameras" in values:
        chosen = values["occlude_cameras"]
        values = {**values, "occlude_cameras": (chosen,) if isinstance(chosen, str) else tuple(chosen)}
    return ArmOptions(**values)
