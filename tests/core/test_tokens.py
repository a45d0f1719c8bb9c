"""The layout, who may look at whom, packing and the normaliser."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dfplan.tokens import CONTEXT, GOAL, STATE, Normalizer, TokenSpec, goal_token, pack, unpack_actions, unpack_states
from tests.core.tiny import identity_norm, small_spec, some_norm


@st.composite
def specs(draw: st.DrawFn) -> TokenSpec:
    """Draw a layout of either kind."""
    O = draw(st.integers(1, 5))  # noqa: E741
    kind = draw(st.sampled_from(["path", "bundle"]))
    columns = st.lists(st.integers(0, O - 1), unique=True, max_size=O).map(tuple)
    return TokenSpec(
        O, draw(st.integers(1, 3)), stride=draw(st.integers(1, 4)), horizon=draw(st.integers(1, 5)), kind=kind,
        goal_columns=draw(columns), rest_columns=draw(columns), rewards=kind == "bundle" and draw(st.booleans()),
    )  # fmt: skip


def window(spec: TokenSpec, B: int = 3, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = {
        "obs": (B, spec.steps + 1, spec.obs_dim), "act": (B, spec.steps, spec.act_dim),
        "goal": (B, len(spec.goal_columns)), "rewards": (B, spec.steps),
    }  # fmt: skip
    return {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}


# ---- layout


def test_layout_of_paths_by_hand() -> None:
    # Catches: a changed order of tokens or columns; every stored checkpoint depends on it.
    spec = TokenSpec(4, 2, stride=3, horizon=2)
    assert (spec.width, spec.plan_tokens, spec.tokens, spec.steps) == (4 + 3 * 2, 4, 6, 6)
    assert (spec.obs_slice, spec.act_slice) == (slice(0, 4), slice(4, 10))
    assert [spec.action_token(c) for c in range(2)] == [4, 5]
    assert spec.order().tolist() == [0, 0, 2, 4, 3, 5]
    assert spec.column_mask().int().tolist() == [
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        *[[1, 1, 1, 1, 0, 0, 0, 0, 0, 0]] * 2,
        *[[0, 0, 0, 0, 1, 1, 1, 1, 1, 1]] * 2,
    ]


def test_layout_of_bundles_by_hand() -> None:
    # Catches: the same for bundles of (o', r, a); a goal that is not in the newest observation's columns.
    spec = TokenSpec(3, 2, stride=2, horizon=2, kind="bundle", goal_columns=(2,), rest_columns=(), rewards=True)
    assert (spec.width, spec.plan_tokens, spec.tokens) == (2 * 3 + 2 + 2 * 2, 4, 4)
    assert (spec.obs_slice, spec.act_slice) == (slice(3, 6), slice(8, 12))
    assert [spec.action_token(c) for c in range(2)] == [2, 3]
    assert spec.order().tolist() == [0, 0, 2, 4]
    mask = spec.column_mask().int().tolist()
    assert mask[0] == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert mask[1] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert mask[2] == mask[3] == [1] * 12


def test_attention_by_hand() -> None:
    # T4. Catches: an action chunk that sees the states after it, or that is seen; a state that sees the future.
    spec = TokenSpec(4, 2, stride=3, horizon=2)  # state, goal, future 1, future 2, chunk 1, chunk 2
    assert spec.attention(True).int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 1, 0],
        [1, 1, 1, 1, 0, 1],
    ]
    full = spec.attention(False)
    assert bool(full[:, :4].all()) and full[:, 4:].int().tolist() == [[0, 0]] * 4 + [[1, 0], [0, 1]]
    bundle = TokenSpec(4, 2, stride=3, horizon=2, kind="bundle")
    assert bundle.attention(True).int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert bool(bundle.attention(False).all())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"obs_dim": 0}, "obs_dim must be a positive integer, got 0"),
        ({"stride": 1.5}, "stride must be a positive integer, got 1.5"),
        ({"horizon": -3}, "horizon must be a positive integer, got -3"),
        ({"kind": "bundel"}, r"unknown token kind 'bundel'\. Did you mean 'bundle'\?"),
        ({"rewards": True}, "path tokens hold no rewards; use kind='bundle'"),
        ({"goal_columns": (0, 4)}, r"goal_columns must lie in 0..3, got \(0, 4\)"),
        ({"rest_columns": (-1,)}, r"rest_columns must lie in 0..3, got \(-1,\)"),
    ],
)
def test_bad_layouts_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        small_spec(**change)
    with pytest.raises(ValueError, match=r"chunk must lie in 0..4, got 5"):
        small_spec().action_token(5)


@given(specs())
def test_layout_survives_json(spec: TokenSpec) -> None:
    # Catches: a field that is lost, tuples that come back as lists.
    again = TokenSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec and hash(again) == hash(spec)


# ---- packing


@given(specs(), st.integers(0, 100))
def test_packing_and_unpacking_are_inverse(spec: TokenSpec, seed: int) -> None:
    # Catches: a stride taken off by one, interleaved actions, statistics of another column.
    data, norm = window(spec, seed=seed), some_norm(spec, seed)
    x0 = pack(spec, norm, **data)
    assert x0.shape == (3, spec.tokens, spec.width) and bool((x0[:, ~spec.column_mask()] == 0).all())
    torch.testing.assert_close(unpack_states(spec, norm, x0), data["obs"][:, :: spec.stride], atol=1e-5, rtol=1e-5)
    first = spec.action_token(0)
    chunks = x0[:, first : first + spec.horizon]
    torch.testing.assert_close(unpack_actions(spec, norm, chunks), data["act"], atol=1e-5, rtol=1e-5)
    one = unpack_actions(spec, norm, x0[:, spec.action_token(spec.horizon - 1)].unsqueeze(1))
    torch.testing.assert_close(one, data["act"][:, -spec.stride :], atol=1e-5, rtol=1e-5)


@given(specs(), st.integers(0, 100))
def test_tokens_hold_normalised_values(spec: TokenSpec, seed: int) -> None:
    # Catches: raw values in tokens, a goal scaled as if it were another column.
    data, norm = window(spec, seed=seed), some_norm(spec, seed)
    x0 = pack(spec, norm, **data)
    torch.testing.assert_close(x0[:, STATE, spec.obs_slice], (data["obs"][:, 0] - norm.obs_mean) / norm.obs_std)
    torch.testing.assert_close(x0[:, GOAL], goal_token(spec, norm, data["goal"]))
    for i, c in enumerate(spec.goal_columns):
        expected = (data["goal"][:, i] - norm.obs_mean[c]) / norm.obs_std[c]
        torch.testing.assert_close(x0[:, GOAL, spec.obs_slice.start + c], expected)


def test_bundles_hold_every_step_and_rewards() -> None:
    # Catches: observations of a bundle out of order, rewards in the wrong columns. All numbers are (step, what).
    spec = TokenSpec(1, 1, stride=2, horizon=2, kind="bundle", goal_columns=(), rest_columns=(), rewards=True)
    steps = torch.arange(5.0)
    x0 = pack(
        spec, identity_norm(spec), (100 + steps)[None, :, None], (200 + steps[:4])[None, :, None], torch.zeros(1, 0),
        (300 + steps[:4])[None],
    )  # fmt: skip
    assert x0[0, CONTEXT:].tolist() == [[101, 102, 300, 301, 200, 201], [103, 104, 302, 303, 202, 203]]
    with pytest.raises(ValueError, match=r"this layout holds rewards; pass rewards \(B, H\*F\)"):
        pack(spec, identity_norm(spec), torch.zeros(1, 5, 1), torch.zeros(1, 4, 1), torch.zeros(1, 0))


def test_wrong_shapes_are_refused() -> None:
    spec = small_spec()
    data = window(spec)
    del data["rewards"]
    for name, wrong in (("obs", data["obs"][:, 1:]), ("act", data["act"][..., :1]), ("goal", data["goal"][:2])):
        shape = ", ".join(map(str, data[name].shape))
        with pytest.raises(ValueError, match=rf"{name} must have shape \({shape}\), got"):
            pack(spec, some_norm(spec), **{**data, name: wrong})


# ---- normaliser


def test_statistics_are_those_of_the_data() -> None:
    # Catches: statistics over the wrong axis, the unbiased estimator, float32 sums that lose a large offset.
    obs = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 30.0, 0.01]) + 500
    act = torch.rand(4000, 2)
    norm = Normalizer.fit(obs, act, torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(norm.obs_mean, obs.double().mean(0).float())
    torch.testing.assert_close(norm.obs_std, obs.double().std(0, unbiased=False).float())
    torch.testing.assert_close(norm.act_std, act.double().std(0, unbiased=False).float())
    assert norm.max_move.tolist() == [1.0, 2.0, 3.0] and norm.obs_mean.dtype == torch.float32
    torch.testing.assert_close(norm.obs(obs).std(0, unbiased=False), torch.ones(3), atol=2e-2, rtol=0)
    torch.testing.assert_close(norm.obs_back(norm.obs(obs)), obs, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(norm.act_back(norm.act(act)), act)


@pytest.mark.parametrize("value", [0.0, 3.7, -1e6, 1e-9])
def test_columns_without_variance_are_only_shifted(value: float) -> None:
    # Users' NaN. Catches: division by 0, or by the rounding error of a constant.
    obs = torch.stack([torch.full((1000,), value), torch.randn(1000)], 1)
    norm = Normalizer.fit(obs, torch.full((10, 1), 0.1), torch.ones(2))
    assert float(norm.obs_std[0]) == 1.0 and float(norm.act_std[0]) == 1.0
    z = norm.obs(obs)
    assert bool(torch.isfinite(z).all()) and float(z[:, 0].abs().max()) <= abs(value) * 1e-6
    torch.testing.assert_close(norm.obs_back(z), obs)


def test_columns_that_hold_only_rounding_errors_are_only_shifted() -> None:
    # Catches: a guard against exact zeros alone, which blows rounding errors up to unit variance.
    jitter = torch.randn(1000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    norm = Normalizer.fit(500 + 1e-5 * jitter, 1e-3 * jitter, torch.ones(1))
    assert float(norm.obs_std) == 1.0 and float(norm.act_std) == pytest.approx(1e-3, rel=0.1)


def test_normaliser_follows_the_dtype_of_its_argument() -> None:
    # Catches: float64 that falls to float32 or crashes.
    norm = some_norm(small_spec())
    assert norm.obs(torch.zeros(1, 4, dtype=torch.float64)).dtype == torch.float64
    assert norm.act_back(torch.zeros(1, 2)).dtype == torch.float32


def test_bad_statistics_are_refused() -> None:
    good = torch.randn(10, 2)
    with pytest.raises(ValueError, match=r"actions must have shape \(n, width\) with n > 0, got \(0, 2\)"):
        Normalizer.fit(good, good[:0], torch.ones(2))
    with pytest.raises(ValueError, match=r"observations must have shape \(n, width\) with n > 0, got \(10,\)"):
        Normalizer.fit(good[:, 0], good, torch.ones(2))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="observations hold NaN or infinity; clean the data set first"):
            Normalizer.fit(torch.full((2, 2), bad), good, torch.ones(2))
    values = some_norm(small_spec()).to_dict()
    assert Normalizer.from_dict(values).to_dict() == values
    with pytest.raises(ValueError, match=r"normalizer lacks \['act_std'\]; it needs"):
        Normalizer.from_dict({n: v for n, v in values.items() if n != "act_std"})
    with pytest.raises(ValueError, match="standard deviation that is not positive; compute it again from the data"):
        Normalizer.from_dict({**values, "obs_std": [1.0, 0.0, 1.0, 1.0]})
