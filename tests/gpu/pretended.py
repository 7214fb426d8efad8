"""A graphics card that is not there: tensors without values on "cuda", and a count of what is asked
of it.

Everything is dispatched as on a card, under `FakeTensorMode`: operations on tensors of different
devices raise, and so does what turns values of the card into NumPy arrays. Where a program reads a
value, it gets 1 and the reading is noted: on a card it would wait there for all that is queued.

What is not as on a card is autograd's engine, which asks CUDA for a stream: its walk backwards is
replaced by one that hands out gradients of the right shape, type and device.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[2]
CUDA = torch.device("cuda", 0)
Move = Callable[[nn.Module], nn.Module]
_ATEN = torch.ops.aten
_READS = {_ATEN._local_scalar_dense.default, _ATEN.nonzero.default, _ATEN.masked_select.default}
_OWN_ATTENTION = nn.functional.scaled_dot_product_attention
_COPIES = {_ATEN._to_copy.default, _ATEN.copy_.default}


@dataclass
class Count:
    """What was asked of the card.

    Attributes:
        operations: how often each was dispatched.
        waits: for each time that the program waits for the card, why and from where.
        sent: copies to the card that the program waits for: from memory that is not pinned.
        made: for each tensor of the card that is not a view of another, what made it, and how many
            numbers it has.
    """

    operations: Counter[str] = field(default_factory=Counter)
    waits: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    made: list[tuple[str, int]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Operations dispatched."""
        return sum(self.operations.values())


def _caller() -> str:
    ours = [
        frame
        for frame in traceback.extract_stack()
        if frame.filename.startswith(str(ROOT)) and "tests" not in frame.filename
    ]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"


class _Counting(TorchDispatchMode):
    def __init__(self, count: Count) -> None:
        super().__init__()
        self.count = count

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not str(function).startswith(("prim.", "profiler.")):
            self.count.operations[str(function)] += 1
        first = next((arg for arg in args if isinstance(arg, Tensor)), None)
        if function in _READS and isinstance(first, FakeTensor):
            if first.device.type == "cuda":
                self.count.waits.append(f"{function} {_caller()}")
            if function is _ATEN._local_scalar_dense.default:
                return 1.0 if first.is_floating_point() else 1
        out = function(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.device.type == "cuda" and not _shares(out, args):
            self.count.made.append((str(function), out.numel()))
        if function in _COPIES:
            source = args[1] if function is _ATEN.copy_.default else args[0]
            kinds = {source.device.type, out.device.type}
            if kinds == {"cpu", "cuda"} and not (kwargs or {}).get("non_blocking", False):
                to = self.count.sent if out.device.type == "cuda" else self.count.waits
                to.append(f"copy from {source.device} {_caller()}")
        return out


def _shares(out: Tensor, args: tuple[Any, ...]) -> bool:
    storage = out.untyped_storage()._cdata
    return any(
        arg.untyped_storage()._cdata == storage for arg in args if isinstance(arg, FakeTensor)
    )


def _filled(shape: tuple[int, ...], value: float) -> Any:
    return [_filled(shape[1:], value) for _ in range(shape[0])] if shape else value


@contextlib.contextmanager
def card() -> Iterator[Move]:
    """Inside, "cuda" exists and holds no values; yields what moves a module of the CPU to it."""

    state = torch.zeros(16, dtype=torch.uint8)
    with (
        mock.patch.object(nn.Module, "to", lambda self, *_, **__: self),  # refuses such parameters
        mock.patch("torch.autograd.grad", _grad),
        mock.patch("torch.autograd.backward", _backward),
        mock.patch("torch.cuda.get_rng_state", return_value=state),
        mock.patch("torch.cuda.set_rng_state"),
        mock.patch("torch.cuda.default_generators", (torch.Generator(),)),
        # Memory without values cannot be page-locked, also where there is a card.
        mock.patch("torch.cuda.is_available", return_value=False),
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        mock.patch("torch.nn.functional.scaled_dot_product_attention", _attention),
        # kernels that have no rule for the shapes of what they give
        mock.patch("torch._fused_sgd_"),
        mock.patch.object(nn.GRUCell, "forward", lambda _self, x, h: x + h),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        yield partial(_emptied, device=CUDA)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any
) -> Tensor:
    """What a card computes attention with where logits are added that need a gradient; PyTorch
    first copies them if their rows do not begin at multiples of 16 numbers.
    """
    if q.dim() != 4 or q.device.type != "cuda":
        return _OWN_ATTENTION(q, k, v, attn_mask, **options)
    if attn_mask is not None:
        if any(step % 16 for step in attn_mask.stride()[:-1]):
            n = attn_mask.shape[-1]
            attn_mask = nn.functional.pad(attn_mask, (0, 16 - n % 16))[..., :n]
        attn_mask = attn_mask.expand(*q.shape[:3], k.shape[2])
    out: Tensor = _ATEN._scaled_dot_product_efficient_attention(q, k, v, attn_mask, True)[0]
    return out


def _emptied(module: nn.Module, device: torch.device) -> nn.Module:
    """The same module with parameters and buffers without values, in place."""
    moved: dict[int, Tensor] = {}
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, tensor in store.items():
                if tensor is None:
                    continue
                if id(tensor) not in moved:
                    empty = torch.empty_like(tensor, device=device)
                    if isinstance(tensor, nn.Parameter):
                        empty = nn.Parameter(empty, tensor.requires_grad)
                    moved[id(tensor)] = empty
                store[name] = moved[id(tensor)]  # type: ignore[assignment]
    return module


def _grad(
    outputs: Any, inputs: Any, *_: Any, create_graph: bool = False, **__: Any
) -> list[Tensor]:
    gradients = [torch.empty_like(tensor) for tensor in inputs]
    # what is differentiated again hangs on what the outputs hang on
    return [gradient * outputs for gradient in gradients] if create_graph else gradients


def _backward(tensors: Any, gradients: Any = None, *_: Any, **__: Any) -> None:
    """Gives every leaf that the tensors hang on a gradient."""
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    if gradients is not None:
        gradients = [gradients] if isinstance(gradients, Tensor) else list(gradients)
        for tensor, gradient in zip(tensors, gradients, strict=True):
            assert gradient is None or (gradient.device, gradient.shape) == (
                tensor.device,
                tensor.shape,
            )
    nodes = [tensor.grad_fn for tensor in tensors]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if (leaf := getattr(node, "variable", None)) is not None and leaf.grad is None:
            leaf.grad = torch.empty_like(leaf)
        for following, _number in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                nodes.append(following)


@contextlib.contextmanager
def counted(answers: Sequence[float] = ()) -> Iterator[Count]:
    """Counts what is dispatched inside.

    Args:
        answers: what `tolist` gives for a vector of the card, whose further entries are 1. Those of
            one on the CPU, by which ranks tell each other what failed, are 0.
    """
    count = Count()

    def tolist(tensor: FakeTensor) -> Any:
        """One copy, not one for each element."""
        if tensor.device.type == "cuda":
            count.waits.append(f"tolist {_caller()}")
        elif tensor.dim() == 1:
            return [0.0] * len(tensor)
        if tensor.dim() == 1:
            ones = [1.0] * len(tensor)
            return [*answers, *ones][: len(tensor)]
        return _filled(tuple(tensor.shape), 1.0)

    with mock.patch.object(FakeTensor, "tolist", tolist), _Counting(count):
        yield count
