"""Play the fruit swap over DDS and in process, with the same starts, and compare how often it is done.

    python benchmarks/ros_swap.py --checkpoint runs/NAME/checkpoint --json benchmarks/results/ros-swap.json
    python benchmarks/ros_swap.py --expert --episodes 20 --json benchmarks/results/ros-swap-expert.json

`dfplan ros sim-arm` and `dfplan ros run` run beside this program, as in two terminals; it plays the operator, who lets
go of the enable button, resets the table, and presses it again. An episode takes about as long as with a real arm. On a
computer that is too slow or busy `--speed 0.25` runs robot and bridge in slow motion.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

import dfplan_envs  # noqa: F401  (registers the ids)
from dfplan.evaluation import episode_seed, evaluate, wilson
from dfplan_policies.ros.backends.cdr import Codecs
from dfplan_policies.ros.backends.node import Node
from dfplan_policies.ros.modes import Mode
from dfplan_policies.ros.topics import DIAGNOSTICS, SWITCH, TEXT
from result import finish

ENV, EXPERT = "fruit-swap-v0", "source:dfplan_bench.swap_expert:source"
PROGRAM = [sys.executable, "-c", "from dfplan.cli import main; main()", "ros"]
ENABLE_S = 0.05  # between two messages of the enable button
FAULT_LEVEL = 2
LET_GO_S = 2.0  # robot's seconds from letting go of the button until the arm is surely released


class Operator:
    """Press the button, reset the table, look at how the task stands; re-arm after a fault, for the next episode.

    Args:
        domain: Of the robot.
        speed: Robot's seconds per second.
    """

    def __init__(self, domain: int, speed: float) -> None:
        self.node, self.speed = Node(Codecs(), domain=domain, interface="lo"), speed
        self._enable = self.node.writer("/enable", SWITCH)
        self._reset, self._info = self.node.writer("/sim/reset", TEXT), self.node.reader("/sim/info", TEXT)
        self._rearm = self.node.writer("/rearm", SWITCH)
        self._bridge, self.fault = self.node.reader("/diagnostics", DIAGNOSTICS), ""

    def press(self, value: bool) -> dict[str, Any]:
        """Send the button's state once, wait a moment, and return the newest facts, {} if none came."""
        self._enable.write(self.node.codecs.make(SWITCH, data=value))
        time.sleep(ENABLE_S)
        for got in self._bridge.take():
            status = got.message.status[0]
            self.fault = status.message if status.level == FAULT_LEVEL else ""
        told = [got.message for got in self._info.take() if got.message is not None]
        return dict(json.loads(told[-1].data)) if told else {}

    def play(self, seed: int, longest_s: float) -> dict[str, Any]:
        """Play one episode; returns how it ended."""
        self._wait(LET_GO_S)
        self._reset.write(self.node.codecs.make(TEXT, data=json.dumps({"seed": seed})))
        end = time.monotonic() + 20.0 / self.speed
        while (facts := self.press(False)).get("seed") != seed:
            if time.monotonic() > end:
                raise RuntimeError("the simulated arm did not obey a reset; see its output")
        self.ready(end)
        begin, behind = facts["time_s"], facts["behind"]
        while facts["time_s"] - begin < longest_s and not facts["over"] and not self.fault:
            facts = self.press(True) or facts
        return {
            "seed": seed, "success": bool(facts["success"]), "stage": facts["stage"], "lost": facts["lost"],
            "seconds": round(facts["time_s"] - begin, 1), "behind": facts["behind"] - behind,
            "rejected": facts["rejected"], "fault": self.fault,
        }  # fmt: skip

    def ready(self, end: float) -> None:
        """Re-arm until there is no fault; the button has to be held meanwhile, and each request counts once."""
        while self.fault:
            self._wait(0.5, True)
            for asked in (True, False):
                self._rearm.write(self.node.codecs.make(SWITCH, data=asked))
                self._wait(0.2, True)
            if time.monotonic() > end:
                raise RuntimeError(f"the bridge cannot be re-armed: {self.fault}")

    def _wait(self, robot_s: float, pressed: bool = False) -> None:
        end = time.monotonic() + robot_s / self.speed
        while time.monotonic() < end:
            self.press(pressed)


