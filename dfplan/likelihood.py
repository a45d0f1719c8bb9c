"""Variational bounds on log-likelihoods, in nats, of any sub-sequence and along any scheduling matrix.

A denoiser and a matrix define a generative model: pure noise, then per row one Gaussian step for every token whose
level falls, with the mean of a DDPM step at x0_hat. The evidence lower bound of that model is a sum of squared errors,
one per token and row, and each noisy row is drawn directly from the clean tokens; so rows go through the network
together, in any number.

Departure from the paper, which leaves the variance of a step open: besides the posterior variance
``(1-abar')/(1-abar) (1 - abar/abar')``, which takes x0_hat for the truth, there is the forward variance
``1 - abar/abar'``, which takes its error for that of data with unit variance (both: arXiv 2006.11239, section 3.2).
With the forward variance the bound of an exact denoiser tends to the log-likelihood as K grows. With the posterior
variance it does not: near level 0 neighbouring levels differ by a fixed factor in SNR whatever K is, which costs about
1.4 nats per column and token with the cosine table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dfplan.errors import unknown_name
from dfplan.models.base import Cond, Denoiser
from dfplan.noise import Draw, add_noise
from dfplan.schedule import autoregressive, check_schedule, drop_idle_rows

VARIANCES = ("forward", "posterior")


@dataclass(frozen=True)
class Bound:
    """Hold an estimate of a bound.

    Attributes:
        nats: float64 (B,), unbiased estimate of a lower bound.
        stderr: float64 (B,), its standard error over the draws; NaN for a single draw.
    """

    nats: Tensor
    stderr: Tensor


def step_terms(k_from: Tensor, k_to: Tensor, alpha_bar: Tensor, variance: str = "forward") -> tuple[Tensor, Tensor]:
    """Compute what one reverse step costs per column: ``weight (x0_hat - x0)^2 + constant`` nats.

    To a level above 0 that is ``KL(q(x'|x, x0) || p(x'|x))``; both are Gaussian with means
    ``c (x0 - x0_hat)`` apart, ``c = sqrt(abar') (1 - abar/abar') / (1 - abar)``. With the posterior variance it is
    ``1/2 (SNR' - SNR) (x0_hat - x0)^2``. To level 0 it is ``-ln N(x0; x0_hat, s^2)`` with ``s^2 = (1-abar)/abar``
    (posterior) or ``1 - abar`` (forward). A level that stays costs nothing.

    Args:
        k_from: Levels int64, any shape.
        k_to: Levels int64, same shape, nowhere above ``k_from``.
        alpha_bar: Table (K+1,).
        variance: ``"forward"`` or ``"posterior"``.

    Returns:
        weight and constant, float64, both of the shape of ``k_from``.

    Raises:
        ValueError: If the variance is unknown, or a posterior step leads from pure noise to level 0 at once.

    Source:
        arXiv 2006.11239, Eq. 7 and 8; in SNR: arXiv 2107.00630, Eq. 14.
    """
    if variance not in VARIANCES:
        raise unknown_name("variance", variance, VARIANCES)
    table = alpha_bar.double()
    a, b = table[k_from.to(table.device)], table[k_to.to(table.device)]
    moves, last = k_from.to(a.device) != k_to.to(a.device), (k_to == 0).to(a.device)
    if variance == "posterior" and bool((moves & last & (a == 0)).any()):
        raise ValueError("with variance='posterior' no step may lead from K to 0 at once; add a row between them")
    jump = torch.where(moves, 1 - a / b.clamp_min(1e-300), torch.ones_like(a))  # 1 - abar/abar', the forward variance
    exact = torch.where(last, torch.ones_like(a), (1 - b) / (1 - a).clamp_min(1e-300) * jump)
    gain = b.sqrt() * jump / (1 - a).clamp_min(1e-300)
    posterior = torch.where(last, (1 - a) / a.clamp_min(1e-300), exact)
    s2 = posterior if variance == "posterior" else jump
    s2 = torch.where(moves, s2, torch.ones_like(s2))
    weight = torch.where(last, torch.ones_like(a), gain) ** 2 / (2 * s2)
    divergence = 0.5 * (torch.log(s2 / exact.clamp_min(1e-300)) + exact / s2 - 1)
    constant = torch.where(last, 0.5 * torch.log(2 * math.pi * s2), divergence)
    zero = torch.zeros_like(a)
    return torch.where(moves, weight, zero), torch.where(moves, constant, zero)


def bound_weights(alpha_bar: Tensor, variance: str = "forward") -> Tensor:
    """Compute the weight that the bound puts on ``|x0_hat - x0|^2`` at every level, for steps of one level.

    With the posterior variance ``1/2 (SNR_{k-1} - SNR_k)``, and ``1/2 SNR_1`` at level 1, where the step is the
    decoder.

    Args:
        alpha_bar: Table (K+1,).
        variance: ``"forward"`` or ``"posterior"``.

    Returns:
        float64 (K+1,); 0 at level 0.

    Source:
        arXiv 2407.01392, appendix A: with a network that can fit every level, these weights do not move its optimum.
    """
    return _level_terms(alpha_bar, variance)[0]


def _level_terms(alpha_bar: Tensor, variance: str) -> tuple[Tensor, Tensor]:
    """Tabulate `step_terms` of the steps k -> k-1, each (K+1,), 0 at level 0."""
    k = torch.arange(len(alpha_bar))
    return step_terms(k, (k - 1).clamp_min(0), alpha_bar, variance)


def chain_rule(order: Tensor, levels: int, *, steps: int | None = None, given: Tensor | None = None) -> Tensor:
    """Build the matrix that denoises one token after the other in causal order.

    Args:
        order: Causal order int64 (n,).
        levels: K.
        steps: Steps per token, 1..K; None takes every level, which makes the bound tightest.
        given: bool (n,), tokens that are clean throughout; None if there are none.

    Returns:
        int64 (M+1, n), admissible.
    """
    n = len(order)
    free = torch.ones(n, dtype=torch.bool) if given is None else ~given
    if not bool(free.any()):
        raise ValueError("given must leave at least one token free; nothing is left to be bounded")
    place = torch.where(free, order, torch.iinfo(torch.int64).max).argsort(stable=True)
    ladder = autoregressive(int(free.sum()), levels, steps=steps or levels)
    S = torch.zeros(len(ladder), n, dtype=torch.int64)
    S[:, place[: ladder.shape[1]]] = ladder
    return S


@torch.no_grad()
def subsequence_bound(
    model: Denoiser,
    x0: Tensor,
    alpha_bar: Tensor,
    *,
    order: Tensor,
    draw: Draw,
    subset: Tensor | None = None,
    schedule: Tensor | None = None,
    causal: bool = True,
    mask: Tensor | None = None,
    variance: str = "forward",
    draws: int = 1,
    rows_per_draw: int | None = None,
    chunk: int = 4096,
) -> Bound:
    """Bound the log-likelihood ``ln p(x_A)`` of a sub-sequence A from below.

    ``ln p(x_A) >= -E sum_m sum_t (weight |x0_hat - x0|^2 + D_t constant)`` with the terms of `step_terms`, the sum
    over the rows of the matrix, the expectation over the noise. Tokens outside A are absent. A token whose column is 0
    throughout is given instead: the bound is then one on ``ln p(x_free | x_given)``. The term of pure noise is exactly
    0, since level K holds no signal.

    What is bounded is the likelihood of the model that the denoiser and the matrix define, for every single sequence.
    Its mean over data therefore lies below the mean log-likelihood of the true law, while that of one sequence may lie
    above it.

    Every admissible matrix gives a valid bound. With an exact denoiser it is tight for large K if every step sees all
    that bears on it: full attention with any matrix, or causal attention and the chain rule. Causal attention and a
    matrix that moves tokens together gives a looser one.

    Args:
        model: The denoiser.
        x0: Clean tokens (B, T, D), normalised; densities are those of the normalised columns.
        alpha_bar: Table (K+1,), 0 at level K.
        order: Causal order of the T tokens, int64 (T,).
        draw: Source of standard normal noise.
        subset: A, bool (T,) or distinct positions int64 (n,); None is all tokens.
        schedule: int64 (M+1, n) over the tokens of A; None is the chain rule over all levels.
        causal: Causal or full attention.
        mask: bool (T, D), the columns that each token uses; None is all. Only they count.
        variance: ``"forward"`` or ``"posterior"``, of a step; see the module's text.
        draws: How often the noise is drawn.
        rows_per_draw: Rows of the matrix that one draw evaluates, evenly spaced from a random start; unbiased. None is
            all of them.
        chunk: Sequences per call of the denoiser (at least B); changes memory, not the result.

    Returns:
        `Bound`, in nats.

    Raises:
        ValueError: If shapes, the subset, the matrix or a count do not fit.

    Source:
        arXiv 2407.01392, Theorem 3.1 and appendix A.
    """
    where = _positions(subset, x0)
    K = _check_counts(alpha_bar, draws, chunk)
    S = chain_rule(order[where.cpu()], K) if schedule is None else schedule
    _check_matrix(S, len(where), K)
    S = drop_idle_rows(S)
    weight, constant = (v.to(x0.device) for v in step_terms(S[:-1], S[1:], alpha_bar.cpu(), variance))
    count = len(weight)
    if rows_per_draw is not None and not 1 <= rows_per_draw <= count:
        raise ValueError(f"rows_per_draw must lie in 1..{count} (rows that change a level), got {rows_per_draw}")
    x0, columns, cond = x0[:, where], _columns(mask, x0, where), Cond(causal=causal, tokens=where)
    fixed = ((constant + weight * _noise_part(alpha_bar)[S[:-1]].to(x0.device)) * columns.sum(-1)).sum()
    rows, scale = _pick_rows(count, rows_per_draw, draws, draw, x0)
    levels, costs = S.to(x0.device), []
    for part in torch.split(rows.flatten(1), max(1, chunk // len(x0)), dim=1):
        eps = torch.stack([draw(x0) for _ in part[0]], 1)
        costs.append((weight[part] * _excess(model, x0, levels[part], eps, columns, cond, alpha_bar)).sum(-1))
    total = torch.cat(costs, 1).reshape(rows.shape).sum(-1)
    return _summary(-fixed - scale * total)


@torch.no_grad()
def noisy_bound(
    model: Denoiser,
    x0: Tensor,
    alpha_bar: Tensor,
    *,
    order: Tensor,
    draw: Draw,
    subset: Tensor | None = None,
    mask: Tensor | None = None,
    variance: str = "forward",
    draws: int = 1,
    chunk: int = 4096,
) -> Bound:
    """Bound ``E ln p(x_1^{k_1}, ..., x_T^{k_T})`` over independent uniform levels and the noise: Theorem 3.1.

    ``C + sum_t E[ ln p(x_t^0 | x_t^1, z) / (K+1) - sum_{j=2}^K j/(K+1) KL(q(x_t^{j-1} | x_t^j, x_t^0) ||
    p(x_t^{j-1} | x_t^j, z)) ]`` with z the earlier tokens at levels of their own and

    ``C = -1/(K+1) sum_t D_t sum_{k=1}^K 1/2 ln(2 pi e (1 - abar_k))``, the entropies of q(x_t^k | x_t^0).

    One draw is one call as in training, with one uniform level per token: the level of a token is its own j, and part
    of z for those after it. Attention is causal.

    Args:
        model: The denoiser.
        x0: Clean tokens (B, T, D), normalised.
        alpha_bar: Table (K+1,), 0 at level K.
        order: Causal order of the T tokens, int64 (T,).
        draw: Source of standard normal noise, from which levels are drawn too.
        subset: As in `subsequence_bound`; the theorem needs tokens of distinct places.
        mask: bool (T, D), the columns that each token uses.
        variance: ``"forward"`` or ``"posterior"``.
        draws: How often levels and noise are drawn.
        chunk: Sequences per call of the denoiser (at least B); changes memory, not the result.

    Returns:
        `Bound`, in nats. The standard error counts the spread of the levels too.

    Raises:
        ValueError: If shapes or counts do not fit, or two tokens share a place and so see each other.

    Source:
        arXiv 2407.01392, Theorem 3.1 and appendix A.
    """
    where = _positions(subset, x0)
    K = _check_counts(alpha_bar, draws, chunk)
    if len(set(order[where.cpu()].tolist())) < len(where):
        raise ValueError("the theorem needs one token per place of the causal order; leave one of two out by subset")
    weight, constant = (v.to(x0.device) for v in _level_terms(alpha_bar.cpu(), variance))
    x0, columns, cond = x0[:, where], _columns(mask, x0, where), Cond(causal=True, tokens=where)
    entropy = 0.5 * torch.log(2 * math.pi * math.e * (1 - alpha_bar.double().cpu())[1:])
    steps = torch.arange(K + 1, device=x0.device) * (constant + weight * _noise_part(alpha_bar).to(x0.device))
    fixed = float(columns.sum()) * float(entropy.sum() + steps.sum()) / (K + 1)
    values = []
    for done in range(0, draws, max(1, chunk // len(x0))):
        here = range(min(draws - done, max(1, chunk // len(x0))))
        drawn = [(_uniform(draw, x0[..., :1])[..., 0], draw(x0)) for _ in here]
        k = torch.stack([(u * (K + 1)).long() for u, _ in drawn], 1)
        eps = torch.stack([e for _, e in drawn], 1)
        values.append(-fixed - (k * weight[k] * _excess(model, x0, k, eps, columns, cond, alpha_bar)).sum(-1))
    return _summary(torch.cat(values, 1))


def _noise_part(alpha_bar: Tensor) -> Tensor:
    """Tabulate ``abar (1 - abar)``, the share of the noise in x0_hat's squared error if data had unit variance."""
    a = alpha_bar.double().cpu()
    return a * (1 - a)


def _excess(
    model: Denoiser, x0: Tensor, k: Tensor, eps: Tensor, columns: Tensor, cond: Cond, alpha_bar: Tensor
) -> Tensor:
    """Compute ``|x0_hat - x0|^2 - abar (1 - abar) |eps|^2`` float64 (B, r, n) for r rows of levels k (B, r, n).

    Near level 0 the error is little else than the noise that was drawn. What is taken off here is added as its mean,
    summed over all levels: the expectation is the same and the variance about ten times smaller at K = 100.
    """
    clean = x0.unsqueeze(1).expand_as(eps)
    x = add_noise(clean, k, eps * columns, alpha_bar)
    x0_hat = model(x.flatten(0, 1), k.flatten(0, 1), cond).reshape(x.shape)
    error = ((x0_hat - clean).double() ** 2 * columns).sum(-1)
    return error - _noise_part(alpha_bar).to(x0.device)[k] * (eps.double() ** 2 * columns).sum(-1)


def _pick_rows(count: int, wanted: int | None, draws: int, draw: Draw, x0: Tensor) -> tuple[Tensor, float]:
    """Choose rows int64 (B, draws, r), and the factor that makes their sum unbiased.

    Evenly spaced from a random start, every row is chosen with the same probability ``wanted / count``.
    """
    if wanted is None:
        return torch.arange(count, device=x0.device).expand(len(x0), draws, -1), 1.0
    start = torch.stack([_uniform(draw, x0[:, 0, :1]) for _ in range(draws)], 1)
    rows = ((torch.arange(wanted, device=x0.device) + start) * count / wanted).long().clamp_max(count - 1)
    return rows, count / wanted


def _uniform(draw: Draw, like: Tensor) -> Tensor:
    """Draw numbers uniform in [0, 1) from a source of normal noise."""
    return (0.5 * torch.erfc(-draw(like).double() / math.sqrt(2))).clamp_max(1 - 1e-12)


def _positions(subset: Tensor | None, x0: Tensor) -> Tensor:
    """Turn a subset into distinct positions int64 (n,)."""
    if x0.ndim != 3:
        raise ValueError(f"x0 must have shape (B, T, D), got {tuple(x0.shape)}")
    T = x0.shape[1]
    if subset is None:
        return torch.arange(T, device=x0.device)
    if subset.dtype == torch.bool and subset.shape != (T,):
        raise ValueError(f"a bool subset must have shape ({T},), one entry per token, got {tuple(subset.shape)}")
    where = subset.nonzero().squeeze(1) if subset.dtype == torch.bool else subset
    good = where.ndim == 1 and where.dtype == torch.int64 and len(where) > 0
    if not good or len(set(where.tolist())) < len(where) or int(where.min()) < 0 or int(where.max()) >= T:
        raise ValueError(f"subset must name at least one of the {T} tokens, each once, got {subset.tolist()}")
    return where.to(x0.device)


def _check_counts(alpha_bar: Tensor, draws: int, chunk: int) -> int:
    """Check what both bounds need, and return K."""
    if float(alpha_bar[-1]) != 0.0:
        raise ValueError(f"alpha_bar must end at 0 (pure noise), got {float(alpha_bar[-1])}; use alpha_bar_table")
    if draws < 1 or chunk < 1:
        raise ValueError(f"draws and chunk must be at least 1, got {draws} and {chunk}")
    return len(alpha_bar) - 1


def _check_matrix(S: Tensor, tokens: int, levels: int) -> None:
    """Check that a matrix is admissible and that its columns begin at K, or are 0."""
    check_schedule(S, levels)
    if S.shape[1] != tokens:
        raise ValueError(f"schedule must have {tokens} columns, one per token of the subset, got {S.shape[1]}")
    between = ((S[0] > 0) & (S[0] < levels)).nonzero()
    if len(between):
        t = int(between[0])
        raise ValueError(
            f"a column must begin at {levels} (free) or 0 (given), but column {t} begins at {int(S[0, t])}"
        )
    if int(S[0].max()) == 0:
        raise ValueError("at least one column must begin at K; all tokens are given and nothing is left to be bounded")


def _columns(mask: Tensor | None, x0: Tensor, where: Tensor) -> Tensor:
    """Return the columns that count, (n, D) of 0 and 1 in the type of x0."""
    if mask is None:
        return torch.ones_like(x0[0, where])
    if mask.shape != x0.shape[1:]:
        raise ValueError(f"mask must have shape {tuple(x0.shape[1:])} (T, D), got {tuple(mask.shape)}")
    return mask.to(x0)[where]


def _summary(values: Tensor) -> Bound:
    """Average draws (B, draws)."""
    draws = values.shape[1]
    spread = values.std(1) if draws > 1 else torch.full_like(values[:, 0], math.nan)
    return Bound(values.mean(1), spread / math.sqrt(draws))
