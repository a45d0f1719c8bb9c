"""One loader for every source of episodes."""

from __future__ import annotations

from pathlib import Path

from dfplan.data.episodes import Episodes
from dfplan.data.npz import load_npz
from dfplan.data.ogbench import is_ogbench, load_ogbench

HDF5_SUFFIXES = (".hdf5", ".h5")


def load_episodes(source: str | Path) -> Episodes:
    """Load episodes from a file, a local Minari dataset, or the folder of a LeRobot dataset.

    Args:
        source: a .npz file of `save_npz` or of OGBench, a D4RL .hdf5 or .h5 file, or a Minari dataset id such as
            "maze2d/large-noisy-v0", or the folder of a LeRobot dataset (its state and actions). Files need nothing
            beyond the core installation.

    Raises:
        FileNotFoundError: when there is no such file or dataset.
        ValueError: when the file breaks its format; names the file, the key, what was found and what is needed.
        ImportError: for a Minari id without the extra: pip install 'dfplan[minari]'; a folder needs 'dfplan[lerobot]'.
    """
    path = Path(source)
    if path.suffix == ".npz":
        return load_ogbench(path) if is_ogbench(path) else load_npz(path)
    if path.suffix in HDF5_SUFFIXES:
        from dfplan.data.d4rl import load_d4rl

        return load_d4rl(path)
    if (path / "meta" / "info.json").is_file():
        from dfplan.data.lerobot import read_lerobot

        return read_lerobot(path, videos=False).to_episodes()
    if path.is_file():
        raise ValueError(
            f"{path} must end in .npz, {' or '.join(HDF5_SUFFIXES)}; rename it, or pass a Minari dataset id"
        )
    from dfplan.data.minari_io import load_minari

    return load_minari(str(source))
