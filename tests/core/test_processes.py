"""Training as processes: a real kill, and two processes of torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import dfplan.training
from dfplan.checkpoint import load_checkpoint, tensor_digest
from dfplan.models.transformer import TransformerDenoiser
from dfplan.training import LossModule, learning_rate, make_optimizer, train
from dfplan.training_state import STATE
from dfplan.windows import WindowSampler
from tests.core.worker import CONFIG, DATA, NORM, SPEC

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """Let a subprocess find the packages and use one thread."""
    path = os.pathsep.join(str(ROOT / p) for p in ("", "envs", "policies"))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def model_tensors(folder: Path) -> dict[str, Tensor]:
    tensors = load_file(folder / "state" / STATE)
    return {n.removeprefix("model/"): v for n, v in tensors.items() if n.startswith("model/")}


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    # Catches: state that lives in the process only; a file that a kill leaves half written.
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.core.worker", str(folder), "0.05"], env=environment(), cwd=ROOT
    )
    try:
        deadline = time.monotonic() + 120
        while not (folder / "state" / STATE).is_file():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL and not (folder / "rank0.txt").exists()
    rows: list[int] = []
    train(DATA, SPEC, NORM, CONFIG, folder, name="toy", log=lambda row: rows.append(row["step"]))
    train(DATA, SPEC, NORM, CONFIG, tmp_path / "whole", name="toy")
    assert rows[0] > 1 and rows[-1] == CONFIG.steps
    states = [tensor_digest(load_file(f / "state" / STATE)) for f in (folder, tmp_path / "whole")]
    assert states[0] == states[1]


def two_ranks_by_hand() -> dict[str, Tensor]:
    """Do what two processes do: each its own half of the batch, the mean of their gradients, one step."""
    torch.manual_seed(CONFIG.seed)
    model = TransformerDenoiser(SPEC, CONFIG.model)
    optimizer, loss_module = make_optimizer(model, CONFIG), LossModule(model, CONFIG, model.spec)
    windows = WindowSampler(DATA, SPEC, NORM, end_goal=CONFIG.end_goal, no_goal=CONFIG.no_goal)
    for step in range(CONFIG.steps):
        optimizer.zero_grad()
        for rank in range(2):
            rng = np.random.default_rng([CONFIG.seed, rank, step])
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            causal = np.random.default_rng([CONFIG.seed, step]).random() < CONFIG.causal
            parts = loss_module(windows.draw(CONFIG.batch // 2, rng), bool(causal), generator)
            (parts["loss"] / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, CONFIG)
        optimizer.step()
    return {n: p.detach() for n, p in model.named_parameters()}


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    # Catches: gradients that are not averaged, processes that draw the same windows, ranks that drift apart, two
    # writers of one file.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.core.worker", str(tmp_path), "0"], env=environment(), cwd=ROOT, capture_output=True,
        text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = model_tensors(tmp_path)
    ranks = [(tmp_path / f"rank{r}.txt").read_text() for r in range(2)]
    assert ranks[0] == ranks[1] == tensor_digest(found)
    for name, value in two_ranks_by_hand().items():
        torch.testing.assert_close(found[name], value, atol=2e-4, rtol=2e-3, msg=name)
    assert load_checkpoint(tmp_path / "checkpoint").name == "toy"


def test_a_batch_must_be_shared_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a batch that silently shrinks.
    @contextmanager
    def three() -> Iterator[tuple[int, int]]:
        yield 0, 3

    monkeypatch.setattr(dfplan.training, "processes", three)
    with pytest.raises(ValueError, match="batch must be divisible by the number of processes, got 8 and 3"):
        train(DATA, SPEC, NORM, CONFIG, tmp_path, name="toy")
