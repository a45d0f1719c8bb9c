"""One loader for every source of episodes."""

from __future__ import annotations

from pathlib import Path

from dfplan.data.episodes import Episodes
from dfplan.data.npz import load_npz
from dfplan.data.ogbench import is_ogbench, load_ogbench

HDF5_SUFFIXES = (".hdf5", ".h5")


def load_episodes(source: str | Path) -> Episodes:
    """Load episodes from a file or from a local Minari dataset.

    Args:
        source: a .npz file of `save_npz` or of OGBench, a D4RL .hdf5 or .h5 file, or a Minari dataset id such as
            "maze2d/large-noisy-v0". Files need nothing beyond the core installation.

    Raises:
        FileNotFoundError: when there is no such file or dataset.
        ValueError: when the file breaks its format; names the file, the key, what was found and what is needed.
        ImportError: for a Minari id without the extra: pip install 'dfplan[minari]'.
    """
    path = Path(source)
    if path.suffix == ".npz":
        return load_ogbench(path) if is_ogbench(path) else load_npz(path)
    if path.suffix in HDF5_SUFFIXES:
        from dfplan.data.d4rl import load_d4rl

        return load_d4rl(path)
    if path.is_file():
        raise ValueError(
            f"{path} must end in .npz, {' or '.join(HDF5_SUFFIXES)}; rename it, or pass a Minari dataset id"
        )
    from dfplan.data.minari_io import load_minari

    return load_minari(str(source))
