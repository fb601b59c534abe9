"""The forms in which a batch of rows comes and goes: a list of dicts, a dict of columns, a pandas DataFrame, a pyarrow Table.

Answers to columns are columns with types of their own, so that an Arrow table comes back for Arrow tables and for dicts of columns, which
hold no nested values and no missing ones without a loss; Ray Data takes either.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError
from ..jobs.jsonl import dumps, exact
from .shapes import Shape, arrow_type, fit

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class Rows(ABC):
    """A batch of rows in one of the forms.

    Attributes:
        names: of its columns.
        fields: what each row holds, as plain Python values.
    """

    names: list[str]
    fields: list[dict[str, Any]]

    def written(self, row: dict[str, Any], shape: Shape) -> Any:
        """An answer's row in the form in which `joined` wants it."""
        return fit({name: value for name, value in row.items() if name in shape}, shape)

    @abstractmethod
    def joined(self, names: Sequence[str], answers: Sequence[Any], shape: Shape) -> Any:
        """The same form again: some columns of the batch as they are, and those of the answers (`written`)."""


def rows_of(batch: Any) -> Rows:
    """Raises ConfigError for what is no batch of rows."""
    if isinstance(batch, Mapping):
        return _Columns(batch)
    kind = type(batch).__module__.partition(".")[0], type(batch).__name__
    if kind == ("pyarrow", "Table"):
        return _Table(batch)
    if kind == ("pandas", "DataFrame"):
        return _Frame(batch)
    if isinstance(batch, Sequence) and all(isinstance(row, Mapping) for row in batch):
        return _Dicts(batch)
    raise ConfigError(
        f"a batch must be a dict of columns, a pandas DataFrame, a pyarrow Table or a list of dicts, not {type(batch).__name__}"
    )


class _Dicts(Rows):
    """Rows as JSONL has them, `extra` included."""

    def __init__(self, batch: Sequence[Mapping[str, Any]]) -> None:
        self.fields = [dict(row) for row in batch]
        self.names = list(dict.fromkeys(name for fields in self.fields for name in fields))

    def written(self, row: dict[str, Any], shape: Shape) -> Any:
        return exact(dumps(row))

    def joined(self, names: Sequence[str], answers: Sequence[Any], shape: Shape) -> list[dict[str, Any]]:
        return list(answers)


class _Table(Rows):
    def __init__(self, batch: pa.Table) -> None:
        self._table = batch
        self.names, self.fields = batch.column_names, batch.to_pylist()

    def joined(self, names: Sequence[str], answers: Sequence[Any], shape: Shape) -> pa.Table:
        return _joined(self._table, names, answers, shape)


class _Frame(Rows):
    def __init__(self, batch: pd.DataFrame) -> None:
        self._frame = batch
        self.names = [str(name) for name in batch.columns]
        self.fields = _zipped({str(name): _values(batch[name].to_numpy()) for name in batch.columns}, len(batch))

    def joined(self, names: Sequence[str], answers: Sequence[Any], shape: Shape) -> pd.DataFrame:
        """Columns of answers have Arrow's types: pandas has none of its own for nested values."""
        import pandas as pd

        made = answers_of(answers, shape).to_pandas(types_mapper=pd.ArrowDtype)
        made.index = self._frame.index
        kept = self._frame[list(names)].rename(columns=_renamed(names, shape))
        return pd.concat([kept, made], axis=1)


class _Columns(Rows):
    def __init__(self, batch: Mapping[str, Any]) -> None:
        sizes = {len(values) for values in batch.values()}
        if len(sizes) > 1:
            raise ConfigError(f"the columns of a batch must be of one length, not {', '.join(map(str, sorted(sizes)))}")
        self._batch = batch
        self.names = list(batch)
        self._columns = {name: _values(values) for name, values in batch.items()}
        self.fields = _zipped(self._columns, sizes.pop() if sizes else 0)

    def joined(self, names: Sequence[str], answers: Sequence[Any], shape: Shape) -> pa.Table:
        pa = _arrow()
        return _joined(pa.table({name: pa.array(self._kept(name)) for name in names}), names, answers, shape)

    def _kept(self, name: str) -> Any:
        """A column as it came, where Arrow has its type."""
        column = self._batch[name]
        return column if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind != "O" else self._columns[name]


def answers_of(answers: Sequence[Any], shape: Shape) -> pa.Table:
    """The columns of answers."""
    pa = _arrow()
    kinds = {name: arrow_type(one) for name, one in shape.items()}
    return pa.table({name: pa.array([row[name] for row in answers], kind) for name, kind in kinds.items()})


def _joined(table: pa.Table, names: Sequence[str], answers: Sequence[Any], shape: Shape) -> pa.Table:
    made, renamed = answers_of(answers, shape), _renamed(names, shape)
    kept = {renamed.get(name, name): table[name] for name in names}
    return _arrow().table({**kept, **{name: made[name] for name in made.column_names}})


def _renamed(names: Sequence[str], shape: Shape) -> dict[str, str]:
    """Columns of the batch whose names the answer has: `extra_` goes before them, as in tables."""
    taken = {*names, *shape}
    found: dict[str, str] = {}
    for name in names:
        if name in shape:
            free = f"extra_{name}"
            while free in taken:
                free = f"extra_{free}"
            taken.add(free)
            found[name] = free
    return found


def _zipped(columns: Mapping[str, Sequence[Any]], size: int) -> list[dict[str, Any]]:
    return [{name: values[i] for name, values in columns.items()} for i in range(size)]


def _values(column: Any) -> list[Any]:
    """The values of a column. NaN is how numpy and pandas say that there is none; in a column of integers they then hold floats."""
    if not isinstance(column, np.ndarray):
        return [_plain(value) for value in column]
    if column.dtype.kind == "f" and column.ndim == 1:
        missing = np.isnan(column)
        known = column[~missing]
        if missing.any() and known.size and bool((known == np.trunc(known)).all()) and bool((np.abs(known) < 2**53).all()):
            return [None if math.isnan(value) else int(value) for value in column.tolist()]
    return [_plain(value) for value in column]


def _plain(value: Any) -> Any:
    """Python's own value of numpy's and pandas' ones, also inside of lists and dicts. What JSON has no type for stays as it is."""
    if isinstance(value, np.ndarray):
        return [_plain(one) for one in value]
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else value.astype("datetime64[us]").item()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if type(value).__name__ in ("NAType", "NaTType") else value


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise ConfigError("columns of answers are made with pyarrow: pip install 'infer-jsonl[parquet]', or give a list of dicts") from None
    return pyarrow
