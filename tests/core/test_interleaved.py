"""Interleaved tokens: their order, who sees whom, the histories of windows, and the patterns of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dfplan.data.episodes import Episodes
from dfplan.models.base import Cond
from dfplan.objective import ObjectiveConfig, diffusion_forcing_loss, draw_levels, draw_tokens
from dfplan.patterns import PATTERNS, PatternConfig, draw_pattern
from dfplan.schedule import LEVEL_SAMPLERS
from dfplan.tokens import CONTEXT, GOAL, STATE, TokenSpec, history_tokens, pack
from dfplan.windows import WindowSampler
from tests.core.tiny import fitted, identity_norm, random_denoiser, small_spec, some_norm, walks

K = 20
SPEC = TokenSpec(4, 2, stride=3, horizon=2, kind="interleaved", history=2)
# positions: 0 state, 1 goal, 2 3 future, 4 5 chunks, 6 7 past observations, 8 9 past chunks
IN_ORDER = [1, 6, 8, 7, 9, 0, 4, 2, 5, 3]


# ---- layout


def test_layout_by_hand() -> None:
    # Catches: a changed order of tokens or columns; a stored checkpoint depends on it.
    assert (SPEC.width, SPEC.plan_tokens, SPEC.past_tokens, SPEC.tokens) == (4 + 6, 4, 6, 10)
    assert [SPEC.action_token(c) for c in range(2)] == [4, 5]
    assert SPEC.order().argsort().tolist() == IN_ORDER and SPEC.order().unique().shape == (10,)
    obs, act = [1] * 4 + [0] * 6, [0] * 4 + [1] * 6
    goal = [1, 1, 0, 0, *[0] * 6]
    assert SPEC.column_mask().int().tolist() == [obs, goal, obs, obs, act, act, obs, obs, act, act]
    assert bool(SPEC.attention(False).all())
    without = TokenSpec(4, 2, stride=3, horizon=2, kind="interleaved")
    assert without.order().argsort().tolist() == [1, 0, 4, 2, 5, 3] and without.tokens == 6
    assert TokenSpec.from_dict(SPEC.to_dict()) == SPEC


@pytest.mark.parametrize("causal", [True, False])
def test_jacobian_is_the_order_of_cause_and_effect(causal: bool) -> None:
    # T4. Catches: actions that nobody sees (no world model), a policy that sees what its actions lead to, a future that
    # leaks into the past, inverse dynamics that are blind with full attention.
    model = random_denoiser(SPEC).double()
    x = torch.randn(1, SPEC.tokens, SPEC.width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    k = torch.full((1, SPEC.tokens), 5)
    jacobian = torch.autograd.functional.jacobian(lambda v: model(v, k, Cond(causal))[0].sum(-1), x)[:, 0]
    sees = (jacobian.abs().sum(-1) > 0).tolist()
    place = {position: i for i, position in enumerate(IN_ORDER)}
    for t in range(SPEC.tokens):
        for s in range(SPEC.tokens):
            assert sees[t][s] == (not causal or place[s] <= place[t]), (t, s)


def test_plans_are_the_same_however_long() -> None:
    # C2. Catches: tokens beyond the horizon that are there after all.
    model = random_denoiser(SPEC).double()
    x = torch.randn(2, SPEC.tokens, SPEC.width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    k = torch.tensor([0, 0, 7, 12, K, K, 0, 0, 0, 0]).expand(2, -1)
    long = model(x, k, Cond(True))
    short = torch.tensor([0, 1, 2, 6, 7, 8, 9])
    found = model(x[:, short], k[:, short], Cond(True, short))
    torch.testing.assert_close(found, long[:, short], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"history": -1}, "history must be an integer of 0 or more, got -1"),
        ({"history": 2, "kind": "path"}, "path tokens have no history, got history=2; use kind='interleaved'"),
        ({"history": 2, "kind": "bundle"}, "bundle tokens have no history"),
        ({"rewards": True, "kind": "interleaved"}, "interleaved tokens hold no rewards; use kind='bundle'"),
    ],
)
def test_bad_layouts_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        small_spec(**change)


def test_packing_needs_its_history() -> None:
    spec, norm = SPEC, some_norm(SPEC)
    data = {"obs": torch.randn(2, 7, 4), "act": torch.randn(2, 6, 2), "goal": torch.randn(2, 2)}
    past = (torch.randn(2, 2, 4), torch.randn(2, 6, 2))
    x0 = pack(spec, norm, **data, past=past)
    assert torch.equal(x0[:, 6:], history_tokens(spec, norm, *past))
    torch.testing.assert_close(norm.act_back(x0[:, 8:, 4:].reshape(2, 6, 2)), past[1], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="this layout holds history; pass past="):
        pack(spec, norm, **data)
    with pytest.raises(ValueError, match=r"past observations must have shape \(2, 2, 4\), got \(2, 1, 4\)"):
        pack(spec, norm, **data, past=(past[0][:, :1], past[1]))
    with pytest.raises(ValueError, match=r"past actions must have shape \(2, 6, 2\), got \(2, 3, 2\)"):
        pack(spec, norm, **data, past=(past[0], past[1][:, :3]))


# ---- windows


LENGTHS = (9, 6)


def telling() -> Episodes:
    """Make episodes in which observation t of episode e is 100 e + t and action t is 1000 + 100 e + t."""
    obs = [[100 * e + t] for e, n in enumerate(LENGTHS) for t in range(n + 1)]
    act = [[1000 + 100 * e + t] for e, n in enumerate(LENGTHS) for t in range(n)]
    return Episodes(np.array(obs), np.array(act), np.zeros(sum(LENGTHS)), np.array(LENGTHS))


@pytest.mark.parametrize("known", [True, False])
def test_histories_are_what_came_before(known: bool) -> None:
    # Catches: a history that is shifted, newest first, reaches into the episode before, or is taken for known where the
    # episode had not begun; the last action of the past must be the one before the window.
    spec = TokenSpec(1, 1, stride=2, horizon=2, kind="interleaved", history=2, goal_columns=(0,), rest_columns=())
    sampler = WindowSampler(telling(), spec, identity_norm(spec))
    starts = np.arange(sum(LENGTHS))
    batch = sampler.window(starts, np.minimum(sampler._left, 2), np.full(len(starts), known))
    for b, (e, t) in enumerate((e, t) for e, n in enumerate(LENGTHS) for t in range(n)):
        observed, acted = batch.x0[b, 6:8, 0].tolist(), batch.x0[b, 8:10, 1:].tolist()
        assert batch.x0[b, STATE, 0] == 100 * e + t
        for place, ago in enumerate((4, 2)):
            lived = t >= ago
            assert batch.valid[b, 6 + place] == batch.valid[b, 8 + place] == lived
            when = 100 * e + t - ago
            assert observed[place] == (when if lived else 0)
            assert acted[place] == ([1000 + when, 1001 + when] if lived else [0, 0])
    assert not bool(batch.weight[:, 6:].any()) and not bool(batch.weight[:, GOAL].any())
    assert bool(batch.weight[:, STATE].any())  # a state that is noised is learned


# ---- patterns


def drawn(config: PatternConfig, B: int = 400, spec: TokenSpec = SPEC, seed: int = 0) -> Tensor:
    return draw_pattern(spec, B, K, LEVEL_SAMPLERS["mixed"], config, torch.Generator().manual_seed(seed))


def only(name: str, **changes: float) -> PatternConfig:
    clean = {"noisy_state": 0.0, "missing_state": 0.0, "no_history": 0.0, "noisy_history": 0.0}
    return PatternConfig(**{**dict.fromkeys(PATTERNS, 0.0), name: 1.0, **clean, **changes})


def test_every_pattern_is_its_question() -> None:
    # Catches: observations and actions exchanged, an action of the future beside the one that is asked for.
    spec = small_spec(kind="interleaved", history=2)
    o, a = slice(CONTEXT, spec.plan_tokens), slice(spec.plan_tokens, spec.past_tokens)
    k = {name: drawn(only(name), spec=spec) for name in PATTERNS}
    assert all(
        bool((v[:, [STATE, GOAL]] == 0).all()) and bool((v[:, spec.past_tokens :] == 0).all()) for v in k.values()
    )
    assert bool((k["plan"][:, a] == K).all()) and len(k["plan"][:, o].unique()) == K + 1
    assert bool((k["world"][:, a] == 0).all()) and len(k["world"][:, o].unique()) == K + 1
    assert bool((k["inverse"][:, o] == 0).all()) and len(k["inverse"][:, a].unique()) == K + 1
    same = (k["joint"][:, a] == k["joint"][:, o]).all(1).float().mean()
    assert 0.4 < float(same) < 0.65 and len(k["joint"][:, a].unique()) == K + 1
    act = k["act"]
    cut = (act[:, o] == 0).sum(1)
    assert cut.unique().tolist() == [0, 1, 2, 3, 4]
    for row, place in zip(act, cut.tolist(), strict=True):
        assert bool((row[o][place:] == K).all()) and bool((row[a][:place] == 0).all())
        assert int(row[a][place]) >= 1 and bool((row[a][place + 1 :] == K).all())


def test_shares_are_kept() -> None:
    # Catches: a share that is ignored, or one that eats another.
    B = 20_000
    config = PatternConfig()
    seven = draw_pattern(SPEC, B, K, lambda shape, *_: torch.full(shape, 7), config, torch.Generator().manual_seed(0))
    o, a = seven[:, CONTEXT : SPEC.plan_tokens], seven[:, SPEC.plan_tokens : SPEC.past_tokens]
    tolerance = 4 * 0.5 / B**0.5
    world = (a == 0).all(1)
    for name, found in (
        ("plan", ((o == 7) & (a == K)).all(1)), ("joint", ((o == 7) & (a == 7)).all(1)), ("world", world),
        ("inverse", (o == 0).all(1) & ~world),
    ):  # fmt: skip
        lost = 1 / 8 if name == "inverse" else 0  # half of them apart, then both chunks clean
        assert abs(float(found.float().mean()) - getattr(config, name) * (1 - lost)) < 2 * tolerance, name
    k = drawn(config, B)
    missing, clean = (k[:, STATE] == K).float().mean(), (k[:, STATE] == 0).float().mean()
    assert abs(float(missing) - config.missing_state - config.noisy_state / K) < tolerance
    assert abs(float(clean) - (1 - config.missing_state - config.noisy_state)) < tolerance
    past = k[:, SPEC.past_tokens :]
    assert abs(float((past == K).all(1).float().mean()) - config.no_history) < tolerance
    intact = (past == 0).all(1).float().mean()
    assert abs(float(intact) - (1 - config.no_history - config.noisy_history * (1 - 1 / 9))) < tolerance
    assert bool(((past[:, 2:] == 0) | (past[:, 2:] == K)).all())
    assert torch.equal(k, drawn(config, B)) and not torch.equal(k, drawn(config, B, seed=1))


def test_levels_know_what_is_valid_and_all_tokens_take_part() -> None:
    # Catches: padding that is shown as clean, a random subset of actions as for leaves.
    valid = torch.ones(6, SPEC.tokens, dtype=torch.bool)
    valid[:, [3, 5, 6, 8]] = False
    g = torch.Generator().manual_seed(0)
    config = ObjectiveConfig()
    tokens = draw_tokens(SPEC, 6, config, g)
    assert torch.equal(tokens, torch.arange(SPEC.tokens).expand(6, -1))
    k = draw_levels(SPEC, valid, tokens, K, config, g)
    assert bool((k[:, [3, 5, 6, 8]] == K).all())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"plan": 0.45}, "the shares plan, joint, world, inverse, act must together be 1, got 1.1"),
        ({"act": 1.5}, r"act is a share and must lie in \[0, 1\], got 1.5"),
        ({"noisy_state": 0.6, "missing_state": 0.6}, "noisy_state, missing_state must together be at most 1, got 1.2"),
    ],
)
def test_bad_shares_are_refused(change: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        PatternConfig(**change)


def test_given_tokens_do_not_count_and_actions_weigh_as_much_as_states() -> None:
    # Catches: the loss of tokens at level 0, about 1 for a v-prediction whatever the network does, which would drown
    # the rest; the weight of leaves on tokens that are none.
    spec = small_spec(kind="interleaved", history=2)
    data = walks()
    batch = WindowSampler(data, spec, fitted(spec, data), no_goal=1.0).draw(16, np.random.default_rng(0))
    model = random_denoiser(spec)

    def loss(patterns: PatternConfig, weight: float = 4.0) -> dict[str, float]:
        g = torch.Generator().manual_seed(0)
        config = ObjectiveConfig(patterns=patterns, action_weight=weight)
        parts = diffusion_forcing_loss(model, batch, spec, K, "v", config, causal=True, generator=g)
        return {name: float(value.detach()) for name, value in parts.items()}

    world, inverse = loss(only("world")), loss(only("inverse"))
    assert world["action"] == 0 and world["loss"] == pytest.approx(world["future"], rel=1e-5)
    assert inverse["future"] == 0 and inverse["loss"] == pytest.approx(inverse["action"], rel=1e-5)
    assert loss(only("joint"), 1.0) == loss(only("joint"), 9.0)
    missing = loss(only("inverse", missing_state=1.0))
    assert missing["loss"] != pytest.approx(missing["action"], rel=1e-3)  # the state counts where it is noised
