"""Minari datasets: written whole or not at all, read back as episodes. The one place that imports minari."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict

from dfplan.data.episodes import Episodes
from dfplan.data.trajectories import Trajectories, join
from dfplan.errors import missing_extra, unknown_name

ID_RULE = re.compile(r"(?:[-_A-Za-z0-9]{2,}/)*[-_A-Za-z0-9]+-v\d+")
STALE_SECONDS = 3600.0
IMAGES = ("jpeg", "lossless")
COLUMNS_KEY = "dfplan_columns"  # in a dataset's metadata: it was written from columns, not in an environment's spaces


def require_minari() -> Any:
    """Import minari.

    Raises:
        ImportError: with the command that installs it.
    """
    try:
        import minari
    except ImportError as error:
        raise missing_extra("minari", "minari", "a Minari dataset") from error
    return minari


def check_dataset_id(dataset_id: str) -> str:
    """Return `dataset_id` if it is a Minari id.

    Raises:
        ValueError: when it is not.
    """
    if not ID_RULE.fullmatch(dataset_id):
        raise ValueError(
            f"a dataset id must be (namespace/)name-vN of letters, digits, '-' and '_', got {dataset_id!r}; "
            "for example maze2d/large-noisy-v0 (a file must end in .npz, .hdf5 or .h5)"
        )
    return dataset_id


def datasets_root() -> Path:
    """Return Minari's folder: the environment variable MINARI_DATASETS_PATH, else ~/.minari/datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def check_new(dataset_id: str, overwrite: bool, root: Path | None = None) -> Path:
    """Return the folder of a dataset that is to be written, in ``root`` or else in Minari's folder.

    Raises:
        ValueError: for a malformed id, or one that exists when `overwrite` is False.
    """
    target = (root or datasets_root()) / check_dataset_id(dataset_id)
    if target.exists() and not overwrite:
        raise ValueError(
            f"the dataset {dataset_id} exists at {target}; pass --overwrite to replace it, or another --id"
        )
    return target


def save_minari(
    episodes: Episodes | Trajectories,
    dataset_id: str,
    *,
    meta: Mapping[str, Any] | None = None,
    env_spec: EnvSpec | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
    root: Path | None = None,
    images: str = "lossless",
) -> Path:
    """Write episodes as a Minari dataset (HDF5), so that readers see all of it or, before the end, the older one.

    The last step of an episode is a termination where the environment ended it, else a truncation.

    Args:
        episodes: what to write: float columns, or trajectories in the environment's own spaces.
        dataset_id: (namespace/)name-vN.
        meta: stored under the key "dfplan"; None takes the episodes' own.
        env_spec: of the environment that made the data and that policies are judged on.
        metadata: Minari's own keys: author, author_email, algorithm_name, code_permalink, description, requirements,
            ref_min_score, ref_max_score.
        overwrite: replace a dataset of that id.
        progress: called with the number of steps written since its last call.
        root: folder of datasets; None is Minari's own. To read from another, set MINARI_DATASETS_PATH to it.
        images: how uint8 images are stored: "lossless" (exact; the file is compressed by HDF5's own gzip) or "jpeg",
            Minari's own way for images of at least 32 x 32 pixels: smaller, but not exact, small ones least of all.

    Returns:
        The dataset's folder.

    Raises:
        ValueError: for a malformed id, or one that exists.
        ImportError: without the extra `minari`.
    """
    minari = require_minari()
    from minari.dataset.minari_storage import MinariStorage

    root = (root or datasets_root()).absolute()  # Minari loses its way from a relative one
    target = check_new(dataset_id, overwrite, root)
    if images not in IMAGES:
        raise unknown_name("way to store images", images, IMAGES)
    spaces = _spaces(episodes)
    lossless = images == "lossless" and _holds_images(spaces[0])
    about = (episodes.meta if isinstance(episodes, Episodes) else {}) if meta is None else dict(meta)
    with staged_folder(target, root) as folder:
        (folder / "data").mkdir()
        storage = MinariStorage.new(
            folder / "data",
            observation_space=spaces[0],
            action_space=spaces[1],
            env_spec=env_spec,
            data_format="hdf5",
            **({"jpeg_encoding": False} if lossless else {}),
        )
        described = {"dataset_id": dataset_id, "minari_version": minari.__version__, "dfplan": about}
        described[COLUMNS_KEY] = isinstance(episodes, Episodes)
        if env_spec is not None:
            described["eval_env_spec"] = env_spec.to_json()
        storage.update_metadata(described | dict(metadata or {}))
        storage.update_episodes(_buffers(episodes, progress))
        if lossless:
            _compress(storage, folder / "data")
    register_namespaces(dataset_id, root)
    return target


