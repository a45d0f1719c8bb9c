"""Parquet files to and from NumPy arrays. The one place that imports pyarrow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dfplan.errors import missing_extra

Array = NDArray[Any]


def require_pyarrow() -> Any:
    """Import pyarrow with its Parquet part.

    Raises:
        ImportError: with the command that installs it.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "lerobot", "a LeRobot data set") from error
    return pyarrow


class TableWriter:
    """Write columns to a Parquet file, one row group per call.

    Args:
        path: of the file; missing parent folders are made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._writer = path, cast(Any, None)

    def add(self, columns: Mapping[str, Array]) -> None:
        """Append rows: columns (N,), or (N, D) with D > 1, which become lists of fixed length."""
        pyarrow = require_pyarrow()
        table = pyarrow.table({key: _to_arrow(pyarrow, values) for key, values in columns.items()})
        if self._writer is None:
            self._writer = pyarrow.parquet.ParquetWriter(str(self.path), table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of plain Python values."""
    pyarrow = require_pyarrow()
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), str(path))


def write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """Write the table of tasks: readers take the text as the index of a pandas table, so the file says that it is."""
    pyarrow = require_pyarrow()
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({"task_index": pyarrow.array(range(len(tasks)), pyarrow.int64()), "task": list(tasks)})
    about = {
        "index_columns": ["task"],
        "column_indexes": [_pandas_column(None, "unicode", "object", {"encoding": "UTF-8"})],
        "columns": [_pandas_column("task_index", "int64", "int64"), _pandas_column("task", "unicode", "object")],
        "creator": {"library": "pyarrow", "version": pyarrow.__version__},
        "pandas_version": "2.0.0",
    }
    pyarrow.parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(about)}), str(path))


def read_rows(path: Path, skip: str = "stats/") -> list[dict[str, Any]]:
    """Read a small table as rows of plain values, without the columns whose name begins with `skip`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is damaged.
    """
    columns = [name for name in column_names(path) if not name.startswith(skip)]
    rows: list[dict[str, Any]] = _read(path, columns).to_pylist()
    return rows


def column_names(path: Path) -> list[str]:
    """Return the names of a file's columns.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is damaged.
    """
    pyarrow = require_pyarrow()
    _check_file(path)
    try:
        return list(pyarrow.parquet.read_schema(str(path)).names)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def read_columns(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """Read columns of numbers: (N,), or (N, D) for lists of one length.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is damaged, lacks a column, or rows of one differ in length.
    """
    if lost := sorted(set(names) - set(column_names(path))):
        raise ValueError(f"{path} lacks the column {lost[0]!r}, which meta/info.json names; copy the data set again")
    table = _read(path, names)
    return {name: _to_numpy(path, name, table[name]) for name in names}


def _read(path: Path, columns: Sequence[str]) -> Any:
    pyarrow = require_pyarrow()
    try:
        return pyarrow.parquet.read_table(str(path), columns=list(columns), partitioning=None)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; copy the data set again, or export it again")


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged ({error}); copy the data set again, or export it again")


def _to_arrow(pyarrow: Any, values: Array) -> Any:
    if values.ndim == 1:
        return pyarrow.array(values)
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def _to_numpy(path: Path, name: str, column: Any) -> Array:
    pyarrow = require_pyarrow()
    array = column.combine_chunks()
    if isinstance(array, pyarrow.ChunkedArray):
        array = pyarrow.concat_arrays(array.chunks) if array.num_chunks else pyarrow.array([], array.type)
    if array.null_count:
        raise ValueError(f"{path}: column {name!r} must have a value in every row, got {array.null_count} empty ones")
    rows, width = len(array), 0
    if pyarrow.types.is_list(array.type) or pyarrow.types.is_large_list(array.type):
        lengths = np.unique(pyarrow.compute.list_value_length(array).to_numpy())
        if lengths.size > 1:
            raise ValueError(f"{path}: rows of column {name!r} must have one length, got {lengths.tolist()}")
    while pyarrow.types.is_nested(array.type):
        width, array = 1, array.flatten()
    flat: Array = array.to_numpy(zero_copy_only=False)
    return flat.reshape(rows, -1) if width else flat


def _pandas_column(name: str | None, kind: str, numpy_kind: str, metadata: Any = None) -> dict[str, Any]:
    return {
        "name": name,
        "field_name": name,
        "pandas_type": kind,
        "numpy_type": numpy_kind,
        "metadata": metadata,
    }
