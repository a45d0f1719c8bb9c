"""`EpisodePolicy`: its memory, what it makes of missing columns and dark pictures, and what no action depends on."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from dfplan.checkpoint import save_checkpoint
from dfplan.episode import EpisodeSpec
from dfplan.noise import normal_like
from dfplan.spaces import ActionCodec, ObservationCodec, Spaces
from dfplan.vision import AutoencoderConfig, HeadTraining, ImageAutoencoder, encode_frames, fit_head
from dfplan_policies import EpisodePolicy, load_policy
from dfplan_policies.episode import picture_columns
from dfplan_policies.protocol import split_observation
from dfplan_policies.streams import stream
from tests.core.episodic import SPEC, K, checkpoint, model_of

STEPS = 8
SEEN = np.random.default_rng(0).normal(size=(STEPS, 3, SPEC.obs_dim))  # (steps, environments, O)
MODEL = model_of(steps=3)
FORGETFUL = {blocks: model_of(spec=replace(SPEC, blocks=blocks, whole=False), steps=3) for blocks in (1, 3, 5)}


def run(policy: Any, seen: Any, state: Any = None, starts: Any = None) -> tuple[np.ndarray, Any]:
    """Show observations (steps, B, O) one after another; returns actions (steps, B, A) and the last state."""
    actions = []
    for t, observation in enumerate(seen):
        action, state = policy.predict(observation, state, None if starts is None else starts.get(t))
        actions.append(action)
    return np.array(actions), state


class Spy:
    """Stand before a model and write down what is appended."""

    def __init__(self, model: Any) -> None:
        self.model, self.told = model, list[Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def seen(self, memory: Any, obs: Any, k: int = 0, draw: Any = None) -> Any:
        self.told.append((obs[0].double().numpy(), k))
        return self.model.seen(memory, obs, k, draw)

    def done(self, memory: Any, actions: Any, k: int = 0, draw: Any = None) -> Any:
        self.told.append((actions[0].double().numpy(), k))
        return self.model.done(memory, actions, k, draw)


# ---- acting


CHOICE = {"temperature": 0.9, "candidates": 5}


def test_it_does_what_the_model_says_after_all_that_was_seen_and_done() -> None:
    # Catches: an observation of the wrong step, one looked at between two blocks, actions remembered that were not
    # executed (before they were clipped), steps of a block in another order, draws of another stream.
    actions, state = run(EpisodePolicy(MODEL, seed=7, **CHOICE), SEEN[:, :1])
    memory = None
    for block in range(STEPS // SPEC.stride):
        draw = normal_like(stream(7, 0, block))
        memory = MODEL.seen(memory, torch.as_tensor(SEEN[block * SPEC.stride, :1]))
        chunk = MODEL.next_actions(memory, draw, 0.9, 5).clamp(-1, 1)
        np.testing.assert_allclose(actions[block * SPEC.stride : (block + 1) * SPEC.stride, 0], chunk[0], atol=1e-4)
        memory = MODEL.done(memory, chunk)
    assert np.abs(actions).max() == 1.0  # clipping matters
    blind = SEEN.copy()
    blind[1 :: SPEC.stride] += 9
    np.testing.assert_array_equal(run(EpisodePolicy(MODEL, seed=7, **CHOICE), blind[:, :1])[0], actions)
    assert state.episodes == (0,) and state.memories[0].draws == 4


@pytest.mark.parametrize("model", [MODEL, FORGETFUL[3]], ids=["whole", "forgetful"])
def test_a_batch_acts_as_each_one_alone(model: Any) -> None:
    # Catches: memories mixed up, a draw shared by the batch, an episode's number that is forgotten.
    policy, seen = EpisodePolicy(model, seed=3), SEEN.copy()
    seen[4, 1, 0] = np.nan
    together, _ = run(policy, seen, policy.start([5, 6, 7]))
    for b in range(3):
        alone, _ = run(policy, seen[:, b : b + 1], policy.start([5 + b]))
        np.testing.assert_array_equal(alone[:, 0], together[:, b])
    assert not np.array_equal(together, run(policy, seen, policy.start([6, 6, 7]))[0])
    assert not np.array_equal(together, run(EpisodePolicy(model, seed=4), seen, policy.start([5, 6, 7]))[0])


def test_one_environment_is_restarted_and_the_others_go_on() -> None:
    # Catches: a reset that reaches the others, a memory or half a block of the last episode that is kept.
    policy = EpisodePolicy(MODEL)
    plain, _ = run(policy, SEEN, policy.start([0, 1, 2]))
    starts = {3: np.array([False, True, False])}
    restarted, state = run(policy, SEEN, policy.start([0, 1, 2]), starts)
    np.testing.assert_array_equal(restarted[:, [0, 2]], plain[:, [0, 2]])
    np.testing.assert_array_equal(restarted[:3, 1], plain[:3, 1])
    fresh, _ = run(policy, SEEN[3:, 1:2], policy.start([2]))
    np.testing.assert_array_equal(restarted[3:, 1], fresh[:, 0])
    assert state.episodes == (0, 2, 2)


@pytest.mark.parametrize("model", [MODEL, FORGETFUL[3]], ids=["whole", "forgetful"])
def test_a_state_is_not_changed_and_survives_copies_and_files(model: Any) -> None:
    # Catches: memory outside of the state, or in place in it, a state that holds what cannot be pickled.
    policy, seen = EpisodePolicy(model), SEEN.copy()
    _, state = run(policy, seen[:3])
    expected, _ = run(policy, seen[3:], state)
    twins = (state, copy.deepcopy(state), pickle.loads(pickle.dumps(state)))
    for twin in twins:
        np.testing.assert_array_equal(run(policy, seen[3:], twin)[0], expected)
    other = pickle.loads(pickle.dumps(policy))
    np.testing.assert_array_equal(run(other, seen[3:], twins[2])[0], expected)
    observation = seen[0].copy()
    _, kept = policy.predict(observation)
    first, _ = policy.predict(seen[2], policy.predict(seen[1], kept)[1])
    observation[:] = 100  # a vector environment may write here
    np.testing.assert_array_equal(policy.predict(seen[2], policy.predict(seen[1], kept)[1])[0], first)


def test_a_whole_episode_is_remembered_and_a_forgetful_layout_forgets() -> None:
    # Catches: a memory that is dropped, a forgetful policy that peeks further back than it says, or forgets all.
    other = SEEN.copy()
    other[0] += 1.0

    def same(model: Any) -> list[bool]:
        policy = EpisodePolicy(model)
        _, state = run(policy, SEEN[:2])
        changed = replace(state)
        # the same actions were executed, something else was seen first
        memories = [_with_first(policy, m, o) for m, o in zip(changed.memories, other[0], strict=True)]
        one, two = run(policy, SEEN[2:], state)[0], run(policy, SEEN[2:], replace(state, memories=tuple(memories)))[0]
        return [bool(np.array_equal(one[t], two[t])) for t in (0, 2, 4)]

    assert same(MODEL) == [False, False, False]
    assert same(FORGETFUL[1]) == [True, True, True]
    policy, spy = EpisodePolicy(FORGETFUL[3]), Spy(FORGETFUL[3])
    policy.model = spy
    run(policy, SEEN[:, :1])
    told = [values for values, _ in spy.told[-5:]]  # the last answer: two blocks before, and what is seen
    assert [v.shape for v in told] == [(3,), (2, 2), (3,), (2, 2), (3,)]
    for i, t in zip((0, 2, 4), (2, 4, 6), strict=True):
        np.testing.assert_allclose(told[i], SEEN[t, 0])
    assert len(spy.told) == 1 + 3 + 5 + 5


def _with_first(policy: EpisodePolicy, memory: Any, first: Any) -> Any:
    """Return an environment's memory with another first observation and the same actions after it."""
    past = None if memory.past is None else policy.model.seen(None, torch.as_tensor(first[None]))
    recent = tuple((first, k, chunk) for _, k, chunk in memory.recent)
    return replace(memory, past=past, recent=recent)