def _holds_images(space: Any) -> bool:
    if isinstance(space, Dict):
        return any(_holds_images(part) for part in space.spaces.values())
    return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) > 1


def _compress(storage: Any, folder: Path) -> None:
    """Compress what Minari has written; it reads compressed files as any other, but has no option to write them."""
    from dfplan.data.repack import compress_hdf5

    for path in folder.glob("*.hdf5"):
        compress_hdf5(path)
    storage.update_metadata({"dataset_size": storage.get_size()})


def copy_minari(
    source: Path, dataset_id: str, *, metadata: Mapping[str, Any] | None = None, overwrite: bool = False
) -> Path:
    """Copy the folder of a Minari dataset into Minari's own folder, under an id.

    Args:
        source: Folder of the dataset.
        dataset_id: (namespace/)name-vN, the id of the copy.
        metadata: Minari's own keys to replace.
        overwrite: Replace a dataset of that id.

    Raises:
        ValueError: for a malformed id, or one that exists.
        FileNotFoundError: if there is no dataset in `source`.
    """
    if not (source / "data").is_dir():
        raise FileNotFoundError(f"{source} is not a Minari dataset: it holds no data/")
    target = check_new(dataset_id, overwrite)
    with staged_folder(target) as folder:
        shutil.copytree(source / "data", folder / "data")
        about = folder / "data" / "metadata.json"
        own = {key: sorted(value) if isinstance(value, set) else value for key, value in (metadata or {}).items()}
        about.write_text(json.dumps({**json.loads(about.read_text()), "dataset_id": dataset_id, **own}))
    register_namespaces(dataset_id)
    return target


def _spaces(episodes: Episodes | Trajectories) -> tuple[Any, Any]:
    if isinstance(episodes, Trajectories):
        return episodes.observation_space, episodes.action_space
    widths = episodes.observations.shape[1], episodes.actions.shape[1]
    return Box(-np.inf, np.inf, (widths[0],), np.float32), Box(-1.0, 1.0, (widths[1],), np.float32)


def _pieces(episodes: Episodes | Trajectories) -> Iterator[tuple[Any, Any, Any, bool]]:
    if isinstance(episodes, Trajectories):
        yield from episodes.pieces()
        return
    for index in range(len(episodes)):
        yield *episodes.episode(index), bool(episodes.terminated[index])


def _buffers(episodes: Episodes | Trajectories, progress: Callable[[int], None] | None) -> Iterator[Any]:
    from minari.data_collector import EpisodeBuffer

    for observations, actions, rewards, terminated in _pieces(episodes):
        ended = np.zeros(len(actions), dtype=bool)
        ended[-1] = True
        yield EpisodeBuffer(
            observations=observations,
            actions=actions,
            rewards=rewards,
            terminations=ended if terminated else np.zeros_like(ended),
            truncations=np.zeros_like(ended) if terminated else ended,
            infos={},
        )
        if progress is not None:
            progress(len(actions))


@contextlib.contextmanager
def staged_folder(target: Path, root: Path | None = None) -> Iterator[Path]:
    """Yield a hidden folder beside `target` that takes its place when the block ends without an error.

    An older folder stays until then; on an error, Ctrl-C included, it stays for good and the new one is removed.
    What a killed process left behind is removed after an hour.
    """
    root = root or datasets_root()
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{target.name}.*.tmp"):
        if (leftover / "old").exists() and not target.exists():
            (leftover / "old").rename(target)  # killed in the instant between the two renames below
        if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    new, old = work / "new", work / "old"
    try:
        new.mkdir()
        yield new
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except BaseException:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):  # an empty namespace is dropped again, the first that is not ends it
            for parent in target.relative_to(root).parents:
                if parent != Path():
                    (root / parent).rmdir()


