"""The network of an architecture: its graph, its parameters, what it computes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from strategies import architectures
from torch.func import functional_call

from datasets.deepnets import Architecture, Genotype, Network, build_graph
from datasets.deepnets.graphs.builder import build_structure
from datasets.deepnets.graphs.squeeze_quirk import every_product
from ghn.errors import ConfigError, InvalidGraphError
from ghn.graph import Graph
from ghn.tracing import trace

few = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def norm_biases(network: torch.nn.Module) -> set[str]:
    norms = (torch.nn.BatchNorm2d, torch.nn.LayerNorm)
    return {f"{name}.bias" for name, module in network.named_modules() if isinstance(module, norms)}


@few
@given(architectures())
def test_built_graph_is_the_traced_graph(architecture):
    network = Network(architecture, device="meta")
    traced = trace(network, torch.empty(2, 3, 32, 32, device="meta"))
    # The tracer makes a node of every squeeze-and-excitation product, the published graphs of some
    # only.
    structure = build_structure(architecture, kept=every_product(architecture))
    built = Graph(structure.primitive, structure.edges, structure.shape, structure.param)
    assert built.canonical_hash() == traced.canonical_hash()
    assert sorted(built.param) == sorted(traced.param)


@few
@given(architectures())
def test_parameters_match_nodes_and_shapes_hold(architecture):
    for image_size, channels in ((32, 32), (224, 48)):
        sizes = {"channels": channels, "fc_dim": 64, "num_classes": 7, "image_size": image_size}
        graph = build_graph(architecture, **sizes)
        graph.validate()
        network = Network(architecture, **sizes, device="meta")
        ours = {name: graph.param_shape(node) for node, name in enumerate(graph.param) if name}
        theirs = {
            name: tuple(p.shape)
            for name, p in network.named_parameters()
            if name not in norm_biases(network)
        }
        assert ours == theirs
        assert network(torch.empty(2, 3, image_size, image_size, device="meta")).shape == (2, 7)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(architectures(("test", "bnfree", "dense")))
def test_forward_and_backward_are_finite_and_reach_all_parameters(architecture):
    torch.manual_seed(0)
    network = Network(architecture, channels=16)
    loss = network(torch.randn(4, 3, 32, 32)).square().mean()
    loss.backward()
    assert loss.isfinite()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_meta_network_runs_with_given_parameters_in_any_memory_format(golden_architecture):
    meta, real = (
        Network(golden_architecture, device="meta").eval(),
        Network(golden_architecture).eval(),
    )
    images = torch.randn(2, 3, 32, 32)
    parameters = dict(real.named_parameters())
    expected = real(images)
    torch.testing.assert_close(functional_call(meta, parameters, (images,)), expected)
    last = functional_call(meta, parameters, (images.to(memory_format=torch.channels_last),))
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def golden_architecture() -> Architecture:
    cell = (("msa", 0), ("conv_3x3", 1), ("cse", 2), ("none", 0))
    pool = (("skip_connect", 0), ("max_pool_3x3", 1), ("avg_pool_3x3", 0), ("sep_conv_5x5", 1))
    return Architecture(Genotype(cell, (2, 3), pool, (2, 3)), n_cells=5, C_mult=2)


def simple(*edges: tuple[str, int], concat: tuple[int, ...] = (2,), **arguments) -> Architecture:
    return Architecture(Genotype(edges, concat, edges, concat), **{"n_cells": 4, **arguments})


def test_none_leaves_zeros_in_the_concatenation():
    architecture = simple(
        ("conv_1x1", 0), ("conv_1x1", 1), ("none", 0), ("none", 1), concat=(2, 3), n_cells=1
    )
    network = Network(architecture, channels=8).eval()
    seen = []
    network.cells["0"].register_forward_hook(lambda *args: seen.append(args[2].value))
    network(torch.randn(2, 3, 32, 32))
    assert seen[0].shape[1] == 16
    assert seen[0][:, :8].abs().sum() > 0
    assert seen[0][:, 8:].abs().sum() == 0


def test_what_none_cuts_off_is_not_created():
    architecture = simple(("conv_3x3", 1), ("none", 0), n_cells=4)
    names = {name for name, _ in Network(architecture, device="meta").named_parameters()}
    assert not any("preprocess0" in name for name in names)


def test_disconnected_output_is_refused():
    architecture = simple(("none", 0), ("none", 1))
    for build in (build_graph, Network):
        with pytest.raises(InvalidGraphError, match="disconnected"):
            build(architecture)


def test_first_cell_sees_the_first_stem_after_the_relu_of_the_second():
    """The original applies that ReLU in place; it matters where a cell begins without a ReLU."""
    architecture = simple(
        ("max_pool_3x3", 0), ("conv_1x1", 1), n_cells=3, preproc=False, stem_type=1
    )
    network = Network(architecture, channels=8)
    seen = []
    network.cells["0"].register_forward_pre_hook(lambda _, args: seen.append(args[0].value))
    network(torch.randn(2, 3, 32, 32))
    assert seen[0].min() >= 0


@pytest.mark.parametrize(("image_size", "grid"), [(32, 8), (224, 14)])
def test_vgg_head_flattens_the_last_grid(image_size, grid):
    architecture = simple(("conv_3x3", 0), ("skip_connect", 1), glob_avg=False)
    network = Network(architecture, channels=8, image_size=image_size, device="meta")
    assert network.classifier._modules["0"].in_features == 8 * grid**2


def test_width_and_stride_of_training():
    architecture = simple(("conv_3x3", 0), ("skip_connect", 1), stem_pool=True)
    network = Network(
        architecture, channels=48, image_size=224, imagenet_stride=2, fc_dim=128, device="meta"
    )
    assert network.stem._modules["0"].stride == (2, 2)
    assert network(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 10)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"channels": 12}, "channels must be a positive multiple of 8"),
        ({"image_size": 30}, "image_size must be a multiple of 16"),
        ({"image_size": 80}, "of 32 above 64"),
        ({"num_classes": 0}, "num_classes must be positive"),
        ({"imagenet_stride": 3}, "imagenet_stride must be 2 or 4"),
    ],
)
def test_sizes_out_of_range_are_named(sizes, message):
    with pytest.raises(ConfigError, match=message):
        build_graph(simple(("conv_3x3", 0), ("skip_connect", 1)), **sizes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genotype": None}, "'genotype' must be an object"),
        ({"n_cells": None}, "'n_cells' is missing"),
        ({"ks": 4}, "ks must be odd"),
        ({"norm": "gn"}, "norm must be 'bnorm' or null"),
        ({"preproc": False, "C_mult": 2}, "preproc may be false only if"),
        ({"stem_type": 2}, "stem_type must be 0 or 1"),
    ],
)
def test_bad_arguments_are_named(change, message):
    fields = {**simple(("conv_3x3", 0), ("skip_connect", 1)).to_dict(), **change}
    with pytest.raises(ConfigError, match=message):
        Architecture.from_dict(fields)


def test_unknown_operations_and_states_are_named():
    base = simple(("conv_3x3", 0), ("skip_connect", 1))
    for edges, message in (
        ((("conv_9x9", 0), ("msa", 1)), "unknown operation 'conv_9x9'"),
        ((("msa", 0), ("msa", 2)), "reads state 2"),
        ((("msa", 0),), "two operations per sum"),
    ):
        genotype = dataclasses.replace(base.genotype, normal=edges)
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(base, genotype=genotype).validate()
