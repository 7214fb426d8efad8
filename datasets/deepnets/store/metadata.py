"""The Parquet half of a split: one row per architecture, for queries and for people."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datasets.deepnets.space.architecture import OPERATIONS
from datasets.deepnets.space.table import ArchitectureTable
from datasets.deepnets.store.pack import GraphPack

ROW_GROUP = 1 << 16
"""Architectures in a row group."""

SCHEMA = pa.schema(
    [
        pa.field("index", pa.uint32()),
        pa.field("normal", pa.list_(pa.dictionary(pa.int8(), pa.string()))),
        pa.field("normal_inputs", pa.list_(pa.uint8())),
        pa.field("normal_concat", pa.list_(pa.uint8())),
        pa.field("reduce", pa.list_(pa.dictionary(pa.int8(), pa.string()))),
        pa.field("reduce_inputs", pa.list_(pa.uint8())),
        pa.field("reduce_concat", pa.list_(pa.uint8())),
        pa.field("n_cells", pa.uint8()),
        pa.field("ks", pa.uint8()),
        pa.field("C_mult", pa.uint8()),
        pa.field("preproc", pa.bool_()),
        pa.field("glob_avg", pa.bool_()),
        pa.field("norm", pa.bool_()),
        pa.field("stem_type", pa.uint8()),
        pa.field("stem_pool", pa.bool_()),
        pa.field("fc_layers", pa.uint8()),
        pa.field("fc_dim", pa.uint16()),
        pa.field("n_params_cifar10", pa.uint32()),
        pa.field("n_params_imagenet", pa.uint32()),
        pa.field("n_nodes", pa.uint16()),
        pa.field("n_edges", pa.uint16()),
        pa.field("hash", pa.binary(16)),
    ]
)
"""Entry i of `normal` is operation i of the normal cell and reads state `normal_inputs[i]`."""


def metadata(
    code: NDArray[np.uint8],
    graphs: GraphPack,
    hashes: NDArray[np.uint64],
    n_params: NDArray[np.int64],
    first: int,
) -> pa.Table:
    """The rows of some architectures.

    Args:
        code: (G, K) the architectures.
        graphs: their graphs.
        hashes: (G, 2) canonical hashes.
        n_params: (G, 2) numbers of parameters.
        first: index of the first one in the split.
    """
    table = ArchitectureTable.decode(code)
    g = len(table)
    columns: dict[str, Any] = {"index": np.arange(first, first + g, dtype=np.uint32)}
    valid = table.valid
    starts = pa.array(np.concatenate([[0], np.cumsum(valid.sum(axis=1))]).astype(np.int32))
    states = np.arange(16)
    for kind, name in enumerate(("normal", "reduce")):
        operations = pa.DictionaryArray.from_arrays(
            pa.array(table.operation[:, kind][valid].astype(np.int8)), pa.array(OPERATIONS)
        )
        columns[name] = pa.ListArray.from_arrays(starts, operations)
        columns[f"{name}_inputs"] = pa.ListArray.from_arrays(
            starts, pa.array(table.source[:, kind][valid])
        )
        bits = (table.concat[:, kind, None] >> states & 1).astype(bool)
        concat_starts = np.concatenate([[0], np.cumsum(bits.sum(axis=1))]).astype(np.int32)
        members = np.broadcast_to((states + 2).astype(np.uint8), bits.shape)[bits]
        columns[f"{name}_concat"] = pa.ListArray.from_arrays(
            pa.array(concat_starts), pa.array(members)
        )
    for name in (
        "n_cells",
        "ks",
        "C_mult",
        "preproc",
        "glob_avg",
        "norm",
        "stem_type",
        "stem_pool",
    ):
        columns[name] = getattr(table, name)
    columns |= {"fc_layers": table.fc_layers, "fc_dim": table.fc_dim}
    columns |= {"n_params_cifar10": n_params[:, 0], "n_params_imagenet": n_params[:, 1]}
    columns |= {"n_nodes": graphs.n_nodes, "n_edges": graphs.n_edges}
    raw = np.ascontiguousarray(hashes.astype(">u8")).tobytes()
    columns["hash"] = pa.Array.from_buffers(pa.binary(16), g, [None, pa.py_buffer(raw)])
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, type=field.type)
        for field, column in ((field, columns[field.name]) for field in SCHEMA)
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
