"""The base of the arm's tasks: a Panda at a table, observed and driven in several ways, disturbed on request."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from dfplan_envs._errors import unknown
from dfplan_envs.arm import cameras, disturb
from dfplan_envs.arm._bullet import Colour, Floats, World
from dfplan_envs.arm.actions import (
    WIDTHS,
    WORKSPACE_HIGH,
    WORKSPACE_LOW,
    joint_joints,
    read_action,
    tool_joints,
    width_of,
)
from dfplan_envs.arm.options import CAMERAS, read_options
from dfplan_envs.arm.panda import OPEN_M, Panda
from dfplan_envs.arm.servo import Servo

TABLE_CENTRE, TABLE_HALF = (0.35, 0.0, -0.02), (0.55, 0.5, 0.02)
TABLE_COLOUR: Colour = (0.55, 0.56, 0.58)
TOOL_START, TOOL_SPREAD = np.array([0.45, 0.0, 0.25]), np.array([0.03, 0.06, 0.03])
KNOCK_S = 0.3  # a knocked gripper stays open that long
HIDDEN = (0.0, 0.0, -5.0)
ARM_COLUMNS = {
    "joint_pos": slice(0, 7), "tool_pos": slice(7, 10), "tool_rot6": slice(10, 16), "gripper_width": slice(16, 17)
}  # fmt: skip
PROPRIO = 17
# rad, m, parts of a rotation: wider than anything that happens on the table.
BOUNDS = {
    "joint": (-4.0, 4.0), "pos": (-2.0, 2.0), "rot6": (-1.01, 1.01), "quat": (-1.01, 1.01), "width": (-0.01, 0.09)
}  # fmt: skip
NO_CLIPS = {"clipped_action": False, "clipped_speed": False, "clipped_workspace": False, "blocked": False}


@dataclass(frozen=True)
class Body:
    """Describe an object that the arm can move."""

    name: str
    id: int
    mass_kg: float


@dataclass(frozen=True)
class Verdict:
    """Say how a task stands."""

    success: bool
    over: bool
    """Whether the episode ends: success, or nothing more to be done."""
    info: dict[str, Any]


@dataclass(frozen=True)
class ArmState:
    """Hold everything that the rest of an episode depends on; it can be pickled and restored elsewhere."""

    world: bytes
    arm: tuple[Floats, Floats, float]
    values: dict[str, Any]
    generator: dict[str, Any]


def state_columns(movables: tuple[str, ...], extras: dict[str, int] | None = None) -> dict[str, slice]:
    """Name the columns of a task's state vector: the arm's, a pose per movable object, what the task adds."""
    columns, start = dict(ARM_COLUMNS), PROPRIO
    sizes = [(f"{name}_{part}", size) for name in movables for part, size in (("pos", 3), ("quat", 4))]
    for name, size in [*sizes, *(extras or {}).items()]:
        columns[name] = slice(start, start + size)
        start += size
    return columns


class ArmEnv(gymnasium.Env[Any, NDArray[np.float32]], gymnasium.utils.RecordConstructorArgs, ABC):
    """Drive a Panda at a table; a task fills in objects, starts and success.

    Observation: "state" is a float32 vector, see `columns`; "image" a dict of `scene` and `hand` (S, S, 3) uint8 and
    `proprio` (17,), the arm's columns; "both" has `state` too.
    Action in [-1, 1], the last number the gripper's width (-1 closed, 1 open, 8 cm). The hand points down.
    "delta" (4,): a move of the tool, 1 is 0.4 m/s. "absolute" (4,): a place in the workspace to move towards.
    "joint" (8,): angles, 1 the upper limit of each, to move towards.
    The tool keeps to x 0.3 to 0.7, y -0.35 to 0.35, z 0.015 to 0.40 m and to 0.4 m/s, joints to 1.5 rad/s: `info` says
    in every step which limits were met: `clipped_action`, `clipped_speed`, `clipped_workspace`, and `blocked` (the arm
    could not follow).
    Reward 1 on success, which ends the episode.

    Args:
        render_mode: None or "rgb_array".
        options: see `ArmOptions`.

    Raises:
        ImportError: without the extra: pip install 'dfplan[bullet]'.
        TypeError: an unknown option.
        ValueError: an option out of its range.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]
    reset_options: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[dict[str, slice]]

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, render_mode=render_mode, **options)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise unknown("render_mode", render_mode, ("None", *self.metadata["render_modes"]))
        self.options = read_options(options)
        self.metadata = {**self.metadata, "render_fps": self.options.control_hz}  # type: ignore[misc]
        self.render_mode = render_mode
        self.world = World(window=self.options.window)
        self.world.add_box(TABLE_HALF, TABLE_CENTRE, TABLE_COLOUR)
        self.panda = Panda(self.world)
        self.movables: tuple[Body, ...] = self._build()
        self._distractors = self._add_distractors()
        self._fresh = self.world.save()
        self._live: dict[str, Any] | None = None
        self.observation_space = self._space()
        self.action_space = spaces.Box(-1.0, 1.0, (WIDTHS[self.options.action],), dtype=np.float32)

    # What a task fills in.

    @abstractmethod
    def _build(self) -> tuple[Body, ...]:
        """Add the task's bodies to the world; returns those that can be moved."""

    @abstractmethod
    def _start(self, rng: np.random.Generator, options: dict[str, Any]) -> dict[str, Any]:
        """Draw a start and place the bodies; returns the episode's facts, plain values."""

    @abstractmethod
    def _judge(self, facts: dict[str, Any]) -> Verdict:
        """Judge the task; may note in `facts` what has been reached."""

    def _extras(self, facts: dict[str, Any]) -> list[Floats]:
        """Return what the task adds to the state."""
        return []

    # Gymnasium.

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; what it starts from depends on the seed only, not on `push`, `occlude`, ....

        Args:
            seed: seeds everything that is drawn from here on; None goes on.
            options: the task's own, see its class.

        Raises:
            ValueError: an unknown option.
        """
        super().reset(seed=seed)
        for name in options or {}:
            if name not in self.reset_options:
                raise unknown("option of reset", name, self.reset_options)
        self._check_limit()
        start, timing, looks, weights, hits = map(np.random.default_rng, self.np_random.integers(2**62, size=5))
        chosen = self.options
        self._forget()
        self._live = {
            "step": 0, "taken": None, "pushes": 0, "open_until": -1, "disturbed": False,
            "dark": disturb.draw_dark(chosen.occlude, disturb.DARK_STEPS, chosen.control_hz, timing),
            "push_steps": disturb.draw_push_steps(chosen.push, chosen.control_hz, timing),
            "push_rng": timing.bit_generator.state,  # after its draws
            "bumps": disturb.draw_bumps(chosen.bumps, disturb.DARK_STEPS, chosen.control_hz, hits),
            "looks": self._draw_looks(looks), "weights": weights.uniform(-1.0, 1.0, (len(self.movables), 2)),
        }  # fmt: skip
        self.panda.put(TOOL_START + start.uniform(-TOOL_SPREAD, TOOL_SPREAD))
        self._apply_live()
        self._live["facts"] = self._start(start, dict(options or {}))
        self.panda.follow(self.panda.joint_target, OPEN_M, chosen.substeps)
        verdict = self._judge(self._live["facts"])
        return self._observe(), self._info(verdict, NO_CLIPS)

    def step(self, action: ArrayLike) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act for 1 / control_hz seconds.

        Raises:
            ValueError: an action of a wrong shape, or not finite.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        live, chosen = self._need_live("step"), self.options
        values, clipped = read_action(action, chosen.action)
        self._disturb(live)
        dt_s = 1.0 / chosen.control_hz
        if chosen.action == "joint":
            joints, clips = joint_joints(self.panda, values, dt_s)
        else:
            self._bump(live, dt_s)
            joints, clips = tool_joints(self.panda, values, chosen.action, dt_s)
        knocked = live["step"] < live["open_until"]
        self.panda.follow(joints, OPEN_M if knocked else width_of(float(values[-1])), chosen.substeps)
        live["step"] += 1
        verdict = self._judge(live["facts"])
        info = self._info(verdict, {"clipped_action": clipped, **clips})
        truncated = chosen.max_steps is not None and live["step"] >= chosen.max_steps and not verdict.over
        return self._observe(), float(verdict.success), verdict.over, truncated, info

    def render(self) -> NDArray[np.uint8] | None:
        """Draw the scene (S, S, 3); None (and a warning) without a `render_mode`."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render mode: gym.make(..., render_mode='rgb_array')")
            return None
        self._need_live("render")
        return cameras.scene_picture(self.world, self.options.render_size)

    def close(self) -> None:
        """Free the simulation; a second call does nothing."""
        self.world.close()

    def save_state(self) -> ArmState:
        """Return everything that what follows depends on; continuing from it is equal bit for bit."""
        live, panda = self._need_live("save_state"), self.panda
        arm = (panda.joint_target.copy(), panda.tool_target.copy(), panda.width_target)
        generator = dict(self.np_random.bit_generator.state)
        return ArmState(self.world.save(), arm, copy.deepcopy(live), copy.deepcopy(generator))

    def restore_state(self, state: ArmState) -> None:
        """Go back to a state that `save_state` of an environment with the same options returned."""
        self._forget()
        self._live = copy.deepcopy(state.values)
        self._apply_live()
        self.world.restore(state.world)
        joints, tool, self.panda.width_target = state.arm
        self.panda.joint_target, self.panda.tool_target = joints.copy(), tool.copy()
        self.np_random.bit_generator.state = copy.deepcopy(state.generator)

    def servo(self) -> Servo:
        """Return what drives the robot directly, for a process that plays the robot."""
        return Servo(self)

    def judge(self) -> dict[str, Any]:
        """Judge the task now; returns what `step` would tell of it in its info."""
        verdict = self._judge(self._facts)
        return {"success": verdict.success, "over": verdict.over, **verdict.info}

    # Observations.

    def state(self) -> NDArray[np.float32]:
        """Return the state vector of now, whatever is observed, see `columns`."""
        self._need_live("state")
        return self._state()

    def observe(self) -> Any:
        """Return the observation of now."""
        self._need_live("observe")
        return self._observe()

    def _space(self) -> spaces.Space[Any]:
        size, width = self.options.image_size, max(part.stop for part in self.columns.values())
        low, high = np.empty(width, np.float32), np.empty(width, np.float32)
        for name, part in self.columns.items():
            low[part], high[part] = BOUNDS[name.rpartition("_")[2] if name != "joint_pos" else "joint"]
        self._low, self._high = low, high
        state = spaces.Box(low, high, dtype=np.float32)
        if not self.options.pictures:
            return state
        picture = spaces.Box(0, 255, (size, size, 3), dtype=np.uint8)
        proprio = spaces.Box(low[:PROPRIO], high[:PROPRIO], dtype=np.float32)
        parts: dict[str, spaces.Space[Any]] = {"scene": picture, "hand": picture, "proprio": proprio}
        return spaces.Dict(parts | ({"state": state} if self.options.obs == "both" else {}))

    def _observe(self) -> Any:
        state = self._state()
        if not self.options.pictures:
            return state
        live = self._need_live("observe")
        if live["taken"] is None or live["step"] % self.options.camera_every == 0:
            live["taken"] = {name: self._picture(name) for name in CAMERAS}
        seen: dict[str, Any] = {name: picture.copy() for name, picture in live["taken"].items()}
        seen["proprio"] = state[:PROPRIO].copy()
        return seen | ({"state": state} if self.options.obs == "both" else {})

    def _picture(self, camera: str) -> NDArray[np.uint8]:
        size = self.options.image_size
        if self._is_dark() and camera in self.options.occlude_cameras:
            return np.zeros((size, size, 3), dtype=np.uint8)
        if camera == "scene":
            return cameras.scene_picture(self.world, size)
        return cameras.hand_picture(self.world, self.panda, size)

    def _state(self) -> NDArray[np.float32]:
        place, turn = self.panda.tool()
        arm = [self.panda.joints(), place, turn[:, 0], turn[:, 1], np.array([self.panda.width()])]
        objects: list[Floats] = []
        for body in self.movables:
            position, quaternion = self.world.pose(body.id)
            objects += [position, canonical(quaternion)]
        if objects and self._is_dark() and self.options.occlude_state:
            objects = [np.full_like(part, np.nan) for part in objects]
        state = np.concatenate([*arm, *objects, *self._extras(self._facts)]).astype(np.float32)
        return np.clip(state, self._low, self._high)  # nothing but a fruit in free fall gets there

    def _is_dark(self) -> bool:
        live = self._need_live("observe")
        return bool(live["dark"][live["step"] % disturb.DARK_STEPS])

    @property
    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self._need_live("observe")["facts"]
        return facts

    def _info(self, verdict: Verdict, clips: dict[str, bool]) -> dict[str, Any]:
        live = self._need_live("observe")
        shared = {"success": verdict.success, "occluded": self._is_dark(), "pushes": live["pushes"]}
        return {**shared, "disturbed": bool(live["disturbed"]), **clips, **verdict.info}

    def _need_live(self, what: str) -> dict[str, Any]:
        if self._live is None:
            raise gymnasium.error.ResetNeeded(f"{what}() needs a state, got none; call reset() first")
        return self._live

    def _forget(self) -> None:
        """Go back to the world as built; contacts of what was before would change later bits."""
        self.world.restore(self._fresh)
        for k, body in enumerate(self.movables):
            self.world.put(body.id, (k, 0.0, HIDDEN[2]))
        self.world.call("performCollisionDetection")

    def _check_limit(self) -> None:
        asked = self.options.max_steps
        known = gymnasium.registry.get(self.spec.id) if self.spec else None
        limit = known.max_episode_steps if known else None
        if asked is not None and limit is not None and asked > limit:
            raise ValueError(
                f"max_steps must be at most the id's limit {limit}, got {asked}; for longer episodes leave it out and "
                f"pass gym.make(..., max_episode_steps={asked})"
            )

    # Disturbances.

    def _disturb(self, live: dict[str, Any]) -> None:
        """Push an object or knock one out of the gripper, if it is time to."""
        due = live["step"] in live["push_steps"] and bool(self.movables)
        live["disturbed"] = due
        if not due:
            return
        rng = np.random.default_rng(0)
        rng.bit_generator.state = live["push_rng"]
        chosen = self.movables[int(rng.integers(len(self.movables)))]
        held = [body for body in self.movables if self.panda.held(body.id)]
        if held:
            live["open_until"] = live["step"] + round(KNOCK_S * self.options.control_hz)
            chosen = held[0]
        vx, vy = disturb.draw_push(rng, bool(held))
        live["push_rng"] = rng.bit_generator.state
        live["pushes"] += 1
        self.world.set_velocity(chosen.id, (vx, vy, 0.0))

    def _bump(self, live: dict[str, Any], dt_s: float) -> None:
        """Shift the tool's target, if something bumps into the arm."""
        if len(bumps := live["bumps"]):
            moved = self.panda.tool_target + bumps[live["step"] % len(bumps)] * dt_s
            self.panda.tool_target = np.clip(moved, WORKSPACE_LOW, WORKSPACE_HIGH)

    def _apply_live(self) -> None:
        """Set what the simulator's state does not hold: mass, friction, the look of distractors."""
        live = self._need_live("reset")
        spread = self.options.randomize
        for body, (mass, friction) in zip(self.movables, live["weights"], strict=True):
            self.world.set_dynamics(
                body.id, mass=body.mass_kg * (1 + spread * mass), lateralFriction=1 + spread * friction,
                rollingFriction=0.002, spinningFriction=0.002,
            )  # fmt: skip
        for body_id, (place, colour) in zip(self._distractors, live["looks"], strict=True):
            self.world.put(body_id, place)
            self.world.paint(body_id, colour)

    def _add_distractors(self) -> list[int]:
        found = []
        for k in range(self.options.distractors):
            size = 0.02 + 0.006 * (k % 3)
            if k % 2:
                found.append(self.world.add_sphere(size, HIDDEN, (1.0, 1.0, 1.0), solid=False))
            else:
                found.append(self.world.add_box((size, size, size), HIDDEN, (1.0, 1.0, 1.0), solid=False))
        return found

    def _draw_looks(self, rng: np.random.Generator) -> list[tuple[tuple[float, ...], Colour]]:
        looks = []
        for _ in range(self.options.distractors):
            behind, x = rng.random() < 0.4, rng.random()  # beside the plates
            place = (0.28 + 0.1 * x if behind else 0.62 + 0.15 * x, rng.uniform(-0.4, 0.4), 0.025)
            red, green, blue = rng.uniform(0.05, 0.95, 3).tolist()
            looks.append((tuple(map(float, place)), (red, green, blue)))
        return looks


def canonical(quaternion: Floats) -> Floats:
    """Choose of the two signs of a rotation's quaternion the one whose largest number is positive."""
    return quaternion if quaternion[np.argmax(np.abs(quaternion))] >= 0 else -quaternion
