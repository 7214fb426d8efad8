"""Writes the two files of a split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from datasets.deepnets.store.digest import Digest
from datasets.deepnets.store.files import digest_path, paths_of, writing
from datasets.deepnets.store.header import HEADER_KEY, Header
from datasets.deepnets.store.metadata import ROW_GROUP, SCHEMA, metadata
from datasets.deepnets.store.pack import GraphPack
from ghn.files import atomic_path, sha256

_CHUNK = 1 << 16


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


def write_split(
    directory: Path, header: Header, blocks: Iterable[Block], param_names: tuple[str, ...] = ()
) -> tuple[Path, Path]:
    """Writes the files of a split; each is whole or untouched.

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
        atomic_path(digest_path(directory, header.split)) as digest_temporary,
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
                if (whole := first // ROW_GROUP * ROW_GROUP - written) > 0:
                    rows = pa.concat_tables(writer_rows)
                    writer.write_table(rows.slice(0, whole), row_group_size=ROW_GROUP)
                    writer_rows, written = [rows.slice(whole)], written + whole
            writer.write_table(pa.concat_tables(writer_rows), row_group_size=ROW_GROUP)
            file.attrs[HEADER_KEY] = text
            file.attrs["content"] = digest.hexdigest()
            if param_names:
                file.attrs["param_names"] = json.dumps(param_names)
            file.flush()
            file.close()
            writer.add_key_value_metadata(
                {HEADER_KEY: text, "content": digest.hexdigest(), "h5_sha256": sha256(h5_temporary)}
            )
        Digest(content=digest.hexdigest(), parquet_sha256=sha256(parquet_temporary)).write(
            digest_temporary
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
