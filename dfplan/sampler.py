"""Algorithm 2: walk down a scheduling matrix and denoise every token along its own column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dfplan import montecarlo
from dfplan.errors import unknown_name
from dfplan.itinerary import Row, itinerary, present_tokens, settled_rows
from dfplan.models.base import Cond, Denoiser
from dfplan.montecarlo import MonteCarlo, expected_gradient
from dfplan.noise import Draw, guidance_coefficient, noise_further, reverse_step
from dfplan.schedule import check_schedule, drop_idle_rows

HOLDS = ("copy", "resample")
COMMITS = ("clean", "noisy")
__all__ = ["COMMITS", "HOLDS", "LogCost", "Samples", "present_tokens", "sample", "settled_rows"]
LogCost = Callable[[Tensor, Tensor], Tensor]
"""From tokens (B, n, D) and levels int64 (n,) to log c (B,), one number per sample."""


@dataclass(frozen=True)
class Samples:
    """Hold the outcome of sampling.

    Attributes:
        x: (B, n, D) tokens at the levels of the last row (clean ones, but for what need not ``finish``).
        S: int64 (M+1, n), the matrix that was walked (idle rows dropped).
        network_evaluations: Calls of the denoiser.
        tokens_computed: Tokens that went through the denoiser, summed over its calls (per sample).
        trace: (M+1, B, n, D), the tokens after every row, or None.
        memory: What the denoiser remembers of all tokens if that was asked for (``keep_memory``), else None.
    """

    x: Tensor
    S: Tensor
    network_evaluations: int
    tokens_computed: int
    trace: Tensor | None
    memory: Any = None


@dataclass
class _Walk:
    """What changes from row to row: tokens, what is remembered of settled ones, and counts."""

    x: Tensor
    memory: Any
    committed: Tensor
    x0_known: Tensor
    calls: int = 0
    computed: int = 0


@dataclass(frozen=True)
class _Setting:
    """What stays the same in all rows."""

    model: Any
    alpha_bar: Tensor
    tokens: Tensor
    order: Tensor
    finish: Tensor
    causal: bool
    eta: float
    log_cost: LogCost | None
    noisy_log_cost: LogCost | None
    monte_carlo: MonteCarlo | None
    scales: Tensor | None
    draw: Draw | None
    mask: Tensor

    @property
    def guided(self) -> bool:
        return self.log_cost is not None or self.noisy_log_cost is not None

    def noise(self, like: Tensor) -> Tensor:
        return torch.zeros_like(like) if self.draw is None else self.draw(like) * self.mask


def sample(
    model: Denoiser,
    S: Tensor,
    x: Tensor,
    *,
    alpha_bar: Tensor,
    tokens: Tensor,
    order: Tensor,
    causal: bool = True,
    eta: float = 0.0,
    hold: str = "copy",
    log_cost: LogCost | None = None,
    noisy_log_cost: LogCost | None = None,
    monte_carlo: MonteCarlo | None = None,
    scales: Tensor | None = None,
    draw: Draw | None = None,
    mask: Tensor | None = None,
    finish: Tensor | bool = True,
    memory: Any = None,
    cache: bool = True,
    commit: str = "clean",
    keep_memory: bool = False,
    skip: bool = True,
    trace: bool = False,
) -> Samples:
    """Denoise tokens along a scheduling matrix.

    Row m calls the denoiser once with every token's own level ``S[m]`` and moves each token to ``S[m+1]``. A token
    whose level does not change is copied bit for bit (``hold="copy"``), or noised to the next higher level of its
    column and denoised back in the same call (``hold="resample"``, which keeps its law and renews its randomness).

    Args:
        model: The denoiser.
        S: int64 (M+1, n); context tokens have a constant column, of zeros if they are clean.
        x: (B, n, D); tokens at the levels of the first row.
        alpha_bar: Table (K+1,).
        tokens: int64 (n,), the positions in the layout that ``x`` holds.
        order: int64 (n,), their causal order.
        causal: Causal or full attention.
        eta: 0 is DDIM, 1 is DDPM.
        hold: ``"copy"`` or ``"resample"``.
        log_cost: ``log c(x0_hat, k)`` of the predicted clean tokens; its gradient guides every token that moves (all
            tokens go through the network then).
        noisy_log_cost: ``log c(x, k)`` of the noisy tokens themselves (a noise-aware value model); added to the other.
        monte_carlo: Futures over which the gradient of ``log_cost`` is averaged; None takes the predicted future.
        scales: (B,), what each sample's guidance is multiplied by; None is 1.
        draw: Source of noise; needed when ``eta > 0``, for ``"resample"`` and for Monte Carlo Guidance.
        mask: (n, D), 1 in the columns that a token uses; noise is kept out of the others.
        finish: Which tokens must end clean, one answer for all or bool (n,). False for context tokens at a level
            above 0 (observations known to be noisy), and to walk a part of a matrix.
        memory: What the denoiser remembers of earlier tokens that are not in ``x``.
        cache: Whether tokens that no longer change are remembered by the denoiser instead of computed again (with
            causal attention and a denoiser that can); for tests, since it changes nothing but time.
        commit: What is remembered of a token: ``"clean"``, the finished token at level 0; ``"noisy"``, the token as it
            went into the last row in which it or one before it moved, labelled with its level there (for a token that
            is not finished before the others that is its last reverse step). The latter is the paper's one pass per
            row, and its stabilisation: what is generated is never trusted entirely. Later tokens then see nothing
            else, with or without ``cache``.
        keep_memory: Whether to return the memory of all tokens.
        skip: Leave out idle tokens; for tests, since it changes nothing but time.
        trace: Keep the tokens after every row.

    Returns:
        `Samples`.

    Raises:
        ValueError: If S is not admissible, shapes do not fit, or noise is needed and missing.

    Source:
        arXiv 2407.01392, Algorithm 2, appendices B.5 (what to do with held tokens) and B.6 (one pass per row).
    """
    K = len(alpha_bar) - 1
    finish = torch.as_tensor(finish).expand(S.shape[-1])
    check_schedule(S, K, finish=finish)
    _check(S, x, tokens, hold, commit, draw, eta, monte_carlo, scales)
    if commit == "noisy" and hold != "copy":
        raise ValueError(f"commit='noisy' needs hold='copy', got {hold!r}; a held token is noised again and again")
    if hold == "copy":
        S = drop_idle_rows(S)
    remembering = causal and hasattr(model, "advance")
    if (memory is not None or keep_memory or commit == "noisy") and not remembering:
        raise ValueError("a memory needs causal attention and a denoiser that remembers (it has `advance`)")
    column_mask = torch.ones_like(x[0]) if mask is None else mask.to(x)
    settled = torch.full_like(S[0], len(S))
    if remembering and (cache or keep_memory or commit == "noisy") and hold == "copy":
        settled = settled_rows(S, order) - int(commit == "noisy")
    guided = log_cost is not None or noisy_log_cost is not None
    way = itinerary(
        S, order, settled, finish, K, causal=causal, resample=hold == "resample", skip=skip and not guided
    )  # fmt: skip
    setting = _Setting(
        model, alpha_bar, tokens, order, finish, causal, eta, log_cost, noisy_log_cost, monte_carlo, scales, draw,
        column_mask,
    )  # fmt: skip
    walk = _Walk(x, memory, torch.zeros_like(finish), x.clone())
    history = [x] if trace else []
    for row in way.rows:
        if hold == "resample":
            k_from, k_up = (v.expand(x.shape[:2]) for v in (S[row.m], row.k))
            walk.x = noise_further(walk.x, k_from, k_up, setting.noise(walk.x), alpha_bar)
        _take_row(walk, setting, row)
        if trace:
            history.append(walk.x)
    if keep_memory:
        _commit_rest(walk, setting, S[-1])
    kept = walk.memory if keep_memory else None
    return Samples(walk.x, S, walk.calls, walk.computed, torch.stack(history) if trace else None, kept)


def _check(
    S: Tensor, x: Tensor, tokens: Tensor, hold: str, commit: str, draw: Draw | None, eta: float,
    monte_carlo: MonteCarlo | None, scales: Tensor | None,
) -> None:  # fmt: skip
    if x.ndim != 3 or x.shape[1] != S.shape[1] or tokens.shape != (x.shape[1],):
        raise ValueError(
            "x (B, n, D), S (M+1, n) and tokens (n,) must agree in n, "
            f"got {tuple(x.shape)}, {tuple(S.shape)} and {tuple(tokens.shape)}"
        )
    if hold not in HOLDS:
        raise unknown_name("hold rule", hold, HOLDS)
    if commit not in COMMITS:
        raise unknown_name("commit rule", commit, COMMITS)
    if draw is None and (eta > 0 or hold == "resample" or monte_carlo is not None):
        raise ValueError(
            f"eta={eta}, hold={hold!r} and monte_carlo={monte_carlo} need noise; pass draw=normal_like(generator)"
        )
    if scales is not None and scales.shape != x.shape[:1]:
        raise ValueError(f"scales must have shape {tuple(x.shape[:1])}, one per sample, got {tuple(scales.shape)}")


def _take_row(walk: _Walk, setting: _Setting, row: Row) -> None:
    """Call the denoiser once and move every token that is not yet committed."""
    index, keep = row.index, row.keep
    if not len(index):  # everybody waits at level K
        return
    x = walk.x if row.everything else walk.x[:, index]
    cond = Cond(causal=setting.causal, tokens=setting.tokens[index], memory=walk.memory)
    eps = setting.noise(walk.x)[:, index] if setting.eta > 0 else None
    calls = copies = 1
    if setting.guided:
        part, x0_hat, memory, calls, copies = _guided(walk, setting, x, row, cond, eps)
    else:
        k, k_next = (v[index].to(x.device) for v in (row.k, row.k_next))  # the same for all samples
        with torch.no_grad():
            x0_hat, memory = _call(setting.model, x, k.expand(len(x), -1), cond, keep)
            part = reverse_step(x, x0_hat, k, k_next, setting.alpha_bar, eta=setting.eta, eps=eps)
    walk.x = part if row.everything else walk.x.index_copy(1, index.to(x.device), part)
    if setting.guided:
        known = torch.where((row.k_next[index] == 0).to(x.device)[:, None], part, x0_hat.detach())
        walk.x0_known = walk.x0_known.index_copy(1, index, known)
    if keep:
        walk.memory, walk.committed = memory, walk.committed | row.newly
    walk.calls, walk.computed = walk.calls + calls, walk.computed + copies * len(index)


def _call(model: Any, x: Tensor, k: Tensor, cond: Cond, keep: int) -> tuple[Tensor, Any]:
    """Predict, and remember the first ``keep`` tokens."""
    if not keep:
        return model(x, k, cond), cond.memory
    x0_hat, memory = model.advance(x, k, cond, keep)
    return x0_hat, memory.detach()


def _guided(
    walk: _Walk, setting: _Setting, x: Tensor, row: Row, cond: Cond, eps: Tensor | None
) -> tuple[Tensor, Tensor, Any, int, int]:  # fmt: skip
    """Take one row's step along the gradient of the costs.

    Returns:
        Tokens, x0_hat, memory, network calls, and copies of every token that went through the network in all of them.
    """
    k, k_next, index = row.k, row.k_next, row.index
    rows, next_rows = (v[index].expand(len(x), -1).to(x.device) for v in (k, k_next))

    def whole(part: Tensor, known: Tensor) -> Tensor:
        repeats = len(part) // len(known)
        return (known if repeats == 1 else known.repeat_interleave(repeats, 0)).index_copy(1, index, part)

    def value(part: Tensor) -> Tensor:
        found = _checked(setting.log_cost(whole(part, walk.x0_known), k), len(part))  # type: ignore[misc]
        return found

    plain = setting.log_cost is not None and setting.monte_carlo is None
    with torch.set_grad_enabled(plain):
        leaf = x.detach().requires_grad_(plain)
        x0_hat, memory = _call(setting.model, leaf, rows, cond, row.keep)
        gradient, calls, copies = torch.zeros_like(x), 1, 1
        if plain:
            (gradient,) = torch.autograd.grad(value(x0_hat).sum(), leaf)
    if setting.log_cost is not None and setting.monte_carlo is not None and setting.draw is not None:

        def predict(noisy: Tensor, levels: Tensor, repeats: int) -> Tensor:
            past = None if cond.memory is None else cond.memory.repeat(repeats)
            found: Tensor = setting.model(noisy, levels, replace(cond, memory=past))
            return found

        part = montecarlo.Row(
            x, k[index], row.above[index], setting.order[index], setting.finish[index], setting.alpha_bar,
            setting.mask[index],
        )  # fmt: skip
        gradient, more, repeats = expected_gradient(predict, value, part, setting.monte_carlo, setting.draw)
        calls, copies = calls + more, copies + more * repeats
    if setting.noisy_log_cost is not None:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            noisy = _checked(setting.noisy_log_cost(whole(leaf, walk.x), k), len(x))
            gradient = gradient + torch.autograd.grad(noisy.sum(), leaf)[0]
    if setting.scales is not None:
        gradient = gradient * setting.scales.to(x)[:, None, None]
    step = reverse_step(x, x0_hat.detach(), rows, next_rows, setting.alpha_bar, eta=setting.eta, eps=eps)
    weight = guidance_coefficient(k[index].cpu(), k_next[index].cpu(), setting.alpha_bar.cpu(), eta=setting.eta).to(x)
    return step + weight[:, None] * gradient, x0_hat, memory, calls, copies


def _checked(value: Tensor, batch: int) -> Tensor:
    if value.shape != (batch,):
        raise ValueError(f"a cost must return one number per sample, shape {(batch,)}, got {tuple(value.shape)}")
    return value


def _commit_rest(walk: _Walk, setting: _Setting, k: Tensor) -> None:
    """Remember the tokens that became final in the last row."""
    K = len(setting.alpha_bar) - 1
    index = (~walk.committed & (k < K)).nonzero().squeeze(1)
    if not len(index):
        return
    index = index[torch.argsort(setting.order[index], stable=True)]
    levels = k[index].expand(len(walk.x), -1).to(walk.x.device)
    cond = Cond(causal=True, tokens=setting.tokens[index], memory=walk.memory)
    with torch.no_grad():
        _, walk.memory = _call(setting.model, walk.x[:, index], levels, cond, len(index))
    walk.calls, walk.computed = walk.calls + 1, walk.computed + len(index)
