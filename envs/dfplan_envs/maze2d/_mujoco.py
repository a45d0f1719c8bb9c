"""The few MuJoCo calls in use, with types (the package ships none)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import mujoco
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Model(Protocol):
    """Name the fields of `mujoco.MjModel` in use."""

    body_mass: Floats
    site_pos: Floats


class Data(Protocol):
    """Name the fields of `mujoco.MjData` in use; the arrays are views on the simulator's memory."""

    qpos: Floats
    qvel: Floats
    ctrl: Floats
    ncon: int


class Renderer(Protocol):
    """Name the methods of `mujoco.Renderer` in use."""

    def update_scene(self, data: Data, camera: str) -> None:
        """Copy the state into the scene."""

    def render(self) -> NDArray[np.uint8]:
        """Draw the scene, (H, W, 3)."""

    def close(self) -> None:
        """Free the graphics context."""


def load(xml: str) -> tuple[Model, Data]:
    """Compile an MJCF text and make its state."""
    model = mujoco.MjModel.from_xml_string(xml)
    return cast(Model, model), cast(Data, mujoco.MjData(model))


Step = Callable[[Model, Data], None]
mj_step = cast(Step, mujoco.mj_step)
mj_forward = cast(Step, mujoco.mj_forward)


def new_renderer(model: Model, height: int, width: int) -> Renderer:
    """Open an offscreen renderer; raises whatever MuJoCo raises without a graphics library."""
    factory: Any = mujoco.Renderer
    return cast(Renderer, factory(model, height=height, width=width))
