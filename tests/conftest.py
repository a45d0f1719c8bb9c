"""Settings every test shares: one thread, no network, no display, no data folder of the user's."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["MINARI_DATASETS_PATH"] = tempfile.mkdtemp(prefix="dfplan-minari-")
atexit.register(shutil.rmtree, os.environ["MINARI_DATASETS_PATH"], ignore_errors=True)
if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")

# A busy machine is no reason to fail; the same examples on every run are.
settings.register_profile("dfplan", deadline=None, derandomize=True)
settings.load_profile("dfplan")

try:
    import torch
except ImportError:
    pass
else:
    torch.set_num_threads(1)


@pytest.fixture
def dfplan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Run the program in an empty folder; returns (exit code, standard output, standard error)."""
    from dfplan.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dfplan", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run
