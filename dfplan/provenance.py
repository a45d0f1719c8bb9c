"""What a result was made with: versions, git revision, hardware, command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import dfplan

PACKAGES = ("torch", "numpy", "mujoco", "gymnasium")

SOURCE = (":(top)", ":(top,exclude)benchmarks/results", ":(top,exclude)docs")  # what decides a result


def versions() -> dict[str, str | None]:
    """Return the versions of python, dfplan and what it stands on."""
    found: dict[str, str | None] = {"python": platform.python_version(), "dfplan": dfplan.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def git(folder: Path | None = None) -> dict[str, Any]:
    """Return the revision that the package's source is at and whether it has been changed; None outside a checkout.

    What a benchmark writes, results and documentation, does not count as a change: it decides no result.

    Args:
        folder: Where to look; the folder of the package ``dfplan`` if None. A package that is merely installed inside
            somebody's checkout does not count: the file must be tracked.
    """
    folder = folder or Path(dfplan.__file__).parent
    revision = _git(folder, "rev-parse", "HEAD")
    if revision is None or _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {"revision": None, "dirty": None}
    status = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *SOURCE)
    return {"revision": revision, "dirty": None if status is None else bool(status)}


def _git(folder: Path, *arguments: str) -> str | None:
    """Run git; None if there is no git or it refuses."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def hardware() -> dict[str, Any]:
    """Describe the processor, and the threads that torch uses (None if torch was not needed)."""
    torch = sys.modules.get("torch")
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": cores(),
        "threads": None if torch is None else torch.get_num_threads(),
        "platform": platform.platform(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def command() -> str:
    """Return the command line of this process."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
