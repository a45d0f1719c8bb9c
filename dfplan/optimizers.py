"""The optimisers: AdamW for everything, or Muon for the matrices inside the transformer's blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

OPTIMIZERS = ("adamw", "muon")
BETAS = (0.9, 0.99)


class OptimizerConfig(Protocol):
    """What the optimiser needs of a configuration."""

    @property
    def weight_decay(self) -> float:
        """Of matrices."""
        ...

    @property
    def lr(self) -> float:
        """Peak learning rate."""
        ...


class MuonAdamW(torch.optim.Optimizer):
    """Update the matrices of hidden layers by Muon and everything else by AdamW, at one learning rate.

    Muon's steps are scaled to the root mean square of AdamW's, so that the rate means the same for both.

    Args:
        hidden: Matrices between hidden activations.
        others: Embeddings, the first and last layers, gains and biases.
        lr: Learning rate of both.
        weight_decay: Of ``hidden`` and of the matrices among ``others``.

    Raises:
        ImportError: If torch is older than 2.9, which has no Muon.

    Source:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the scale is that of
        arXiv 2502.16982.
    """

    def __init__(self, hidden: list[nn.Parameter], others: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ImportError(
                f"optimizer 'muon' needs torch 2.9 or later, got {torch.__version__}; use adamw, or update"
            )
        muon = torch.optim.Muon(hidden, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.parts = (muon, _adamw(others, lr, weight_decay))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        for part in self.parts:
            part.state = self.state  # one state, so that it is saved and restored as any optimiser's

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update all parameters.

        Raises:
            ValueError: If a closure is passed.
        """
        if closure is not None:
            raise ValueError("a closure is not supported; compute the gradients first")
        for part in self.parts:
            part.step()  # type: ignore[no-untyped-call]


def make_optimizer(model: nn.Module, config: OptimizerConfig, kind: str = "adamw") -> torch.optim.Optimizer:
    """Build the optimiser of a model, with weight decay on matrices only.

    Args:
        model: Its trained parameters are updated.
        config: Learning rate and weight decay.
        kind: ``"adamw"``, or ``"muon"`` for the matrices of the model's ``blocks``.

    Raises:
        ValueError: If the kind is unknown, or the model has no matrices in blocks.
    """
    if kind not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {kind!r}")
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if kind == "adamw":
        return _adamw([p for _, p in trained], config.lr, config.weight_decay)
    inside = {name for name, p in trained if p.ndim == 2 and "blocks." in name}
    if not inside:
        raise ValueError("optimizer 'muon' updates the matrices of a transformer's blocks, and there are none")
    hidden, others = ([p for name, p in trained if (name in inside) == own] for own in (True, False))
    return MuonAdamW(hidden, others, config.lr, config.weight_decay)


def _adamw(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.AdamW:
    matrices, vectors = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, fused=True)
