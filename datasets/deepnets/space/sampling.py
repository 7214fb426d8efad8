"""Draws architectures by the rules of a split, thousands at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.deepnets.space.architecture import N_PARAMETER_FREE, OPERATIONS
from datasets.deepnets.space.cost import multiply_adds
from datasets.deepnets.space.parameters import count_parameters
from datasets.deepnets.space.rules import SplitRules
from datasets.deepnets.space.scaling import Scaling
from datasets.deepnets.space.table import ArchitectureTable

FC_DIM = 256

REJECTIONS = (
    "cse_without_convolution",
    "several_cse",
    "several_large_convolutions",
    "no_parameters",
    "too_large",
    "too_costly",
)
"""Why drawn architectures are rejected, in the order of checks. Disconnected ones are found when
they are built.
"""

_CONVOLUTIONS = tuple(name for name in OPERATIONS if "conv" in name)


@dataclass(frozen=True)
class Draw:
    """Accepted architectures of one draw.

    Attributes:
        table: the architectures.
        n_params: (G, 2) parameters at 32-pixel and 224-pixel input.
        rejected: number of rejected ones by reason.
    """

    table: ArchitectureTable
    n_params: NDArray[np.int64]
    rejected: dict[str, int]


def draw_table(rules: SplitRules, n: int, rng: np.random.Generator) -> ArchitectureTable:
    """n architectures by the rules, before rejection.

    Operations are uniform, and so are the pairs of distinct inputs of a sum; `none` may occur if
    there are several.
    """
    integers = rng.integers
    n_cells = integers(rules.n_cells[0], rules.n_cells[1], n, endpoint=True)
    deep_from = integers(rules.deep_from[0], rules.deep_from[1], n, endpoint=True)
    deep = n_cells > deep_from
    most = np.where(deep, rules.max_steps_deep, rules.steps[1])
    steps = integers(rules.steps[0], most, endpoint=True)
    slots = 2 * rules.steps[1]
    operation = _draw_operations(rules, rng, steps, slots)
    source = _draw_sources(rng, n, slots)
    operation, source = (
        np.where(np.arange(slots) < 2 * steps[:, None, None], x, 0) for x in (operation, source)
    )
    # Each sum but the last is dropped from the output with probability 1/2, in half of the
    # architectures.
    state = np.arange(rules.steps[1])
    dropping = (rng.random(n) < 0.5) & (steps > 1)
    dropped = dropping[:, None] & (rng.random((n, rules.steps[1])) < 0.5)
    in_concat = (state < steps[:, None]) & (~dropped | (state == steps[:, None] - 1))
    concat = (in_concat << state).sum(axis=1)

    vit = (
        (operation == OPERATIONS.index("msa")) & (np.arange(slots) < 2 * steps[:, None, None])
    ).any(axis=(1, 2))
    c_mult = integers(1, 2, n, endpoint=True)
    probability = np.where(vit, rules.preproc_msa, rules.preproc_plain)
    preproc = (steps > 1) | (c_mult > 1) | (rng.random(n) < probability)
    glob_avg = vit | deep | (rng.random(n) < 0.9)
    shallow = (n_cells <= rules.n_cells[0] + 1) & (steps <= rules.max_steps_deep)
    norm = _draw_norm(rules, rng.random(n), shallow)
    stem_type = integers(0, 1, n, endpoint=True)
    return ArchitectureTable(
        n_cells=n_cells.astype(np.uint8),
        ks=np.array([3, 5, 7], dtype=np.uint8)[integers(0, 3, n)],
        C_mult=c_mult.astype(np.uint8),
        preproc=preproc,
        glob_avg=glob_avg,
        norm=norm,
        stem_type=stem_type.astype(np.uint8),
        stem_pool=(stem_type == 0) & (rng.random(n) < 0.5),
        fc_layers=integers(1, 2, n, endpoint=True).astype(np.uint8),
        fc_dim=np.full(n, FC_DIM, dtype=np.uint16),
        steps=steps.astype(np.uint8),
        operation=operation.astype(np.uint8),
        source=source.astype(np.uint8),
        concat=np.repeat(concat[:, None], 2, axis=1).astype(np.uint16),
    )


def _draw_norm(
    rules: SplitRules, u: NDArray[np.float64], shallow: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which networks have batch norms.

    Args:
        rules: of the split.
        u: (n,) uniform draws.
        shallow: (n,) whether a network is both shallow and simple.
    """
    match rules.norm:
        case "mixed":
            return ~(shallow & (u < 0.5))
        case "always" | "never":
            return np.full(len(u), rules.norm == "always")
        case probability:
            return u < probability


