"""The few MuJoCo calls in use, with types (the package ships none)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

_no_graphics: Exception | None = None
try:
    import mujoco
    import mujoco.rollout
except (AttributeError, RuntimeError, OSError) as error:
    # On import MuJoCo loads the graphics library that MUJOCO_GL names, and stops where it is missing. The physics needs
    # none: import it without, and keep the error for whoever asks for a picture.
    _no_graphics = error
    _wanted = os.environ.get("MUJOCO_GL", "")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        import mujoco
        import mujoco.rollout
    finally:
        os.environ["MUJOCO_GL"] = _wanted

MAX_FRAME = 2048  # pixels; the side of the offscreen buffer

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


def new_data(model: Model) -> Data:
    """Make another state of a model."""
    return cast(Data, mujoco.MjData(model))


def load(xml: str) -> tuple[Model, Data]:
    """Compile an MJCF text and make its state."""
    model = mujoco.MjModel.from_xml_string(xml)
    return cast(Model, model), cast(Data, mujoco.MjData(model))


Step = Callable[[Model, Data], None]
mj_step = cast(Step, mujoco.mj_step)
mj_forward = cast(Step, mujoco.mj_forward)


def step_all(model: Model, data: Data, states: Floats, controls: Floats) -> Floats:
    """Step many copies of a model with four state numbers once.

    Args:
        model: the model.
        data: scratch memory; its content is lost.
        states: (N, 4) two positions, two velocities.
        controls: (N, 2).

    Returns:
        (N, 4), what `mj_step` gives for each, bit for bit.
    """
    full = np.concatenate([np.zeros((len(states), 1)), states], axis=1)  # the first number is the time
    roll_out: Any = mujoco.rollout.rollout
    after, _ = roll_out(model, data, full, np.ascontiguousarray(controls[:, None]), nstep=1)
    return cast(Floats, after[:, 0, 1:])


def new_renderer(model: Model, height: int, width: int) -> Renderer:
    """Open an offscreen renderer.

    Raises:
        RuntimeError: no graphics library that MuJoCo can use.
    """
    try:
        if _no_graphics is not None:
            raise _no_graphics
        factory: Any = mujoco.Renderer
        return cast(Renderer, factory(model, height=height, width=width))
    except (mujoco.FatalError, ImportError, AttributeError, RuntimeError, OSError) as error:
        backend = os.environ.get("MUJOCO_GL", "not set")
        raise RuntimeError(
            f"MuJoCo's renderer needs a graphics library, got none that works (MUJOCO_GL is {backend}: {error}); "
            "on a machine without a display set MUJOCO_GL=egl before Python starts and install libegl1 and "
            "libgl1-mesa-dri, or use renderer='topdown'"
        ) from error
