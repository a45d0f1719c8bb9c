"""T6: loss weights against their formulas, and that one x0_hat has one weighted loss whatever the head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import dfplan.objective
from dfplan.models.base import Cond
from dfplan.noise import add_noise, alpha_bar_table, target_from, to_eps, to_x0
from dfplan.objective import ObjectiveConfig, draw_levels, draw_tokens, level_weights, take_tokens
from dfplan.tokens import CONTEXT, TokenSpec
from dfplan.weights import WEIGHTINGS, loss_weights
from dfplan.windows import Batch
from tests.core.test_objective import Stub, loss_of, windows
from tests.core.tiny import random_denoiser, small_spec

K = 20
TABLE = alpha_bar_table("cosine", K)
NAMES = tuple(n for n in WEIGHTINGS if n != "uniform")
ORDER = torch.arange(6)
levels = st.lists(st.integers(0, K), min_size=6, max_size=6).map(lambda k: torch.tensor([k]))


def weights(name: str, k: Tensor, prediction: str = "x0", order: Tensor = ORDER, **options: Any) -> Tensor:
    return loss_weights(name, k, order, TABLE, prediction, **options)


def signal(k: int, gamma: float = 5.0) -> float:
    a = float(TABLE[k])
    return 1.0 if a == 1 else min(a / (1 - a), gamma) / gamma


@pytest.mark.parametrize("table", ["cosine", "linear"])
def test_min_snr_by_hand(table: str) -> None:
    # Catches: a weight clipped from the wrong side, a table of one's own, 0/0 at either end.
    a = alpha_bar_table(table, K)
    k = torch.arange(K + 1)
    for prediction in ("x0", "v", "eps"):
        found = loss_weights("min_snr", k[None], k, a, prediction, gamma=3.0)[0].tolist()
        for level, value in enumerate(found):
            ends = {"x0": (3.0, 0.0), "v": (0.0, 0.0), "eps": (0.0, 0.0)}[prediction]
            if level in (0, K):
                assert value == ends[level // K]
                continue
            snr = float(a[level] / (1 - a[level]))
            assert value == pytest.approx(min(snr, 3.0) / {"x0": 1, "v": 1 + snr, "eps": snr}[prediction])


@given(levels, st.floats(0, 1), st.floats(0.5, 8))
def test_fused_by_the_recursion(k: Tensor, g: float, gamma: float) -> None:
    # Catches: decay and its complement swapped, Sbar that holds the token itself, the far side summed forwards.
    def fused_with(row: list[int]) -> list[float]:
        memory, out = 0.0, []
        for level in row:
            out.append(memory)
            memory = g * memory + (1 - g) * signal(level, gamma)
        return out

    row = k[0].tolist()
    before, after = fused_with(row), fused_with(row[::-1])[::-1]
    own = [signal(level, gamma) for level in row]
    causal = [gamma * (1 - (1 - s) * (1 - b)) for s, b in zip(own, before, strict=True)]
    both = [gamma * (1 - (1 - s) * (1 - b) * (1 - f)) for s, b, f in zip(own, before, after, strict=True)]
    for name, expected in (("fused_snr", causal), ("fused_snr_bidirectional", both)):
        assert weights(name, k, gamma=gamma, decay=g)[0].tolist() == pytest.approx(expected, abs=1e-9)


@given(levels, st.integers(0, 10_000), st.sampled_from(NAMES))
def test_every_head_has_the_same_weighted_loss(k: Tensor, seed: int, name: str) -> None:
    # T3 and T6. Catches: 1 / SNR for 1 / (1 + SNR), a conversion of the clipped instead of the true SNR.
    g = torch.Generator().manual_seed(seed)
    x0, eps, x0_hat = (torch.randn(1, 6, 2, generator=g, dtype=torch.float64) for _ in range(3))
    x = add_noise(x0, k, eps, TABLE)
    x0_hat = torch.where((k == 0).unsqueeze(-1), x, x0_hat)  # as every v or eps head has it
    eps_hat = to_eps(x0_hat, x, k, TABLE)
    outputs = {kind: target_from(kind, x0_hat, eps_hat, k, TABLE) for kind in ("x0", "v", "eps")}
    losses = {}
    for kind, output in outputs.items():
        error = ((output - target_from(kind, x0, eps, k, TABLE)) ** 2).sum(-1)
        losses[kind] = weights(name, k, kind) * error
        useful = k < K if kind == "eps" else torch.ones_like(k, dtype=torch.bool)
        torch.testing.assert_close(to_x0(kind, output, x, k, TABLE)[useful], x0_hat[useful])
    torch.testing.assert_close(losses["v"], losses["x0"])
    torch.testing.assert_close(losses["eps"], torch.where(k < K, losses["x0"], 0.0))


@given(levels, levels, st.integers(0, 4))
def test_fused_is_causal_and_bidirectional_is_not(k: Tensor, other: Tensor, last: int) -> None:
    # T4. Catches: a weight that reads the levels of later tokens, or a bidirectional one that does not.
    changed = torch.where(last < ORDER, other, k)
    for shuffle in (ORDER, torch.tensor([3, 0, 5, 1, 4, 2])):
        one = weights("fused_snr", k[:, shuffle], order=shuffle)
        two = weights("fused_snr", changed[:, shuffle], order=shuffle)
        assert torch.equal(one[:, shuffle <= last], two[:, shuffle <= last])
    clear, dark = torch.full((1, 6), K), torch.full((1, 6), K)
    clear[:, 5] = 0
    assert bool((weights("fused_snr_bidirectional", clear) > weights("fused_snr_bidirectional", dark)).all())


@given(st.integers(0, K), st.integers(0, 5), st.sampled_from(NAMES))
def test_fused_is_min_snr_where_nothing_else_is_known(level: int, t: int, name: str) -> None:
    # Catches: pure noise that counts as a signal, a scale that differs between the weightings.
    k = torch.full((1, 6), K)
    k[0, t] = level
    assert float(weights(name, k)[0, t]) == pytest.approx(5 * signal(level))


@given(levels)
def test_limits_of_the_decay(k: Tensor) -> None:
    # Catches: 0^0, and a memory that does not end with its token (g = 0) or does begin (g = 1).
    for name in NAMES:
        torch.testing.assert_close(weights(name, k, decay=1.0), weights("min_snr", k))
    own = torch.tensor([signal(level) for level in k[0].tolist()], dtype=torch.float64)
    previous = torch.cat([torch.zeros(1, dtype=torch.float64), own[:-1]])
    torch.testing.assert_close(weights("fused_snr", k, decay=0.0)[0], 5 * (1 - (1 - own) * (1 - previous)))


def test_a_clean_history_tells_everything() -> None:
    # Catches: Sbar that does not reach 1. After many clean tokens the next one counts in full at any level.
    k = torch.zeros(1, 200, dtype=torch.int64)
    k[0, -1] = K
    assert float(weights("fused_snr", k, order=torch.arange(200))[0, -1]) == pytest.approx(5.0, rel=1e-6)


def test_order_is_by_place_and_leaves_tell_nothing() -> None:
    # Catches: places read as positions, gaps that decay, a shared place counted twice, leaves that inform.
    k = torch.tensor([[4, 9, 6, 12, 3]])
    plain = weights("fused_snr", k, order=torch.arange(5))
    torch.testing.assert_close(weights("fused_snr", k, order=torch.tensor([[1, 5, 6, 30, 31]])), plain)
    twice = weights("fused_snr", k[:, [0, 0, 1, 2, 3, 4]], order=torch.tensor([0, 0, 1, 2, 3, 4]))
    torch.testing.assert_close(twice[:, [0, 2, 3, 4, 5]], plain)
    leaf = torch.tensor([False, False, True, False, False])
    without = weights("fused_snr", k[:, [0, 1, 3, 4]], order=torch.arange(4))
    torch.testing.assert_close(weights("fused_snr", k, order=torch.arange(5), leaf=leaf)[:, [0, 1, 3, 4]], without)


@given(levels, levels, st.sampled_from(NAMES))
def test_samples_do_not_mix(one: Tensor, two: Tensor, name: str) -> None:
    # Catches: a memory that runs on into the next sample.
    torch.testing.assert_close(
        weights(name, torch.cat([one, two])), torch.cat([weights(name, one), weights(name, two)])
    )


def unweighted_loss(model: Any, batch: Batch, spec: TokenSpec, causal: bool, seed: int) -> Tensor:
    """Compute the loss as it is without any weight by level, term by term in the same order."""
    g, config = torch.Generator().manual_seed(seed), ObjectiveConfig()
    tokens = draw_tokens(spec, len(batch.x0), config, g)
    k = draw_levels(spec, take_tokens(batch.valid, tokens), tokens, K, config, g)
    x0, used = take_tokens(batch.x0, tokens), take_tokens(batch.weight, tokens)
    eps = torch.randn(x0.shape, generator=g)
    output = model.network(add_noise(x0, k, eps, TABLE), k, Cond(causal=causal, tokens=tokens))
    target = target_from(model.config.prediction, x0, eps, k, TABLE)
    error = ((output - target) ** 2 * used).sum(-1) / used.sum(-1).clamp_min(1)
    share = (used.sum(-1) > 0).float()
    share[:, spec.plan_tokens :] *= config.action_weight
    loss: Tensor = (error * share).sum() / share.sum()
    return loss


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("prediction", ["v", "x0", "eps"])
def test_uniform_changes_nothing(prediction: str, causal: bool) -> None:
    # Catches: a default that is not the loss without weights, bit for bit.
    spec, batch = small_spec(), windows(no_goal=0.5)
    model = random_denoiser(spec, prediction=prediction)
    parts = loss_of(model, batch, prediction=prediction, causal=causal, seed=11)
    assert torch.equal(parts["loss"], unweighted_loss(model, batch, spec, causal, 11))
    ones = weights("uniform", torch.arange(K + 1)[None], prediction, order=torch.arange(K + 1))
    assert torch.equal(ones, torch.ones_like(ones))


@pytest.mark.parametrize("weighting", NAMES)
@pytest.mark.parametrize("prediction", ["v", "x0", "eps"])
def test_the_loss_is_weighted_per_token(prediction: str, weighting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: weights that are computed and not used, squared, averaged away, or of another sample's tokens.
    spec, drawn = small_spec(), []

    def spy(*arguments: Any) -> Tensor:
        k = draw_levels(*arguments).clamp_min(1)  # so that the noise can be read back from x
        drawn.append((arguments[2], k))
        return k

    monkeypatch.setattr(dfplan.objective, "draw_levels", spy)
    stub, batch = Stub(0.3), windows(no_goal=0.5)
    config = ObjectiveConfig(weighting=weighting, action_weight=2.0)
    loss = float(loss_of(stub, batch, prediction=prediction, config=config)["loss"].detach())
    (tokens, k), (x, _, _) = drawn[0], stub.asked[0]
    by_level = level_weights(spec, tokens, k, TABLE, prediction, weighting)
    total = count = 0.0
    for b in range(len(tokens)):
        for i, t in enumerate(tokens[b].tolist()):
            if t < CONTEXT or not bool(batch.valid[b, t]):
                continue
            x0, level = batch.x0[b, t], k[b, i]
            a = float(TABLE[level])
            eps = (x[b, i] - a**0.5 * x0) / (1 - a) ** 0.5
            target = target_from(prediction, x0[None], eps[None], level[None], TABLE)[0]
            share = 2.0 if t >= spec.plan_tokens else 1.0
            error = float(((0.3 - target[spec.column_mask()[t]]) ** 2).mean())
            total, count = total + share * float(by_level[b, i]) * error, count + share
    assert loss == pytest.approx(total / count, rel=1e-4)


def test_action_tokens_tell_the_path_nothing() -> None:
    # Catches: fusing from tokens that nobody sees; in the layout ``path`` an action token sees the states only, and
    # those before it (positions read as places would show it the states after it).
    spec = TokenSpec(4, 2, stride=1, horizon=3)
    tokens = torch.arange(spec.tokens)[None]
    k = torch.full((1, spec.tokens), 12)
    clear = k.clone()
    clear[:, spec.plan_tokens :] = 0
    path = slice(0, spec.plan_tokens)
    for name in NAMES:
        one, two = (level_weights(spec, tokens, levels, TABLE, "x0", name) for levels in (k, clear))
        assert torch.equal(one[:, path], two[:, path])
        action = level_weights(spec, tokens, k, TABLE, "x0", name)[0, spec.plan_tokens]
        assert (float(action) > 5 * signal(12)) == (name != "min_snr")
    later = k.clone()
    later[:, CONTEXT + 1 : spec.plan_tokens] = 0
    one, two = (level_weights(spec, tokens, levels, TABLE, "x0", "fused_snr") for levels in (k, later))
    assert torch.equal(one[:, spec.plan_tokens], two[:, spec.plan_tokens])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"name": "min_snrr"}, "unknown weighting 'min_snrr'. Did you mean 'min_snr'"),
        ({"prediction": "x"}, "unknown prediction 'x'"),
        ({"gamma": 0.0}, "gamma must be positive, got 0.0"),
        ({"decay": 1.5}, r"decay must lie in \[0, 1\], got 1.5"),
    ],
)
def test_bad_weights_are_refused(change: dict[str, Any], match: str) -> None:
    arguments: dict[str, Any] = {"name": "min_snr", "prediction": "v", **change}
    with pytest.raises(ValueError, match=match):
        loss_weights(k=torch.zeros(1, 6, dtype=torch.int64), order=ORDER, alpha_bar=TABLE, **arguments)


def test_an_unknown_weighting_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"unknown weighting 'fused'\. Did you mean 'fused_snr'"):
        ObjectiveConfig(weighting="fused")
