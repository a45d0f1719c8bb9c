"""Walk every sample down a scheduling matrix of its own, all in the same calls of the denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfplan.models.base import Cond, Denoiser
from dfplan.noise import Draw, guidance_coefficient, reverse_step
from dfplan.sampler import LogCost
from dfplan.schedule import drop_idle_rows


@dataclass(frozen=True)
class Descent:
    """Say what is denoised and how; the matrices are given to `walk_each`.

    Attributes:
        model: The denoiser.
        alpha_bar: Table (K+1,).
        tokens: int64 (n,), positions in the layout.
        order: int64 (n,), their causal order.
        causal: Causal or full attention.
        eta: 0 is DDIM, 1 is DDPM.
        log_cost: ``log c(x0_hat (b, n, D), k (n,)) -> (b,)`` of the predicted clean tokens, a function of each sample
            alone; it is called once for all samples that are at the same levels.
        noisy_log_cost: ``log c(x (b, n, D), k (n,)) -> (b,)`` of the noisy tokens; added to the other.
        mask: (n, D), 1 in the columns that a token uses; noise is kept out of the others.
    """

    model: Denoiser
    alpha_bar: Tensor
    tokens: Tensor
    order: Tensor
    causal: bool = True
    eta: float = 0.0
    log_cost: LogCost | None = None
    noisy_log_cost: LogCost | None = None
    mask: Tensor | None = None

    @property
    def guided(self) -> bool:
        """Whether there is a cost."""
        return self.log_cost is not None or self.noisy_log_cost is not None

    def noise(self, draw: Draw, like: Tensor) -> Tensor:
        """Draw noise like (B, n, D), 0 in unused columns."""
        return draw(like) if self.mask is None else draw(like) * self.mask.to(like)


@dataclass(frozen=True)
class Walked:
    """Hold the outcome.

    Attributes:
        x: (B, n, D), tokens at the levels of each sample's last row.
        network_evaluations: Calls of the denoiser.
        sample_evaluations: Samples that went through the denoiser, summed over its calls.
    """

    x: Tensor
    network_evaluations: int
    sample_evaluations: int


def stack_rows(matrices: Sequence[Tensor]) -> Tensor:
    """Stack matrices (M_b+1, n) to (B, M+1, n): idle rows are dropped, short ones stay at their last row."""
    lean = [drop_idle_rows(S) for S in matrices]
    length = max(len(S) for S in lean)
    return torch.stack([torch.cat([S, S[-1:].expand(length - len(S), -1)]) for S in lean])


def walk_each(d: Descent, S: Tensor, x: Tensor, *, scales: Tensor, draw: Draw | None = None) -> Walked:
    """Denoise sample b along ``S[b]``, any part of a matrix; a token that keeps its level is copied.

    Row m calls the denoiser once, with the samples that move in it at their own levels ``S[:, m]``.

    Args:
        d: What is denoised and how.
        S: int64 (B, M+1, n), columns non-increasing; the last row need not be 0.
        x: (B, n, D), tokens at the levels of the first row.
        scales: (B,), what each sample's log cost is multiplied with.
        draw: Source of noise; needed when ``eta > 0``.

    Returns:
        `Walked`.

    Raises:
        ValueError: If shapes do not fit, a level rises, or noise is needed and missing.
    """
    if x.ndim != 3 or S.ndim != 3 or (S.shape[0], S.shape[2]) != x.shape[:2] or scales.shape != x.shape[:1]:
        raise ValueError(
            "S (B, M+1, n), x (B, n, D) and scales (B,) must agree in B and n, "
            f"got {tuple(S.shape)}, {tuple(x.shape)} and {tuple(scales.shape)}"
        )
    if d.eta > 0 and draw is None:
        raise ValueError(f"eta={d.eta} needs noise; pass draw=normal_like(generator)")
    calls = samples = 0
    for k, k_next in zip(S.unbind(1)[:-1], S.unbind(1)[1:], strict=True):
        eps = d.noise(draw, x) if draw is not None and d.eta > 0 else None
        moving = (k != k_next).any(1).nonzero().squeeze(1)
        if len(moving) == 0:
            continue
        index = _needed(d, k[moving], k_next[moving])
        here = (moving[:, None], index[None, :])
        step = _step(d, x[here], k[here], k_next[here], index, scales[moving], None if eps is None else eps[here])
        x = x.index_put(here, step)
        calls, samples = calls + 1, samples + len(moving)
    return Walked(x, calls, samples)


def _needed(d: Descent, k: Tensor, k_next: Tensor) -> Tensor:
    """Find the tokens that the denoiser must see for at least one sample; a cost is given all of them."""
    if d.guided:
        return torch.arange(k.shape[1])
    changing = k != k_next
    needed = (k < len(d.alpha_bar) - 1) | changing
    if d.causal:
        last = torch.where(changing, d.order, -1).max(1, keepdim=True).values
        needed &= d.order <= last
    return needed.any(0).nonzero().squeeze(1)


def _step(
    d: Descent, x: Tensor, k: Tensor, k_next: Tensor, index: Tensor, scales: Tensor, eps: Tensor | None
) -> Tensor:
    """Take one row's step: levels k (b, n) to k_next (b, n)."""
    cond, levels = Cond(causal=d.causal, tokens=d.tokens[index]), k.to(x.device)
    after = k_next.to(x.device)
    if not d.guided:
        with torch.no_grad():
            x0_hat = d.model(x, levels, cond)
            return reverse_step(x, x0_hat, levels, after, d.alpha_bar, eta=d.eta, eps=eps)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        x0_hat = d.model(leaf, levels, cond)
        total = _total(d.log_cost, x0_hat, k) + _total(d.noisy_log_cost, leaf, k)
        (gradient,) = torch.autograd.grad(total, leaf)
    scale = scales.to(x)[:, None, None]
    gradient = torch.where(scale == 0, torch.zeros_like(gradient), scale * gradient)
    step = reverse_step(x, x0_hat.detach(), levels, after, d.alpha_bar, eta=d.eta, eps=eps)
    weight = guidance_coefficient(k, k_next, d.alpha_bar.cpu(), eta=d.eta).to(x)
    return step + weight.unsqueeze(-1) * gradient


def _total(log_cost: LogCost | None, tokens: Tensor, k: Tensor) -> Tensor:
    """Sum the samples' log costs; those at the same levels share a call of the cost."""
    total = tokens.new_zeros(())
    if log_cost is None:
        return total
    groups: dict[tuple[int, ...], list[int]] = {}
    for b, levels in enumerate(k.tolist()):
        groups.setdefault(tuple(levels), []).append(b)
    for levels, members in groups.items():
        value = log_cost(tokens[members], torch.tensor(levels))
        if value.shape != (len(members),):
            raise ValueError(f"a cost must return one number per sample, ({len(members)},), got {tuple(value.shape)}")
        total = total + value.sum()
    return total
