"""Behaviour cloning with a recurrent network: from all that was seen to the next block of actions, by squared error."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dfplan.data.files import atomic_path
from dfplan.episode import EpisodeSpec, EpisodeWindows
from dfplan.normalizer import Normalizer
from dfplan.spaces import Spaces
from dfplan.windows import fit_normalizer
from dfplan_policies.per_environment import PerEnvironmentPolicy
from dfplan_policies.protocol import FloatArray

if TYPE_CHECKING:
    from dfplan.data import Episodes

WIDTH, BATCH, RATE = 256, 32, 1e-3


class RecurrentNet(nn.Module):
    """A gated recurrent unit over observations, and a block of actions out of its state."""

    def __init__(self, obs: int, act: int) -> None:
        super().__init__()
        self.cell = nn.GRU(obs, WIDTH, num_layers=2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(WIDTH + obs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, act))

    def forward(self, x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return blocks (B, n, F*A) for observations (B, n, O), and the state."""
        out, h = self.cell(x, h)
        return self.head(torch.cat([out, x], -1)), h


@dataclass(frozen=True)
class Cloned:
    """Remember an episode: the network's state, the block in execution, and how much of it is done."""

    state: Tensor | None
    chunk: FloatArray
    at: int = 0


class RecurrentCloning(PerEnvironmentPolicy[Cloned]):
    """Take the block of actions that the network regressed."""

    def __init__(self, net: RecurrentNet, spec: EpisodeSpec, norm: Normalizer, spaces: Spaces) -> None:
        self.net, self.spec, self.norm, self.spaces = net.eval(), spec, norm, spaces

    def begin(self, episode: int) -> Cloned:
        """Remember nothing."""
        return Cloned(None, np.zeros((0, self.spec.act_dim)))

    def act(self, memory: Cloned, observation: FloatArray, goal: FloatArray | None) -> tuple[FloatArray, Cloned]:
        """Act in one environment."""
        if memory.at == len(memory.chunk):
            x = self.norm.obs(torch.as_tensor(observation, dtype=torch.float32))
            with torch.no_grad():
                found, state = self.net(x[None, None], memory.state)
            chunk = self.norm.act_back(found.reshape(self.spec.stride, self.spec.act_dim)).double().numpy()
            memory = Cloned(state, self.limited(chunk))
        return memory.chunk[memory.at], Cloned(memory.state, memory.chunk, memory.at + 1)


def train(episodes: Episodes, spec: EpisodeSpec, steps: int, seed: int) -> RecurrentCloning:
    """Regress blocks of actions on all observations up to them."""
    norm = fit_normalizer(episodes, spec.stride)
    windows, rng = EpisodeWindows(episodes, spec, norm, spec.stride), np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = RecurrentNet(spec.obs_dim, spec.act_columns)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.01)
    with tqdm(total=steps, desc="recurrent cloning", file=sys.stderr, unit="step") as bar:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            batch = windows.draw(BATCH, rng)
            found, _ = net(batch.x0[:, :-1:2, : spec.obs_dim], None)
            wanted, weight = batch.x0[:, 1::2, spec.obs_dim :], batch.weight[:, 1::2, spec.obs_dim :]
            loss = ((found - wanted) ** 2 * weight).sum() / weight.sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            bar.update(1)
            bar.set_postfix_str(f"loss {float(loss.detach()):.4f}", refresh=False)
    return RecurrentCloning(net, spec, norm, Spaces.from_dict(episodes.meta["spaces"]))


def save(policy: RecurrentCloning, folder: Path) -> Path:
    """Write weights and what belongs to them."""
    from safetensors.torch import save as to_bytes

    spaces = None if policy.spaces is None else policy.spaces.to_dict()
    about: dict[str, Any] = {"tokens": policy.spec.to_dict(), "normalizer": policy.norm.to_dict(), "spaces": spaces}
    with atomic_path(folder / "cloning.safetensors") as path:
        path.write_bytes(to_bytes({n: v.contiguous() for n, v in policy.net.state_dict().items()}))
    with atomic_path(folder / "cloning.json") as path:
        path.write_text(json.dumps(about) + "\n")
    return folder


def load(folder: Path) -> RecurrentCloning:
    """Read what `save` wrote."""
    from safetensors.torch import load as from_bytes

    about = json.loads((folder / "cloning.json").read_text())
    spec = EpisodeSpec.from_dict(about["tokens"])
    net = RecurrentNet(spec.obs_dim, spec.act_columns)
    net.load_state_dict(from_bytes((folder / "cloning.safetensors").read_bytes()))
    return RecurrentCloning(net, spec, Normalizer.from_dict(about["normalizer"]), Spaces.from_dict(about["spaces"]))
