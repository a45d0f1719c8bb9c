"""The LeRobot format: what is written is read back, number for number, each frame in its own episode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict
from typer.testing import CliRunner

from dfplan.data import Episodes, load_episodes, save_npz
from dfplan.data.lerobot import export_lerobot, read_lerobot, writing
from dfplan.data.lerobot.source import ColumnSource, MinariSource, name_features
from dfplan.data.lerobot.stats import image_counts, image_stats
from dfplan.data.lerobot.video import VideoReader, choose_pixels, psnr
from dfplan.data.lerobot.writing import LeRobotWriter
from dfplan.data.minari_io import open_minari, save_minari
from dfplan.data.trajectories import Trajectories

pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("imageio_ffmpeg")

ID, LENGTHS, SIZE, FPS = "arm/pictures-v0", (4, 1, 6), (32, 48), 10
TASK = "swap the two fruits"


def pictures(rng: np.random.Generator, episode: int, count: int) -> np.ndarray:
    """Draw frames that say who they are: brightness by the episode, a bar that moves with the frame."""
    frames = np.full((count, *SIZE, 3), 40 + 60 * episode, dtype=np.uint8)
    for n in range(count):
        frames[n, :, 4 * n : 4 * n + 6] = (230, 60, 20)
    return frames + rng.integers(0, 3, frames.shape, dtype=np.uint8)


def arm_trajectories() -> Trajectories:
    """Make three episodes of a robot with two cameras and a vector."""
    rng = np.random.default_rng(3)
    seen = {
        "scene": np.concatenate([pictures(rng, e, n + 1) for e, n in enumerate(LENGTHS)]),
        "hand": np.concatenate([pictures(rng, e, n + 1)[:, :, ::-1] for e, n in enumerate(LENGTHS)]),
        "proprio": rng.normal(size=(sum(LENGTHS) + 3, 5)).astype(np.float32),
    }
    image = Box(0, 255, (*SIZE, 3), np.uint8)
    space = Dict({"scene": image, "hand": image, "proprio": Box(-np.inf, np.inf, (5,), np.float32)})
    action = Box(-2.0, 2.0, (3,), np.float32)
    actions = rng.uniform(-2, 2, size=(sum(LENGTHS), 3)).astype(np.float32)
    rewards = np.arange(sum(LENGTHS)) / 7
    return Trajectories(seen, actions, rewards, np.array(LENGTHS), np.array([True, False, True]), space, action)


@pytest.fixture
def arm(datasets: Path) -> Trajectories:
    """The same as a Minari dataset of id `ID`, images exact."""
    pytest.importorskip("minari")
    made = arm_trajectories()
    save_minari(made, ID, meta={"fps": FPS})
    return made


def visible(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_columns_round_trip_exactly(episodes: Episodes, tmp_path: Path) -> None:
    """Catches a lost last state, rewards moved by a step, wrong boundaries, an end that is none, one-step episodes."""
    ends = np.array([True, False, True])
    own = Episodes(episodes.observations, episodes.actions, episodes.rewards, episodes.lengths, {}, ends)
    folder = export_lerobot(own, tmp_path / "a" / "set", fps=20, task=TASK, robot_type="point")
    data = read_lerobot(folder)
    assert data.to_episodes().digest() == own.digest() == load_episodes(folder).digest()
    assert data.columns["timestamp"].dtype == np.float32
    np.testing.assert_array_equal(data.columns["timestamp"], np.float32(np.array([0, 1, 2, 0, 0, 1, 2, 3, 4]) / 20))
    assert data.columns["frame_index"].tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4]
    assert data.columns["next.done"].tolist() == [n in (2, 3, 8) for n in range(9)]
    assert data.columns["next.truncated"].tolist() == [n == 3 for n in range(9)]
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in data.episodes] == [(0, 3), (3, 4), (4, 9)]
    assert data.tasks == [TASK] and data.info["robot_type"] == "point" and data.cameras == []
    assert data.info["splits"] == {"train": "0:3"} and data.info["video_path"] is None


def test_the_files_are_those_of_the_format(arm: Trajectories, tmp_path: Path) -> None:
    """Catches a file in another place, a type or shape that readers refuse, tasks that are not the table's index."""
    folder = export_lerobot(ID, tmp_path / "set", fps=FPS, task=TASK, names={"action": ["x", "y", "grip"]})
    place = "chunk-000/file-000"
    cameras = [f"observation.images.{name}" for name in ("hand", "scene")]
    files = {"meta/info.json", "meta/stats.json", "meta/tasks.parquet", f"meta/episodes/{place}.parquet"}
    files |= {f"data/{place}.parquet", *(f"videos/{camera}/{place}.mp4" for camera in cameras)}
    assert {name for name in visible(folder) if (folder / name).is_file()} == files
    info = json.loads((folder / "meta/info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"]) == ("v3.0", 3, 11)
    assert info["features"]["action"] == {"dtype": "float32", "shape": [3], "names": ["x", "y", "grip"]}
    assert info["features"][cameras[0]]["shape"] == [32, 48, 3]
    schema = pq.read_schema(folder / f"data/{place}.parquet")
    assert str(schema.field("observation.state").type).startswith("fixed_size_list<")
    assert str(schema.field("timestamp").type) == "float" and str(schema.field("next.done").type) == "bool"
    assert set(schema.names) == {key for key, feature in info["features"].items() if feature["dtype"] != "video"}
    assert pq.read_metadata(folder / f"data/{place}.parquet").num_row_groups == 3
    tasks = pq.read_table(folder / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    assert tasks.to_pylist() == [{"task_index": 0, "task": TASK}]


def test_images_and_numbers_of_a_minari_dataset(arm: Trajectories, tmp_path: Path) -> None:
    """Catches frames of a neighbour (the file holds all episodes), a swapped camera, a lost or doubled frame."""
    folder = export_lerobot(ID, tmp_path / "set", fps=FPS, task=["one", "two", "one"], pixels="yuv444p")
    data = read_lerobot(folder)
    for index, (seen, actions, rewards, _) in enumerate(arm.pieces()):
        found = data.episode(index)
        np.testing.assert_array_equal(found["action"], actions)
        np.testing.assert_array_equal(found["next.reward"], rewards.astype(np.float32))
        np.testing.assert_array_equal(found["observation.state"], seen["proprio"][:-1])
        assert found["next.truncated"].tolist() == [False] * (len(actions) - 1) + [not arm.terminated[index]]
        for name in ("scene", "hand"):
            frames = data.images(f"observation.images.{name}", index)  # a jump into the middle of the file
            assert frames.shape == (len(actions), *SIZE, 3)
            assert min(psnr(a, b) for a, b in zip(seen[name][:-1], frames, strict=True)) > 32
    assert [data.tasks[n] for n in data.columns["task_index"]] == ["one"] * 4 + ["two"] + ["one"] * 6
    in_order = list(data.each_images("observation.images.scene"))
    assert all(np.array_equal(frames, data.images("observation.images.scene", n)) for n, frames in enumerate(in_order))
    reader = VideoReader(SIZE, FPS)
    path = data.video_path("observation.images.scene", data.episodes[0])
    reader.read(path, 0, sum(LENGTHS))
    assert reader.at_end(path)
    assert [row["videos/observation.images.hand/from_timestamp"] for row in data.episodes] == [0.0, 0.4, 0.5]
    np.testing.assert_array_equal(data.to_episodes().observations, arm.observations["proprio"])


def test_stats_are_numpys(arm: Trajectories, tmp_path: Path) -> None:
    """Catches a wrong standard deviation, means of means, pixels not in [0, 1], shapes that normalisers refuse."""
    folder = export_lerobot(ID, tmp_path / "set", fps=FPS, task=TASK)
    stats = json.loads((folder / "meta/stats.json").read_text())
    rows = arm.actions.astype(np.float64)
    wanted = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    wanted |= {"q01": np.quantile(rows, 0.01, axis=0), "q99": np.quantile(rows, 0.99, axis=0), "count": [11]}
    for key, values in wanted.items():
        np.testing.assert_allclose(stats["action"][key], values, rtol=1e-12)
    seen = np.concatenate([seen["hand"][:-1] for seen, *_ in arm.pieces()]) / 255.0
    for key, values in {"mean": seen.mean((0, 1, 2)), "std": seen.std((0, 1, 2)), "max": seen.max((0, 1, 2))}.items():
        np.testing.assert_allclose(stats["observation.images.hand"][key], values.reshape(3, 1, 1), rtol=1e-9)
    row = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()[2]
    np.testing.assert_allclose(row["stats/action/mean"], rows[5:].mean(0), rtol=1e-12)
    np.testing.assert_allclose(row["stats/observation.images.hand/min"], seen[5:].min((0, 1, 2)).reshape(3, 1, 1))
    assert (row["stats/timestamp/max"], row["stats/action/count"]) == ([0.5], [6])


def test_image_quantiles_are_those_of_the_pixels() -> None:
    """Catches an off-by-one level: the quantile is the lowest level that reaches the share."""
    levels = np.random.default_rng(0).permuted(np.tile(np.arange(200, dtype=np.uint8), (3, 1)), axis=1)
    frames = levels.T.reshape(5, 8, 5, 3)  # every level once, so that shares are met exactly
    found = image_stats(image_counts(frames), 5)
    for key, share in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
        wanted = np.quantile(frames.reshape(-1, 3), share, axis=0, method="inverted_cdf") / 255
        np.testing.assert_allclose(np.ravel(found[key]), wanted)
    np.testing.assert_allclose(np.ravel(found["min"]), frames.min((0, 1, 2)) / 255)


def test_full_files_are_followed_by_others(arm: Trajectories, tmp_path: Path) -> None:
    """Catches timestamps that go on in the next video, and files that are never finished."""
    source = MinariSource(open_minari(ID), ID)
    writer = LeRobotWriter(tmp_path / "set", FPS, "yuv444p", {}, None, data_mb=1e-4, video_mb=6 * 32 * 48 * 3 / 40e6)
    (tmp_path / "set").mkdir()
    for clip in source:
        writer.add(clip, TASK)
    writer.close()
    data = read_lerobot(tmp_path / "set")
    key = "observation.images.scene"
    assert [row[f"videos/{key}/file_index"] for row in data.episodes] == [0, 0, 1]
    assert [row["data/file_index"] for row in data.episodes] == [0, 1, 2]
    assert data.episodes[2][f"videos/{key}/from_timestamp"] == 0.0
    for wanted, found in zip(source, data.each_images(key), strict=True):
        assert psnr(wanted.images[key], found) > 32
    assert data.to_episodes().lengths.tolist() == list(LENGTHS)


def test_data_of_others_lose_the_action_that_leads_nowhere(episodes: Episodes, tmp_path: Path) -> None:
    """Catches a made-up last state, an episode of one frame that stops the import, rewards that are demanded."""
    folder = export_lerobot(episodes, tmp_path / "set", fps=20, task=TASK)
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["dfplan/final/observation.state"]), path)
    info = json.loads((folder / "meta/info.json").read_text())
    for key in ("next.reward", "next.truncated"):
        del info["features"][key]
    (folder / "meta/info.json").write_text(json.dumps(info))
    found = load_episodes(folder)
    assert found.lengths.tolist() == [2, 4] and not found.terminated.any() and not found.rewards.any()
    np.testing.assert_array_equal(found.observations[:3], episodes.episode(0)[0][:3])
    np.testing.assert_array_equal(found.actions[2:], episodes.episode(2)[1][:4])


