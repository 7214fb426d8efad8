"""A split on disk: `<split>.h5` (architectures and graphs) and `<split>.parquet` (metadata).

The HDF5 file has a few long, chunked, compressed arrays:

    architecture    (G, K) uint8    11 + 4S bytes per architecture, see `table` n_nodes         (G,)
    uint16 n_edges         (G,)   uint16 primitive       (N,)   uint8    of all graphs' nodes, one
    graph after another in_degree       (N,)   uint8 back            (E,)   uint16   target minus
    source of each edge, sorted by target checksum        (G,)   uint32   CRC-32 per graph, so that
    damage has an address cell, name      (N,)            imported splits only: where the published
    file says a node belongs

Distances are not stored (`Graph.distance` rebuilds them), nor are names and shapes, which depend on
the width. Opening a split reads the architectures (27 bytes each in train) and nothing else, and
leaves no file open. The graph of a generated architecture is rebuilt from these bytes, which is
faster than reading it; the stored arrays serve other programs, the `validate` stage, which proves
that they say the same, and imported splits, whose graphs are as published.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from datasets.deepnets.graphs.packing import GraphPack, offsets, unpack_edges
from datasets.deepnets.space.architecture import Architecture
from datasets.deepnets.space.scaling import Scaling
from datasets.deepnets.space.table import ArchitectureTable, decode_row
from datasets.deepnets.store.metadata import SCHEMA, metadata
from ghn.errors import ConfigError, DamagedFileError, GHNError, UnsupportedFormatError
from ghn.files import atomic_path, sha256

if TYPE_CHECKING:
    from ghn.graph import Graph

FORMAT_VERSION = 1

_CHUNK = 1 << 16
_ROW_GROUP = 1 << 16
_HEADER = "deepnets"


class Header(BaseModel):
    """What both files of a split say about it.

    Attributes:
        format: always "deepnets".
        version: of the format.
        split: name.
        origin: "generated" or "imported".
        seed: of the pipeline.
        rules: of the split (`rules.SplitRules`), as JSON.
        shard_size: architectures per shard.
        n_graphs: number of architectures.
        rejected: drawn architectures that were not taken, by reason.
        redrawn: canonical hashes of architectures that were drawn again because they belong to a
            disjoint split.
        width_factor: the split is evaluated at C times this, on 32-pixel images.
        width_factor_large: the same on larger images.
        fixes: imported splits only: graphs that were repaired, by flaw.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["deepnets"] = "deepnets"
    version: int = FORMAT_VERSION
    split: str
    origin: Literal["generated", "imported"]
    seed: int = 0
    rules: dict[str, Any] = {}
    shard_size: int = 0
    n_graphs: int = 0
    rejected: dict[str, int] = {}
    redrawn: tuple[str, ...] = ()
    width_factor: int = 1
    width_factor_large: int = 1
    fixes: dict[str, int] = {}


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive architectures on their way into the files; see `shard.Shard` for the arrays."""

    code: NDArray[np.uint8]
    graphs: GraphPack
    hashes: NDArray[np.uint64]
    n_params: NDArray[np.int64]
    checksums: NDArray[np.uint32]
    cell: NDArray[np.uint8] | None = None
    name: NDArray[np.uint16] | None = None


def paths_of(directory: Path, split: str) -> tuple[Path, Path]:
    """The two files of a split."""
    return directory / f"{split}.h5", directory / f"{split}.parquet"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a failure to write (a full disk) into an error that names the file.

    Raises:
        GHNError: instead of an `OSError`.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # h5py reports some failed writes as RuntimeError
        raise GHNError(
            f"{path}: could not be written ({error}); what was there before is untouched"
        ) from error


def write_split(
    directory: Path, header: Header, blocks: Iterable[Block], param_names: tuple[str, ...] = ()
) -> tuple[Path, Path]:
    """Writes both files of a split; each is whole or untouched.

    Args:
        directory: where to.
        header: what the files say about themselves.
        blocks: the architectures, in order.
        param_names: what `Block.name` counts.

    Raises:
        GHNError: the disk is full or not writable.
    """
    h5_path, parquet_path = paths_of(directory, header.split)
    text = header.model_dump_json()
    with (
        writing(h5_path),
        atomic_path(h5_path) as h5_temporary,
        atomic_path(parquet_path) as parquet_temporary,
    ):
        digest = hashlib.sha256()
        with (
            h5py.File(h5_temporary, "w", libver="v110") as file,
            pq.ParquetWriter(
                parquet_temporary, SCHEMA, compression="zstd", compression_level=9,
                write_page_checksum=True,
                use_dictionary=[f.name for f in SCHEMA if f.name != "hash"],
            ) as writer,
        ):  # fmt: skip
            writer_rows: list[pa.Table] = []
            first = written = 0
            for block in blocks:
                _append(file, block)
                digest.update(block.checksums.astype("<u4").tobytes())
                writer_rows.append(
                    metadata(block.code, block.graphs, block.hashes, block.n_params, first)
                )
                first += len(block.code)
                if (whole := first // _ROW_GROUP * _ROW_GROUP - written) > 0:
                    rows = pa.concat_tables(writer_rows)
                    writer.write_table(rows.slice(0, whole), row_group_size=_ROW_GROUP)
                    writer_rows, written = [rows.slice(whole)], written + whole
            writer.write_table(pa.concat_tables(writer_rows), row_group_size=_ROW_GROUP)
            file.attrs[_HEADER] = text
            file.attrs["content"] = digest.hexdigest()
            if param_names:
                file.attrs["param_names"] = json.dumps(param_names)
            file.flush()
            file.close()
            writer.add_key_value_metadata(
                {_HEADER: text, "content": digest.hexdigest(), "h5_sha256": sha256(h5_temporary)}
            )
    return h5_path, parquet_path


def _append(file: h5py.File, block: Block) -> None:
    arrays: dict[str, NDArray[np.generic]] = {
        "architecture": block.code,
        "checksum": block.checksums,
    }
    arrays |= {name: getattr(block.graphs, name) for name in GraphPack.names()}
    if block.cell is not None and block.name is not None:
        arrays |= {"cell": block.cell, "name": block.name}
    for name, array in arrays.items():
        if name not in file:
            chunk = (_CHUNK // array.shape[1], array.shape[1]) if array.ndim == 2 else (_CHUNK,)
            file.create_dataset(
                name, shape=(0, *array.shape[1:]), maxshape=(None, *array.shape[1:]),
                dtype=array.dtype,
                chunks=chunk, compression="gzip", compression_opts=6, shuffle=True, fletcher32=True,
            )  # fmt: skip
        dataset = file[name]
        n = len(dataset)
        dataset.resize(n + len(array), axis=0)
        dataset[n:] = array


def open_split(directory: str | Path, split: str) -> Split:
    """Opens a split.

    Raises:
        ConfigError: the split is not there.
        DamagedFileError: a file is truncated or damaged, or the two disagree.
        UnsupportedFormatError: a file is something else, or of a newer version.
    """
    h5_path, parquet_path = paths_of(Path(directory), split)
    for path in (h5_path, parquet_path):
        if not path.exists():
            raise ConfigError(
                f"{path} does not exist; generate the split with `ghn generate --split {split}`"
            )
    return Split(h5_path, parquet_path)


class Split:
    """The architectures of a split, by index; it can be pickled and forked and holds no open
    file.
    """

    def __init__(self, h5_path: Path, parquet_path: Path) -> None:
        self.h5_path, self.parquet_path = h5_path, parquet_path
        with _reading(h5_path), h5py.File(h5_path, "r") as file:
            attributes = file.attrs
            if _HEADER not in attributes:
                raise UnsupportedFormatError(
                    f"{h5_path}: not a split of DeepNets-1M in our format (no header)"
                )
            text, content = str(attributes[_HEADER]), str(attributes.get("content"))
            self.header = _parse_header(h5_path, text)
            self.param_names: tuple[str, ...] = tuple(
                json.loads(attributes.get("param_names", "[]"))
            )
            self._code: NDArray[np.uint8] = file["architecture"][:]
        with _reading(parquet_path), pq.ParquetFile(parquet_path) as parquet:
            notes = {**(parquet.metadata.metadata or {}), **(parquet.schema_arrow.metadata or {})}
            rows = parquet.metadata.num_rows
        if notes.get(_HEADER.encode()) is None:
            raise UnsupportedFormatError(
                f"{parquet_path}: not the metadata of a split of DeepNets-1M (no header)"
            )
        _parse_header(parquet_path, notes[_HEADER.encode()].decode())
        same = notes[_HEADER.encode()].decode() == text and notes[b"content"].decode() == content
        if not same or not rows == len(self._code) == self.header.n_graphs:
            raise DamagedFileError(
                f"{h5_path} ({len(self._code)} architectures) and {parquet_path} ({rows}) do not"
                " belong together; generate the split again"
            )
        self.content = content
        self.h5_sha256: str = notes[b"h5_sha256"].decode()

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
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has architectures 0..{len(self) - 1}, not {index}")
        return index

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
            DamagedFileError: a page fails its checksum.
        """
        with (
            _reading(self.parquet_path),
            pq.ParquetFile(self.parquet_path, page_checksum_verification=True) as file,
        ):
            return file.read(columns=columns)

    def metadata_rows(self, begin: int, end: int, columns: list[str] | None = None) -> pa.Table:
        """Some rows of the Parquet table; only the row groups that hold them are read.

        Raises:
            DamagedFileError: a page fails its checksum.
        """
        with (
            _reading(self.parquet_path),
            pq.ParquetFile(self.parquet_path, page_checksum_verification=True) as file,
        ):
            groups = range(begin // _ROW_GROUP, -(-end // _ROW_GROUP))
            rows = file.read_row_groups(list(groups), columns=columns)
            return rows.slice(begin - groups.start * _ROW_GROUP, end - begin)

    def graph(
        self,
        index: int,
        channels: int = 32,
        fc_dim: int | None = None,
        num_classes: int = 10,
        image_size: int = 32,
        imagenet_stride: int = 4,
    ) -> Graph:
        """The graph of an architecture at the given sizes (see `builder.build_graph`).

        An imported split keeps the published nodes and edges; names and shapes are those of our
        network.
        """
        return self.scaled_graph(
            index, Scaling(channels, fc_dim, num_classes, image_size, imagenet_stride)
        )

    def scaled_graph(self, index: int, scaling: Scaling) -> Graph:
        """`graph` with its sizes in one object."""
        return self.scaled_graphs([index], [self[index]], [scaling])[0]

    def scaled_graphs(
        self,
        indices: Sequence[int],
        architectures: Sequence[Architecture],
        scalings: Sequence[Scaling],
    ) -> list[Graph]:
        """The graphs of some architectures at once, which is faster than one by one.

        Args:
            indices: which.
            architectures: `self[i]` for each of them.
            scalings: their sizes.
        """
        from datasets.deepnets.graphs.builder import (
            scaled_graphs,
        )  # brings PyTorch along, which opening does without

        graphs = scaled_graphs(
            architectures, scalings, [self.identifier(index) for index in indices]
        )
        if self.header.origin == "generated":
            return graphs
        from datasets.deepnets.published.published import published_graph

        return [
            published_graph(self, index, graph)
            for index, graph in zip(indices, graphs, strict=True)
        ]

    def stored(self, begin: int, end: int) -> Block:
        """What the HDF5 file holds of architectures begin..end, apart from hashes and parameter
        counts.

        Raises:
            DamagedFileError: it cannot be read.
        """
        node, edge = self._offsets
        with _reading(self.h5_path), h5py.File(self.h5_path, "r") as file:
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
        block = self.stored(self._checked(index), index + 1)
        if block.graphs.checksums(block.code)[0] != block.checksums[0]:
            raise DamagedFileError(
                f"{self.h5_path}: graph {index} is damaged (wrong checksum); generate it again"
            )
        return (
            block.graphs.primitive,
            unpack_edges(block.graphs.in_degree, block.graphs.back),
            block,
        )

    @cached_property
    def _offsets(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return offsets(self.n_nodes), offsets(self._array("n_edges"))

    def _array(self, name: str) -> NDArray[Any]:
        with _reading(self.h5_path), h5py.File(self.h5_path, "r") as file:
            array: NDArray[Any] = file[name][:]
        return array


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except GHNError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, pa.ArrowException) as error:
        detail = " ".join(str(error).split())
        raise DamagedFileError(
            f"{path}: damaged, truncated or not of our format ({detail})"
        ) from error


def _parse_header(path: Path, text: str) -> Header:
    try:
        fields = json.loads(text)
        version = int(fields["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{path}: its header cannot be read ({error})") from error
    if version > FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"{path}: format version {version}; this program reads up to {FORMAT_VERSION}: install"
            " a newer one"
        )
    try:
        return Header.model_validate(fields)
    except ValidationError as error:
        raise DamagedFileError(
            f"{path}: its header is malformed ({error.error_count()} fields)"
        ) from error
