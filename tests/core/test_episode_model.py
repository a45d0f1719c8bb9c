"""Whole episodes in a network's memory: against all tokens at once, and what no answer may depend on."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor

from dfplan import DFPlanner
from dfplan.checkpoint import load_checkpoint, save_checkpoint, tensor_digest
from dfplan.episode import EpisodeModel, EpisodeSpec
from dfplan.episode.model import densest
from dfplan.models import Cond, TransformerConfig
from dfplan.noise import normal_like, reverse_step
from dfplan.schedule import make_schedule
from dfplan.spaces import ActionCodec, ObservationCodec, Spaces
from dfplan.training import TrainConfig, train
from dfplan.windows import Replay
from tests.core.episodic import KINDS, SPEC, K, checkpoint, model_of, told
from tests.core.tiny import fitted, small_spec, tiny_checkpoint, walks

every = pytest.mark.parametrize("kind", KINDS)
MODELS = {kind: model_of(kind) for kind in KINDS}


def draws(*seeds: int) -> Any:
    """Return a source of noise with a generator for each row."""
    return normal_like([torch.Generator().manual_seed(seed) for seed in seeds])


def past(model: EpisodeModel, seen: Tensor, done: Tensor, blocks: int, k: int = 0, draw: Any = None) -> Any:
    """Return the memory of o_0, a_1, o_1, ... o_blocks."""
    memory = model.seen(None, seen[:, 0], k, draw)
    for i in range(blocks):
        memory = model.seen(model.done(memory, done[:, i]), seen[:, i + 1])
    return memory


def at_once(model: EpisodeModel, seen: Tensor, done: Tensor, n: int, draw: Any) -> Tensor:
    """Sample token n after all before it, (B, D) normalised: every row of the schedule, all tokens together."""
    spec, norm, rows = model.spec, model.norm, []
    for t in range(n):
        row = torch.zeros(len(seen), spec.width)
        if t % 2 == 0:
            row[:, : spec.obs_dim] = (seen[:, t // 2] - norm.obs_mean) / norm.obs_std
        else:
            row[:, spec.obs_dim :] = ((done[:, t // 2] - norm.act_mean) / norm.act_std).flatten(1)
        rows.append(row)
    x = draw(torch.zeros(len(seen), 1, spec.width)) * spec.column_mask()[n]
    for level, following in pairwise(make_schedule("full_sequence", 1, K, steps=model.steps)[:, 0]):
        k = torch.zeros(len(seen), n + 1, dtype=torch.int64)
        k[:, n] = level  # what came before is clean
        with torch.no_grad():
            tokens = torch.cat([torch.stack(rows, 1), x], 1) if rows else x
            x0_hat = model.model(tokens, k, Cond(True, torch.arange(n + 1)))[:, n:]
        x = reverse_step(x, x0_hat, k[:, n:], following.expand(len(seen), 1), model.model.alpha_bar)
    return x[:, 0]


# ---- what is answered


@every
@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_actions_after_a_memory_equal_those_after_all_tokens_at_once(kind: str, blocks: int) -> None:
    # Catches: a position one off, observations normalised as actions, columns of the other role, noise in columns that
    # a token does not use, a memory that forgets, actions returned in normalised units or with steps in another order.
    model, (seen, done) = MODELS[kind], told()
    found = model.next_actions(past(model, seen, done, blocks), draws(1, 2, 3))
    x = at_once(model, seen, done, 2 * blocks + 1, draws(1, 2, 3))[:, SPEC.obs_dim :]
    expected = x.reshape(3, SPEC.stride, SPEC.act_dim) * model.norm.act_std + model.norm.act_mean
    assert found.shape == (3, 2, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@every
@pytest.mark.parametrize("blocks", [0, 4])
def test_observations_after_a_memory_equal_those_after_all_tokens_at_once(kind: str, blocks: int) -> None:
    # Catches: the same for the world model, which also must see the actions just appended.
    model, (seen, done) = MODELS[kind], told()
    memory = model.done(past(model, seen, done, blocks), done[:, blocks])
    found = model.next_observation(memory, draws(1, 2, 3))
    x = at_once(model, seen, done, 2 * blocks + 2, draws(1, 2, 3))[:, : SPEC.obs_dim]
    torch.testing.assert_close(found, x * model.norm.obs_std + model.norm.obs_mean, rtol=1e-4, atol=1e-4)
    moved = model.done(past(model, seen, done, blocks), done[:, blocks] + 0.5)
    assert not torch.allclose(model.next_observation(moved, draws(1, 2, 3)), found, atol=1e-3)


@every
def test_what_is_imagined_is_sampled_block_by_block(kind: str) -> None:
    # Catches: actions of the wrong block, an imagined observation that is not remembered, or one before its actions,
    # k_small put on actions that are given, or not put on what was imagined.
    model, (seen, done) = MODELS[kind], told()
    start = past(model, seen, done, 1)
    for given, k in ((None, 0), (None, 3), (done[:, 1:3].flatten(1, 2), 3)):
        found = model.imagine(start, 2, draws(1, 2, 3), given, k_small=k)
        memory, draw = start, draws(1, 2, 3)
        for i in range(2):
            own = model.next_actions(memory, draw) if given is None else done[:, 1 + i]
            assert torch.equal(found.actions[:, 2 * i : 2 * i + 2], own)
            memory = model.done(memory, own, k if given is None else 0, draw)
            after = model.next_observation(memory, draw)
            assert torch.equal(found.observations[:, i], after)
            memory = model.seen(memory, after, k, draw)
    assert found.observations.shape == (3, 2, 3) and found.actions.shape == (3, 4, 2)


@every
def test_temperature_scales_the_noise_that_actions_are_sampled_from(kind: str) -> None:
    # Catches: a temperature that is ignored, or applied to what is denoised; chance that is left at 0.
    model, (seen, done) = MODELS[kind], told()
    memory = past(model, seen, done, 2)
    half = model.next_actions(memory, draws(1, 2, 3), 0.5)
    scaled = model.next_actions(memory, lambda like: 0.5 * draws(1, 2, 3)(like))
    torch.testing.assert_close(half, scaled, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(half, model.next_actions(memory, draws(1, 2, 3)))
    assert torch.equal(model.next_actions(memory, draws(1, 2, 3), 0.0), model.next_actions(memory, draws(4, 5, 6), 0.0))
    after = model.done(memory, done[:, 2])
    scaled = model.next_observation(after, lambda like: 0.5 * draws(1, 2, 3)(like))
    torch.testing.assert_close(model.next_observation(after, draws(1, 2, 3), 0.5), scaled, rtol=1e-5, atol=1e-5)
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature must be at least 0"):
            model.next_actions(memory, draws(1, 2, 3), wrong)


@every
def test_the_rest_of_an_observation_is_sampled_to_fit_what_is_known(kind: str) -> None:
    # Catches: known numbers that change, are put in place in the wrong units or at the end only; NaN that goes on;
    # nothing known that differs from no word of it.
    model, (seen, done) = MODELS[kind], told()
    memory = model.done(past(model, seen, done, 1), done[:, 1])
    nothing = torch.full((3, 3), math.nan)
    free = model.next_observation(memory, draws(1, 2, 3), 0.7)
    torch.testing.assert_close(model.next_observation(memory, draws(1, 2, 3), 0.7, nothing), free, rtol=1e-4, atol=1e-4)
    known = nothing.clone()
    known[0, 1], known[2, 0] = 4.0, -3.0
    found = model.next_observation(memory, draws(1, 2, 3), 0.7, known)
    assert float(found[0, 1]) == 4.0 and float(found[2, 0]) == -3.0 and torch.isfinite(found).all()
    torch.testing.assert_close(found[1], free[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0, [0, 2]], free[0, [0, 2]], atol=1e-3)  # told in time to matter
    everything = torch.arange(9.0).reshape(3, 3)
    assert torch.equal(model.next_observation(memory, draws(1, 2, 3), 0.7, everything), everything)
    with pytest.raises(ValueError, match=r"known must have shape \(3, 3\), got \(3, 2\)"):
        model.next_observation(memory, draws(1, 2, 3), 1.0, nothing[:, :2])


def test_the_densest_point_has_neighbours() -> None:
    # Catches: the mean, the median or the first taken instead; a point that counts as its own neighbour; rows mixed.
    crowd = torch.tensor([[5.0, 5.0], [5.1, 5.0], [5.0, 5.1], [5.1, 5.1]])
    few = torch.tensor([[-4.0, 0.0], [-4.4, 0.0], [0.0, 9.0], [-9.0, 3.0]])
    both = torch.stack([torch.cat([few, crowd]), torch.cat([crowd, few])])
    found = densest(both)
    assert found.shape == (2, 2) and all(any(torch.equal(row, point) for point in crowd) for row in found)
    assert torch.equal(densest(both[:, :1]), both[:, 0])
    line = torch.tensor([[[0.0], [5.0], [6.0], [9.0]]])  # a quarter of four is one neighbour
    assert float(densest(line)) in (5.0, 6.0)


@every
def test_of_several_candidates_the_most_usual_one_is_taken(kind: str) -> None:
    # Catches: candidates of another past or of other elements of the batch, a choice that is made in another order.
    model, (seen, done) = MODELS[kind], told()
    memory, drawn = past(model, seen, done, 2), list[torch.Tensor]()

    def draw(like: torch.Tensor) -> torch.Tensor:
        drawn.append(torch.randn(like.shape, generator=torch.Generator().manual_seed(5)))
        return drawn[-1]

    found = model.next_actions(memory, draw, 0.8, 4)
    singles = []
    for i in range(4):
        singles.append(model.next_actions(memory, lambda like, i=i: drawn[0][i::4], 0.8))
    each = torch.stack(singles, 1)  # (3, 4, F, A)
    expected = densest(model.norm.act(each).flatten(2)).reshape(3, SPEC.stride, SPEC.act_dim)
    torch.testing.assert_close(found, model.norm.act_back(expected), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="candidates must be at least 1, got 0"):
        model.next_actions(memory, draw, 1.0, 0)


# ---- what no answer may depend on


@every
def test_an_answer_does_not_depend_on_who_else_is_in_the_batch(kind: str) -> None:
    # Catches: statistics over the batch, a level or a draw that is shared.
    model, (seen, done) = MODELS[kind], told()
    together = model.imagine(past(model, seen, done, 2), 2, draws(1, 2, 3), k_small=2)
    for b in range(3):
        row = slice(b, b + 1)
        alone = model.imagine(past(model, seen[row], done[row], 2), 2, draws(b + 1), k_small=2)
        torch.testing.assert_close(alone.actions[0], together.actions[b], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.observations[0], together.observations[b], rtol=1e-4, atol=1e-4)


@every
def test_a_memory_is_never_changed_and_the_same_seed_gives_the_same_bits(kind: str) -> None:
    # Catches: two futures of one past that disturb each other, what was appended in a question that stays.
    model, (seen, done) = MODELS[kind], told()
    memory = past(model, seen, done, 2)
    before, first = copy.deepcopy(memory), model.next_actions(memory, draws(1, 2, 3))
    model.imagine(memory, 2, draws(4, 5, 6))
    model.done(memory, done[:, 0])
    model.next_actions(model.seen(None, seen[:, 0]), draws(4, 5, 6))
    assert torch.equal(model.next_actions(memory, draws(1, 2, 3)), first)
    assert not torch.equal(model.next_actions(memory, draws(2, 2, 3))[0], first[0])
    pairs = [(memory.state, before.state)] if hasattr(memory, "state") else [
        (a, b) for one, two in zip(memory.layers, before.layers, strict=True) for a, b in zip(one, two, strict=True)
    ]  # fmt: skip
    assert all(torch.equal(a, b) for a, b in pairs) and memory.next == before.next == 5


@every
def test_a_token_at_level_K_tells_nothing(kind: str) -> None:
    # Catches: an observation that is said to be missing and looked at all the same; a level that is only a label, or
    # only noise.
    model, (seen, done) = MODELS[kind], told()

    def after(values: Tensor, k: int, noise: int = 9) -> Tensor:
        memory = model.done(past(model, seen, done, 1), done[:, 1])
        return model.next_actions(model.seen(memory, values, k, draws(noise, noise, noise)), draws(1, 2, 3))

    assert torch.equal(after(seen[:, 2], K), after(seen[:, 2] + 5, K))
    assert torch.equal(after(seen[:, 2], K, 8), after(seen[:, 2], K))
    for k in (0, 5):
        assert not torch.allclose(after(seen[:, 2], k), after(seen[:, 2] + 5, k), atol=1e-3)
    assert not torch.allclose(after(seen[:, 2], 5, 8), after(seen[:, 2], 5), atol=1e-3)
    assert torch.equal(after(seen[:, 2], 0, 8), after(seen[:, 2], 0))


# ---- what is refused


def test_observations_and_actions_take_turns_until_the_layout_ends() -> None:
    # Catches: a role that is taken for the other, a block behind the last one, and `full` one block early or late.
    model, (seen, done) = MODELS["rotary"], told()
    with pytest.raises(ValueError, match="actions cannot follow here"):
        model.done(None, done[:, 0])
    memory = model.seen(None, seen[:, 0])
    for call in (lambda: model.seen(memory, seen[:, 1]), lambda: model.next_observation(memory, draws(1, 2, 3))):
        with pytest.raises(ValueError, match="an observation cannot follow here"):
            call()
    assert not model.full(None)
    for blocks in range(SPEC.blocks + 1):
        assert model.full(past(model, seen, done, blocks)) == (blocks == SPEC.blocks)
    with pytest.raises(ValueError, match="ends after 5 blocks; train with a larger horizon"):
        model.next_actions(past(model, seen, done, SPEC.blocks), draws(1, 2, 3))


def test_what_does_not_fit_is_refused() -> None:
    # Catches: one number that is taken for all columns, rows of another batch, NaN that spreads, a level without noise.
    model, (seen, done) = MODELS["rotary"], told()
    memory = model.seen(None, seen[:, 0])
    cases = [
        (lambda: model.seen(None, seen[:, 0, :1]), r"obs must have shape \(B, 3\), got \(3, 1\)"),
        (lambda: model.done(memory, done[:, 0, :1]), r"actions must have shape \(3, 2, 2\), got \(3, 1, 2\)"),
        (lambda: model.done(memory, done[:1, 0]), r"actions must have shape \(3, 2, 2\), got \(1, 2, 2\)"),
        (lambda: model.seen(None, seen[:, 0] * torch.nan), "append what is missing as any number at level K"),
        (lambda: model.seen(None, seen[:, 0], 3), "level 3 needs a source of noise"),
        (lambda: model.seen(None, seen[:, 0], K + 1, draws(1, 2, 3)), "must lie in 0..20, got 21"),
        (lambda: model.imagine(memory, 2, draws(1, 2, 3), done[:, 0]), r"actions must have shape \(B, 4, 2\)"),
        (lambda: model.imagine(memory, 0, draws(1, 2, 3)), "blocks must be at least 1, got 0"),
        (lambda: EpisodeModel(model.checkpoint, 0), "steps must be at least 1, got 0"),
    ]
    for call, text in cases:
        with pytest.raises(ValueError, match=text):
            call()


# ---- checkpoints and training


def test_everything_survives_a_checkpoint(tmp_path: Path) -> None:
    # Catches: a layout read back as another, columns that are kept and forgotten, weights that are not loaded.
    codec = ObservationCodec.from_space(Box(-1, 1, (6,))).keeping([1, 4, 2])
    spaces = Spaces(codec, ActionCodec.from_space(Box(-1, 1, (2,))))
    spec = replace(SPEC, whole=False)
    before = checkpoint("rotary", spec, spaces=spaces)
    after = load_checkpoint(save_checkpoint(before, tmp_path, half=False))
    assert isinstance(after.spec, EpisodeSpec) and after.spec == spec and after.spaces == spaces
    seen, done = told()
    one, two = (EpisodeModel(c, 4) for c in (before, after))
    assert torch.equal(*(m.next_actions(past(m, seen, done, 2), draws(1, 2, 3)) for m in (one, two)))
    assert EpisodeModel.from_pretrained(tmp_path, steps=3).steps == 3


def test_plans_and_episodes_are_not_taken_for_each_other(tmp_path: Path) -> None:
    # Catches: an error far from its cause when a checkpoint of the other kind is loaded.
    folder = save_checkpoint(checkpoint(), tmp_path)
    with pytest.raises(ValueError, match="holds whole episodes and makes no plans; use the policy 'episode'"):
        DFPlanner.from_pretrained(folder)
    with pytest.raises(ValueError, match="holds path tokens, needed are whole episodes"):
        EpisodeModel(tiny_checkpoint(small_spec()))


TRAINING = TrainConfig(
    steps=4, batch=4, causal=1.0, precision="fp32", save_every=2, validate_every=2, holdout=0.2,
    model=TransformerConfig(width=16, layers=1, heads=2, levels=K, positions="rotary"),
)  # fmt: skip


@pytest.mark.parametrize("whole", [True, False])
def test_training_is_the_same_bits_again_and_goes_on_after_a_stop(whole: bool, tmp_path: Path) -> None:
    # Catches: draws that do not belong to seed and step, a run that trains nothing, a layout that is not saved, phases
    # that are never drawn.
    spec, episodes = EpisodeSpec(4, 2, 3, 4, whole=whole), walks(steps=12)

    def digest(name: str, stop: int = 0, **changes: Any) -> str:
        def watch(row: dict[str, Any]) -> None:
            if row["step"] == stop:
                raise RuntimeError("stopped")

        norm = fitted(spec, episodes)  # type: ignore[arg-type]
        path = train(episodes, spec, norm, replace(TRAINING, **changes), tmp_path / name, name="tiny", log=watch)
        found = load_checkpoint(path)
        assert found.spec == spec
        return tensor_digest(dict(found.model.named_parameters()))

    with pytest.raises(RuntimeError, match="stopped"):
        digest("stopped", stop=3)
    assert digest("stopped") == digest("whole") != digest("other", seed=1)
    assert (digest("phases", phases=3) != digest("whole")) == whole


def test_whole_episodes_take_no_replay(tmp_path: Path) -> None:
    # Catches: a replay that is left out without a word.
    spec = EpisodeSpec(4, 2, 3, 4)
    with pytest.raises(ValueError, match="trained on data alone, got a replay"):
        train(
            walks(), spec, fitted(spec, walks()), TRAINING, tmp_path, name="x", replay=Replay(walks(), 0.5)  # type: ignore[arg-type]
        )  # fmt: skip
