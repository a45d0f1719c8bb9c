"""Compress an HDF5 file in place of a raw one: readers notice nothing, HDF5 unpacks what it packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py

from dfplan.data.files import atomic_path

GZIP_LEVEL = 4
CHUNK_BYTES = 1 << 20
SMALL = 1024  # bytes under which a dataset is left as it is


def compress_hdf5(path: str | Path) -> Path:
    """Rewrite every dataset of an HDF5 file with lossless compression: gzip, bytes sorted by their place in a number.

    The file is replaced at the end, whole or not at all. Datasets of variable length (JPEG images among them), of text,
    and small ones are copied as they are.

    Args:
        path: of the file.

    Returns:
        The path.
    """
    source = Path(path)
    with (
        atomic_path(source) as temporary,
        h5py.File(source, "r") as old,
        h5py.File(temporary, "w", track_order=True) as new,
    ):
        _copy_group(old, new)
    return source


def _copy_group(old: Any, new: Any) -> None:
    for key, value in old.attrs.items():
        new.attrs[key] = value
    for key, item in old.items():
        if isinstance(item, h5py.Group):
            _copy_group(item, new.create_group(key, track_order=True))
        elif item.dtype.kind in "fiub" and item.nbytes >= SMALL:
            _copy_dataset(item, new, key)
        else:
            old.copy(item, new, name=key)


def _copy_dataset(item: Any, new: Any, key: str) -> None:
    rows = max(1, min(len(item), CHUNK_BYTES * len(item) // item.nbytes))
    made = new.create_dataset(
        key, data=item[()], maxshape=item.maxshape, chunks=(rows, *item.shape[1:]), compression="gzip",
        compression_opts=GZIP_LEVEL, shuffle=item.dtype.itemsize > 1,
    )  # fmt: skip
    for name, value in item.attrs.items():
        made.attrs[name] = value
