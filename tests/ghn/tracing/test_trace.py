"""`ghn.trace` on a user's own modules: what makes a node, what is bridged, and what is left
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ghn
from ghn.architectures import build
from ghn.errors import TraceError
from ghn.graph import Graph, Primitive
from ghn.tracing import trace

Describe = Callable[[Graph], list[str]]


def chain(*names: str) -> list[str]:
    return sorted(f"{a} -> {b}" for a, b in pairwise(names))


def kinds(graph: Graph) -> dict[str, int]:
    values, counts = np.unique(graph.primitive, return_counts=True)
    return {Primitive(value).name: int(count) for value, count in zip(values, counts, strict=True)}


def test_mlp(describe: Describe) -> None:
    graph = ghn.trace(
        nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Dropout(), nn.Linear(100, 10))
    )
    graph.validate()
    assert describe(graph) == chain("input", "0.weight", "0.bias", "3.weight", "3.bias")
    assert graph.param_shape(1) == (100, 784)
    assert graph.name == "Sequential"


def test_cnn_with_norms_and_pooling(describe: Describe) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 5, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 3, groups=8, dilation=2), nn.AvgPool2d((3, 5)), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(8), nn.Linear(8, 4), nn.LogSoftmax(1),
    )  # fmt: skip
    graph = trace(model)
    assert describe(graph) == chain(
        "input", "0.weight", "1.weight", "max_pool", "4.weight", "4.bias", "5.weight", "5.bias",
        "avg_pool", "glob_avg",
        "9.weight", "10.weight", "10.bias",
    )  # fmt: skip
    by_param = dict(zip(graph.param, graph.primitive, strict=True))
    assert by_param["4.weight"] == Primitive.sep_conv
    assert by_param["5.weight"] == Primitive.dil_conv
    assert graph.param_shape(graph.primitive.tolist().index(Primitive.avg_pool)) == (1, 1, 3, 5)


class Residual(nn.Module):
    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.a, self.b, self.in_place = (
            nn.Conv2d(3, 3, 1, bias=False),
            nn.Conv2d(3, 3, 1, bias=False),
            in_place,
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        if self.in_place:
            y += x
        else:
            y = torch.add(y, x)
        z = self.b(y)
        return torch.cat([z, y, F.relu(y)], dim=1) * 2


@pytest.mark.parametrize("in_place", [False, True])
def test_sum_and_concat(in_place: bool, describe: Describe) -> None:
    expected = [
        "a.weight -> sum",
        "b.weight -> concat",
        "input -> a.weight",
        "input -> sum",
        "sum -> b.weight",
    ]
    assert describe(trace(Residual(in_place))) == sorted([*expected, "sum -> concat"])


class OneSource(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y.sigmoid() + y.relu() + 1.0 + torch.ones(4)
        left, right = y.chunk(2, dim=1)
        return self.b(torch.cat([left, right, y], dim=1))


def test_joins_of_one_source_are_bridged(describe: Describe) -> None:
    assert describe(trace(OneSource())) == chain("input", "a.weight", "b.weight")


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite = (
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 2, 1),
            nn.Conv2d(2, 8, 1),
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv(x))
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
        return self.head((x * gate).mean((2, 3)))


class GateInNumPysWords(Gate):
    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv(input=x))
        mean = torch.mean(x, axis=(2, 3), keepdims=True)
        gate = self.excite(F.relu(self.squeeze(mean))).sigmoid()
        pooled = torch.mul(x, x2=gate).mean(axis=(np.int64(-1), 2))
        return self.head(torch.add(pooled, x2=torch.zeros(1)))


@pytest.mark.parametrize("way", [Gate, GateInNumPysWords])
def test_squeeze_and_excitation(way: type[Gate], describe: Describe) -> None:
    trunk = chain(
        "input",
        "conv.weight",
        "conv.bias",
        "squeeze.weight",
        "squeeze.bias",
        "excite.weight",
        "excite.bias",
    )
    rest = [
        "conv.bias -> cse",
        "excite.bias -> cse",
        *chain("cse", "glob_avg", "head.weight", "head.bias"),
    ]
    assert describe(trace(way())) == sorted(trunk + rest)


class Attention(nn.Module):
    """Attention in three ways of writing it."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.qkv, self.out, self.way = nn.Linear(8, 24), nn.Linear(8, 8), way
        self.bias = nn.Parameter(torch.zeros(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.way == "fused":
            return self.out(F.scaled_dot_product_attention(q, k, v))
        if self.way == "einsum":
            scores = torch.einsum("bqc,bkc->bqk", q, k)
            return self.out(torch.einsum("bqk,bkc->bqc", scores.softmax(-1), v))
        return self.out(F.dropout(F.softmax(q @ k.transpose(1, 2) / 8**0.5, dim=-1)) @ v)


@pytest.mark.parametrize("way", ["fused", "einsum", "matmul"])
@pytest.mark.parametrize("reference_compatible", [False, True])
def test_attention(way: str, reference_compatible: bool, describe: Describe) -> None:
    graph = trace(Attention(way), torch.empty(2, 5, 8), reference_compatible=reference_compatible)
    assert describe(graph) == chain(
        "input", "qkv.weight", "qkv.bias", "msa", "out.weight", "out.bias"
    )


def test_cross_attention_joins_its_sources(describe: Describe) -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(8, 8, bias=False) for _ in range(3))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (self.q(x) @ self.k(y).mT).softmax(-1) @ self.v(y)

    edges = [
        f"{a} -> {b}"
        for name in "qkv"
        for a, b in (("input", f"{name}.weight"), (f"{name}.weight", "msa"))
    ]
    assert describe(trace(Cross(), (torch.empty(2, 5, 8), torch.empty(2, 6, 8)))) == sorted(edges)


def test_softmax_of_classes_is_no_attention(describe: Describe) -> None:
    assert describe(trace(nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)))) == chain(
        "input", "0.weight", "0.bias"
    )


