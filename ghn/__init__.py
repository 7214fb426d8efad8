"""Graph hypernetworks: predict the parameters of any network from its computational graph.

    import ghn, torchvision

    hypernetwork = ghn.from_pretrained()
    model = hypernetwork(torchvision.models.resnet50(num_classes=10))

Names are imported when first used, so that `import ghn` takes no time (the command line starts without torch).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ghn.checkpoint import from_pretrained, load_checkpoint, save_checkpoint
    from ghn.errors import GHNError
    from ghn.graph import Graph, GraphBatch, Primitive
    from ghn.graph.trace import trace
    from ghn.initialize import load_initialized
    from ghn.models import GHN, VARIANTS, GHNConfig
    from ghn.predict import Report, batch_statistics, reestimate_batch_norm

_MODULES = {
    "from_pretrained": "ghn.checkpoint",
    "load_checkpoint": "ghn.checkpoint",
    "save_checkpoint": "ghn.checkpoint",
    "GHNError": "ghn.errors",
    "Graph": "ghn.graph",
    "GraphBatch": "ghn.graph",
    "Primitive": "ghn.graph",
    "trace": "ghn.graph.trace",
    "load_initialized": "ghn.initialize",
    "GHN": "ghn.models",
    "GHNConfig": "ghn.models",
    "VARIANTS": "ghn.models",
    "Report": "ghn.predict",
    "batch_statistics": "ghn.predict",
    "reestimate_batch_norm": "ghn.predict",
}

__all__ = [
    "GHN",
    "VARIANTS",
    "GHNConfig",
    "GHNError",
    "Graph",
    "GraphBatch",
    "Primitive",
    "Report",
    "batch_statistics",
    "from_pretrained",
    "load_checkpoint",
    "load_initialized",
    "reestimate_batch_norm",
    "save_checkpoint",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ghn' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