def test_a_forgetful_layout_acts_as_a_whole_one_until_it_forgets() -> None:
    # Catches: blocks told in another order or at other positions than they were trained at.
    whole, _ = run(EpisodePolicy(model_of(spec=SPEC, steps=3)), SEEN)
    forgetful, _ = run(EpisodePolicy(FORGETFUL[5]), SEEN)  # the same weights, room for all
    np.testing.assert_allclose(forgetful, whole, atol=1e-5)


# ---- missing observations


def test_missing_columns_are_predicted_and_labelled() -> None:
    # Catches: known columns that are overwritten, NaN that goes on, a prediction that is trusted, or without the last
    # actions, a level that stays.
    seen, spy = SEEN[:6, :1].copy(), Spy(MODEL)
    seen[2, 0, 1:] = np.nan
    policy = EpisodePolicy(MODEL, missing_level=0.3)
    policy.model = spy
    actions, _ = run(policy, seen)
    (first, k0), (chunk, ka), (filled, k), _, (last, k2) = spy.told
    memory = MODEL.done(MODEL.seen(None, torch.as_tensor(seen[0])), torch.as_tensor(chunk[None]))
    expected = MODEL.next_observation(memory, normal_like(stream(0, 0, 1)), 0.0, torch.as_tensor(seen[2]))[0]
    np.testing.assert_allclose(filled, [seen[2, 0, 0], *expected[1:]], rtol=1e-4, atol=1e-5)
    assert (k0, ka, k, k2) == (0, 0, 6, 0) and policy.resolved()["missing_level"] == 6
    np.testing.assert_allclose(first, seen[0, 0])
    np.testing.assert_allclose(last, seen[4, 0])
    assert np.isfinite(actions).all()