def test_positional_encoding_and_tokens(describe: Describe) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.position = nn.Embedding(50, 8), nn.Parameter(torch.zeros(32, 8))
            self.scale = nn.Parameter(torch.ones(8))
            self.head = nn.Linear(8, 50, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.embed(x) + self.position[: x.shape[1]]) * self.scale)

    graph = trace(Tokens())
    edges = [
        "embed.weight -> sum",
        "input -> embed.weight",
        "position -> sum",
        "sum -> embed.weight",
    ]
    # a shared parameter has one name and a node for each use; a scale has none
    assert describe(graph) == edges
    assert kinds(graph) == {"conv": 1, "sum": 1, "input": 1, "pos_enc": 2}


def test_shared_module_has_a_node_for_each_use() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = self.layer(x).relu()
            return x

    graph = trace(Shared())
    assert graph.param == (
        "",
        "layer.weight",
        "layer.bias",
        "layer.weight",
        "layer.bias",
        "layer.weight",
        "layer.bias",
    )


class TwoByTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.first, self.second = (
            nn.Linear(n, m) for n, m in ((4, 8), (5, 8), (16, 3), (16, 2))
        )

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        z = torch.cat([self.a(x), self.b(y)], dim=1)
        return {"main": self.first(z), "others": [self.second(z), None, 3]}


@pytest.mark.parametrize(
    "inputs",
    [(torch.zeros(2, 4), torch.zeros(2, 5)), {"y": torch.zeros(2, 5), "x": torch.zeros(2, 4)}],
)
def test_several_inputs_and_outputs(inputs: Any, describe: Describe) -> None:
    graph = trace(TwoByTwo(), inputs)
    graph.validate()
    assert len(describe(graph)) == 10
    # the main output's head comes last
    assert graph.param[-2:] == ("first.weight", "first.bias")


