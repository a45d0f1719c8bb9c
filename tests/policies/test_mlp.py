"""Actors from files: their numbers, their independence of the batch, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from torch import nn

from baselines import export
from dfplan_policies import MLPPolicy, load_policy

HEADER: dict[str, Any] = {
    "format": "dfplan-mlp-1",
    "widths": [2, 2, 1],
    "activation": "relu",
    "output": "tanh",
    "observation": {"mean": [1.0, 1.0], "std": [2.0, 4.0]},
    "action": {"offset": [0.25], "scale": [0.5]},
}
TENSORS = {
    "layer.0.weight": np.array([[1.0, 0.5], [-1.0, 0.5]], dtype=np.float16),
    "layer.0.bias": np.array([0.5, -2.0], dtype=np.float16),
    "layer.1.weight": np.array([[2.0, 5.0]], dtype=np.float16),
    "layer.1.bias": np.array([-2.5], dtype=np.float16),
}


def write(path: Path, header: dict[str, Any] | None = None, tensors: dict[str, Any] | None = None) -> Path:
    """Write an actor with some of its parts replaced; None takes a part out."""
    full = {k: v for k, v in (HEADER | (header or {})).items() if v is not None}
    arrays = {k: v for k, v in (TENSORS | (tensors or {})).items() if v is not None}
    path.write_bytes(save(arrays, metadata={"dfplan-mlp": json.dumps(full)}))
    return path


def test_numbers_worked_out_by_hand(tmp_path: Path) -> None:
    """Catches a forgotten or doubled scaling, bias or activation, and weights that are multiplied transposed.

    (3, 5) -> (1, 1) -> (2, -2.5) -> (2, 0) -> 1.5 -> tanh -> 0.25 + 0.5 tanh(1.5).
    """
    policy = load_policy(f"mlp:{write(tmp_path / 'a.safetensors')}", act_dim=1)
    actions, _ = policy.predict(np.array([[3.0, 5.0]]))
    np.testing.assert_allclose(actions, [[0.25 + 0.5 * np.tanh(1.5)]], rtol=1e-6)
    linear = MLPPolicy(write(tmp_path / "b.safetensors", {"output": "identity", "activation": "tanh"}))
    hidden = np.tanh([2.0, -2.5])
    want = 0.25 + 0.5 * (2 * hidden[0] + 5 * hidden[1] - 2.5)
    np.testing.assert_allclose(linear.predict(np.array([3.0, 5.0]))[0], [want], rtol=1e-6)


class Actor(nn.Module):
    """A policy as d3rlpy builds them: layers, a mean and a deviation that must not be exported."""

    def __init__(self) -> None:
        super().__init__()
        self._encoder = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self._mu, self._logstd = nn.Linear(64, 2), nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self._mu(self._encoder(x)))


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Actor, Path]:
    """An actor with random weights and its file."""
    torch.manual_seed(0)
    actor = Actor()
    path = tmp_path / "out" / "actor.safetensors"
    mean, std = np.array([1.0, 2.0, 0.0, 0.5]), np.array([1.0, 0.5, 2.0, 3.0])
    export.write(path, export.linear_layers(actor), mean=mean, std=std, provenance={"steps": 7})
    return actor, path


def test_an_export_acts_as_what_was_trained(exported: tuple[Actor, Path]) -> None:
    # Catches: the deviation exported as the mean, layers in another order, mean and std swapped.
    actor, path = exported
    states = np.random.default_rng(1).normal(0, 2, (20, 4))
    mean, std = np.array([1.0, 2.0, 0.0, 0.5]), np.array([1.0, 0.5, 2.0, 3.0])
    want = actor(torch.as_tensor((states - mean) / std, dtype=torch.float32)).detach().numpy()
    policy = MLPPolicy(path, act_dim=2)
    np.testing.assert_allclose(policy.predict(states)[0], want, atol=2e-3)
    layers = export.linear_layers(actor)
    np.testing.assert_allclose(export.forward(layers, states, mean, std), want, atol=1e-5)
    assert policy.provenance == {"steps": 7} and list(path.parent.iterdir()) == [path]


def test_no_bit_depends_on_the_batch(exported: tuple[Actor, Path]) -> None:
    # Catches: one matrix product for the batch, whose last bits depend on its size.
    policy = MLPPolicy(exported[1])
    states = np.random.default_rng(2).normal(0, 2, (33, 4))
    together, _ = policy.predict(states)
    for i in range(len(states)):
        np.testing.assert_array_equal(policy.predict(states[i : i + 1])[0], together[i : i + 1])
        np.testing.assert_array_equal(policy.predict({"observation": states[i]})[0], together[i])


@pytest.mark.parametrize(
    ("header", "tensors", "message"),
    [
        ({"format": "other"}, {}, "its header names the format 'other'"),
        ({"widths": None}, {}, "its header lacks widths"),
        ({"widths": [2, 3, 1]}, {}, r"layer.0.weight must have shape \(3, 2\) \(out, in\) for the widths .* \(2, 2\)"),
        ({"widths": [2, 2]}, {}, r"no place for layer.1.bias, layer.1.weight"),
        ({"widths": [2]}, {}, "at least two numbers"),
        ({"activation": "gelu"}, {}, "must be one of relu, tanh, identity, got 'gelu'"),
        ({"observation": {"mean": [1.0, 1.0], "std": [1.0, 0.0]}}, {}, "std must be positive"),
        ({"observation": {"mean": [1.0], "std": [1.0, 1.0]}}, {}, "observation mean must be 2 numbers"),
        ({"action": {"offset": ["x"], "scale": [1.0]}}, {}, "action offset must be 1 numbers"),
        ({}, {"layer.1.bias": None}, r"layer.1.bias must have shape \(1,\) .* got None"),
        ({}, {"layer.0.bias": np.array([np.nan, 0.0], dtype=np.float16)}, "layer.0.bias holds NaN"),
    ],
)
def test_damaged_files_are_refused(header: Any, tensors: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        MLPPolicy(write(tmp_path / "a.safetensors", header, tensors))


def test_other_files_are_refused(tmp_path: Path) -> None:
    # Catches: safetensors' own error, or an actor whose header is missing, getting through.
    with pytest.raises(FileNotFoundError, match="no actor at"):
        load_policy(f"mlp:{tmp_path / 'none'}")
    path = write(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="is not a usable actor: it cannot be read"):
        MLPPolicy(path)
    path.write_bytes(save(TENSORS))
    with pytest.raises(ValueError, match="its header names the format None"):
        MLPPolicy(path)


def test_widths_of_the_environment_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="gives actions of width 1, the environment takes 2"):
        load_policy(f"mlp:{path}", act_dim=2)
    with pytest.raises(ValueError, match="takes observations of width 2, got 4"):
        MLPPolicy(path).predict(np.zeros((3, 4)))
