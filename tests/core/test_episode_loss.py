"""The loss of whole episodes: every token after a past of its own, against the same sum written out token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dfplan.episode import EpisodeBatch, EpisodeWindows, episode_loss
from dfplan.episode.objective import past_levels
from dfplan.models import Cond
from dfplan.noise import add_noise, target_from
from dfplan.objective import ObjectiveConfig
from dfplan.schedule import LEVEL_SAMPLERS
from tests.core.episodic import KINDS, SPEC, K, checkpoint, counted
from tests.core.tiny import fitted

LENGTHS = [7, 1, 10, 4]
every = pytest.mark.parametrize("kind", KINDS)


def batch_of(first: int = 0, lengths: Any = LENGTHS) -> EpisodeBatch:
    """Return all episodes once, at a position of the layout."""
    episodes = counted(lengths)
    windows = EpisodeWindows(episodes, SPEC, fitted(SPEC, episodes))  # type: ignore[arg-type]
    parts = [windows._cut(row, 0) for row in windows._rows]
    n = max(len(part[0]) for part in parts)

    def stack(i: int) -> Tensor:
        padded = [torch.cat([p[i], p[i].new_zeros(n - len(p[i]), *p[i].shape[1:])]) for p in parts]
        return torch.stack(padded)

    return EpisodeBatch(stack(0), stack(1), stack(2), first)


def loss_of(model: Any, batch: EpisodeBatch, levels: str = "mixed", seed: int = 0, **config: Any) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return episode_loss(model, batch, SPEC, K, "v", ObjectiveConfig(levels=levels, **config), generator=g)


def written_out(model: Any, batch: EpisodeBatch, levels: str, seed: int = 0) -> Tensor:
    """Compute the loss with one call of the network per token: its past, then itself, nothing after it."""
    g = torch.Generator().manual_seed(seed)
    shape = tuple(batch.x0.shape[:2])
    forced = levels == "teacher_forcing"
    k = LEVEL_SAMPLERS["independent" if forced else levels](shape, K, g).clamp_min(1)  # type: ignore[arg-type]
    past = torch.zeros(shape, dtype=torch.int64) if forced else past_levels(shape, K, g)  # type: ignore[arg-type]
    eps, other = torch.randn(batch.x0.shape, generator=g), torch.randn(batch.x0.shape, generator=g)
    if levels == "independent":
        past, other = k, eps
    used = SPEC.column_mask()[batch.first : batch.first + shape[1]]
    sums = [torch.zeros(()), torch.zeros(())]
    counts = [0, 0]
    for b in range(shape[0]):
        for t in range(shape[1]):
            if not batch.weight[b, t].any():
                continue
            levels_here = torch.cat([past[b, :t], k[b, t : t + 1]])[None]
            noise = torch.cat([other[b, :t], eps[b, t : t + 1]])[None]
            x = add_noise(batch.x0[b : b + 1, : t + 1], levels_here, noise, model.alpha_bar) * used[: t + 1]
            output = model.network(x, levels_here, Cond(True, batch.first + torch.arange(t + 1)))[0, t]
            target = target_from("v", batch.x0[b : b + 1], eps[b : b + 1], k[b : b + 1], model.alpha_bar)[0, t]
            own = batch.weight[b, t].bool()
            sums[t % 2] = sums[t % 2] + (output[own] - target[own]).square().mean()
            counts[t % 2] += 1
    return (sums[0] / counts[0] + sums[1] / counts[1]) / 2


@every
@pytest.mark.parametrize("levels", ["mixed", "independent", "teacher_forcing"])
def test_every_token_is_learned_after_the_past_before_it(kind: str, levels: str) -> None:
    # Catches: a token that sees itself clean or a later one, levels or noise of past and present swapped, padding that
    # counts, halves of a block that count as a whole one, a mean over the wrong tokens, a loss without gradient.
    model = checkpoint(kind).model
    batch = batch_of(first=0)
    ours, plain = loss_of(model, batch, levels)["loss"], written_out(model, batch, levels)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    weights = [p for p in model.parameters() if p.requires_grad]
    for one, two in zip(*(torch.autograd.grad(v, weights, allow_unused=True) for v in (ours, plain)), strict=True):
        if one is None or two is None:
            assert (one is None or not one.any()) and (two is None or not two.any())
        else:
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_a_batch_in_the_middle_stands_at_its_positions() -> None:
    # Catches: positions of the layout's beginning whatever `first` says, which leaves its end untrained.
    model, batch = checkpoint("learned").model, batch_of(first=2, lengths=[7, 3])
    torch.testing.assert_close(loss_of(model, batch)["loss"], written_out(model, batch, "mixed"), rtol=1e-4, atol=1e-5)
    assert loss_of(model, batch)["loss"] != loss_of(model, batch_of(0, [7, 3]))["loss"]


@every
@pytest.mark.parametrize("levels", ["mixed", "independent", "teacher_forcing"])
def test_padding_has_no_influence(kind: str, levels: str) -> None:
    # Catches: padding that is looked at, or that counts.
    model, batch = checkpoint(kind).model, batch_of()
    filled = torch.where(batch.valid.unsqueeze(-1), batch.x0, torch.full_like(batch.x0, 7.0))
    assert not torch.equal(filled, batch.x0)
    other = EpisodeBatch(filled, batch.weight, batch.valid, batch.first)
    assert torch.equal(loss_of(model, batch, levels)["loss"], loss_of(model, other, levels)["loss"])


def test_both_parts_count_alike_and_are_told() -> None:
    # Catches: the parts swapped, or a loss in which the many observation columns outweigh the actions.
    class Zero(torch.nn.Module):
        alpha_bar = checkpoint().model.alpha_bar

        def network(self, x: Tensor, k: Tensor, cond: Cond) -> Tensor:
            return torch.zeros_like(x)

        def forced(self, x: Tensor, k: Tensor, clean: Tensor, clean_k: Tensor, cond: Cond) -> Tensor:
            return torch.zeros_like(x)

    batch, g = batch_of(), torch.Generator().manual_seed(0)
    parts = episode_loss(Zero(), batch, SPEC, K, "x0", ObjectiveConfig(), generator=g)  # type: ignore[arg-type]
    for part, name in ((0, "future"), (1, "action")):
        rows = [
            float(x[w.bool()].square().mean())
            for x0, weight in zip(batch.x0, batch.weight, strict=True)
            for x, w in zip(x0[part::2], weight[part::2], strict=True)
            if w.any()
        ]
        assert float(parts[name]) == pytest.approx(np.mean(rows), rel=1e-5)
    assert float(parts["loss"]) == pytest.approx(float(parts["future"] + parts["action"]) / 2)


def test_the_same_seed_gives_the_same_loss() -> None:
    # Catches: noise or levels from a global generator.
    model, batch = checkpoint().model, batch_of()
    assert torch.equal(loss_of(model, batch)["loss"], loss_of(model, batch)["loss"])
    assert loss_of(model, batch)["loss"] != loss_of(model, batch, seed=1)["loss"]


def test_a_weighting_that_would_have_no_effect_is_refused() -> None:
    # Catches: --weighting that is taken and does nothing.
    with pytest.raises(ValueError, match="'uniform' only, got 'min_snr'"):
        loss_of(checkpoint().model, batch_of(), weighting="min_snr")


# ---- the past


def test_pasts_are_clean_noisy_or_forgotten_in_these_shares() -> None:
    # Catches: shares swapped, one probability for all rows, levels out of range, pasts that are never clean.
    n, draws = 40, 4000
    k = past_levels((draws, n), 100, torch.Generator().manual_seed(0))
    assert int(k.min()) == 0 and int(k.max()) == 100
    largest = k.max(1).values
    forgotten = ((k == 0) | (k == 100)).all(1) & (largest == 100)
    small, clean = (largest > 0) & (largest <= 10), largest == 0
    noisy = ~(forgotten | small | clean)
    # A row that is not meant to be clean is so with probability E[share^n] = 1 / (n + 1).
    almost = n / (n + 1)
    for rows, share in ((forgotten, 0.2), (small, 0.15), (noisy, 0.15)):
        assert float(rows.float().mean()) == pytest.approx(share * almost, abs=0.02)
    assert float(clean.float().mean()) == pytest.approx(0.5 + 0.5 / (n + 1), abs=0.02)
    kept = (k[forgotten] == 0).float().mean(1)  # one probability per row, uniform in [0, 1]
    assert float((kept < 0.25).float().mean()) == pytest.approx(0.25, abs=0.04)


def test_pasts_come_from_the_generator_alone() -> None:
    # Catches: a global generator, and fewer levels than ten that leave no room for small ones.
    one, two = (past_levels((8, 5), 3, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(one, two) and int(one.max()) <= 3