def test_transformer_encoder_and_decoder() -> None:
    model = nn.Transformer(
        32, 4, num_encoder_layers=2, num_decoder_layers=1, dim_feedforward=64, batch_first=True
    )
    inputs = (torch.zeros(2, 5, 32), torch.zeros(2, 6, 32))
    mask = {
        "src": inputs[0],
        "tgt": inputs[1],
        "tgt_mask": nn.Transformer.generate_square_subsequent_mask(6),
    }
    graph = trace(model, inputs)
    assert graph.canonical_hash() == trace(model, mask).canonical_hash()
    params = {
        name
        for name, _ in model.named_parameters()
        if not ("norm" in name and name.endswith("bias"))
    }
    assert set(graph.param) == params | {""}
    assert kinds(trace(model, inputs, reference_compatible=False))["msa"] == 4
    assert "msa" not in kinds(graph)


def test_dead_branches_are_left_out(describe: Describe) -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.never = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.unused(x)
            return self.used(x)

    assert describe(trace(Dead())) == chain("input", "used.weight", "used.bias")


def test_unknown_layers_are_bridged(describe: Describe) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.PReLU(), nn.Flatten(2), nn.Conv1d(4, 4, 1),
        nn.Flatten(),
        nn.Linear(4 * 900, 2),
    )  # fmt: skip
    assert describe(trace(model, torch.empty(2, 3, 32, 32))) == chain(
        "input", "0.weight", "0.bias", "6.weight", "6.bias"
    )


def test_recurrent_layer_is_bridged_quickly(describe: Describe) -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4), nn.Linear(10, 9)
            self.lstm = nn.LSTM(4, 5, num_layers=2, batch_first=True, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(self.embed(x))[0])

    graph = trace(Sequence(), torch.zeros(2, 5000, dtype=torch.int64))
    assert describe(graph) == chain("input", "embed.weight", "head.weight", "head.bias")


def test_functions_that_modules_do_not_call(describe: Describe) -> None:
    """What modules call `F.batch_norm`, `F.layer_norm` and `torch.cat` for has other names."""

    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.bn, self.ln = nn.BatchNorm1d(4), nn.LayerNorm(4)
            self.gn = nn.GroupNorm(2, 8)

        def forward(self, x: Tensor) -> Tensor:
            bn, ln, gn = self.bn, self.ln, self.gn
            running = bn.running_mean, bn.running_var
            h = torch.batch_norm(self.a(x), bn.weight, bn.bias, *running, False, 0.1, 1e-5, False)
            g = torch.layer_norm(self.b(x), (4,), ln.weight, ln.bias)
            return torch.group_norm(torch.hstack((h, g)), 2, gn.weight, gn.bias)

    expected = [
        *chain("input", "a.weight", "bn.weight", "concat", "gn.weight"),
        *chain("input", "b.weight", "ln.weight", "concat"),
    ]
    assert describe(trace(Direct(), extensions=["group_norm"])) == sorted(expected)


def test_pooling_that_gives_indices(describe: Describe) -> None:
    class Indices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 4, 3, bias=False)
            self.pool = nn.MaxPool2d(2, return_indices=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.a(x))[0]

    edges = chain("input", "a.weight", "max_pool")
    assert describe(trace(Indices())) == edges
    program = torch.export.export(Indices(), (torch.zeros(2, 3, 8, 8),))
    assert describe(trace(program)) == edges


def test_changes_in_place_reach_the_base(describe: Describe) -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 3, 1, bias=False) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            y[:, :1] = self.b(x)[:, :1]
            view = y.flatten(1)
            view.mul_(2.0)
            return self.c(y)

    edges = [
        "a.weight -> c.weight",
        "b.weight -> c.weight",
        "input -> a.weight",
        "input -> b.weight",
    ]
    assert describe(trace(InPlace())) == edges


def test_changes_in_place_reach_the_views_on_the_way(describe: Describe) -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4, bias=False) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            rows = self.a(x).view(1, -1, 4).view(-1, 4)
            others = rows[1:]
            rows[:1][:, :2].copy_(self.b(x)[:1, :2])
            made = x.new_zeros(len(x), 1, 4).squeeze(1)
            made[:, :4].copy_(rows)
            return self.c(made), others

    edges = [
        "a.weight -> c.weight",
        "b.weight -> c.weight",
        "input -> a.weight",
        "input -> b.weight",
    ]
    assert describe(trace(InPlace())) == edges


