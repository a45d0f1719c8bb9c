"""Episodes of pictures out of a Minari dataset, and as columns of latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

pytest.importorskip("minari", reason="needs minari")

from dfplan.data.minari_io import save_minari
from dfplan.data.pictures import PictureEpisodes, join_pictures, load_pictures
from dfplan.data.trajectories import Trajectories
from dfplan.spaces import Spaces

SIZE, LENGTHS = 4, [3, 1, 2]


def write(dataset_id: str, cameras: tuple[str, ...] = ("scene", "hand")) -> Trajectories:
    """Write episodes whose every pixel tells camera and row."""
    rows = sum(LENGTHS) + len(LENGTHS)
    box = Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    seen: dict[str, Any] = {}
    for i, camera in enumerate(cameras):
        picture = (
            np.full((rows, SIZE, SIZE, 3), 100 * i, np.uint8) + np.arange(rows, dtype=np.uint8)[:, None, None, None]
        )
        picture[:, 0, 1, 2] = 200 + i
        seen[camera] = picture
    seen["proprio"] = np.arange(2.0 * rows).reshape(rows, 2).astype(np.float32)
    space = Dict({**dict.fromkeys(cameras, box), "proprio": Box(-99, 99, (2,), np.float32)})
    total = sum(LENGTHS)
    actions = np.linspace(-1, 1, 2 * total).reshape(total, 2).astype(np.float32)
    native = Trajectories(
        seen, actions, np.arange(float(total)), np.array(LENGTHS), np.array([True, False, True]), space,
        Box(-1, 1, (2,), np.float32),
    )  # fmt: skip
    made = native.to_episodes({"env": "fruit-swap-v0", "seed": 7, "observation_key": "proprio"})
    save_minari(native, dataset_id, meta=made.meta)
    return native


def test_pictures_come_back_as_they_were_written(datasets: Path) -> None:
    """Catches cameras in another order, the last observation of an episode lost, channels turned, an end forgotten."""
    native = write("pictures/test-v0")
    found = load_pictures("pictures/test-v0")
    assert found.frames.shape == (9, 2, SIZE, SIZE, 3) and found.frames.dtype == np.uint8
    seen: Any = native.observations
    for i, camera in enumerate(("scene", "hand")):
        np.testing.assert_array_equal(found.frames[:, i], seen[camera])
    np.testing.assert_array_equal(found.vectors["proprio"], seen["proprio"])
    assert set(found.vectors) == {"proprio"}
    np.testing.assert_array_equal(found.actions, native.actions)
    np.testing.assert_array_equal(found.rewards, native.rewards)
    assert found.lengths.tolist() == LENGTHS and found.terminated.tolist() == [True, False, True]
    assert found.meta["seed"] == 7
    other = load_pictures("pictures/test-v0", ("hand", "scene"))
    np.testing.assert_array_equal(other.frames, found.frames[:, ::-1])


def test_latents_stand_behind_the_arms_own_columns(datasets: Path) -> None:
    """Catches latents in front of the arm's own numbers (a policy puts them behind), and spaces of the pictures."""
    write("pictures/test-v0")
    latents = np.arange(27.0, dtype=np.float32).reshape(9, 3)
    found = load_pictures("pictures/test-v0").with_columns(latents)
    np.testing.assert_array_equal(found.observations[:, 2:], latents)
    np.testing.assert_array_equal(found.observations[:, :2], np.arange(18.0).reshape(9, 2))
    assert found.lengths.tolist() == LENGTHS and found.terminated.tolist() == [True, False, True]
    spaces = Spaces.from_dict(found.meta["spaces"])
    assert (spaces.observation.width, spaces.action.width) == (5, 2)


def test_data_without_these_pictures_are_refused(datasets: Path) -> None:
    """Catches an error that does not say which data are needed."""
    write("pictures/one-v0", cameras=("scene",))
    with pytest.raises(
        ValueError, match=r"must hold the pictures scene, hand, got \['proprio', 'scene'\]; make it with"
    ):
        load_pictures("pictures/one-v0")
    with pytest.raises(FileNotFoundError):
        load_pictures("pictures/none-v0")


def test_frames_of_slow_cameras_are_told_from_fresh_ones() -> None:
    """Catches a frame one row off, the border of a part, a change in one camera only, an episode's first frame."""
    frames = np.zeros((2100, 2, 4, 4, 3), dtype=np.uint8)
    expected = np.zeros(2100, dtype=bool)
    for at in (0, 7, 1024, 1025, 1026, 2099):
        frames[at:, at % 2, 3, 1, 2] += 1
        expected[at] = True
    expected[1301] = True  # the second episode begins with what the first one ended with
    lengths = np.array([1300, 798])
    actions, rewards = np.zeros((2098, 1), np.float32), np.zeros(2098, np.float32)
    found = PictureEpisodes(frames, {}, actions, rewards, lengths, np.zeros(2, bool), {})
    np.testing.assert_array_equal(found.fresh(), expected)


def test_datasets_are_joined_end_to_end(datasets: Path) -> None:
    """Catches rows of one entry in another order, episodes of the first only, and shapes that are mixed up silently."""
    write("pictures/test-v0")
    one = load_pictures("pictures/test-v0")
    other = replace(one, frames=one.frames + np.uint8(1), vectors={"proprio": one.vectors["proprio"] + 50}, meta={})
    both = join_pictures([one, other])
    assert both.lengths.tolist() == LENGTHS * 2 and both.meta == {"parts": [one.meta, {}]}
    np.testing.assert_array_equal(both.frames[9:], other.frames)
    np.testing.assert_array_equal(both.vectors["proprio"][9:], other.vectors["proprio"])
    for name in ("actions", "rewards", "terminated"):
        np.testing.assert_array_equal(getattr(both, name), np.concatenate([getattr(one, name)] * 2))
    assert join_pictures([one]) is one
    for wrong in (
        replace(one, frames=one.frames[:, :1]),
        replace(one, vectors={}),
        replace(one, actions=one.rewards[:, None]),
    ):
        with pytest.raises(ValueError, match="of the same shapes"):
            join_pictures([one, wrong])
    with pytest.raises(ValueError, match="of the same shapes"):
        join_pictures([])
