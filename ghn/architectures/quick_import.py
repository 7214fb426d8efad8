"""`torchvision` without `torch._dynamo`, the import of which takes longer than all the rest of a
program's start.

torchvision compiles one of its operations (RoIAlign, on GPUs) when that is first called, and takes
care not to import the compiler before; but it imports by name a function of `torch._dynamo.utils`
that says whether there is a compiler. While torchvision is imported, a stand-in has that function,
which asks the real one when it is called.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType

__all__ = ["torchvision"]


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))


@contextmanager
def _stand_in() -> Iterator[None]:
    package, utils = ModuleType("torch._dynamo"), ModuleType("torch._dynamo.utils")
    utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    modules = {module.__name__: module for module in (package, utils)}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


if not {"torchvision", "torch._dynamo"} & sys.modules.keys():
    # A torchvision that needs more of it fails here, and is imported as usual below.
    with suppress(ImportError, AttributeError), _stand_in():
        import torchvision

import torchvision  # noqa: E402