def register_namespaces(dataset_id: str, root: Path | None = None) -> None:
    """Give every namespace of `dataset_id` the small file by which Minari knows it."""
    folder = root or datasets_root()
    for part in dataset_id.split("/")[:-1]:
        folder = folder / part
        marker = folder / "namespace_metadata.json"
        if not marker.exists():
            marker.write_text("{}")


def list_minari() -> dict[str, dict[str, Any]]:
    """Return the metadata of every local Minari dataset, by id."""
    found: dict[str, dict[str, Any]] = require_minari().list_local_datasets()
    return found


def open_minari(dataset_id: str) -> Any:
    """Open a local Minari dataset; episodes are read when they are asked for.

    Raises:
        FileNotFoundError: when it is not on this machine.
        ValueError: for a malformed id, or a broken dataset.
        ImportError: without the extra `minari`.
    """
    check_dataset_id(dataset_id)
    minari = require_minari()
    if not (datasets_root() / dataset_id / "data").is_dir():
        hint = (
            unknown_name("dataset", dataset_id, list_minari()) if list_minari() else f"no dataset in {datasets_root()}"
        )
        raise FileNotFoundError(f"{hint}; make one with `dfplan data make`, or `dfplan data fetch {dataset_id}`")
    with damage_named(dataset_id):
        return minari.load_dataset(dataset_id)


@contextlib.contextmanager
def damage_named(dataset_id: str) -> Iterator[None]:
    """Turn what a damaged dataset raises while it is read into one error that names it."""
    try:
        yield
    except (OSError, KeyError) as error:
        raise ValueError(f"the dataset {dataset_id} is damaged ({error}); make or fetch it again") from error


def load_minari(dataset_id: str) -> Episodes:
    """Read a local Minari dataset as float columns: Box, Discrete and goal Dict observations, Box and Discrete actions.

    Of another Dict with a vector "observation" that part is taken. `meta` gains "spaces", how the columns were made,
    and "reference_scores" where the dataset has them.

    Raises:
        FileNotFoundError: when it is not on this machine.
        ValueError: for a malformed id, a broken dataset, or spaces that are not served.
        ImportError: without the extra `minari`.
    """
    dataset = open_minari(dataset_id)
    with damage_named(dataset_id):
        parts = [
            (episode.observations, episode.actions, episode.rewards, bool(np.any(episode.terminations[-1:])))
            for episode in dataset.iterate_episodes()
        ]
        metadata = dataset.storage.metadata
    if not parts:
        raise ValueError(f"the dataset {dataset_id} must hold at least one episode, got none")
    return _as_episodes(parts, dataset, metadata, _meta(dataset_id, metadata, dataset.env_spec))


def _as_episodes(parts: list[Any], dataset: Any, metadata: Mapping[str, Any], meta: dict[str, Any]) -> Episodes:
    observations, actions, rewards = (join([part[i] for part in parts]) for i in range(3))
    lengths = np.array([len(part[1]) for part in parts], dtype=np.int64)
    terminated = np.array([part[3] for part in parts], dtype=bool)
    if metadata.get(COLUMNS_KEY):
        return Episodes(observations, actions, rewards, lengths, meta, terminated)
    spaces = dataset.observation_space, dataset.action_space
    try:
        return Trajectories(observations, actions, rewards, lengths, terminated, *spaces).to_episodes(meta)
    except ValueError as error:
        raise ValueError(f"the dataset {meta['dataset_id']}: {error}") from error


def dataset_meta(dataset_id: str, dataset: Any) -> dict[str, Any]:
    """Return what is known of an open dataset."""
    return _meta(dataset_id, dataset.storage.metadata, dataset.env_spec)


def _meta(dataset_id: str, metadata: Mapping[str, Any], env_spec: EnvSpec | None) -> dict[str, Any]:
    meta: dict[str, Any] = dict(metadata.get("dfplan") or {})
    meta["dataset_id"] = dataset_id
    if env_spec is not None:
        meta.setdefault("env", env_spec.id)
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is not None and high is not None:
        meta.setdefault("reference_scores", {"min": float(low), "max": float(high)})
    return meta
