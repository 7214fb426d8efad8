"""How templates are laid out: nodes and edges under construction, and what is kept of them.

An edge is one integer, target * 2^32 + source: edges sort by target, and a template moves by adding
to all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import overload

import numpy as np

from datasets.deepnets.space import parts as ops
from datasets.deepnets.space.parts import Part

INPUT_0, INPUT_1 = -1, -2
"""Nodes in a template that stand for its two inputs."""

TARGET = 32
"""An edge's target is this many bits up."""

STEP = (1 << TARGET) + 1
"""What an edge grows by when both of its nodes move by one."""


class Layout:
    """Nodes and edges under construction.

    A value is the list of nodes that whatever reads it must be joined to: mostly one, but more
    where the reference leaves out an operation with several inputs. Two values are one tensor if
    they are the same list.

    Attributes:
        prefixes: of the names in each piece.
        parts: the pieces.
        kinds: of the nodes.
        inner: edges among the nodes.
        readers: edges from input 0 and from input 1, without their source.
    """

    def __init__(self) -> None:
        self.prefixes: list[str] = []
        self.parts: list[Part] = []
        self.kinds: list[int] = []
        self.inner: list[int] = []
        self.readers: tuple[list[int], list[int]] = ([], [])

    def add(self, prefix: str, part: Part, value: list[int]) -> list[int]:
        """Appends `part` behind `value`; returns its output value."""
        offset = len(self.kinds)
        if part.inner:
            shift = offset * STEP
            self.inner += [edge + shift for edge in part.inner]
        for target in part.readers:
            self._join(value, target + offset)
        self._append(prefix, part)
        outputs: list[int] = []
        for node in part.outputs:
            outputs += value if node == ops.INPUT else [node + offset]
        return outputs

    def _append(self, prefix: str, part: Part) -> None:
        self.prefixes.append(prefix)
        self.parts.append(part)
        self.kinds += part.kinds

    def _join(self, sources: Sequence[int], target: int) -> None:
        edge = target << TARGET
        for source in sources:
            if source >= 0:
                self.inner.append(edge + source)
            else:
                self.readers[INPUT_0 - source].append(edge)

    def join(self, part: Part, values: Sequence[list[int]]) -> list[int]:
        """A sum or concat of `values`; left out, as in the reference, where it has only one
        input.
        """
        first = values[0]
        if len(set(map(id, values))) == 1:
            return first
        nodes = list(dict.fromkeys(chain.from_iterable(values)))
        return first if len(nodes) == 1 else self.node(part, nodes)

    def node(self, part: Part, sources: Sequence[int]) -> list[int]:
        """A single node that reads `sources`."""
        node = len(self.kinds)
        self._join(sources, node)
        self._append("", part)
        return [node]


class Template:
    """A finished layout, in few objects: thousands of templates live on, and garbage collection
    looks at each object.

    Attributes:
        n_nodes: number of its nodes n.
        kinds: (n,) uint16, of its nodes.
        inner: (E,) int64, edges among them.
        readers: edges from input 0 and from input 1, without their source.
        outputs: the nodes of its output; `INPUT_0` and `INPUT_1` where an input is passed through.
    """

    def __init__(self, layout: Layout, outputs: Sequence[int]) -> None:
        self.prefixes, self.parts = tuple(layout.prefixes), tuple(layout.parts)
        self.n_nodes = len(layout.kinds)
        self.kinds = np.array(layout.kinds, dtype=np.uint16)
        self.inner = np.array(layout.inner, dtype=np.int64)
        self.readers = tuple(layout.readers[0]), tuple(layout.readers[1])
        self.outputs = tuple(outputs)

    @cached_property
    def names(self) -> list[str]:
        """Parameters' names within the template; "" where a node has none."""
        pieces = zip(self.prefixes, self.parts, strict=True)
        return [prefix + name if name else "" for prefix, part in pieces for name in part.names]


class ParameterNames(Sequence[str]):
    """The parameters' names of templates one after another, put together when first asked for;
    pickled as a tuple.

    Args:
        prefixes: what the names of each template begin with.
        templates: the templates.
    """

    def __init__(self, prefixes: Sequence[str], templates: Sequence[Template]) -> None:
        self._prefixes, self._templates = prefixes, templates

    @cached_property
    def _names(self) -> tuple[str, ...]:
        stamped = zip(self._prefixes, self._templates, strict=True)
        return tuple(
            [
                prefix + name if name else ""
                for prefix, template in stamped
                for name in template.names
            ]
        )

    def __len__(self) -> int:
        return sum([template.n_nodes for template in self._templates])

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self._names[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._names == tuple(other)

    def __hash__(self) -> int:
        return hash(self._names)

    def __repr__(self) -> str:
        return repr(self._names)

    def __reduce__(self) -> tuple[type[tuple[str, ...]], tuple[tuple[str, ...]]]:
        return tuple, (self._names,)
