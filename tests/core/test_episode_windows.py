"""Layouts of whole episodes, and episodes as training batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dfplan.data import Episodes
from dfplan.episode import EpisodeBatch, EpisodeSpec, EpisodeWindows
from tests.core.episodic import SPEC, counted
from tests.core.tiny import identity_norm, some_norm

LENGTHS = [7, 1, 10, 23, 4]  # of two steps per block: 3.5, 0.5, 5, too many, 2


def windows(spec: EpisodeSpec = SPEC, lengths: Any = LENGTHS, phases: int = 1) -> EpisodeWindows:
    return EpisodeWindows(counted(lengths), spec, identity_norm(spec), phases)  # type: ignore[arg-type]


def expected(episode: int, begin: int, length: int, spec: EpisodeSpec) -> list[tuple[list[float], list[bool]]]:
    """List an episode's tokens from a step on, number by number, and which of the numbers are known."""
    width, A, F = spec.obs_dim, spec.act_dim, spec.stride
    end = min(length, begin + spec.blocks * F)
    tokens = []
    for t in range(begin, end + F, F):
        if t > begin:  # the block before
            known = [step < end for step in range(t - F, t) for _ in range(A)]
            values = [100 * episode + step + 0.5 + c / 8 for step in range(t - F, t) for c in range(A)]
            values = [v if k else 0.0 for v, k in zip(values, known, strict=True)]
            tokens.append(([0.0] * width + values, [False] * width + known))
            seen = t <= end
            tokens.append(([100.0 * episode + t + c / 8 if seen else 0.0 for c in range(width)] + [0.0] * A * F,
                           [seen] * width + [False] * A * F))  # fmt: skip
        else:
            tokens.append(([100.0 * episode + t + c / 8 for c in range(width)] + [0.0] * A * F,
                           [True] * width + [False] * A * F))  # fmt: skip
    return tokens


def check(batch: EpisodeBatch, spec: EpisodeSpec, lengths: list[int]) -> list[tuple[int, int]]:
    """Compare a batch with what is expected, token by token; returns its episodes and where they begin."""
    found = []
    for x0, weight, valid in zip(batch.x0, batch.weight, batch.valid, strict=True):
        episode, begin = divmod(int(x0[0, 0]), 100)
        tokens = expected(episode, begin, lengths[episode], spec)
        values, known = (torch.tensor(list(part)) for part in zip(*tokens, strict=True))
        n = len(tokens)
        assert torch.equal(x0[:n], values) and torch.equal(weight[:n], known.float())
        assert not x0[n:].any() and not weight[n:].any()
        assert torch.equal(valid, torch.arange(len(x0)) < n if known[-1].any() else torch.arange(len(x0)) < n - 1)
        found.append((episode, begin))
    return found


# ---- the layout


def test_observations_and_actions_take_turns() -> None:
    # Catches: a column of the wrong role, or one that nobody uses; a causal order that shows an action what follows it.
    assert (SPEC.tokens, SPEC.steps, SPEC.width) == (11, 10, 7)
    mask = SPEC.column_mask()
    for token in range(SPEC.tokens):
        assert mask[token].tolist() == [(token % 2 == 0) == (column < SPEC.obs_dim) for column in range(SPEC.width)]
    rows = torch.arange(SPEC.tokens)
    assert torch.equal(SPEC.attention(True), rows[:, None] >= rows[None]) and bool(SPEC.attention(False).all())
    assert SPEC.order().tolist() == list(range(11))


@pytest.mark.parametrize("whole", [True, False])
def test_a_layout_survives_json(whole: bool) -> None:
    # Catches: `whole` that is lost on the way, so that a forgetful policy becomes one with a memory.
    spec = EpisodeSpec(3, 2, 4, 7, dt_s=0.05, whole=whole)
    assert EpisodeSpec.from_dict(spec.to_dict()) == spec and spec.to_dict()["kind"] == "episode"


@pytest.mark.parametrize("name", ["obs_dim", "act_dim", "stride", "blocks"])
def test_sizes_are_positive_integers(name: str) -> None:
    # Catches: an empty layout that fails later, far from its cause.
    with pytest.raises(ValueError, match=f"{name} must be a positive integer"):
        EpisodeSpec(**{"obs_dim": 3, "act_dim": 2, "stride": 2, "blocks": 5, name: 0})


# ---- the data


def test_tokens_hold_what_was_seen_and_done() -> None:
    # Catches: rows of the episode before (there is one observation more than actions), an action one step late, a last
    # block that is not full left out, or counted beyond its end, an episode that is too long cut off its beginning.
    found = {e for seed in range(6) for e, _ in check(windows().draw(5, np.random.default_rng(seed)), SPEC, LENGTHS)}
    assert found == set(range(len(LENGTHS)))


