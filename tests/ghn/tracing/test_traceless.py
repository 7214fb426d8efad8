"""A network is as it was before it was traced, whatever its forward pass leaves behind."""

from __future__ import annotations

import functools
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from ghn import trace
from ghn.errors import TraceError

SHARED: dict[str, Any] = {}


class Cache:
    """An object as libraries keep them for keys and values."""

    __slots__ = ("keys", "n")

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.n = 0


@functools.lru_cache
def table(size: int) -> list[int]:
    return [size]


class Keeper(nn.Module):
    """Keeps something of every pass in all the places that a module has."""

    of_class: list[Any] = []  # noqa: RUF012 (shared on purpose)

    def __init__(self, needs_values: bool, fails: bool) -> None:
        super().__init__()
        self.needs_values, self.fails = needs_values, fails
        self.first, self.norm, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)
        self.register_buffer("ema", torch.zeros(4))
        self.plain = torch.zeros(4)
        self.array = np.zeros(3)
        self.numbers, self.names, self.recent = [], set(), deque(maxlen=3)  # type: ignore[var-annotated]
        self.counts, self.by_size = Counter(), OrderedDict()  # type: ignore[var-annotated]
        self.nested: dict[str, list[Any]] = {"features": []}
        self.cache, self.space = Cache(), SimpleNamespace(steps=0)
        self.outside = [nn.Linear(4, 4)]
        self.generators = (
            torch.Generator().manual_seed(1),
            random.Random(1),
            np.random.default_rng(1),
        )
        seen: list[Tensor] = []
        self.seen = seen
        self.first.register_forward_hook(lambda module, args, out: seen.append(out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        self.keep(x)
        if self.needs_values and x.abs().max() > 1e9:
            x = x * 2
        if self.fails:
            raise ValueError("no such thing")
        return self.last(x)

    def keep(self, x: Tensor) -> None:
        for kept in (self.numbers, self.recent, self.nested["features"], self.cache.keys):
            kept.append(x)
        self.names.add("x")
        self.counts["passes"] += 1
        self.by_size[x.shape] = x
        self.cache.n = self.space.steps = 1
        self.of_class.append(x)
        SHARED["last"] = x
        table(x.shape[-1])
        self.new_attribute = x
        self.added = nn.Linear(2, 2)
        self.last.register_forward_hook(lambda module, args, out: None)
        self.outside[0].extra = x
        self.array += 1
        self.plain.add_(1)
        torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
        generator, python, numpy = self.generators
        torch.rand(1, generator=generator), python.random(), numpy.random()
        with torch.no_grad():
            self.ema.add_(1)
            self.first.weight.clamp_(-0.01, 0.01)
            self.last.weight.data = self.last.weight.data * 2
        self.last.bias.requires_grad_(False)
        self.train()


def state_of(model: Keeper) -> dict[str, Any]:
    """All of it that can be compared with `==`."""
    generator, python, numpy = model.generators
    linear = model.outside[0]
    tensors = {**model.state_dict(), "plain": model.plain, **vars(linear)["_parameters"]}
    return {
        "values": {name: tensor.tolist() for name, tensor in tensors.items()},
        "identities": [(id(p), p.data_ptr()) for p in model.parameters()],
        "flags": [p.requires_grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "attributes": sorted(vars(model)) + sorted(vars(linear)),
        "modules": list(model._modules),
        "hooks": [len(m._forward_hooks) for m in model.modules()],
        "containers": [len(c) for c in (model.numbers, model.names, model.recent, model.counts)]
        + [len(c) for c in (model.by_size, model.nested["features"], model.cache.keys, model.seen)]
        + [len(model.of_class), len(SHARED), table.cache_info().currsize],
        "slots": (model.cache.n, model.space.steps),
        "array": model.array.tolist(),
        "random": (
            torch.get_rng_state().tolist(),
            random.getstate(),
            str(np.random.get_state()),  # noqa: NPY002
            generator.get_state().tolist(),
            python.getstate(),
            numpy.bit_generator.state,
        ),
    }


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("needs_values", [False, True])
def test_nothing_changes(needs_values: bool, fails: bool, training: bool) -> None:
    model = Keeper(needs_values, fails).train(training)
    x = torch.randn(2, 4)
    before = state_of(model)
    if fails:
        with pytest.raises(TraceError, match="no such thing"):
            trace(model, x)
    else:
        assert {"first.weight", "last.weight"} <= set(trace(model, x).param)
    after = state_of(model)
    for name, value in before.items():
        assert after[name] == value, name


def test_a_pass_leaves_all_that_the_test_above_looks_at() -> None:
    model = Keeper(needs_values=False, fails=False).eval()
    before = state_of(model)
    try:
        model(torch.randn(2, 4))
        after = state_of(model)
    finally:
        SHARED.clear(), Keeper.of_class.clear(), table.cache_clear()
    assert [name for name in before if before[name] == after[name]] == []


def test_what_autograd_has_saved_stays_valid() -> None:
    model = Keeper(needs_values=True, fails=False)
    model.keep = lambda x: None  # type: ignore[method-assign]
    loss = model(torch.randn(2, 4)).sum()
    trace(model, torch.randn(2, 4))
    loss.backward()
    assert model.first.weight.grad is not None


class Unseen(nn.Module):
    """A network with an operation in its middle."""

    def __init__(self, operation: Callable[[Tensor], Tensor], needs_values: bool) -> None:
        super().__init__()
        self.operation, self.needs_values = operation, needs_values
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.needs_values and x.abs().max() > 1e9:
            x = x * 2
        return self.last(x + self.operation(x))


def twice(x: Tensor) -> Tensor:
    return x * 2


def through_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy() * 2)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("way", "needs_values"),
    [("vmap", False), ("vmap", True), ("script", True), ("numpy", False), ("numpy", True)],
)
def test_what_cannot_be_seen_is_refused(way: str, needs_values: bool) -> None:
    operations: dict[str, Callable[[Tensor], Tensor]] = {
        "vmap": torch.vmap(torch.relu),
        "numpy": through_numpy,
    }
    operation = operations[way] if way in operations else torch.jit.script(twice)
    with pytest.raises(TraceError, match="operations cannot be seen"):
        trace(Unseen(operation, needs_values), torch.randn(2, 4))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_opaque_modules_are_named() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.layer(x))

    x = torch.randn(2, 4)
    scripted = nn.Sequential(nn.Linear(4, 4), torch.jit.trace(Block(), x), nn.Linear(4, 2))
    with pytest.raises(TraceError, match="Sequential: 1 is a ScriptModule"):
        trace(scripted, x)
    exported = nn.Sequential(torch.export.export(Block(), (x,)).module(), nn.Linear(4, 2))
    with pytest.raises(TraceError, match=r"0\.layer\.weight is used by the operator aten"):
        trace(exported, x)
    with pytest.raises(TraceError, match=r"Sequential\.0\.weight has no shape yet"):
        trace(nn.Sequential(nn.LazyLinear(3)), x)


