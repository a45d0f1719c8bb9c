"""Episodes of pictures out of a Minari dataset, and as columns of latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

pytest.importorskip("minari", reason="needs minari")

from dfplan.data.minari_io import save_minari
from dfplan.data.pictures import load_pictures
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
    found = load_pictures("pictures/test-v0").with_latents(latents)
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
