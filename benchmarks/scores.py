"""Run the evaluations behind the score tables, each by the command that stands in its result.

    python benchmarks/scores.py                  # all that have no result yet
    python benchmarks/scores.py large-path ...   # these, again

Each result is the JSON that ``dfplan eval --json`` prints, in ``benchmarks/results/NAME.json``.
"""

from __future__ import annotations

import argparse
import difflib
import json
import shlex
import subprocess
import sys
from pathlib import Path

import baseline_commands
from dfplan.data.files import atomic_path

RESULTS = Path(__file__).parent / "results"
MAZES = ("umaze", "medium", "large")
COMMANDS = {
    **{f"{m}-path": f"--env maze2d-{m} --episodes 500 --workers 2" for m in MAZES},
    **{f"{m}-waypoint": f"--env maze2d-{m} --policy waypoint --episodes 500 --workers 2" for m in MAZES},
    **{f"{m}-random": f"--env maze2d-{m} --policy random --episodes 500 --workers 2" for m in MAZES},
    **{f"multi-{m}-path": f"--env maze2d-multi-{m} --episodes 500 --workers 2" for m in MAZES},
    **{f"multi-{m}-waypoint": f"--env maze2d-multi-{m} --policy waypoint --episodes 500 --workers 2" for m in MAZES},
    **{f"{m}-diffused": f"--env maze2d-{m} --executor diffused_actions --episodes 500 --workers 2" for m in MAZES},
    **{
        f"robotics-{m}-path": f"--env robotics-pointmaze-{m} --checkpoint maze2d-{m} --episodes 100 --workers 2"
        for m in MAZES
    },
    "large-full-sequence": "--env maze2d-large --episodes 100 --workers 2 --schedule full_sequence --attention full",
    "large-default": "--env maze2d-large",
    **baseline_commands.COMMANDS,
}


def run(name: str) -> None:
    """Run one evaluation and keep its result."""
    arguments = shlex.split(COMMANDS[name])
    folder = Path("runs") / f"benchmark-{name}"
    print(f"dfplan eval {COMMANDS[name]}", file=sys.stderr)
    command = ["dfplan", "eval", *arguments, "--out", str(folder), "--json"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    metrics = json.loads(output)
    with atomic_path(RESULTS / f"{name}.json") as path:
        path.write_text(json.dumps(metrics, indent=2) + "\n")
    scored = metrics["score"]["strict"]["mean"] is not None
    strict = metrics["score" if scored else "return"]["strict"]
    print(f"{name}: {strict['mean']:.1f} +- {strict['stderr']:.1f}, success {metrics['success_rate']:.3f}")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of: {', '.join(COMMANDS)}")
    names = parser.parse_args().names
    for name in names:
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            parser.error(f"unknown result {name!r}{f', did you mean {near[0]!r}?' if near else ''}")
    for name in names or [n for n in COMMANDS if not (RESULTS / f"{n}.json").is_file()]:
        run(name)


if __name__ == "__main__":
    main()
