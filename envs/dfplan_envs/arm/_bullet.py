"""The PyBullet calls in use, one client per world; the only file that imports the package."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

PHYSICS_HZ = 240
GRAVITY = -9.81
Colour = tuple[float, float, float]


def load() -> tuple[ModuleType, str]:
    """Import the simulator.

    Returns:
        The module, and the folder of its robots.

    Raises:
        ImportError: without the extra: pip install 'dfplan[bullet]'.
    """
    try:
        import pybullet
        import pybullet_data
    except ImportError as error:
        raise ImportError(
            "the robot arm needs pybullet; install it: pip install 'dfplan[bullet]' (it has ready-made wheels for "
            "Python 3.11 only and is compiled elsewhere, which takes minutes)"
        ) from error
    return pybullet, str(pybullet_data.getDataPath())


def check_display() -> None:
    """Check that a window can be opened; pybullet would end the process.

    Raises:
        OSError: on Linux without a display.
    """
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        raise OSError(
            "PyBullet's window needs a display, and DISPLAY is not set; leave out --gui (window=True), log in with "
            "ssh -X, or run it under xvfb-run"
        )


@final
class World:
    """Hold one simulation of its own, 240 steps per second; several never touch each other.

    Args:
        window: whether PyBullet's window shows it.

    Raises:
        ImportError: without the extra: pip install 'dfplan[bullet]'.
        OSError: a window without a display.
    """

    def __init__(self, window: bool = False) -> None:
        self._p, self.data = load()
        self._id = self._open_window() if window else int(self._p.connect(self._p.DIRECT))
        self._closer = weakref.finalize(self, _disconnect, self._p, self._id)
        self.call("setGravity", 0.0, 0.0, GRAVITY)
        self.call("setTimeStep", 1.0 / PHYSICS_HZ)
        self.call("setPhysicsEngineParameter", deterministicOverlappingPairs=1)

    def _open_window(self) -> int:
        check_display()
        opened = int(self._p.connect(self._p.GUI, options="--width=960 --height=720"))
        if opened < 0:
            raise OSError("PyBullet's window could not be opened; a process has one at most")
        self._p.configureDebugVisualizer(self._p.COV_ENABLE_GUI, 0, physicsClientId=opened)
        return opened

    @property
    def connected(self) -> bool:
        """Say whether the simulation is there: closing its window ends it."""
        return bool(self._p.isConnected(self._id))

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a function of pybullet in this world."""
        return getattr(self._p, name)(*args, physicsClientId=self._id, **kwargs)

    def constant(self, name: str) -> int:
        """Return a constant of pybullet."""
        return int(getattr(self._p, name))

    def step(self) -> None:
        """Go on by 1/240 s."""
        self.call("stepSimulation")

    def close(self) -> None:
        """Free the simulation; a second call does nothing."""
        self._closer()

    def add_robot(self, name: str) -> int:
        """Load a robot of pybullet_data, its base fixed at the origin."""
        return int(self.call("loadURDF", os.path.join(self.data, name), useFixedBase=True))

    def add_box(self, half_m: Sequence[float], centre: Sequence[float], colour: Colour, *, mass: float = 0.0,
                solid: bool = True) -> int:  # fmt: skip
        """Add a box; without mass it is fixed, not solid it is only seen."""
        shape: dict[str, Any] = {"halfExtents": list(half_m)}
        return self._add("GEOM_BOX", shape, shape, centre, colour, mass, solid)

    def add_sphere(self, radius_m: float, centre: Sequence[float], colour: Colour, *, mass: float = 0.0,
                   solid: bool = True) -> int:  # fmt: skip
        """Add a sphere."""
        shape: dict[str, Any] = {"radius": radius_m}
        return self._add("GEOM_SPHERE", shape, shape, centre, colour, mass, solid)

    def add_ellipsoid(self, radii_m: Sequence[float], centre: Sequence[float], colour: Colour, *, mass: float) -> int:
        """Add an ellipsoid, a convex mesh of 12 x 18 faces."""
        vertices, faces = ellipsoid(radii_m)
        solid: dict[str, Any] = {"vertices": vertices.tolist()}
        normals = vertices / np.square(np.asarray(radii_m))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        seen = {**solid, "indices": faces.ravel().tolist(), "normals": normals.tolist()}
        return self._add("GEOM_MESH", solid, seen, centre, colour, mass, True)

    def _add(self, geometry: str, solid_shape: dict[str, Any], seen_shape: dict[str, Any], centre: Sequence[float],
             colour: Colour, mass: float, solid: bool) -> int:  # fmt: skip
        kind = self.constant(geometry)
        seen = self.call("createVisualShape", kind, rgbaColor=[*colour, 1.0], specularColor=[0, 0, 0], **seen_shape)
        touched = self.call("createCollisionShape", kind, **solid_shape) if solid else -1
        return int(self.call("createMultiBody", mass, touched, seen, list(centre)))

    def set_dynamics(self, body: int, link: int = -1, **values: float) -> None:
        """Set mass, lateralFriction, rollingFriction, spinningFriction, ..."""
        self.call("changeDynamics", body, link, **values)

    def paint(self, body: int, colour: Colour) -> None:
        """Give a body another colour."""
        self.call("changeVisualShape", body, -1, rgbaColor=[*colour, 1.0])

    def pose(self, body: int) -> tuple[Floats, Floats]:
        """Return position (3,) and quaternion (4,) x, y, z, w."""
        position, orientation = self.call("getBasePositionAndOrientation", body)
        return np.array(position), np.array(orientation)

    def put(self, body: int, position: ArrayLike, orientation: ArrayLike = (0.0, 0.0, 0.0, 1.0)) -> None:
        """Place a body, at rest."""
        place, turn = np.asarray(position).tolist(), np.asarray(orientation).tolist()
        self.call("resetBasePositionAndOrientation", body, place, turn)
        self.set_velocity(body, (0.0, 0.0, 0.0))

    def velocity(self, body: int) -> Floats:
        """Return linear and angular velocity (6,)."""
        return np.array([*sum(self.call("getBaseVelocity", body), ())])

    def set_velocity(self, body: int, linear: Sequence[float], angular: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
        """Give a body velocities."""
        self.call("resetBaseVelocity", body, list(linear), list(angular))

    def touching(self, body: int, other: int) -> set[int]:
        """Return the links of `other` that touch a body."""
        return {int(contact[4]) for contact in self.call("getContactPoints", body, other)}

    def rotation(self, quaternion: ArrayLike) -> Floats:
        """Turn a quaternion x, y, z, w into its matrix (3, 3)."""
        return np.array(self._p.getMatrixFromQuaternion(np.asarray(quaternion).tolist())).reshape(3, 3)

    def save(self) -> bytes:
        """Return positions, velocities and contacts of everything; motors and friction are not in it."""
        with _scratch() as path:
            self.call("saveBullet", str(path))
            return path.read_bytes()

    def restore(self, state: bytes) -> None:
        """Go back to a saved state, of this world or of another with the same bodies."""
        with _scratch() as path:
            path.write_bytes(state)
            self.call("restoreState", fileName=str(path))

    def picture(self, eye: ArrayLike, target: ArrayLike, up: ArrayLike, fov_deg: float, size: int) -> NDArray[np.uint8]:
        """Draw what a camera sees (size, size, 3): TinyRenderer, on the processor, no shadows."""
        look = [np.asarray(value, dtype=np.float64).tolist() for value in (eye, target, up)]
        view = self._p.computeViewMatrix(*look)
        lens = self._p.computeProjectionMatrixFOV(fov_deg, 1.0, 0.01, 3.0)
        _, _, rgba, _, _ = self.call(
            "getCameraImage", size, size, view, lens, shadow=0, lightDirection=[0.6, 0.4, 1.5],
            renderer=self._p.ER_TINY_RENDERER, flags=self._p.ER_NO_SEGMENTATION_MASK,
        )  # fmt: skip
        return np.ascontiguousarray(np.asarray(rgba, dtype=np.uint8).reshape(size, size, 4)[..., :3])


def ellipsoid(radii_m: Sequence[float], rings: int = 12, around: int = 18) -> tuple[Floats, NDArray[np.int64]]:
    """Make the corners (V, 3) and the triangles (N, 3) of an ellipsoid."""
    polar, angle = np.meshgrid(
        np.pi * np.arange(rings + 1) / rings, 2 * np.pi * np.arange(around) / around, indexing="ij"
    )
    unit = np.stack([np.sin(polar) * np.cos(angle), np.sin(polar) * np.sin(angle), np.cos(polar)], axis=-1)
    corner = np.arange((rings + 1) * around).reshape(rings + 1, around)
    a, b = corner[:-1], corner[1:]
    c, d = np.roll(a, -1, axis=1), np.roll(b, -1, axis=1)
    faces = np.concatenate([np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])
    return unit.reshape(-1, 3) * np.asarray(radii_m), faces


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dfplan-arm-") as folder:
        yield Path(folder) / "world.bullet"


def _disconnect(module: Any, client: int) -> None:
    with contextlib.suppress(module.error):
        module.disconnect(client)
