"""Checks consecutive graphs of a split: what one worker does at a time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datasets.deepnets.generation.shard import hexadecimal
from datasets.deepnets.generation.workers import settle
from datasets.deepnets.graphs.builder import Assembly
from datasets.deepnets.graphs.packing import pack
from datasets.deepnets.graphs.split import Split
from datasets.deepnets.graphs.structures import Structures
from datasets.deepnets.space.rules import SplitRules
from datasets.deepnets.space.table import ArchitectureTable, decode_row
from datasets.deepnets.store.metadata import metadata
from datasets.deepnets.store.pack import GraphPack, offsets
from datasets.deepnets.store.writer import Block
from datasets.deepnets.validation import checks
from ghn.errors import InvalidGraphError

Outcome = dict[str, tuple[int, list[str]]]


def check_block(split: Split, size: int, start: int) -> tuple[int, Outcome, NDArray[np.uint32]]:
    """Checks graphs start..start + size; runs in a worker."""
    settle()
    end = min(start + size, len(split))
    block = split.stored(start, end)
    ids = np.array([split.identifier(i) for i in range(start, end)])
    failed: dict[str, NDArray[np.bool_]] = {
        "graph_checksums": block.graphs.checksums(block.code) != block.checksums,
        "edge_counts": checks.edge_count(block.graphs),
    }
    sound = ~failed["edge_counts"]
    part = block.graphs if sound.all() else block.graphs.select(sound)
    nodes = checks.Nodes(part)
    for name, check in (
        ("primitive_range", checks.primitive_range),
        ("one_input", checks.one_input),
        ("topological_order", checks.topological_order),
        ("connected", checks.connected),
    ):
        failed[name] = _spread(sound, check(nodes))
    failed |= _check_meaning(split, block, start, end)
    outcome = {name: (len(bad), ids[bad].tolist()) for name, bad in failed.items()}
    return start, outcome, block.checksums


def _check_meaning(
    split: Split, block: Block, start: int, end: int
) -> dict[str, NDArray[np.bool_]]:
    """What the architectures' bytes say, against the graphs, the Parquet file and the rules."""
    table = ArchitectureTable.decode(block.code)
    columns = split.metadata_rows(start, end)
    n_params = np.stack(
        [columns[f"n_params_{k}"].to_numpy().astype(np.int64) for k in ("cifar10", "imagenet")],
        axis=1,
    )
    structures, buildable = _rebuild(block.code)
    rebuilt, hashes = pack(structures)
    recorded = [raw.hex() for raw in columns["hash"].to_pylist()]
    keys = np.array(recorded)
    exact = ~table.has("none", "cse")
    failed = {
        "disconnected": ~buildable,
        "metadata": _different_rows(
            columns, metadata(block.code, block.graphs, block.hashes, n_params, start)
        ),
        "hashes": _spread(buildable, keys[buildable] != np.array(hexadecimal(hashes))),
        "parameter_counts": checks.parameter_counts(table, n_params),
        "shape_consistency": _spread(
            buildable,
            checks.shape_consistency(checks.Nodes(rebuilt), structures.shape, exact[buildable]),
        ),
    }
    if split.header.origin == "generated":
        rules = SplitRules.model_validate(split.header.rules)
        failed["graph_of_architecture"] = _spread(
            buildable, _different(rebuilt, block.graphs.select(buildable))
        )
        failed["parameter_cap"] = checks.parameter_cap(n_params, rules)
        failed["drawing_rules"] = checks.drawing_rules(table, rules)
    return failed


def _different_rows(ours: pa.Table, theirs: pa.Table) -> NDArray[np.bool_]:
    """Which rows of the Parquet file are not what the architectures say; hashes are another
    check.
    """
    different = np.zeros(len(ours), dtype=bool)
    for column in ours.drop_columns(["hash"]).column_names:
        a, b = (table[column].combine_chunks() for table in (ours, theirs))
        if column in ("normal", "reduce"):  # dictionaries may be numbered differently
            a, b = (values.cast(pa.list_(pa.string())) for values in (a, b))
        if not a.equals(b):
            different |= np.array(
                [x != y for x, y in zip(a.to_pylist(), b.to_pylist(), strict=True)]
            )
    return different


def _rebuild(code: NDArray[np.uint8]) -> tuple[Structures, NDArray[np.bool_]]:
    assembly, buildable = Assembly(), np.ones(len(code), dtype=bool)
    for row, raw in enumerate(code):
        try:
            assembly.add(decode_row(raw.tobytes()))
        except InvalidGraphError:
            buildable[row] = False
    return assembly.finish(), buildable


def _different(a: GraphPack, b: GraphPack) -> NDArray[np.bool_]:
    """Which graphs differ."""
    different: NDArray[np.bool_] = np.asarray((a.n_nodes != b.n_nodes) | (a.n_edges != b.n_edges))
    if different.any():
        rest = _different(a.select(~different), b.select(~different))
        different[~different] = rest
        return different
    node, edge = offsets(a.n_nodes)[:-1], offsets(a.n_edges)[:-1]
    for x, y, start in (
        (a.primitive, b.primitive, node),
        (a.in_degree, b.in_degree, node),
        (a.back, b.back, edge),
    ):
        different |= np.add.reduceat((x != y).astype(np.int64), start) > 0
    return different


def _spread(where: NDArray[np.bool_], values: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`values` at the places that `where` marks, False elsewhere."""
    result = np.zeros(len(where), dtype=bool)
    result[where] = values
    return result