@pytest.mark.parametrize("whole", [True, False])
def test_actions_that_are_not_imitated_are_there_and_do_not_count(whole: bool) -> None:
    # Catches: a weight of the wrong step or block, actions of the past that are wiped out, flags of another episode.
    spec, lengths = replace(SPEC, whole=whole), [7, 5]
    plain = counted(lengths)
    told = np.ones(12, dtype=bool)
    told[[3, 4, 7]] = False  # of the first episode its steps 3 and 4, of the second its first
    data = Episodes(plain.observations, plain.actions, np.zeros(12), np.array(lengths), imitated=told)
    batch = EpisodeWindows(data, spec, identity_norm(spec)).draw(64, np.random.default_rng(0))
    seen = set()
    for x0, weight in zip(batch.x0, batch.weight, strict=True):
        episode, begin = divmod(int(x0[0, 0]), 100)
        seen.add((episode, begin))
        actions, counts = (v[1::2, spec.obs_dim :].reshape(-1, spec.act_dim) for v in (x0, weight))
        for step in range(begin, min(lengths[episode], begin + spec.steps)):
            assert float(actions[step - begin, 0]) == 100 * episode + step + 0.5
            assert bool(counts[step - begin].all()) == bool(told[7 * episode + step])
            assert bool(counts[step - begin].any()) == bool(told[7 * episode + step])
    assert {0, 1} == {episode for episode, _ in seen}
    half = data.select([1])
    assert half.imitated is not None and half.imitated.tolist() == [False, True, True, True, True]


def test_numbers_are_normalised_before_they_are_padded() -> None:
    # Catches: padding that is normalised, statistics of observations used for actions, or in the wrong columns.
    norm, plain = some_norm(SPEC), windows().draw(4, np.random.default_rng(0))  # type: ignore[arg-type]
    batch = EpisodeWindows(counted(LENGTHS), SPEC, norm).draw(4, np.random.default_rng(0))
    mean = torch.cat([norm.obs_mean, norm.act_mean.repeat(SPEC.stride)])
    std = torch.cat([norm.obs_std, norm.act_std.repeat(SPEC.stride)])
    torch.testing.assert_close(batch.x0, (plain.x0 - mean) / std * plain.weight)


def test_batches_stand_at_the_beginning_or_somewhere_in_the_layout() -> None:
    # Catches: a shift that swaps roles (odd), one that leaves the layout, positions at the end that are never trained,
    # and batches that never stand at the beginning.
    short, firsts = windows(lengths=[4, 3]), []
    for seed in range(60):
        batch = short.draw(2, np.random.default_rng(seed))
        firsts.append(batch.first)
        assert batch.first + batch.x0.shape[1] <= SPEC.tokens
    assert set(firsts) == {0, 2, 4, 6} and 30 <= firsts.count(0) <= 50
    assert {windows(lengths=[10]).draw(1, np.random.default_rng(s)).first for s in range(20)} == {0}


def test_the_same_generator_gives_the_same_episodes() -> None:
    # Catches: a global generator.
    for whole in (True, False):
        spec = EpisodeSpec(3, 2, 2, 5, whole=whole)
        one, two, three = (windows(spec).draw(4, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert torch.equal(one.x0, two.x0) and one.first == two.first
        assert one.x0.shape != three.x0.shape or not torch.equal(one.x0, three.x0)


@pytest.mark.parametrize("blocks", [1, 3])
def test_layouts_that_are_not_whole_begin_with_every_block(blocks: int) -> None:
    # Catches: a start that is always the episode's, one inside a block (where a slow camera shows what is past), one
    # that leaves no action, rows of another episode, and an observation that is one step off the action.
    spec, lengths = EpisodeSpec(3, 2, 2, blocks, whole=False), [5, 3]
    found = set()
    for seed in range(40):
        found |= set(check(windows(spec, lengths).draw(4, np.random.default_rng(seed)), spec, lengths))
    assert found == {(0, 0), (0, 2), (0, 4), (1, 0), (1, 2)}


def test_whole_episodes_begin_at_each_of_the_first_steps() -> None:
    # Catches: blocks that are always cut at the same steps, phases of another episode, a start behind the last action,
    # actions that are one step off, marks of what is not imitated that stay where they were, and more draws than asked.
    lengths, found = [5, 1], set()
    for seed in range(40):
        found |= set(check(windows(SPEC, lengths, 2).draw(4, np.random.default_rng(seed)), SPEC, lengths))
    assert found == {(0, 0), (0, 1), (1, 0)}
    marked = replace(counted([5]), imitated=np.array([False, True, True, True, True]))
    weights = set()
    for seed in range(20):
        batch = EpisodeWindows(marked, SPEC, identity_norm(SPEC), 2).draw(1, np.random.default_rng(seed))  # type: ignore[arg-type]
        weights.add((int(batch.x0[0, 0, 0]) % 100, *batch.weight[0, 1, SPEC.obs_dim :].tolist()))
    assert weights == {(0, 0.0, 0.0, 1.0, 1.0), (1, 1.0, 1.0, 1.0, 1.0)}
    for wrong in (0, 3):
        with pytest.raises(ValueError, match=rf"phases must lie in 1\.\.2, the steps of a block, got {wrong}"):
            windows(phases=wrong)


def test_data_that_do_not_fit_are_refused() -> None:
    # Catches: columns that are cut or padded without a word.
    with pytest.raises(ValueError, match=r"observations must have shape \(n, 3\), got \(13, 4\)"):
        EpisodeWindows(counted([5, 6], obs_dim=4), SPEC, identity_norm(SPEC))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"actions must have shape \(n, 2\)"):
        EpisodeWindows(counted([5, 6], act_dim=1), SPEC, identity_norm(SPEC))  # type: ignore[arg-type]
    assert len(windows()) == len(LENGTHS)
