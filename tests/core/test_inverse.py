"""The inverse head: where it answers, that it is exact, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dfplan.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dfplan.data.episodes import Episodes
from dfplan.inverse_training import InverseTraining, Pairs, fit_inverse
from dfplan.models import Cond, TransformerConfig, TransformerDenoiser, make_config
from dfplan.models.inverse import InverseHead, chunk_ends
from dfplan.tokens import CONTEXT, STATE, TokenSpec
from dfplan.windows import fit_normalizer

F, H, K = 3, 4, 10
SPEC = TokenSpec(4, 2, F, H)
CONFIG = TransformerConfig(width=16, layers=1, heads=2, levels=K, inverse=12)
PLAN, ACTION = CONTEXT, SPEC.plan_tokens


def network(inverse: int = 12, seed: int = 0) -> TransformerDenoiser:
    torch.manual_seed(seed)
    model = TransformerDenoiser(SPEC, replace(CONFIG, inverse=inverse))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def double_integrator(episodes: int = 60, length: int = 40, seed: int = 0) -> Episodes:
    rng = np.random.default_rng(seed)
    obs, act = [], []
    for _ in range(episodes):
        x, v = rng.uniform(-2, 2, 2), rng.normal(0, 2, 2)
        rows = [np.r_[x, v]]
        for _ in range(length):
            a = np.clip(rng.normal(0, 1, 2), -1, 1)
            v = v + 0.2 * a
            x = x + 0.01 * v
            rows.append(np.r_[x, v])
            act.append(a)
        obs += rows
    n = episodes * length
    return Episodes(
        np.array(obs, dtype=np.float32), np.array(act, dtype=np.float32), np.zeros(n, dtype=np.float32),
        np.full(episodes, length),
    )  # fmt: skip


def test_each_chunk_lies_between_its_two_states() -> None:
    # Catches: the state before taken from the goal, an off-by-one in time, ends for tokens that are no chunks.
    ends = chunk_ends(SPEC)
    assert ends[ACTION:].tolist() == [[STATE, PLAN], [PLAN, PLAN + 1], [PLAN + 1, PLAN + 2], [PLAN + 2, PLAN + 3]]
    assert bool((ends[:ACTION] == -1).all())


def levels(**at: int) -> Tensor:
    k = torch.zeros(SPEC.tokens, dtype=torch.int64)
    for name, value in at.items():
        k[int(name[1:])] = value
    return k


@pytest.mark.parametrize("rows", ["expanded", "own"])
def test_it_answers_exactly_where_both_states_are_clean(rows: str) -> None:
    # Catches: answers from a noisy state, answers in other tokens or columns, the plan's x0_hat touched.
    model, plain = network(), network(0)
    plain.load_state_dict({n: v for n, v in model.state_dict().items() if not n.startswith("inverse.")})
    x = torch.randn(2, SPEC.tokens, SPEC.width, generator=torch.Generator().manual_seed(1)) * SPEC.column_mask()
    k = levels(**{f"_{ACTION}": K, f"_{ACTION + 1}": 4, f"_{PLAN + 2}": 1, f"_{ACTION + 2}": 5, f"_{ACTION + 3}": 5})
    batch = k.expand(2, -1) if rows == "expanded" else k.repeat(2, 1)
    with torch.no_grad():
        got, without = (m(x, batch, Cond(causal=True)) for m in (model, plain))
    changed = (got != without).any(-1).any(0).nonzero().squeeze(1).tolist()
    assert changed == [ACTION, ACTION + 1]  # chunks 2 and 3 touch the noisy state
    assert model.inverse is not None
    states = x[..., SPEC.obs_slice]
    for chunk, level in ((0, K), (1, 4)):
        pair = torch.cat([states[:, STATE if chunk == 0 else PLAN + chunk - 1], states[:, PLAN + chunk]], -1)
        noisy = x[:, ACTION + chunk, SPEC.act_slice] * float(level < K)
        answer = model.inverse(pair, noisy, model.alpha_bar[level].expand(2))
        torch.testing.assert_close(got[:, ACTION + chunk, SPEC.act_slice], answer, atol=1e-6, rtol=1e-5)
        assert bool((got[:, ACTION + chunk, : SPEC.obs_columns] == 0).all())


@pytest.mark.parametrize("tokens", [[STATE, PLAN, ACTION], [STATE, PLAN, PLAN + 1, ACTION + 1, ACTION]])
def test_asked_for_nothing_else_the_transformer_is_left_out(tokens: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: another answer when the transformer is skipped, a shortcut taken although a token needs it.
    model, positions = network(), torch.tensor(tokens)
    x = torch.randn(3, len(tokens), SPEC.width) * SPEC.column_mask()[positions]
    k = torch.where(positions >= ACTION, K, 0)
    with torch.no_grad():
        slow = model(x, k.repeat(3, 1), Cond(causal=True, tokens=positions))
        calls: list[int] = []
        kept = model._output
        monkeypatch.setattr(model, "_output", lambda *a: (calls.append(1), kept(*a))[1])
        fast = model(x, k.expand(3, -1), Cond(causal=True, tokens=positions))
        assert not calls
        torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)
        model(x[:, 1:], k[1:].expand(3, -1), Cond(causal=True, tokens=positions[1:]))  # a state is missing now
        assert calls


def test_bf16_does_not_reach_it() -> None:
    # Catches: the head run in autocast, where small differences of states are lost.
    model = network()
    assert model.inverse is not None
    pair = torch.randn(5, 8)
    exact = model.inverse(pair, torch.zeros(5, 6), torch.zeros(5))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.inverse(pair, torch.zeros(5, 6), torch.zeros(5)), exact)


def test_pairs_never_cross_an_episode() -> None:
    # Catches: rows of observations counted like rows of actions, pairs that run over an end.
    episodes = double_integrator(5, 7)
    norm = fit_normalizer(episodes, F)
    pairs = Pairs(episodes, SPEC, norm)
    assert len(pairs) == 5 * (7 - F + 1)
    pair, chunk = pairs.take(np.arange(len(pairs)))
    states, actions = norm.obs_back(pair.reshape(-1, 2, 4)), norm.act_back(chunk.reshape(-1, F, 2))
    torch.testing.assert_close(states[:, 1, 2:], states[:, 0, 2:] + 0.2 * actions.sum(1), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="no episode is as long as a token of 3 steps; the longest has 2"):
        Pairs(double_integrator(4, 2), SPEC, norm)


def test_a_fitted_head_knows_what_leads_from_one_state_to_the_next(tmp_path: Path) -> None:
    # Catches: no whitening, a target or a pair that is not normalised alike, half precision that ruins the answer.
    episodes = double_integrator()
    norm, model = fit_normalizer(episodes, F), network()
    assert model.inverse is not None
    logged: list[int] = []
    settings = InverseTraining(steps=500, batch=128, seed=1)
    fit_inverse(
        model.inverse, episodes, SPEC, norm, model.alpha_bar, settings, log=lambda step, loss: logged.append(step)
    )  # fmt: skip
    assert logged == list(range(1, 501)) and not any(p.requires_grad for p in model.inverse.parameters())
    saved = save_checkpoint(Checkpoint("x", "", model, SPEC, norm), tmp_path)
    head = load_checkpoint(saved).model.inverse
    assert head is not None
    fresh = double_integrator(20, 9, seed=5)
    pair, _ = Pairs(fresh, SPEC, norm).take(np.arange(100))
    chunk = norm.act_back(head(pair, torch.zeros(100, 2 * F), torch.zeros(100)).reshape(-1, F, 2)).detach()
    states = norm.obs_back(pair.reshape(-1, 2, 4))
    wanted = states[:, 1, 2:] - states[:, 0, 2:]
    error = (0.2 * chunk.sum(1) - wanted).norm(dim=-1).mean()
    assert float(error) < 0.12 * float(wanted.norm(dim=-1).mean())


def test_old_configurations_stay_as_they_were_and_mistakes_are_named() -> None:
    # Catches: checkpoints without the head that no longer load or resume.
    assert "inverse" not in replace(CONFIG, inverse=0).to_dict() and CONFIG.to_dict()["inverse"] == 12
    assert make_config("transformer", replace(CONFIG, inverse=0).to_dict()) == replace(CONFIG, inverse=0)
    with pytest.raises(ValueError, match="inverse must be 0"):
        replace(CONFIG, inverse=-1)
    with pytest.raises(ValueError, match="bundle tokens carry their actions"):
        InverseHead(TokenSpec(4, 2, F, H, kind="bundle"), 8)
    with pytest.raises(ValueError, match="steps, batch and lr must be positive, got 0"):
        InverseTraining(steps=0)


def test_bad_data_is_refused() -> None:
    # Catches: NaN actions fitted in silence.
    episodes = double_integrator(4, 8)
    norm, model = fit_normalizer(episodes, F), network()
    episodes.actions[:] = np.nan
    assert model.inverse is not None
    settings: Any = InverseTraining(steps=2, batch=8)
    with pytest.raises(ValueError, match="loss of the inverse head is nan at step 0"):
        fit_inverse(model.inverse, episodes, SPEC, norm, model.alpha_bar, settings)