def test_nobody_may_have_noticed() -> None:
    # Catches: 'clean' that is labelled after all, or that fills in something else than the mean.
    seen, spy = SEEN[:3, :1].copy(), Spy(MODEL)
    seen[0], seen[2, 0, 1] = np.nan, np.nan
    policy = EpisodePolicy(MODEL, missing="clean")
    policy.model = spy
    run(policy, seen)
    (first, k0), _, (filled, k) = spy.told
    np.testing.assert_allclose(first, MODEL.norm.obs_mean.numpy(), rtol=1e-6)
    np.testing.assert_allclose(filled, [seen[2, 0, 0], MODEL.norm.obs_mean[1], seen[2, 0, 2]], rtol=1e-6)
    assert (k0, k) == (0, 0)


@pytest.mark.parametrize("model", [MODEL, FORGETFUL[1], FORGETFUL[3]], ids=["whole", "one", "three"])
def test_a_first_observation_that_is_missing_is_not_looked_at(model: Any) -> None:
    # Catches: an episode that cannot begin in the dark, a mean that is taken for an observation.
    seen, spy = SEEN[:, :1].copy(), Spy(model)
    seen[0] = np.nan
    policy = EpisodePolicy(model)
    policy.model = spy
    actions, _ = run(policy, seen)
    assert spy.told[0][1] == K and np.isfinite(actions).all()
    partly = seen.copy()
    partly[0, 0, 1] = 5.0
    np.testing.assert_array_equal(run(EpisodePolicy(model), partly)[0], actions)


