"""Demonstrations of the robot-arm fruit swap: made on all cores, episode by episode, resumable."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from dfplan.cli.data_common import check_outputs, progress_bar, report, say, write_outputs

if TYPE_CHECKING:
    from dfplan.data import Episodes
    from dfplan.data.shards import ShardFolder
    from dfplan.data.trajectories import Trajectories
    from dfplan_envs.arm.demonstrations import Demonstration, Demonstrations

NAME = "fruit-swap"
INTERRUPTED = 130
KEEPS = ("success", "all")
_made: dict[Any, Any] = {}


def default_id(obs: str, image_size: int) -> str:
    """Return the default id of demonstrations: fruit-swap/state-v0, fruit-swap/both-64-v0."""
    return f"{NAME}/{obs}-v0" if obs == "state" else f"{NAME}/{obs}-{image_size}-v0"


def make_command(
    episodes: int, seed: int, options: dict[str, Any], noise: float, pushed: float, misses: float, distracted: float,
    keep: str, workers: int, out: Path | None, dataset_id: str | None, npz: Path | None, minari: bool, overwrite: bool,
    who: dict[str, Any], as_json: bool,
) -> None:  # fmt: skip
    """Carry out `dfplan data make fruit-swap`."""
    from dfplan_envs.arm.demonstrations import Demonstrations

    begin, obs, size, bumps = time.perf_counter(), str(options["obs"]), int(options["image_size"]), options["bumps"]
    dataset_id = dataset_id or default_id(obs, size)
    check_outputs(dataset_id, minari, npz, overwrite)
    every = int(options["camera_every"])
    pictures = (("image_size", size), ("camera_every", every)) if obs != "state" else ()
    chosen = (("obs", obs), ("bumps", bumps), *pictures)
    what = Demonstrations(
        seed, noise, "balanced", pushed, int(options["pushes"]), misses, distracted, int(options["distractors"]), chosen
    )  # fmt: skip
    found, native, spec, counts = make_demonstrations(what, episodes, keep=keep, workers=workers, folder=out)
    say(f"{counts['successes']} of {counts['played']} episodes succeeded, {counts['kept']} are kept")
    found.meta["command"] = (
        f"dfplan data make {NAME} --episodes {episodes} --seed {seed} --obs {obs}"
        + (f" --image-size {size} --camera-every {every}" if obs != "state" else "")
        + f" --expert-noise {noise:g} --pushed {pushed:g} --pushes {options['pushes']} --bumps {bumps:g}"
        + f" --misses {misses:g}"
        + (f" --distracted {distracted:g} --distractors {options['distractors']}" if distracted else "")
        + f" --keep {keep}"
    )
    about = {
        "description": f"{NAME}: {found.meta['recipe']}; {round(100 * pushed)} % of the episodes are pushed.",
        "algorithm_name": "scripted expert",
        "requirements": ["pybullet", "gymnasium>=1.0"],
        **who,
    }
    written = write_outputs(found, dataset_id, minari, npz, overwrite, spec, about, native)
    report(found, {**written, "seconds": round(time.perf_counter() - begin, 3)}, as_json)


def make_demonstrations(
    what: Demonstrations, episodes: int, *, keep: str = "success", workers: int = 1, folder: Path | None = None
) -> tuple[Episodes, Trajectories, Any, dict[str, int]]:
    """Let the expert play; what is in the run folder already is not played again.

    Args:
        what: What is demonstrated.
        episodes: Episodes to play, at least 1.
        keep: "success" leaves failed ones out, "all" does not.
        workers: Processes; the data do not depend on it.
        folder: Run folder; None takes one in runs/ by what is asked for.

    Returns:
        Episodes of the columns of the state ("state", "both") or of the arm's own state ("image"), the same in the
        environment's own spaces, the environment's Gymnasium spec, and how many were played and kept.

    Raises:
        ValueError: For an option out of range, or a folder of something else.
        ImportError: Without the extra `bullet`.
        typer.Exit: 130 after Ctrl-C; the finished episodes are kept.
    """
    from dfplan.data.shards import ShardFolder

    if keep not in KEEPS:
        raise ValueError(f"keep must be 'success' or 'all', got {keep!r}")
    one = what.make()
    spaces, spec = (one.observation_space, one.action_space), copy.deepcopy(one.spec)
    one.close()
    about = {"demonstrations": NAME, **asdict(what), "options": dict(what.options)}
    shards = ShardFolder(folder or Path("runs") / f"make-{NAME}-{_digest(about)}", about)
    _play(what, shards, episodes, workers)
    native = shards.read(episodes, *spaces)
    successes = np.array([bool(rewards.sum() > 0) for _, _, rewards, _ in native.pieces()])
    if keep == "success":
        native = _only(native, successes)
    counts = {"played": episodes, "successes": int(successes.sum()), "kept": len(native)}
    return _columns(native, what, counts), native, spec, counts


def _play(what: Demonstrations, shards: ShardFolder, episodes: int, workers: int) -> None:
    """Play what is missing; what has ended is kept whatever happens."""
    from dfplan.data.collecting import Rollout

    missing = shards.missing(episodes)
    if not missing:
        return
    if len(missing) < episodes:
        say(f"{episodes - len(missing)} of {episodes} episodes are in {shards.folder}; going on")
    steps = successes = 0
    try:
        with (
            progress_bar(f"play {NAME}", len(missing), "episodes") as advance,
            _played(what, missing, workers) as played,
        ):
            for number, one in played:
                seen: Any = one.observations
                rows = seen if set(seen) != {"state"} else seen["state"]
                shards.add(Rollout(number, rows, one.actions, one.rewards.astype(np.float64), bool(one.ended)))
                steps, successes = steps + len(one), successes + one.success
                advance(1)
                advance.note(f"{steps:,} steps, {successes} successes")
    except KeyboardInterrupt:
        shards.flush()
        done = episodes - len(shards.missing(episodes))
        say(
            f"\nstopped: {done} of {episodes} episodes are kept in {shards.folder}; the same command goes on from there"
        )
        raise typer.Exit(INTERRUPTED) from None
    finally:
        shards.flush()


@contextlib.contextmanager
def _played(what: Demonstrations, numbers: list[int], workers: int) -> Iterator[Iterator[tuple[int, Demonstration]]]:
    """Yield what comes out of the workers, in order."""
    if workers == 1 or len(numbers) == 1:
        yield ((number, _play_one(what, number)) for number in numbers)
        return
    pool = multiprocessing.get_context("spawn").Pool(min(workers, len(numbers)), _ignore_interrupts)
    try:
        yield pool.imap(_Job(what), numbers)
    finally:
        pool.terminate()
        pool.join()


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the simulator greets on standard output


class _Job:
    """Play one episode in a worker."""

    def __init__(self, what: Demonstrations) -> None:
        self.what = what

    def __call__(self, number: int) -> tuple[int, Demonstration]:
        return number, _play_one(self.what, number)


def _play_one(what: Demonstrations, number: int) -> Demonstration:
    from dfplan_envs.arm.demonstrations import demonstrate

    key = (what, what.kind(number))
    if key not in _made:
        _made[key] = what.make(number)
    return demonstrate(what, number, _made[key])


def _only(native: Trajectories, chosen: Any) -> Trajectories:
    from dataclasses import replace

    from dfplan.data.trajectories import join

    if not chosen.any():
        raise ValueError("no episode succeeded, so none is kept; pass --keep all, or less --expert-noise")
    kept = [piece for piece, good in zip(native.pieces(), chosen, strict=True) if good]
    observations, actions, rewards = (join([piece[i] for piece in kept]) for i in range(3))
    lengths = np.array([len(piece[2]) for piece in kept], dtype=np.int64)
    terminated = np.array([piece[3] for piece in kept], dtype=bool)
    return replace(
        native, observations=observations, actions=actions, rewards=rewards, lengths=lengths, terminated=terminated
    )


def _columns(native: Trajectories, what: Demonstrations, counts: dict[str, int]) -> Episodes:
    """Return the vector part as columns, and what is known of the data."""
    from dataclasses import replace

    from gymnasium.spaces import Dict

    from dfplan.cli.data_make import versions

    space, seen = native.observation_space, native.observations
    key = None
    if isinstance(space, Dict) and isinstance(seen, dict):
        key = "state" if "state" in seen else "proprio"
        native = replace(native, observations=seen[key], observation_space=space.spaces[key])
    from dfplan_envs.arm.demonstrations import ENV_ID

    meta = {
        "env": ENV_ID,
        "recipe": "a scripted expert with grips that are off by N(0, noise^2) m, short pauses, drawn speeds and misses",
        **asdict(what),
        "options": dict(what.options),
        "reward": "1 when the swap is done, which ends the episode",
        **counts,
        **({"observation_key": key} if key else {}),
        "versions": versions("numpy", "gymnasium", "pybullet"),
    }
    return native.to_episodes(meta)


def _digest(what: dict[str, Any]) -> str:
    return hashlib.sha256(repr(sorted(what.items())).encode()).hexdigest()[:8]
