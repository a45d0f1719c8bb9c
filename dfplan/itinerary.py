"""Plan a walk down a scheduling matrix: which tokens go through the denoiser in each row, and what is left behind.

This depends on the matrix and not on the tokens, so it is worked out once and kept for the next plan.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

KEPT = 32  # itineraries that are remembered; one holds some small tensors per row


@dataclass(frozen=True)
class Row:
    """Describe one row of a walk.

    Attributes:
        m: Its number.
        k: int64 (n,), levels with which the tokens go through the denoiser.
        k_next: int64 (n,), levels after the row.
        above: int64 (n,), the next higher level that each column visited before.
        index: int64 (p,), the tokens that go through the denoiser, those to be remembered first.
        newly: bool (n,), those to be remembered.
        keep: How many they are.
        everything: Whether all n tokens go through, in their order.
    """

    m: int
    k: Tensor
    k_next: Tensor
    above: Tensor
    index: Tensor
    newly: Tensor
    keep: int
    everything: bool


@dataclass(frozen=True)
class Itinerary:
    """Hold the rows in which something happens.

    Attributes:
        rows: One per call of the denoiser (of the unguided walk).
        committed: bool (n,), the tokens that are remembered after the last row.
    """

    rows: tuple[Row, ...]
    committed: Tensor


_kept: OrderedDict[tuple[object, ...], Itinerary] = OrderedDict()


def itinerary(
    S: Tensor, order: Tensor, settled: Tensor, finish: Tensor, levels: int, *, causal: bool, resample: bool, skip: bool
) -> Itinerary:
    """Work out the rows, or look them up.

    Args:
        S: int64 (M+1, n), on the CPU.
        order: int64 (n,), causal order.
        settled: int64 (n,), row from which on a token is left behind.
        finish: bool (n,), tokens that are to end clean.
        levels: K.
        causal: Whether attention is causal.
        resample: Whether a token that keeps its level goes through the denoiser one rung higher.
        skip: Whether idle tokens are left out.
    """
    tensors = (S, order, settled, finish)
    key = (*(t.numpy().tobytes() for t in tensors), S.shape, levels, causal, resample, skip)
    found = _kept.get(key)
    if found is None:
        found = _kept[key] = _work_out(S, order, settled, finish, levels, causal, resample, skip)
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    return found


def _work_out(
    S: Tensor, order: Tensor, settled: Tensor, finish: Tensor, levels: int, causal: bool, resample: bool, skip: bool
) -> Itinerary:
    rows, committed = [], torch.zeros_like(finish)
    for m in range(len(S) - 1):
        k, k_next, above = S[m].clone(), S[m + 1].clone(), level_above(S, m)
        if resample:
            k = torch.where((k == k_next) & (k > 0) & finish, above, k)
        present = ~committed
        if skip:
            present &= present_tokens(k, k_next, order, levels, causal)
        newly = (settled <= m) & present
        index, keep = present.nonzero().squeeze(1), int(newly.sum())
        if keep:
            index = index[torch.argsort(order[index] * 2 + (~newly[index]).long(), stable=True)]
        whole = len(index) == S.shape[1] and not keep
        rows.append(Row(m, k, k_next, above, index, newly, keep, whole))
        committed = committed | newly
    return Itinerary(tuple(rows), committed)


def present_tokens(k: Tensor, k_next: Tensor, order: Tensor, levels: int, causal: bool) -> Tensor:
    """Find the tokens that the denoiser must see in one row, bool (n,); leaving out the others changes nothing.

    Nobody looks at a token at level K, so one that also stays there is left out. With causal attention everything
    later than the last token that changes is left out too.

    Args:
        k: Levels before the row, int64 (n,).
        k_next: Levels after it, int64 (n,).
        order: Causal order of the tokens, int64 (n,).
        levels: K.
        causal: Whether attention is causal.
    """
    changing = k != k_next
    present = (k < levels) | changing
    if causal and bool(changing.any()):
        present &= order <= order[changing].max()
    return present


def settled_rows(S: Tensor, order: Tensor) -> Tensor:
    """Find from which row on each token, and everything at or before it in causal order, never changes again.

    Args:
        S: int64 (M+1, n).
        order: int64 (n,).

    Returns:
        int64 (n,), 0..M.
    """
    M = len(S) - 1
    rows = torch.arange(1, M + 1)[:, None]
    last = torch.where(S[1:] != S[:-1], rows, 0).max(0).values if M else torch.zeros_like(S[0])
    before = order[None, :] <= order[:, None]
    return torch.where(before, last[None, :], torch.zeros_like(last)).max(1).values


def level_above(S: Tensor, m: int) -> Tensor:
    """Find for each token the next higher level that its column visited before row m (or its own level)."""
    now = S[m]
    above = torch.where(S[:m] > now, S[:m], torch.full_like(S[:m], torch.iinfo(S.dtype).max))
    if len(above) == 0:
        return now.clone()
    best = above.min(0).values
    return torch.where(best == torch.iinfo(S.dtype).max, now, best)