def test_success_is_taken_from_infos(arm: Trajectories) -> None:
    """Catches success that is read one step early: Minari's infos have a row for the reset."""
    source = MinariSource(open_minari(ID), ID)
    episode = next(iter(source.dataset.iterate_episodes()))
    object.__setattr__(episode, "infos", {"success": np.array([True, False, False, False, True])})
    assert source._clip(episode).success.tolist() == [False, False, False, True]


def test_observations_are_named_by_rule() -> None:
    """Catches a camera that becomes numbers, and a state that is chosen by chance."""
    image, vector = Box(0, 255, (32, 32, 3), np.uint8), Box(-1, 1, (2,))
    assert name_features(vector) == {(): "observation.state"}
    assert name_features(image) == {(): "observation.images.camera"}
    found = name_features(Dict({"observation": vector, "desired_goal": vector, "scene": image}))
    assert set(found.values()) == {"observation.state", "observation.desired_goal", "observation.images.scene"}
    assert name_features(Dict({"a": Dict({"b": vector})})) == {("a", "b"): "observation.state"}
    with pytest.raises(ValueError, match=r"unknown observation key 'sene'. Did you mean 'scene'"):
        name_features(Dict({"scene": image}), {"sene": "observation.images.x"})
    with pytest.raises(ValueError, match=r"images must be named observation.images.NAME, without '/': 'observation.x'"):
        name_features(Dict({"scene": image}), {"scene": "observation.x"})
    with pytest.raises(ValueError, match=r"must have the shape \(H, W, 3\) to be stored as a video, got \(3, 32, 32\)"):
        name_features(Box(0, 255, (3, 32, 32), np.uint8))


