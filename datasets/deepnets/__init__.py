"""DeepNets-1M: a million architectures as computational graphs and as networks (Knyazev et al., 2021).

Names are imported when first used: a split opens without PyTorch, in a fraction of a second and little memory.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets.deepnets.builder import build_graph, scaled_graph
    from datasets.deepnets.generate import GenerateConfig, generate_split
    from datasets.deepnets.loader import MetaBatch, MetaBatchConfig, MetaBatches, meta_batches
    from datasets.deepnets.network import Network
    from datasets.deepnets.rules import EVALUATION_SPLITS, PUBLISHED, SplitRules
    from datasets.deepnets.scaling import Scaling
    from datasets.deepnets.search_space import OPERATIONS, Architecture, Genotype
    from datasets.deepnets.store import Split, open_split

_MODULES = {
    "build_graph": "builder",
    "scaled_graph": "builder",
    "GenerateConfig": "generate",
    "generate_split": "generate",
    "MetaBatch": "loader",
    "MetaBatchConfig": "loader",
    "MetaBatches": "loader",
    "meta_batches": "loader",
    "Network": "network",
    "EVALUATION_SPLITS": "rules",
    "PUBLISHED": "rules",
    "SplitRules": "rules",
    "Scaling": "scaling",
    "OPERATIONS": "search_space",
    "Architecture": "search_space",
    "Genotype": "search_space",
    "Split": "store",
    "open_split": "store",
}

__all__ = [
    "EVALUATION_SPLITS",
    "OPERATIONS",
    "PUBLISHED",
    "Architecture",
    "GenerateConfig",
    "Genotype",
    "MetaBatch",
    "MetaBatchConfig",
    "MetaBatches",
    "Network",
    "Scaling",
    "Split",
    "SplitRules",
    "build_graph",
    "generate_split",
    "meta_batches",
    "open_split",
    "scaled_graph",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
