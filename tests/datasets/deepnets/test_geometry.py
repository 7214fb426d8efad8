"""Widths and sides of cells, of one architecture, of a table, and of the network itself."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import architectures

from datasets.deepnets import Architecture, Network, Scaling
from datasets.deepnets.space.geometry import Geometry
from datasets.deepnets.space.parameters import count_parameters
from datasets.deepnets.space.table import ArchitectureTable
from datasets.deepnets.space.wiring import wire


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(architectures(), min_size=2, max_size=5), st.sampled_from([32, 64, 224]))
def test_a_table_has_the_geometry_of_each_of_its_rows(some: list[Architecture], size: int) -> None:
    scaling = Scaling(48, image_size=size)
    together = Geometry.of_all(ArchitectureTable.from_architectures(some), scaling)
    columns = list(together.cells())
    for row, architecture in enumerate(some):
        alone = Geometry.of(architecture, scaling)
        cells = list(alone.cells())
        assert [bool(cell.reduction) for cell in cells] == list(architecture.reductions)
        for cell, column in zip(cells, columns, strict=False):
            assert cell.width == column.width[row]
            assert cell.side == column.side[row]
            assert cell.inputs == tuple(sizes[row] for sizes in column.inputs)
        assert alone.features == together.features[row]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(architectures(), st.sampled_from([32, 224]))
def test_cells_of_the_network_are_as_large(architecture: Architecture, size: int) -> None:
    network = Network(architecture, 48, image_size=size, device="meta")
    found: dict[str, torch.Size] = {}
    for name, cell in network.cells.items():
        cell.register_forward_hook(lambda *args, name=name: found.update({name: args[2].value}))
    network(torch.empty(2, 3, size, size, device="meta"))
    n_concat = len(architecture.genotype.normal_concat)
    for cell in Geometry.of(architecture, network.scaling).cells():
        if (value := found.get(str(cell.number))) is not None:
            assert value.shape[1:] == (n_concat * cell.width, cell.side, cell.side)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(architectures(), st.sampled_from([32, 224]))
def test_parameters_are_those_of_the_network(architecture: Architecture, size: int) -> None:
    scaling = Scaling(48, image_size=size)
    table = ArchitectureTable.from_architectures([architecture])
    network = Network(architecture, 48, image_size=size, device="meta")
    created = sum(parameter.numel() for parameter in network.parameters())
    wiring = wire(architecture, scaling)
    whole = (
        len(wiring.cells) == architecture.n_cells
        and all(len(cell.route.used) == len(cell.edges) for cell in wiring.cells)
        and all(all(cell.route.inputs) for cell in wiring.cells)
        and (all(wiring.stems) or not architecture.two_stems)
    )
    counted = int(count_parameters(table, scaling)[0])
    assert counted == created if whole else counted >= created
