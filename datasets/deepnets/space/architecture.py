"""The search space of DeepNets-1M (Knyazev et al., 2021): what an architecture is made of.

An `Architecture` is a genotype (two cells in the style of DARTS, Liu et al., 2019) and the
arguments that stack its cells into a network. Its JSON form is the one of the published meta data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import Any

from ghn.errors import ConfigError

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "conv_1x1",
    "conv_7x1_1x7",
    "conv_3x3",
    "conv_5x5",
    "conv_7x7",
    "msa",
    "cse",
)
"""Operations between two states of a cell. The first four have no parameters."""

N_PARAMETER_FREE = 4
MAX_STEPS = 14
"""Most sums a cell can have: an input's index must fit four bits of the store's code (`codec`)."""

_KNOWN = ", ".join(OPERATIONS)

Edges = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell.

    A cell of `steps` sums has states 0 and 1 (the outputs of the two cells before it) and one state
    per sum. Entries 2i and 2i + 1 of `normal` are the operations that sum i adds up, each with the
    index of the state it reads. `normal_concat` lists the states whose concatenation is the cell's
    output. The same holds for `reduce`.
    """

    normal: Edges
    normal_concat: tuple[int, ...]
    reduce: Edges
    reduce_concat: tuple[int, ...]

    @property
    def steps(self) -> int:
        """Number of sums in a cell."""
        return len(self.normal) // 2

    @cached_property
    def operations(self) -> frozenset[str]:
        """Names of all operations in either cell."""
        return frozenset(name for name, _ in self.normal + self.reduce)

    def validate(self) -> None:
        """Checks that the cells are in the search space and go together.

        Raises:
            ConfigError: names the field, its value and what is allowed.
        """
        _check_cell("normal", self.normal, self.normal_concat)
        _check_cell("reduce", self.reduce, self.reduce_concat)
        sums, outputs = len(self.reduce), len(self.reduce_concat)
        _check(len(self.normal) == sums, "both cells must have the same number of sums")
        _check(len(self.normal_concat) == outputs, "both concats must have the same length")


