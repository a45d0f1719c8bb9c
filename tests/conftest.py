"""Settings every test shares: one thread, no network, no display, no data folder of the user's."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile

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