def test_computed_weights_stand_for_their_parameter(describe: Describe) -> None:
    model = nn.Sequential(
        torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)), nn.Linear(8, 2)
    )
    edges = chain("input", "0.parametrizations.weight.original1", "0.bias", "1.weight", "1.bias")
    assert describe(trace(model)) == edges


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(),
                         nn.Linear(4, 10))  # fmt: skip


def prefixed(prefix: str) -> list[str]:
    names = [f"{prefix}{name}" for name in ("0.weight", "0.bias", "1.weight")]
    return chain("input", *names, "glob_avg", f"{prefix}5.weight", f"{prefix}5.bias")


def test_compiled(describe: Describe) -> None:
    model = small_network()
    assert describe(trace(torch.compile(model))) == prefixed("_orig_mod.")
    assert describe(trace(nn.Sequential(torch.compile(model)))) == prefixed("0._orig_mod.")
    model.compile()
    assert describe(trace(model)) == prefixed("")


def test_data_parallel(tmp_path: Path, describe: Describe) -> None:
    assert describe(trace(nn.DataParallel(small_network()))) == prefixed("module.")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    try:
        assert describe(trace(nn.parallel.DistributedDataParallel(small_network()))) == prefixed(
            "module."
        )
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types(dtype: torch.dtype, describe: Describe) -> None:
    assert describe(trace(small_network().to(dtype))) == prefixed("")


def test_frozen_parameters_have_nodes(describe: Describe) -> None:
    assert describe(trace(small_network().requires_grad_(False))) == prefixed("")


def test_under_autocast_and_inference_mode(describe: Describe) -> None:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert describe(trace(small_network())) == prefixed("")