def damage_json(folder: Path) -> None:
    (folder / "meta/info.json").write_text("{")


def damage_version(folder: Path) -> None:
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))


def damage_lengths(folder: Path) -> None:
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    rows = [row | {"length": length} for row, length in zip(table.to_pylist(), (3, 2, 6), strict=True)]
    pq.write_table(table.from_pylist(rows), path)


def damage_order(folder: Path) -> None:
    path = folder / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(list(range(10, -1, -1))), path)


def cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = next(folder.glob(name))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: next(folder.glob(name)).unlink()


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (damage_json, r"meta/info.json is damaged: JSONDecodeError"),
        (damage_version, r"codebase_version must be v3.x, got v2.1; convert it"),
        (remove("meta/info.json"), r"is not a LeRobot dataset: .*info.json is missing"),
        (remove("meta/tasks.parquet"), r"tasks.parquet is missing"),
        (remove("data/*/*.parquet"), r"data/chunk-000/file-000.parquet is missing"),
        (remove("videos/*scene/*/*.mp4"), r"scene/chunk-000/file-000.mp4 is missing; .* videos=False"),
        (remove("meta/episodes/*/*.parquet"), r"meta/episodes holds no table of episodes"),
        (cut("data/*/*.parquet"), r"data/chunk-000/file-000.parquet is damaged"),
        (cut("meta/episodes/*/*.parquet"), r"meta/episodes/chunk-000/file-000.parquet is damaged"),
        (damage_lengths, r"episode 0 must be rows 0 to 3"),
        (damage_order, r"column 'index' does not agree with meta/episodes"),
    ],
)
def test_damage_is_named(arm: Trajectories, tmp_path: Path, damage: Callable[[Path], None], text: str) -> None:
    """Catches damage that is read as data, and errors that do not say which file is at fault."""
    folder = export_lerobot(ID, tmp_path / "set", fps=FPS, task=TASK, check=False)
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        read_lerobot(folder)


