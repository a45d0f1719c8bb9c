"""The fault table as data: what goes wrong, what the bridge must do, and how soon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dfplan_bench.ros_faults.robot import ENABLE_S, PERIOD_S, PLAN_S, SOFT_S

Outcome = Literal["fault", "hold", "goes on", "silent"]


@dataclass(frozen=True, eq=False)
class Scenario:
    """Describe one row.

    Attributes:
        number: In the list of faults.
        fault: What goes wrong, for the table.
        outcome: "fault" (held until an operator re-arms), "hold" (held until the reason is gone), "goes on" (moves all
            the time), "silent" (not one command).
        arm: Name of a fault of the joint states (`dfplan_bench.ros_faults.spoil`), "" if none.
        plan: How the planner misbehaves (`dfplan_bench.ros_faults.plans`), "" if it does not.
        order: An order to the arm in place of a fault.
        undo: The order that takes it back.
        play: Name of a function of `dfplan_bench.ros_faults.plays`, for what is no fault of states or plans.
        allowed_s: From the fault to the first hold command, a period not included.
        lasts_s: How long the fault lasts, at 100 commands a second.
        clears_s: How long the bridge remembers it, after which it can be re-armed.
        early: Whether it is there from the start.
        share: Of the time in which the arm must move at least, if it goes on.
        says: What the bridge's reason must contain.
        changes: Of the bridge's configuration.
        far: Options of the arm.
        environment: Of arm and bridge.
    """

    number: int
    fault: str
    outcome: Outcome
    arm: str = ""
    plan: str = ""
    order: Mapping[str, Any] = field(default_factory=dict)
    undo: Mapping[str, Any] = field(default_factory=dict)
    play: str = ""
    allowed_s: float = 0.0
    lasts_s: float = 0.8
    clears_s: float = 0.0
    early: bool = False
    share: float = 0.5
    says: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    far: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def lossy(per_mille: int) -> dict[str, str]:
    """Return the environment in which so many of a thousand packets that are sent get lost."""
    return {"CYCLONEDDS_URI": f"<Internal><Test><XmitLossiness>{per_mille}</XmitLossiness></Test></Internal>"}


BAD_S = 30 * PERIOD_S  # a planner is asked every 10 periods, and three bad plans in a row are one too many
CAMERAS = {"topics": {"cameras": {"scene": "/scene/image_raw", "hand": "/hand/image_raw"}}}
STOP, RELEASE = {"switch": "stop", "value": True}, {"switch": "stop", "value": False}

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(0, "none", "goes on", lasts_s=3.0),
    Scenario(1, "no joint states at the start", "silent", arm="silent", early=True, says="not all joints"),
    Scenario(2, "joint states stop", "fault", arm="silent", allowed_s=SOFT_S, says="old"),
    Scenario(2, "the robot's process is killed (SIGKILL)", "fault", play="kill_arm", allowed_s=SOFT_S, says="old"),
    Scenario(2, "the robot's process is suspended (SIGSTOP), then goes on", "fault", play="suspend_arm",
             allowed_s=SOFT_S, says="old"),
    Scenario(3, "joint states late by 10 periods", "hold", arm="a little late", allowed_s=SOFT_S, says="old"),
    Scenario(3, "joint states late by 40 periods", "fault", arm="very late", allowed_s=SOFT_S, says="old"),
    Scenario(3, "joint states in bursts, 8 at a time", "goes on", arm="burst", lasts_s=2.0),
    Scenario(4, "the same stamp for ever", "fault", arm="repeated", allowed_s=SOFT_S, says="old"),
    Scenario(4, "joint states in the wrong order", "goes on", arm="reordered", lasts_s=2.0),
    Scenario(4, "the robot's clock jumps back by 1000 s", "goes on", arm="past", lasts_s=2.0),
    Scenario(4, "the robot's clock jumps ahead by 1000 s", "goes on", arm="future", lasts_s=2.0),
    Scenario(5, "one position is NaN, once", "fault", arm="nan", says="position of joint_2 is nan"),
    Scenario(5, "one position is infinite, once", "fault", arm="inf", says="position of joint_2 is inf"),
    Scenario(5, "velocities and efforts are NaN", "goes on", arm="nan velocity", lasts_s=2.0),
    Scenario(6, "one joint jumps by 0.15 rad", "fault", arm="jump", says="jumped"),
    Scenario(7, "joints in another order", "goes on", arm="permuted", lasts_s=2.0),
    Scenario(7, "joints that nobody asked for", "goes on", arm="extra", lasts_s=2.0),
    Scenario(7, "a joint is missing from the start", "silent", arm="missing", early=True, says="not all joints"),
    Scenario(7, "a joint goes missing", "fault", arm="missing", allowed_s=SOFT_S, says="old"),
    Scenario(7, "fewer positions than names", "fault", arm="short", allowed_s=SOFT_S, says="old"),
    Scenario(7, "a name is there twice", "fault", arm="doubled", allowed_s=SOFT_S, says="old"),
    Scenario(8, "two publishers, each with some of the joints", "goes on", arm="parts", early=True, lasts_s=2.0),
    Scenario(8, "a second arm whose names have a prefix", "goes on", arm="phantom", lasts_s=2.0),
    Scenario(8, "a second publisher of the same joints", "fault", arm="rivals", says="two publishers", clears_s=1.5),
    Scenario(9, "the arm stands outside its limits at the start", "silent", early=True, says="outside its limits",
             far={"start": [-0.6, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]}),
    Scenario(10, "another type on the topic of the joint states", "silent", play="misconfigured", early=True,
             far={"type": "numbers"}, says="Float64MultiArray"),
    Scenario(10, "joint states as best effort, read as reliable", "silent", play="misconfigured", early=True,
             far={"reliable": False}, says="best"),
    Scenario(11, "the planner takes three times its period", "goes on", plan="slower than its period",
             lasts_s=3.0),
    Scenario(12, "the planner takes longer than its plans last", "hold", plan="later than its horizon",
             lasts_s=0.5, says="no plan"),
    Scenario(13, "the planner raises", "fault", plan="raises", says="raised ArithmeticError"),
    Scenario(14, "the planner is killed (SIGKILL)", "fault", plan="dies", allowed_s=SOFT_S, says="exit code -9"),
    Scenario(15, "the planner hangs", "fault", plan="hangs", allowed_s=PLAN_S, lasts_s=1.5, says="not answered"),
    Scenario(16, "a NaN in every plan", "fault", plan="nan", allowed_s=BAD_S, says="plans in a row"),
    Scenario(16, "an infinite number in every plan", "fault", plan="inf", allowed_s=BAD_S,
             says="plans in a row"),
    Scenario(16, "plans of the wrong width", "fault", plan="shape", allowed_s=BAD_S, says="plans in a row"),
    Scenario(16, "empty plans", "fault", plan="empty", allowed_s=BAD_S, says="plans in a row"),
    Scenario(17, "plans for two joints that lead beyond the limits", "goes on", plan="beyond", lasts_s=3.5),
    Scenario(18, "steps of 0.6 rad between plans", "goes on", plan="steps", lasts_s=3.0),
    Scenario(19, "every third plan is one from an old observation", "goes on", plan="old", lasts_s=3.0),
    Scenario(20, "the planner burns its core, and another process one more", "goes on", plan="burns", lasts_s=3.0,
             share=0.0),
    Scenario(21, "5 % of all packets are lost", "goes on", early=True, lasts_s=4.0, environment=lossy(50)),
    Scenario(21, "20 % of all packets are lost", "goes on", early=True, lasts_s=4.0, environment=lossy(200)),
    Scenario(22, "the robot's process is restarted", "fault", play="restart_arm", allowed_s=SOFT_S, says="old",
             clears_s=1.5),
    Scenario(23, "the bridge is killed and restarted while the arm moves", "silent", play="restart_bridge"),
    Scenario(24, "a second bridge on the same topic", "fault", play="second_bridge", says="other writer"),
    Scenario(25, "a second reader of the commands hangs (SIGSTOP)", "goes on", play="hung_reader", lasts_s=3.0),
    Scenario(26, "a robot on Fast DDS 3", "silent", play="not_here"),
    Scenario(27, "two cameras, 640 x 480, 0.9 MB a picture", "goes on", play="cameras", lasts_s=3.0,
             changes=CAMERAS),
    Scenario(28, "the enable button is let go", "hold", order={"enable": False}, undo={"enable": True},
             says="not enabled"),
    Scenario(28, "the enable button falls silent", "hold", order={"enable": None}, undo={"enable": True},
             allowed_s=ENABLE_S, says="not enabled"),
    Scenario(29, "the emergency stop", "fault", order=STOP, undo=RELEASE, says="emergency stop"),
    Scenario(30, "Ctrl-C (SIGINT)", "fault", play="interrupt", says="stopped"),
    Scenario(30, "SIGTERM", "fault", play="terminate", says="stopped"),
    Scenario(30, "an exception in the loop: the log cannot be written", "fault", play="full_disk"),
    Scenario(31, "re-arming: refused while the stop is pressed, and nothing by itself", "fault", play="rearm",
             says="emergency stop"),
    Scenario(32, "a dry run", "silent", play="dry"),
    Scenario(33, "the bridge is killed (SIGKILL)", "silent", play="kill_bridge", allowed_s=2 * PERIOD_S),
)  # fmt: skip
SHORT = (
    "none",
    "joint states stop",
    "one position is NaN, once",
    "the emergency stop",
    "a second publisher of the same joints",
)