class Caching(nn.Module):
    """Keeps a table for the device it last ran on, counts its calls, and changes its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.arange(x.shape[-1], device=x.device)
        self.calls += 1
        return self.drop(self.norm(self.conv(x + self.table)))


@pytest.mark.parametrize("training", [False, True])
def test_leaves_the_network_as_it_was(training: bool) -> None:
    model = Caching().train(training)
    model.norm.train(not training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    identities = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    trace(model)
    assert model.table is None
    assert [m.training for m in model.modules()] == [training, training, not training, training]
    assert {
        name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()
    } == identities
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(param.grad is None for param in model.parameters())


class NoArithmetic(TorchDispatchMode):
    """Fails on any kernel that gets one of the given tensors, or makes a real tensor of more than a
    few elements.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.own = {tensor.data_ptr() for tensor in model.state_dict().values()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if (
            func is not torch.ops.aten.empty_like.default
            and func is not torch.ops.aten.detach.default
        ):
            for tensor in tree_leaves((args, kwargs)):
                real = isinstance(tensor, Tensor) and not tensor.is_meta
                assert not (real and tensor.data_ptr() in self.own), f"{func} touches a parameter"
        for tensor in tree_leaves(result):
            real = isinstance(tensor, Tensor) and not tensor.is_meta and tensor.is_floating_point()
            assert not (real and tensor.numel() > 64), f"{func} computes {tuple(tensor.shape)}"
        return result


def test_the_check_below_can_fail() -> None:
    model, images = small_network(), torch.zeros(1, 3, 8, 8)
    with pytest.raises(AssertionError, match="touches a parameter"), NoArithmetic(model):
        model(images)


@pytest.mark.parametrize(
    "name", ["resnet18", "efficientnet_b0", "swin_t", "vit_b_32", "googlenet", "shufflenet_v2_x0_5"]
)
def test_no_arithmetic_on_real_tensors(name: str) -> None:
    model = build(name)
    with NoArithmetic(model):
        graph = trace(model)
    assert graph.canonical_hash() == trace(build(name, device="meta")).canonical_hash()


@pytest.mark.parametrize(
    "name", ["googlenet", "inception_v3", "efficientnet_b0", "swin_t", "densenet121"]
)
def test_mode_does_not_matter(name: str) -> None:
    model = build(name, device="meta")
    assert trace(model.train()).to_json_dict() == trace(model.eval()).to_json_dict()


class LayerDrop(nn.Module):
    """Leaves out a layer in training, and uses a mask there that eval mode does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.mask = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.second(x + self.mask)
        return self.second(self.first(x))


def test_layers_that_training_leaves_out_have_nodes(describe: Describe) -> None:
    """As wav2vec 2.0, whose graph depended on random numbers."""
    found = describe(trace(LayerDrop(), torch.zeros(2, 4)))
    assert found == chain("input", "first.weight", "first.bias", "second.weight", "second.bias")


class Steps(nn.Module):
    def __init__(self, by_activation: bool) -> None:
        super().__init__()
        self.layer, self.norm, self.other = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.register_buffer("steps", torch.tensor(2))
        self.by_activation = by_activation

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(self.steps)):
            x = self.layer(x)
        if self.by_activation and x.abs().max() > 1e6:
            return self.other(x)
        return self.norm(x)


@pytest.mark.parametrize("by_activation", [False, True])
def test_control_flow_that_needs_values(by_activation: bool, describe: Describe) -> None:
    model = Steps(by_activation)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = trace(model)
    assert [param for param in graph.param if param] == ["layer.weight", "layer.bias"] * 2 + [
        "norm.weight"
    ]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_errors_say_what_to_do() -> None:
    with pytest.raises(
        TraceError, match=r"TwoByTwo fails on inputs of shape \(2, 4\).*pass example_inputs"
    ):
        trace(TwoByTwo())
    with pytest.raises(
        TraceError, match=r"Steps .*real parameters if its control flow depends on values"
    ):
        trace(Steps(True).to("meta"))
    with pytest.raises(
        TraceError, match="cannot tell what its input looks like; pass example_inputs"
    ):
        trace(nn.Sequential(nn.Conv3d(3, 4, 3)))
    with pytest.raises(TraceError, match="ScriptModule"):
        trace(torch.jit.trace(small_network().eval(), torch.zeros(1, 3, 8, 8)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("resnet18", r"or an ExportedProgram\), not 'resnet18'"),
        (
            small_network,
            r"an nn\.Module, as small_network\(\) gives, .* not <function small_network",
        ),
        (nn.Linear, r"as Linear\(\) gives, .* not <class '.*Linear'>"),
        (None, "not None"),
    ],
)
def test_what_is_no_network_is_refused(value: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace(value)


def test_hidden_operations_are_an_error_not_an_empty_graph() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.vmap(self.layer)(x)

    with pytest.raises(
        TraceError, match="Mapped: an output depends on a tensor whose operations cannot"
    ):
        trace(Mapped())


def test_custom_functions_and_checkpoints_are_followed(describe: Describe) -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

    class Followed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(
                torch.utils.checkpoint.checkpoint(self.a, Double.apply(x), use_reentrant=False)
            )

    assert describe(trace(Followed())) == chain("input", "a.weight", "a.bias", "b.weight", "b.bias")


def test_graph_object(tmp_path: Path) -> None:
    graph = trace(build("resnet18", device="meta"))
    exported = graph.to_networkx()
    assert exported.number_of_nodes() == graph.n_nodes == 53
    assert exported.nodes[1] == {
        "primitive": "conv",
        "param": "conv1.weight",
        "shape": (64, 3, 7, 7),
    }
    assert graph.statistics() == pytest.approx(
        {"nodes": 53, "degree": 2.264, "path": 7.578}, rel=1e-3
    )
    graph.draw(tmp_path / "graph.svg")
    assert "<svg" in (tmp_path / "graph.svg").read_text()


class Named(nn.Module):
    """Returns an embedding before the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.embed, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(8, 10)

    def forward(self, x_BCHW: Tensor) -> dict[str, Tensor]:
        features_BC = self.body(x_BCHW).relu().mean((2, 3))
        return {"embedding": self.embed(features_BC), "logits": self.fc(features_BC)}


def test_the_head_of_an_output_with_names_is_that_of_the_logits() -> None:
    graph = trace(Named(), image_size=32)
    assert [graph.param[node] for node in graph.head] == ["fc.weight", "fc.bias"]
