"""Make the data and train every baseline that has no actor yet, one after the other on one thread.

    python benchmarks/baselines/sweep.py --python .venv-d3rlpy/bin/python --steps 25000

Run it in dfplan's environment; ``--python`` is the interpreter of d3rlpy's. Stopped, it goes on with the first actor
that is missing. Delete an actor to train it again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROWS = {"umaze": 1_000_000, "medium": 2_000_000, "large": 4_000_000}
ALGORITHMS = ("iql", "td3_bc", "awac", "bc")


def missing(actors: Path) -> list[tuple[str, str]]:
    """List the mazes and algorithms that have no actor."""
    return [(m, a) for m in ("large", "medium", "umaze") for a in ALGORITHMS if not (actors / name(m, a)).is_file()]


def name(maze: str, algorithm: str) -> str:
    """Return the file name of an actor."""
    return f"{maze}-{algorithm}.safetensors"


def commands(python: str, steps: int, maze: str, algorithm: str, actors: Path) -> list[list[str]]:
    """Return what makes one actor: the data, if there are none, and the training."""
    data = Path("runs") / "data" / f"maze2d-{maze}.npz"
    make = ["dfplan", "data", "make", f"maze2d-{maze}", "--steps", str(ROWS[maze]), "--seed", "0", "--noisy"]
    train = [python, str(HERE / "train.py"), "--algo", algorithm, "--data", str(data), "--steps", str(steps)]
    train += ["--out", str(actors / name(maze, algorithm))]
    return [train] if data.is_file() else [[*make, "--no-minari", "--npz", str(data)], train]


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter that has d3rlpy")
    parser.add_argument("--steps", type=int, default=25_000)
    parser.add_argument("--actors", type=Path, default=HERE / "actors")
    chosen = parser.parse_args()
    for maze, algorithm in missing(chosen.actors):
        for command in commands(chosen.python, chosen.steps, maze, algorithm, chosen.actors):
            print(" ".join(command), file=sys.stderr)
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
