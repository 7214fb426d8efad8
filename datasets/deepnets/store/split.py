"""A split on disk: `<split>.h5` (architectures and graphs), `<split>.parquet` (metadata) and
`<split>.digest.json`, which vouches for the latter (`digest`).

The HDF5 file has a few long, chunked, compressed arrays:

    architecture    (G, K) uint8    11 + 4S bytes per architecture, see `table`
    n_nodes         (G,) uint16
    n_edges         (G,) uint16
    primitive       (N,) uint8      of all graphs' nodes, one graph after another
    in_degree       (N,) uint8
    back            (E,) uint16     target minus source of each edge, sorted by target
    checksum        (G,) uint32     CRC-32 per graph, so that damage has an address
    cell, name      (N,)            imported splits: where the published file says a node belongs

Distances are not stored (`Graph.distance` rebuilds them), nor are names and shapes, which depend on
the width. Opening a split reads the architectures (27 bytes each in train) and nothing else, and
leaves no file open. The graph of a generated architecture is rebuilt from these bytes, which is
faster than reading it; the stored arrays serve other programs, the `validate` stage, which proves
that they say the same, and imported splits, whose graphs are as published.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from datasets.deepnets.space.architecture import Architecture
from datasets.deepnets.space.table import ArchitectureTable, decode_row
from datasets.deepnets.store.digest import verify
from datasets.deepnets.store.files import reading
from datasets.deepnets.store.header import HEADER_KEY, parse_header
from datasets.deepnets.store.metadata import ROW_GROUP
from datasets.deepnets.store.pack import GraphPack, offsets, unpack_edges
from datasets.deepnets.store.writer import Block
from ghn.errors import DamagedFileError, UnsupportedFormatError


class StoredSplit:
    """The architectures of a split, by index; it can be pickled and forked and holds no open
    file.
    """

    def __init__(self, h5_path: Path, parquet_path: Path) -> None:
        self.h5_path, self.parquet_path = h5_path, parquet_path
        with reading(h5_path), h5py.File(h5_path, "r") as file:
            attributes = file.attrs
            if HEADER_KEY not in attributes:
                raise UnsupportedFormatError(
                    f"{h5_path}: not a split of DeepNets-1M in our format (no header)"
                )
            text, content = str(attributes[HEADER_KEY]), str(attributes.get("content"))
            self.header = parse_header(h5_path, text)
            self.param_names: tuple[str, ...] = tuple(
                json.loads(attributes.get("param_names", "[]"))
            )
            self._code: NDArray[np.uint8] = file["architecture"][:]
        self.content = content
        verify(parquet_path, content)
        with reading(parquet_path), pq.ParquetFile(parquet_path) as parquet:
            raw = {**(parquet.metadata.metadata or {}), **(parquet.schema_arrow.metadata or {})}
            notes = {key.decode(): value.decode() for key, value in raw.items()}
            rows = parquet.metadata.num_rows
            if HEADER_KEY not in notes:
                raise UnsupportedFormatError(
                    f"{parquet_path}: not the metadata of a split of DeepNets-1M (no header)"
                )
            self.h5_sha256 = notes["h5_sha256"]
            same = notes[HEADER_KEY] == text and notes["content"] == content
        parse_header(parquet_path, notes[HEADER_KEY])
        if not same or not rows == len(self._code) == self.header.n_graphs:
            raise DamagedFileError(
                f"{h5_path} ({len(self._code)} architectures) and {parquet_path} ({rows}) do not"
                " belong together; generate the split again"
            )

    @property
    def name(self) -> str:
        """Name of the split."""
        return self.header.split

    def __len__(self) -> int:
        return len(self._code)

    def __getitem__(self, index: int) -> Architecture:
        return decode_row(self._code[self._checked(index)].tobytes())

    def __iter__(self) -> Iterator[Architecture]:
        return (self[i] for i in range(len(self)))

    def _checked(self, index: int) -> int:
        """The index, counted from the end if it is negative."""
        try:
            return range(len(self))[operator.index(index)]
        except IndexError:
            raise IndexError(
                f"{self.name} has architectures 0..{len(self) - 1}, not {index}"
            ) from None

    def identifier(self, index: int) -> str:
        """The architecture's id, as in `deepnets1m/test/3`."""
        return f"deepnets1m/{self.name}/{self._checked(index)}"

    @property
    def code(self) -> NDArray[np.uint8]:
        """(G, K) uint8, the architectures as bytes."""
        return self._code

    def table(self) -> ArchitectureTable:
        """All architectures as columns."""
        return ArchitectureTable.decode(self._code)

    @cached_property
    def n_nodes(self) -> NDArray[np.uint16]:
        """(G,) numbers of nodes."""
        return self._array("n_nodes")

    @cached_property
    def n_params(self) -> NDArray[np.int64]:
        """(G, 2) parameters of the whole modules at C = 32, 10 classes and 32-pixel and 224-pixel
        input.
        """
        columns = self.metadata(["n_params_cifar10", "n_params_imagenet"])
        return np.stack([column.to_numpy().astype(np.int64) for column in columns.columns], axis=1)

    def metadata(self, columns: list[str] | None = None) -> pa.Table:
        """The Parquet table, or some of its columns.

        Raises:
            DamagedFileError: the file is damaged.
        """
        with self._parquet() as file:
            return file.read(columns=columns)

    def metadata_rows(self, begin: int, end: int) -> pa.Table:
        """Some rows of the Parquet table; only the row groups that hold them are read.

        Raises:
            DamagedFileError: the file is damaged.
        """
        with self._parquet() as file:
            groups = range(begin // ROW_GROUP, -(-end // ROW_GROUP))
            rows = file.read_row_groups(list(groups))
            return rows.slice(begin - groups.start * ROW_GROUP, end - begin)

    def stored(self, begin: int, end: int) -> Block:
        """What the HDF5 file holds of architectures begin..end, apart from hashes and parameter
        counts.

        Raises:
            DamagedFileError: it cannot be read.
        """
        node, edge = self._offsets
        with reading(self.h5_path), h5py.File(self.h5_path, "r") as file:
            nodes, edges = slice(node[begin], node[end]), slice(edge[begin], edge[end])
            graphs = GraphPack(
                file["n_nodes"][begin:end], file["n_edges"][begin:end],
                file["primitive"][nodes], file["in_degree"][nodes], file["back"][edges],
            )  # fmt: skip
            extra = {name: file[name][nodes] for name in ("cell", "name") if name in file}
            checksums = file["checksum"][begin:end]
        empty = np.zeros((end - begin, 2))
        return Block(
            code=self._code[begin:end], graphs=graphs, hashes=empty.astype(np.uint64),
            n_params=empty.astype(np.int64), checksums=checksums, **extra,
        )  # fmt: skip

    def stored_edges(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int32], Block]:
        """Primitives (N,), edges (E, 2) and everything else the HDF5 file holds of one graph.

        Raises:
            DamagedFileError: the graph does not have its checksum.
        """
        index = self._checked(index)
        block = self.stored(index, index + 1)
        if block.graphs.checksums(block.code)[0] != block.checksums[0]:
            raise DamagedFileError(
                f"{self.h5_path}: graph {index} is damaged (wrong checksum); generate it again"
            )
        return (
            block.graphs.primitive,
            unpack_edges(block.graphs.in_degree, block.graphs.back),
            block,
        )

    @contextmanager
    def _parquet(self) -> Iterator[pq.ParquetFile]:
        """The Parquet file, verified since it last changed."""
        verify(self.parquet_path, self.content)
        with (
            reading(self.parquet_path),
            pq.ParquetFile(self.parquet_path, page_checksum_verification=True) as file,
        ):
            yield file

    @cached_property
    def _offsets(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return offsets(self.n_nodes), offsets(self._array("n_edges"))

    def _array(self, name: str) -> NDArray[Any]:
        with reading(self.h5_path), h5py.File(self.h5_path, "r") as file:
            array: NDArray[Any] = file[name][:]
        return array
