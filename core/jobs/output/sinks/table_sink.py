"""Lines of JSON that become one table at the end: CSV, TSV or Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ....errors import ConfigError
from ...input.lines import CHUNK_BYTES
from ...input.source import Source
from .sink import LineSink

#: How rows are kept in OUT.partial, and beside a finished OUT.
KEPT = "zstd"


class TableSink(LineSink):
    """See `Sink`. `compression` is that of OUT.

    Args:
        name: csv, tsv or parquet.

    Raises ConfigError for a compressed Parquet file, and where pyarrow is missing.
    """

    def __init__(self, name: str, compression: str) -> None:
        if name == "parquet":
            from .parquet import require_pyarrow

            require_pyarrow()
            if compression != "none":
                raise ConfigError(f"parquet is not compressed with {compression}: its columns are compressed already; choose another name")
        super().__init__(KEPT)
        self.name = name
        self.compression = compression

    def make(self, source: Callable[[], Source], write: Callable[[bytes], None], *, command: str) -> None:
        """Writes OUT from rows, a piece at a time: they are read once for the columns, and once for the cells.

        Args:
            source: the rows from the first one on, each time it is called.
        """
        from ..tables.columns import columns_of, rows_of
        from ..tables.csv_file import write_csv
        from ..tables.parquet_file import write_parquet

        columns = columns_of(rows_of(_lines(source())), command)
        if self.name == "parquet":
            write_parquet(columns, _lines(source()), write)
        else:
            write_csv(columns, _lines(source()), write, delimiter="\t" if self.name == "tsv" else ",", compression=self.compression)


def _lines(source: Source) -> Iterator[bytes]:
    rest: list[bytes] = []  # the pieces of a row that has not ended yet
    while data := source.read(CHUNK_BYTES):
        *ended, piece = data.split(b"\n")
        for row in ended:
            yield b"".join([*rest, row]) if rest else row
            rest.clear()
        if piece:
            rest.append(piece)
    assert not rest, "a row is torn"