def test_constants_need_not_be_seen() -> None:
    """Tables made through NumPy or Python, identities, results written into zeros."""

    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x

    class Constants(nn.Module):
        def __init__(self, needs_values: bool) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
            self.needs_values = needs_values

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x) * torch.from_numpy(np.ones(4, np.float32)) + torch.tensor([1.0])
            if self.needs_values and x.abs().max() > 1e9:
                x = x * 2
            total = torch.zeros(x.shape, device=x.device)
            total.add_(Identity.apply(x))
            return self.last(total)

    for needs_values in (False, True):
        graph = trace(Constants(needs_values), torch.randn(2, 4))
        assert [name for name in graph.param if name] == [
            "first.weight", "first.bias", "last.weight", "last.bias",
        ]  # fmt: skip


class Config(BaseModel):
    width: int = 4


class Odd:
    """An object with a private slot that knows no other attributes, and says so in its own way."""

    __slots__ = ("__n",)

    def __init__(self) -> None:
        self.__n = 0

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")

    def count(self) -> int:
        self.__n += 1
        return self.__n


def test_objects_are_not_asked_for_attributes_that_they_do_not_have() -> None:
    class Holding(nn.Module):
        def __init__(self, config: Config) -> None:
            super().__init__()
            self.config, self.odd = config, Odd()
            self.layer = nn.Linear(4, config.width)

        def forward(self, x: Tensor) -> Tensor:
            self.odd.count()
            self.config.width += 1
            return self.layer(x)

    model = Holding(Config())
    assert set(trace(model).param) == {"", "layer.weight", "layer.bias"}
    assert (model.odd.count(), model.config) == (1, Config())