@pytest.mark.parametrize(
    ("content", "text"), [(b"", "is damaged"), (b"no video" * 99, "is damaged"), (None, r"must hold frames 5 to 10")]
)
def test_a_broken_video_is_named(arm: Trajectories, tmp_path: Path, content: bytes | None, text: str) -> None:
    """Catches a video that is too short, or none, that is read as black or as other frames."""
    data = read_lerobot(export_lerobot(ID, tmp_path / "set", fps=FPS, task=TASK, check=False))
    key = "observation.images.scene"
    path = data.video_path(key, data.episodes[2])
    if content is None:
        short = writing.VideoWriter(path, SIZE, FPS)
        short.add(np.zeros((7, *SIZE, 3), dtype=np.uint8))
        short.close()
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"scene/chunk-000/file-000.mp4 {text}"):
        data.images(key, 2)


def test_what_is_there_is_kept(episodes: Episodes, tmp_path: Path) -> None:
    """Catches an export that replaces a data set unasked, or anything else although it was asked."""
    folder = export_lerobot(episodes, tmp_path / "set", fps=20, task=TASK)
    other = Episodes(episodes.observations + 1, episodes.actions, episodes.rewards, episodes.lengths)
    with pytest.raises(ValueError, match=r"set exists; pass --overwrite"):
        export_lerobot(other, folder, fps=20, task=TASK)
    assert load_episodes(folder).digest() == episodes.digest()
    export_lerobot(other, folder, fps=20, task=TASK, overwrite=True)
    assert load_episodes(folder).digest() == other.digest()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").touch()
    with pytest.raises(ValueError, match=r"or a LeRobot dataset to replace; it holds something else"):
        export_lerobot(other, tmp_path / "home", fps=20, task=TASK, overwrite=True)
    assert visible(tmp_path / "home") == ["letter"]