@contextmanager
def program(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of `dfplan ros` until the block ends."""
    with log.open("wb") as file:
        process = subprocess.Popen([*PROGRAM, *arguments], stdout=file, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def write_config(path: Path, speed: float, nicer: int) -> None:
    """Write the example `sim-panda` with an enable button."""
    import yaml

    from dfplan_policies.ros.config import load_config

    values = yaml.safe_load((Path(load_config("sim-panda").folder) / "sim-panda.yaml").read_text())
    values["topics"] |= {"enable": "/enable", "rearm": "/rearm"}
    values["speed"] = speed
    values["plan"] = {**values.get("plan", {}), "nicer": nicer, "start_s": 600}
    values["guard"] = {**values.get("guard", {}), "enable_timeout_s": max(0.5, 10 * ENABLE_S * speed)}
    path.write_text(yaml.safe_dump(values))


def over_dds(chosen: argparse.Namespace, seeds: list[int], folder: Path) -> dict[str, Any]:
    """Play the episodes on the wire."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / "robot.yaml", chosen.speed, chosen.nicer)
    log = folder / "log.jsonl.gz"
    how = ["--policy", EXPERT] if chosen.expert else ["--checkpoint", chosen.checkpoint]
    bridge = ["run", "--config", str(folder / "robot.yaml"), "--backend", "dds", "--log", str(log), *how]
    os.environ["ROS_DOMAIN_ID"] = str(chosen.domain)
    operator, episodes = Operator(chosen.domain, chosen.speed), []
    arm = program(["sim-arm", "--speed", str(chosen.speed)], folder / "arm.txt")
    with arm, program(bridge, folder / "bridge.txt") as running:
        wait_for(running, folder / "bridge.txt", operator)
        for seed in tqdm(seeds, desc="over DDS"):
            episodes.append(operator.play(seed, chosen.longest))
    if chosen.figure is not None:
        draw(log, chosen.figure)
    return {"success": wilson(sum(e["success"] for e in episodes), len(episodes)), "episodes": episodes, **read(log)}


def wait_for(running: subprocess.Popen[bytes], told: Path, operator: Operator) -> None:
    """Wait until the bridge waits for the arm."""
    while "WAIT_STATE" not in told.read_text():
        operator.press(False)
        if running.poll() is not None:
            raise RuntimeError(f"the bridge ended: {told.read_text()}")


def read(log: Path) -> dict[str, Any]:
    """Read from the bridge's log how punctual it was and what it held back."""
    modes = dict.fromkeys((mode.name for mode in Mode), 0)
    latency, age, reasons = list[float](), list[float](), dict[str, int]()
    before = None
    with gzip.open(log, "rt") as file:
        period = 1.0 / json.loads(file.readline())["config"]["rate_hz"]
        for line in file:
            row = json.loads(line)
            mode = Mode(row["m"]).name
            modes[mode] += 1
            if "r" in row and len(row["r"]) > 2:
                latency.append(row["t"] - row["r"][0])
            if mode in ("HOLD", "FAULT") and mode != before:
                reason = row.get("why", "").split(" are ")[0]
                reasons[reason] = reasons.get(reason, 0) + 1
            age.append(row["t"])
            before = mode
    late = np.diff(age) - period
    return {
        "ticks": modes, "held_because": reasons, "plans": len(latency),
        "plan_latency_ms": percentiles(latency), "tick_late_ms": percentiles(late.tolist()),
    }  # fmt: skip


def draw(log: Path, figure_path: Path) -> None:
    """Draw the first episode of a log: joints as they were commanded and measured, and the modes."""
    from dfplan.plotting.style import INK, new_figure, save

    with gzip.open(log, "rt") as file:
        config, *rows = [json.loads(line) for line in file]
    joints = config["config"]["joints"]
    begin = next(k for k, row in enumerate(rows) if "c" in row)
    over = (Mode.WAIT_STATE, Mode.STOPPED)
    end = next((k for k in range(begin, len(rows)) if rows[k]["m"] in over), len(rows))
    rows, start = rows[begin:end], rows[begin]["t"]
    seen = [(s[1] - start, dict(zip(s[2], s[3], strict=True))) for row in rows for s in row.get("s", ()) if s[0] == "j"]
    seen = [(when, places) for when, places in seen if joints[0] in places]
    figure = new_figure(10.0, 4.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
    for k, joint in enumerate(joints):
        told = [(row["t"] - start, row["c"][k] - rows[0]["c"][k]) for row in rows if "c" in row]
        above.plot(*zip(*told, strict=True), lw=2.4, alpha=0.5, label=joint.removeprefix("panda_"))
        above.plot([w for w, _ in seen], [p[joint] - rows[0]["c"][k] for _, p in seen], lw=0.6, color=INK)
    above.set_ylabel("rad from the start\n(thin: measured)")
    above.legend(ncols=7, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, 1.16), frameon=False)
    modes = sorted({row["m"] for row in rows})
    below.step([row["t"] - start for row in rows], [modes.index(row["m"]) for row in rows], where="post", lw=1.0)
    below.set_yticks(range(len(modes)), [Mode(mode).name for mode in modes])
    below.set_xlabel("seconds of the robot")
    figure.subplots_adjust(left=0.11, right=0.98, bottom=0.12, top=0.91)
    save(figure, figure_path)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return p50, p99 and the largest, in ms."""
    if not seconds:
        return {}
    names = ("p50", "p99", "max")
    return {
        name: round(float(v) * 1e3, 2) for name, v in zip(names, np.percentile(seconds, [50, 99, 100]), strict=True)
    }


def in_process(chosen: argparse.Namespace, seeds: list[int]) -> dict[str, Any]:
    """Play the same episodes in one process, with steps and actions."""
    if chosen.expert:
        played = [expert_episode(seed, number) for number, seed in enumerate(tqdm(seeds, desc="in process"))]
        return {"success": wilson(sum(e["success"] for e in played), len(played)), "episodes": played}
    from dfplan.episode import EpisodeModel
    from dfplan_policies.episode import EpisodePolicy

    policy = EpisodePolicy(EpisodeModel.from_pretrained(chosen.checkpoint), seed=0)
    metrics = evaluate(policy, ENV, len(seeds), chosen.seed, num_envs=1, progress=True).metrics
    return {"success": metrics["success"], "stages": metrics["stages"]}


def expert_episode(seed: int, number: int) -> dict[str, Any]:
    """Play the expert once; returns how it ended."""
    from dfplan_envs.arm.expert import SwapExpert

    env: Any = gymnasium.make(ENV)
    env.reset(seed=seed)
    expert, over, steps, info = SwapExpert(number), False, 0, dict[str, Any]()
    while not over:
        steps += 1
        *_, terminated, truncated, info = env.step(expert.act(env.unwrapped.view()))
        over = terminated or truncated
    seconds = round(steps / env.unwrapped.options.control_hz, 1)
    env.close()
    return {"seed": seed, "success": bool(info["success"]), "stage": info["stage"], "seconds": seconds}


def weights(chosen: argparse.Namespace) -> str | None:
    """Return what names the checkpoint without a path."""
    if chosen.expert:
        return None
    from dfplan.checkpoint import locate, read_config

    return str(read_config(locate(chosen.checkpoint))["weights_sha256"][:12])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="fruit-swap", help="name, folder or Hub id of a policy of episodes")
    parser.add_argument("--expert", action="store_true", help="the scripted expert in place of a checkpoint")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the starts")
    parser.add_argument("--speed", type=float, default=1.0, help="robot's seconds per second, 0.05 to 1")
    parser.add_argument(
        "--longest", type=float, default=60.0, help="robot's seconds after which an episode is given up"
    )
    parser.add_argument("--domain", type=int, default=41)
    parser.add_argument("--nicer", type=int, default=5, help="by how much the planner gives way to the control loop")
    parser.add_argument("--only-wire", action="store_true", help="leave out the episodes in process")
    parser.add_argument("--figure", type=Path, help="picture of the first episode")
    parser.add_argument("--keep", type=Path, help="folder for the configuration, the log and what both programs said")
    parser.add_argument("--json", type=Path, help="write the result to this file too")
    chosen = parser.parse_args()
    seeds = [episode_seed(chosen.seed, number) for number in range(chosen.episodes)]
    with tempfile.TemporaryDirectory() as folder:
        wire = over_dds(chosen, seeds, chosen.keep or Path(folder))
    result = {
        "benchmark": "ros_swap",
        "policy": "expert" if chosen.expert else "checkpoint",
        "weights": weights(chosen),
    }
    result |= {"episodes": chosen.episodes, "seed": chosen.seed, "speed": chosen.speed, "dds": wire}
    finish(result if chosen.only_wire else result | {"in_process": in_process(chosen, seeds)}, chosen.json)


if __name__ == "__main__":
    main()
