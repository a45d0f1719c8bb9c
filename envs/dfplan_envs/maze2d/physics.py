"""D4RL's point mass on today's MuJoCo: the model as MJCF, and the step with its velocity clip.

Every number here is D4RL's (`pointmaze/maze_model.py`). Two departures, neither of which changes the motion: the ground
plane does not collide (the ball has no vertical degree of freedom, so that contact never did anything but cost time),
and the solver's warm start is off, which makes one step a pure function of state and action: a restored state goes on
bit for bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dfplan_envs.maze2d import _mujoco
from dfplan_envs.maze2d.layouts import Maze

DT_S = 0.01
MAX_SPEED = 5.0  # per axis, applied before each step
TOP_SPEED = 5.2262  # per axis: full thrust within a step makes this of the clipped speed
BALL_RADIUS = 0.1  # cells
ORIGIN = 1.2  # world coordinate of position 0 on both axes
# The camera stands 20 half-heights of the maze above the ball, so that walls hardly show their sides: 2 * atan(1 / 20).
TOP_FOVY_DEG = 5.7248


def mjcf(maze: Maze) -> str:
    """Write the MuJoCo model of a maze.

    Args:
        maze: the checked maze; row i, column j of a wall becomes a box at world (i + 1, j + 1).

    Returns:
        MJCF text.
    """
    walls = "\n".join(
        f'    <geom name="wall_{i}_{j}" type="box" size=".5 .5 .2" pos="{i + 1} {j + 1} 0" material="wall"/>'
        for i, j in maze.walls
    )
    middle = f"{(maze.height + 1) / 2} {(maze.width + 1) / 2}"
    return f"""<mujoco model="maze2d">
  <compiler inertiafromgeom="true" angle="radian"/>
  <option timestep="{DT_S}" gravity="0 0 0" iterations="20" integrator="Euler"><flag warmstart="disable"/></option>
  <visual>
    <global offwidth="{_mujoco.MAX_FRAME}" offheight="{_mujoco.MAX_FRAME}"/>
    <headlight ambient=".5 .5 .5" diffuse=".5 .5 .5" specular="0 0 0"/>
  </visual>
  <default>
    <joint damping="1" limited="false"/>
    <geom friction=".5 .1 .1" density="1000" margin="0.002" condim="1" contype="2" conaffinity="1"/>
  </default>
  <asset>
    <material name="ground" rgba=".93 .93 .90 1"/>
    <material name="wall" rgba=".36 .39 .45 1"/>
  </asset>
  <worldbody>
    <geom name="ground" type="plane" pos="0 0 -0.1" size="40 40 .25" contype="0" conaffinity="0" material="ground"/>
    <camera name="top" pos="{middle} {maze.height * 10}" xyaxes="0 1 0 -1 0 0" fovy="{TOP_FOVY_DEG}"/>
    <site name="target" type="cylinder" size=".16 .01" pos="0 0 -0.08" rgba=".80 .27 .23 1"/>
{walls}
    <body name="particle" pos="{ORIGIN} {ORIGIN} 0">
      <geom name="particle" type="sphere" size="{BALL_RADIUS}" contype="1" rgba=".13 .37 .70 1"/>
      <joint name="ball_x" type="slide" axis="1 0 0"/>
      <joint name="ball_y" type="slide" axis="0 1 0"/>
    </body>
  </worldbody>
  <actuator>
    <motor joint="ball_x" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
    <motor joint="ball_y" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
  </actuator>
</mujoco>
"""


class PointMass:
    """Move the ball: one call is one control step of 0.01 s.

    Args:
        maze: the maze whose walls it meets.

    The state is kept as plain floats beside MuJoCo's arrays (`x`, `y` position, `vx`, `vy` velocity in cells and cells
    per second), because reading single array elements costs more than the physics.
    """

    __slots__ = ("_ctrl", "_qpos", "_qvel", "_scratch", "data", "model", "vx", "vy", "x", "y")

    def __init__(self, maze: Maze) -> None:
        self.model, self.data = _mujoco.load(mjcf(maze))
        self._qpos, self._qvel, self._ctrl = self.data.qpos, self.data.qvel, self.data.ctrl
        self._scratch: _mujoco.Data | None = None
        self.x = self.y = self.vx = self.vy = 0.0

    def set(self, x: float, y: float, vx: float, vy: float) -> None:
        """Put the ball at a position (cells) with a velocity (cells per second), D4RL's frame."""
        self.x, self.y, self.vx, self.vy = x, y, vx, vy
        self._qpos[0], self._qpos[1] = x, y
        self._qvel[0], self._qvel[1] = vx, vy

    def step(self, action_x: float, action_y: float, _mj_step: _mujoco.Step = _mujoco.mj_step) -> None:
        """Clip the velocity to 5 per axis, then apply the action for 0.01 s.

        Args:
            action_x: motor along the rows, in [-1, 1].
            action_y: motor along the columns, in [-1, 1].
        """
        # mj_step recomputes everything that depends on the velocity, so that writing the clipped value needs no forward
        # pass.
        if not -MAX_SPEED <= self.vx <= MAX_SPEED:
            self._qvel[0] = MAX_SPEED if self.vx > 0 else -MAX_SPEED
        if not -MAX_SPEED <= self.vy <= MAX_SPEED:
            self._qvel[1] = MAX_SPEED if self.vy > 0 else -MAX_SPEED
        self._ctrl[0] = action_x
        self._ctrl[1] = action_y
        _mj_step(self.model, self.data)
        self.x, self.y = self._qpos.tolist()
        self.vx, self.vy = self._qvel.tolist()

    def simulate(self, states: NDArray[np.float64], actions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Let N balls go H steps each, without moving this one.

        Args:
            states: (N, 4) x, y, vx, vy.
            actions: (N, H, 2) in [-1, 1].

        Returns:
            (N, H + 1, 4), the states before and after every step; bit for bit what `set` and `step` give.
        """
        if self._scratch is None:
            self._scratch = _mujoco.new_data(self.model)
        out = np.empty((len(states), actions.shape[1] + 1, 4))
        out[:, 0] = now = states
        for step in range(actions.shape[1]):
            clipped = np.concatenate([now[:, :2], now[:, 2:].clip(-MAX_SPEED, MAX_SPEED)], axis=1)
            out[:, step + 1] = now = _mujoco.step_all(self.model, self._scratch, clipped, actions[:, step])
        return out

    @property
    def contact(self) -> bool:
        """Tell whether a wall pushed the ball in the last step."""
        return self.data.ncon > 0