@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_stopped_export_leaves_nothing(arm: Trajectories, tmp_path: Path, after: int) -> None:
    """Catches half a data set after Ctrl-C while it is written (1), when all is (3), or while it is read back (5)."""
    told: list[int] = []

    def stop(frames: int) -> None:
        told.append(frames)
        if len(told) == after:
            raise KeyboardInterrupt

    before = visible(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        export_lerobot(ID, tmp_path / "deep" / "set", fps=FPS, task=TASK, progress=stop)
    assert visible(tmp_path) == before
    assert sum(told) == [4, 11, 16][[1, 3, 5].index(after)]


def test_an_export_is_compared_with_its_source(
    arm: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a check that does not look: frames of the wrong order, and numbers that were changed, must be seen."""
    before = visible(tmp_path)
    write = LeRobotWriter._write_video
    monkeypatch.setattr(LeRobotWriter, "_write_video", lambda self, key, frames: write(self, key, frames[::-1]))
    with pytest.raises(ValueError, match=r"the video of observation.images.\w+ must be within 25 dB .* of episode 0"):
        export_lerobot(ID, tmp_path / "set", fps=FPS, task=TASK)
    monkeypatch.undo()
    data = LeRobotWriter._write_data
    changed = {"action": np.zeros((1, 3), dtype=np.float32)}
    monkeypatch.setattr(
        LeRobotWriter, "_write_data",
        lambda self, columns: data(self, columns | changed if len(columns["index"]) == 1 else columns),
    )  # fmt: skip
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    with pytest.raises(ValueError, match=r"action of episode 1 was not read back as it was written"):
        export_lerobot(ID, tmp_path / "set", fps=FPS, task=TASK)
    assert visible(tmp_path) == before


def test_bad_requests_are_named(episodes: Episodes, tmp_path: Path) -> None:
    """Catches NaN in the files, an empty data set, and errors that do not say what to do."""
    out: Any = tmp_path / "set"
    bad = ColumnSource(episodes)
    bad.episodes.observations[6, 1] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinity in observation.state, episode 2; drop or repair"):
        export_lerobot(bad, out, fps=20, task=TASK)
    bad.episodes.observations[6, 1] = 0
    bad.episodes.observations[3, 1] = np.inf
    with pytest.raises(ValueError, match=r"NaN or infinity in the last observation.state, episode 0"):
        export_lerobot(bad, out, fps=20, task=TASK)
    for wrong in (0, 12.5, True):
        with pytest.raises(ValueError, match=r"fps must be a whole number of frames per second"):
            export_lerobot(episodes, out, fps=wrong, task=TASK)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one per episode \(3\), got 2"):
        export_lerobot(episodes, out, fps=20, task=["a", "b"])
    with pytest.raises(ValueError, match=r"task must say in words what is done"):
        export_lerobot(episodes, out, fps=20, task=" ")
    bad.episodes.observations[3, 1] = 0
    with pytest.raises(ValueError, match=r"names of 'action' must be a list of 2"):
        export_lerobot(episodes, out, fps=20, task=TASK, names={"action": ["x"]})
    with pytest.raises(ValueError, match=r"names must be of stored features, got 'actoin'"):
        export_lerobot(episodes, out, fps=20, task=TASK, names={"actoin": ["x"]})
    assert visible(tmp_path) == []


def test_an_empty_dataset_is_refused(arm: Trajectories, tmp_path: Path) -> None:
    """Catches an export of nothing that other readers then fail on."""
    nothing = open_minari(ID).filter_episodes(lambda episode: False)
    with pytest.raises(ValueError, match=rf"{ID} must hold at least one episode to be exported, got none"):
        export_lerobot(MinariSource(nothing, ID), tmp_path / "set", fps=20, task=TASK)


def test_odd_frames_need_full_colours(tmp_path: Path, datasets: Path) -> None:
    """Catches frames that are resized in silence because half their width is no whole number."""
    pytest.importorskip("minari")
    frames = np.full((4, 33, 35, 3), 90, dtype=np.uint8)
    space, action = Box(0, 255, (33, 35, 3), np.uint8), Box(-1, 1, (1,))
    one = np.zeros((3, 1), dtype=np.float32)
    made = Trajectories(frames, one, np.zeros(3), np.array([3]), np.array([True]), space, action)
    save_minari(made, "arm/odd-v0")
    with pytest.raises(ValueError, match=r"even height and width, got 33 x 35; pass pixels='yuv444p'"):
        export_lerobot("arm/odd-v0", tmp_path / "set", fps=5, task=TASK, pixels="yuv420p")
    data = read_lerobot(export_lerobot("arm/odd-v0", tmp_path / "set", fps=5, task=TASK))
    assert data.info["features"]["observation.images.camera"]["info"]["video.pix_fmt"] == "yuv444p"
    assert choose_pixels("auto", 240, 320) == "yuv420p" and choose_pixels("auto", 64, 128) == "yuv444p"
    assert data.images("observation.images.camera", 0).shape == (3, 33, 35, 3)
    assert data.columns["action"].shape == (3,)


def test_the_command(arm: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an option that is lost on its way, and refusals without a remedy."""
    from dfplan.cli.main import app

    monkeypatch.chdir(tmp_path)
    call = ["data", "export", ID, "--to", "lerobot", "--out", "set", "--task", TASK, "--robot", "panda"]
    done = CliRunner().invoke(app, [*call, "--feature", "hand=observation.images.wrist", "--json"])
    assert done.exit_code == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["episodes"], facts["frames"], facts["fps"]) == (3, 11, FPS)
    data = read_lerobot("set")
    assert data.info["robot_type"] == "panda" and data.tasks == [TASK]
    assert set(data.cameras) == {"observation.images.wrist", "observation.images.scene"}
    again = CliRunner().invoke(app, call)
    assert again.exit_code == 2 and "pass --overwrite" in again.stderr
    assert CliRunner().invoke(app, [*call, "--overwrite", "--fps", "5"]).exit_code == 0
    assert read_lerobot("set").fps == 5
    shown = CliRunner().invoke(app, ["data", "show", "set"])
    assert shown.exit_code == 0 and "3 episodes, 11 steps" in shown.stdout
    wrong = CliRunner().invoke(app, ["data", "export", ID, "--to", "lerobt", "--out", "x", "--task", TASK])
    assert wrong.exit_code == 2 and "unknown format 'lerobt'. Did you mean 'lerobot'" in wrong.stderr
    lost = CliRunner().invoke(app, ["data", "export", ID, "--out", "x"])
    assert lost.exit_code == 2 and "an export needs --task TEXT" in lost.stderr
    save_npz(Episodes(np.zeros((3, 1)), np.zeros((2, 1)), np.zeros(2), np.array([2])), "e.npz")
    slow = CliRunner().invoke(app, ["data", "export", "e.npz", "--out", "x", "--task", TASK])
    assert slow.exit_code == 2 and "pass --fps N" in slow.stderr


@pytest.mark.parametrize("package", ["pyarrow", "imageio_ffmpeg"])
def test_a_missing_extra_names_itself(
    arm: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """Catches a bare ModuleNotFoundError, and a folder that is left behind by it."""
    import sys

    before = visible(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs the package '{package}': pip install 'dfplan\[lerobot\]'"):
        export_lerobot(ID, tmp_path / "set", fps=FPS, task=TASK)
    assert visible(tmp_path) == before