def _draw_operations(
    rules: SplitRules, rng: np.random.Generator, steps: NDArray[np.int64], slots: int
) -> NDArray[np.int64]:
    """(n, 2, slots). In half of the architectures the reduction cell has no parameters."""
    n = len(steps)
    allowed = np.array([i for i, name in enumerate(OPERATIONS) if name in rules.operations])
    free = allowed[allowed < N_PARAMETER_FREE]
    skip = int("none" in rules.operations)  # none comes first; a single sum draws from the others
    u = rng.random((n, 2, slots))
    single = (steps == 1)[:, None]

    def pick(choices: NDArray[np.int64], u: NDArray[np.float64]) -> NDArray[np.int64]:
        from_all = choices[(u * len(choices)).astype(np.int64)]
        from_rest = choices[skip + (u * (len(choices) - skip)).astype(np.int64)]
        return np.where(single, from_rest, from_all)

    only_free = (rng.random(n) < 0.5)[:, None]
    normal = pick(allowed, u[:, 0])
    reduce = np.where(only_free, pick(free, u[:, 1]), pick(allowed, u[:, 1]))
    return np.stack([normal, reduce], axis=1)


def _draw_sources(rng: np.random.Generator, n: int, slots: int) -> NDArray[np.int64]:
    """(n, 2, slots): for each sum i an ordered pair of distinct states below i + 2."""
    states = np.arange(slots // 2) + 2
    u = rng.random((2, n, 2, slots // 2))
    first = (u[0] * states).astype(np.int64)
    second = (u[1] * (states - 1)).astype(np.int64)
    second += second >= first
    return np.stack([first, second], axis=-1).reshape(n, 2, slots)


def rejections(
    rules: SplitRules, table: ArchitectureTable
) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.int64]]:
    """Which architectures each rejection rule applies to, and the (G, 2) numbers of parameters."""
    cse, large = table.count("cse"), table.count("conv_5x5", "conv_7x7")
    convolution = table.has(*_CONVOLUTIONS)
    any_cse = cse.sum(axis=1) > 0
    sizes = [count_parameters(table, Scaling(image_size=size)) for size in (32, 224)]
    n_params = np.stack(sizes, axis=1)
    reasons = (
        any_cse & ~convolution,
        (cse > 1).any(axis=1),
        (large > 1).any(axis=1),
        ~(any_cse | convolution | table.has("msa")),
        (n_params > rules.max_parameters).any(axis=1),
        multiply_adds(table, Scaling()) > (rules.max_multiply_adds or np.inf),
    )
    return dict(zip(REJECTIONS, reasons, strict=True)), n_params


def accept(rules: SplitRules, table: ArchitectureTable) -> Draw:
    """Applies the rejection rules, all but connectedness."""
    reasons, n_params = rejections(rules, table)
    alive = np.ones(len(table), dtype=bool)
    rejected = {}
    for name, reason in reasons.items():
        rejected[name] = int((alive & reason).sum())
        alive &= ~reason
    return Draw(table.select(alive), n_params[alive], rejected)


def draw(rules: SplitRules, n: int, rng: np.random.Generator) -> Draw:
    """Draws n architectures and applies the rejection rules, all but connectedness."""
    return accept(rules, draw_table(rules, n, rng))