@pytest.mark.parametrize("blocks", [0, 3])
def test_calls_of_the_network_are_counted(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: a cost that is told too low: of predictions, or of what a forgetful layout tells the network again.
    model, calls = FORGETFUL[blocks] if blocks else MODEL, [0]
    before = type(model.model)._output

    def counted(self: Any, *arguments: Any) -> Any:
        calls[0] += 1
        return before(self, *arguments)

    monkeypatch.setattr(type(model.model), "_output", counted)
    for gap in (0, 4):
        seen, calls[0] = SEEN[:, :1].copy(), 0
        seen[gap] = np.nan
        policy = EpisodePolicy(model)
        _, state = run(policy, seen)
        assert policy.telemetry(state)[0].action_evaluations == calls[0]


def test_steps_of_its_own() -> None:
    # Catches: an option that is taken, recorded and does nothing.
    policy = EpisodePolicy(MODEL, steps=5)
    assert policy.resolved()["steps"] == 5
    same, _ = run(EpisodePolicy(model_of(steps=5)), SEEN[:3])
    np.testing.assert_array_equal(run(policy, SEEN[:3])[0], same)
    assert not np.array_equal(run(EpisodePolicy(MODEL), SEEN[:3])[0], same) and MODEL.steps == 3


def test_the_memory_ends_with_the_layout() -> None:
    # Catches: an episode as long as the layout refused, or a longer one with an error that does not say what to do.
    seen = np.zeros((SPEC.steps + 1, 1, SPEC.obs_dim))
    _, state = run(EpisodePolicy(MODEL), seen[:-1])
    with pytest.raises(ValueError, match="longer than the 10 steps of the model's memory; train with a larger horizon"):
        EpisodePolicy(MODEL).predict(seen[-1], state)
    assert run(EpisodePolicy(FORGETFUL[3]), np.zeros((20, 1, 3)))[0].shape == (20, 1, 2)


@pytest.mark.parametrize(("options", "text"), [
    ({"missing": "ignored"}, "missing must be 'predicted' or 'clean', got 'ignored'"),
    ({"temperature": -0.1}, "temperature must be at least 0, got -0.1"),
    ({"candidates": 0}, "candidates must be at least 1, got 0"),
    ({"missing_level": 0.0}, r"must lie in \(0, 1\], got 0.0"),
    ({"missing_level": 1.5}, "must lie in"),
])  # fmt: skip
def test_unknown_choices_are_refused(options: Any, text: str) -> None:
    # Catches: a misspelt choice that becomes the other one.
    with pytest.raises(ValueError, match=text):
        EpisodePolicy(MODEL, **options)


def test_only_numbers_may_be_missing() -> None:
    # Catches: infinity taken for missing, a part that is missing where only whole rows may be.
    rows = np.array([[0.0, np.nan, 1.0]])
    np.testing.assert_array_equal(split_observation(rows, None, missing="partly")[0], rows)
    with pytest.raises(ValueError, match="must be finite"):
        split_observation(np.array([[0.0, np.inf, np.nan]]), None, missing="partly")
    for missing in (True, False):
        with pytest.raises(ValueError, match="must be finite"):
            split_observation(rows, None, missing=missing)
    with pytest.raises(ValueError, match="must be finite"):
        EpisodePolicy(MODEL).predict(np.full((1, 3), np.inf))


# ---- spaces, pictures, names


def spaces(width: int, keep: list[int], high: float = 1.0) -> Spaces:
    codec = ObservationCodec.from_space(Box(-np.inf, np.inf, (width,))).keeping(keep)
    return Spaces(codec, ActionCodec.from_space(Box(np.float32([-high, 0]), np.float32([high, 1]))))


def test_columns_are_kept_and_actions_are_those_of_the_environment() -> None:
    # Catches: all columns handed to a model of some, or the wrong ones; actions left in columns.
    policy = EpisodePolicy(model_of(steps=3, spaces=spaces(5, [4, 0, 2], high=2.0)))
    full = np.random.default_rng(1).normal(size=(4, 3, 5))
    columns, _ = run(EpisodePolicy(MODEL), full[..., [4, 0, 2]])
    actions, _ = run(policy, full)
    np.testing.assert_allclose(actions, columns * [2.0, 0.5] + [0, 0.5], atol=1e-6)
    single, _ = policy.predict(full[0, 0])
    assert single.shape == (2,)
    full[2, :, 1] = np.nan  # of no use, so nothing is missing
    np.testing.assert_array_equal(run(policy, full)[0], actions)


@pytest.fixture(scope="module")
def encoder() -> ImageAutoencoder:
    """An untrained autoencoder of two small pictures, four numbers each."""
    torch.manual_seed(0)
    model = ImageAutoencoder(AutoencoderConfig(image_size=32, latent=4, keypoints=1, width=8))
    return model.eval()


def looks(rows: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    pictures = {name: rng.integers(1, 255, (rows, 32, 32, 3)).astype(np.uint8) for name in ("scene", "hand")}
    return {**pictures, "proprio": rng.normal(size=(rows, 5))}


def test_a_dark_picture_is_missing_camera_by_camera(encoder: ImageAutoencoder) -> None:
    # Catches: the other camera's latents thrown away, or the other environment's; a dim picture taken for a dark one;
    # cameras in the other order than in training; a mark where nobody is to notice.
    seen = looks()
    frames = np.stack([seen["scene"], seen["hand"]], 1)
    latents = encode_frames(encoder, frames)
    columns, batched = picture_columns(encoder, seen, mark=True)
    np.testing.assert_allclose(columns, np.concatenate([seen["proprio"], latents], 1), rtol=1e-6)
    assert batched and columns.shape == (2, 5 + 8)
    for row, name, part in ((0, "scene", slice(5, 9)), (1, "hand", slice(9, 13))):
        dark = {**seen, name: seen[name].copy()}
        dark[name][row] = 0
        found, _ = picture_columns(encoder, dark, mark=True)
        expected = columns.copy()
        expected[row, part] = np.nan
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert np.isfinite(picture_columns(encoder, dark, mark=False)[0]).all()
        dark[name][row, 3, 4, 1] = 1
        assert np.isfinite(picture_columns(encoder, dark, mark=True)[0]).all()
    one = {name: value[0] for name, value in seen.items()}
    alone, batched = picture_columns(encoder, one, mark=True)
    np.testing.assert_allclose(alone, columns[:1], rtol=1e-5, atol=1e-6)
    assert not batched
    with pytest.raises(ValueError, match=r"needs scene, hand and proprio, got \['proprio', 'scene'\]; .* obs='image'"):
        picture_columns(encoder, {name: seen[name] for name in ("scene", "proprio")}, mark=True)
    with pytest.raises(ValueError, match="got ndarray"):
        picture_columns(encoder, seen["proprio"], mark=True)


def test_estimates_of_a_frame_with_a_dark_picture_are_missing(encoder: ImageAutoencoder) -> None:
    # Catches: places of things told from one camera as if both had seen them, or those of other environments lost.
    latents, known = np.random.default_rng(0).normal(size=(2, 40, 8)).astype(np.float32)
    headed, seen = fit_head(encoder, latents, known[:, :2], HeadTraining(hidden=(4,), steps=2)), looks()
    assert picture_columns(headed, seen, mark=True)[0].shape == (2, 5 + 8 + 2)
    seen["hand"][1] = 0
    columns, _ = picture_columns(headed, seen, mark=True)
    assert np.isfinite(columns[0]).all()
    np.testing.assert_array_equal(np.isnan(columns[1]), [False] * 9 + [True] * 6)


def test_a_policy_of_pictures_fills_in_a_dark_camera(encoder: ImageAutoencoder) -> None:
    # Catches: latents by the wrong columns, a dark picture that is looked at, 'clean' that marks it.
    spec = EpisodeSpec(4, 2, 2, 5)
    model = model_of(spec=spec, steps=2, spaces=spaces(13, [1, 6, 8, 10]), encoder=encoder)
    seen, after, spy = looks(1), looks(1), Spy(model)
    policy = EpisodePolicy(model, missing_level=1.0)
    policy.model = spy
    _, state = policy.predict(seen)
    _, state = policy.predict(seen, state)
    after["hand"][:] = 0  # column 10
    policy.predict(after, state)
    columns, _ = picture_columns(encoder, after, mark=True)
    assert [k for _, k in spy.told] == [0, 0, K]
    np.testing.assert_allclose(spy.told[-1][0][:3], columns[0, [1, 6, 8]], rtol=1e-4)
    assert np.isfinite(spy.told[-1][0]).all()
    trusting = EpisodePolicy(model, missing="clean")
    trusting.model = spy
    trusting.predict(after)
    assert spy.told[-1][1] == 0
    np.testing.assert_allclose(spy.told[-1][0], picture_columns(encoder, after, mark=False)[0][0, [1, 6, 8, 10]])
    assert policy.predict({name: value[0] for name, value in seen.items()})[0].shape == (2,)


def test_a_checkpoint_of_episodes_is_found_by_either_name(tmp_path: Path) -> None:
    # Catches: the default policy of `dfplan eval` that fails on such a checkpoint; options that are lost.
    folder = save_checkpoint(checkpoint(), tmp_path, half=False)
    for name in ("df", "episode"):
        policy: Any = load_policy(name, checkpoint=folder, seed=3, steps=3, missing="clean")
        assert isinstance(policy, EpisodePolicy) and (policy.steps, policy.missing, policy.seed) == (3, "clean", 3)
    plain: Any = load_policy("episode", checkpoint=str(folder), seed=3, steps=3)
    np.testing.assert_array_equal(run(plain, SEEN[:3])[0], run(EpisodePolicy(MODEL, seed=3), SEEN[:3])[0])
    with pytest.raises(ValueError, match=r"unknown option of the policy 'episode' 'mising'\. Did you mean 'missing'"):
        load_policy("df", checkpoint=folder, mising="clean")
    with pytest.raises(ValueError, match="the policy 'episode' needs a checkpoint"):
        load_policy("episode")