@dataclass(frozen=True)
class Architecture:
    """A network of DeepNets-1M up to its width, number of classes and input size.

    Attributes:
        genotype: the cells.
        n_cells: number of cells; those at one and two thirds are reduction cells.
        ks: kernel size of the stem's first convolution (not used with msa).
        C_mult: factor on the number of channels at each reduction cell.
        preproc: whether 1x1 convolutions bring a cell's two inputs to its width.
        glob_avg: global average pooling before the classifier; otherwise a VGG-style head on the
            flattened features.
        norm: "bnorm" or None.
        stem_type: 0 (one convolution) or 1 (ImageNet-style, in two parts).
        stem_pool: max pooling after a stem of type 0.
        fc_layers: number of fully connected layers of the classifier.
        fc_dim: width of its hidden layers.
    """

    genotype: Genotype
    n_cells: int
    ks: int = 3
    C_mult: int = 1
    preproc: bool = True
    glob_avg: bool = True
    norm: str | None = "bnorm"
    stem_type: int = 0
    stem_pool: bool = False
    fc_layers: int = 1
    fc_dim: int = 256

    @cached_property
    def is_vit(self) -> bool:
        """Whether there is self-attention; then the stem is a patch embedding and reduction cells
        keep the size.
        """
        return "msa" in self.genotype.operations

    @property
    def two_stems(self) -> bool:
        """Whether the first cell's inputs are two different tensors."""
        return self.stem_type == 1 and not self.is_vit

    @property
    def reductions(self) -> tuple[bool, ...]:
        """For each cell whether it is a reduction cell."""
        return _reductions(self.n_cells)

    def halves(self, cell: int) -> bool:
        """Whether a cell halves the resolution."""
        return self.reductions[cell] and not self.is_vit

    def halves_first(self, cell: int) -> bool:
        """Whether a cell must bring its first input to the resolution of its second one."""
        before = self.halves(cell - 1) if cell else self.stem_type == 1
        return before and not self.is_vit

    def to_dict(self) -> dict[str, Any]:
        """The published keys; lists instead of tuples."""
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Architecture:
        """The inverse of `to_dict`. Keys that do not describe the architecture (`num_nodes`, ...)
        are ignored.

        Raises:
            ConfigError: a key is missing or has a value outside the search space; the message names
                it.
        """
        cells = fields.get("genotype")
        if not isinstance(cells, Mapping):
            raise ConfigError(
                "architecture: 'genotype' must be an object with normal, reduce and their concats"
            )
        try:
            genotype = Genotype(
                normal=tuple((str(name), int(i)) for name, i in cells["normal"]),
                normal_concat=tuple(int(i) for i in cells["normal_concat"]),
                reduce=tuple((str(name), int(i)) for name, i in cells["reduce"]),
                reduce_concat=tuple(int(i) for i in cells["reduce_concat"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"architecture: genotype is malformed ({error!r})") from error
        if fields.get("n_cells") is None:
            raise ConfigError("architecture: 'n_cells' is missing")
        known = {
            key: fields[key]
            for key in cls.__dataclass_fields__
            if key in fields and key != "genotype"
        }
        if known.get("norm") in ("", "none"):
            known["norm"] = None
        architecture = cls(genotype=genotype, **known)
        architecture.validate()
        return architecture

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Reads `text`; a golden record or an object with its `args` will do.

        Raises:
            ConfigError: not JSON, or not an architecture.
        """
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"architecture: not JSON ({error})") from error
        if isinstance(fields, dict) and isinstance(fields.get("args"), dict):
            fields = fields["args"]
        if not isinstance(fields, dict):
            raise ConfigError("architecture: must be a JSON object")
        return cls.from_dict(fields)

    def validate(self) -> None:
        """Checks that the fields are in the search space and go together.

        Raises:
            ConfigError: names the field, its value and what is allowed.
        """
        genotype = self.genotype
        genotype.validate()
        self._check_count("n_cells", 255)
        _check(self.ks in (1, 3, 5, 7, 9, 11), f"ks must be odd and at most 11, is {self.ks!r}")
        self._check_count("C_mult", 4)
        _check(self.norm in (None, "bnorm"), f"norm must be 'bnorm' or null, is {self.norm!r}")
        _check(self.stem_type in (0, 1), f"stem_type must be 0 or 1, is {self.stem_type!r}")
        self._check_count("fc_layers", 8)
        self._check_count("fc_dim", 65535)
        for name in ("preproc", "glob_avg", "stem_pool"):
            value = getattr(self, name)
            _check(isinstance(value, bool), f"{name} must be true or false, is {value!r}")
        _check(
            self.preproc or (len(genotype.normal_concat) == 1 and self.C_mult == 1),
            "preproc may be false only if cells keep the number of channels (one state in concat,"
            " C_mult 1)",
        )

    def _check_count(self, name: str, most: int) -> None:
        value = getattr(self, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        _check(whole and 1 <= value <= most, f"{name} must be 1..{most}, is {value!r}")


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise ConfigError(f"architecture: {what}")


def _check_cell(kind: str, edges: Edges, concat: tuple[int, ...]) -> None:
    """One of the two cells of a genotype."""
    n_sums = len(edges) // 2
    even = bool(edges) and len(edges) % 2 == 0
    _check(even, f"genotype.{kind} must have two operations per sum")
    _check(n_sums <= MAX_STEPS, f"genotype.{kind} has more than {MAX_STEPS} sums")
    for i, (name, source) in enumerate(edges):
        where = f"genotype.{kind}[{i}]"
        _check(name in OPERATIONS, f"{where}: unknown operation {name!r}; known: {_KNOWN}")
        _check(0 <= source < i // 2 + 2, f"{where} reads state {source}, which comes later")
    increasing = bool(concat) and list(concat) == sorted(set(concat))
    _check(
        increasing and concat[0] >= 2 and concat[-1] <= n_sums + 1,
        f"genotype.{kind}_concat must be increasing states in 2..{n_sums + 1}, is {list(concat)}",
    )


@cache
def _reductions(n_cells: int) -> tuple[bool, ...]:
    return tuple(cell > 0 and cell in (n_cells // 3, 2 * n_cells // 3) for cell in range(n_cells))
