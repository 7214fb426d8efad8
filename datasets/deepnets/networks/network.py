"""An architecture of DeepNets-1M as a plain `nn.Module`.

The parameters are, one to one, those of the graph that `builder.build_graph` makes for the same
arguments, biases of norms aside: what `none` cuts off from the output is not created. One
definition serves every use: built on the meta device it is run by `torch.func.functional_call` with
predicted parameters, built on a real one it is trained as it is.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from datasets.deepnets.networks import operations
from datasets.deepnets.networks.layers import Conv2d, Device, Linear, Numbered, norm_layer
from datasets.deepnets.networks.operations import State
from datasets.deepnets.space.architecture import Architecture
from datasets.deepnets.space.scaling import Scaling
from datasets.deepnets.space.wiring import Cell as CellWiring
from datasets.deepnets.space.wiring import wire


class Cell(nn.Module):
    """A cell: two inputs, sums of operations, concatenation. Dead operations are absent."""

    def __init__(self, cell: CellWiring, preproc: bool, norm: bool, device: Device) -> None:
        super().__init__()
        self.route = cell.route
        self.sources = tuple(source for _, source in cell.edges)
        width = cell.channels
        for i, used in enumerate(cell.route.inputs):
            halve = i == 0 and cell.halve_first
            module: nn.Module
            if not used:
                continue
            if not preproc:
                module = operations.Subsample() if halve else nn.Identity()
            elif halve:
                module = operations.FactorizedReduce(cell.channels_in[i], width, norm, device)
            else:
                module = operations.convolution(cell.channels_in[i], width, 1, 1, norm, device)
            self.add_module(f"preprocess{i}", module)
        self._ops = nn.ModuleDict()
        for k in sorted(cell.route.used):
            name, source = cell.edges[k]
            self._ops[str(k)] = operations.operation(
                name, width, cell.stride if source < 2 else 1, norm, device
            )

    def forward(self, s0: State | None, s1: State | None) -> State:
        """The cell's output (B, C * number of concatenated states, H, W).

        Args:
            s0: output of the cell before the last one; None if it has no value.
            s1: output of the last cell.
        """
        states: list[State | None] = []
        for i, s in enumerate((s0, s1)):
            states.append(
                self._preprocess(i, s) if s is not None and self.route.inputs[i] else None
            )
        for terms in self.route.terms:
            total: Tensor | None = None
            for k in terms:
                if k in self.route.used and (source := states[self.sources[k]]) is not None:
                    value = operations.apply(self._ops[str(k)], source)
                    total = value if total is None else total + value
            states.append(None if total is None else State(total))
        outputs = [states[state] for state in self.route.concat]
        if len(outputs) == 1 and outputs[0] is not None:
            return outputs[0]
        stand_in = states[self.route.source]
        assert stand_in is not None
        zeros = torch.zeros_like(stand_in.value) if self.route.missing else stand_in.value
        return State(
            torch.cat([zeros if output is None else output.value for output in outputs], dim=1)
        )

    def _preprocess(self, i: int, state: State) -> State:
        module = self.get_submodule(f"preprocess{i}")
        return state if isinstance(module, nn.Identity) else State(operations.apply(module, state))


class Network(nn.Module):
    """The network of an architecture.

    Args:
        architecture: what to build.
        channels: width C.
        fc_dim: width of the classifier's hidden layers; None for the architecture's own.
        num_classes: number of outputs.
        image_size: in pixels; above 64 the stem strides.
        imagenet_stride: stride of the simple stem on large images.
        device: where to create parameters; "meta" creates none.

    Attributes:
        recompute: whether the backward pass computes the activations of cells again, of which only
            the inputs are then kept.

    Raises:
        InvalidGraphError: the architecture's output is disconnected by `none`.
        ConfigError: a size is out of range.
    """

    recompute = False

    def __init__(
        self,
        architecture: Architecture,
        channels: int = 32,
        fc_dim: int | None = None,
        num_classes: int = 10,
        image_size: int = 32,
        imagenet_stride: int = 4,
        device: Device = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.scaling = Scaling(channels, fc_dim, num_classes, image_size, imagenet_stride)
        self._build(device)

    def _build(self, device: Device) -> None:
        architecture, scaling = self.architecture, self.scaling
        wiring = wire(architecture, scaling)
        norm = architecture.norm is not None
        self._build_stem(wiring.stem_channels, norm, wiring.stems[1], device)
        self.cells = nn.ModuleDict(
            {str(c.number): Cell(c, architecture.preproc, norm, device) for c in wiring.cells}
        )
        head: list[nn.Module | Literal["r"] | None] = []
        for i, (n_in, n_out) in enumerate(wiring.classifier):
            head += ["r", nn.Dropout(0.5)] if i else []
            head.append(Linear(n_in, n_out, device=device))
        self.classifier = Numbered(*head)

    def _build_stem(self, width: int, norm: bool, both: bool, device: Device) -> None:
        architecture, scaling = self.architecture, self.scaling

        def conv(n_in: int, n_out: int, kernel: int, stride: int, padding: int) -> Conv2d:
            return Conv2d(n_in, n_out, kernel, stride, padding, device=device)

        ks, step = architecture.ks, 2 if scaling.large else 1
        if architecture.is_vit:
            self.stem0: nn.Module = conv(
                3, width, scaling.patch, scaling.patch, scaling.patch_padding
            )
            self.pos_enc = operations.PositionalEncoding(width, scaling.patch_grid, device)
        elif architecture.stem_type == 0:
            stride = scaling.imagenet_stride if scaling.large else 1
            pool = nn.MaxPool2d(3, 2, 1) if architecture.stem_pool else None
            self.stem = Numbered(
                conv(3, width, ks, stride, ks // 2), norm_layer(width, norm, device), pool
            )
        else:
            half = width // 2
            first, second = conv(3, half, ks, step, ks // 2), conv(half, width, 3, step, 1)
            bns = norm_layer(half, norm, device), norm_layer(width, norm, device)
            self.stem0 = Numbered(first, bns[0], "r", second, bns[1])
            if both:
                self.stem1 = Numbered(
                    None, conv(width, width, 3, 2, 1), norm_layer(width, norm, device)
                )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, 3, H, W)."""
        s0: State | None
        s1: State | None
        if self.architecture.is_vit:
            s0 = s1 = State(self.pos_enc(self.stem0(images)))
        elif self.architecture.stem_type == 0:
            s0 = s1 = State(self.stem(images))
        else:
            # The second stem's ReLU works in place in the original, so that the first cell sees its
            # result as well.
            s0 = State(State(self.stem0(images)).relu)
            s1 = State(self.stem1(s0.value)) if hasattr(self, "stem1") else None
        for cell in range(self.architecture.n_cells):
            s0, s1 = s1, self._cell(str(cell), s0, s1) if str(cell) in self.cells else None
        assert s1 is not None  # wire() has made sure
        features = s1.value.mean(dim=(2, 3)) if self.architecture.glob_avg else s1.value.flatten(1)
        with _full_precision(features.device):  # half precision overflows in the VGG-style head
            logits: Tensor = self.classifier(features.to(next(self.classifier.parameters()).dtype))
        return logits

    def _cell(self, name: str, s0: State | None, s1: State | None) -> State:
        cell = self.cells[name]
        if not self.recompute:
            out: State = cell(s0, s1)
            return out

        def again(*values: Tensor | None) -> Tensor:
            """With states of its own: what was derived from theirs before is derived again."""
            state: State = cell(*(None if value is None else State(value) for value in values))
            return state.value

        values = (None if state is None else state.value for state in (s0, s1))
        # There is nothing random in a cell.
        return State(checkpoint(again, *values, use_reentrant=False, preserve_rng_state=False))


def _full_precision(device: torch.device) -> AbstractContextManager[object]:
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
