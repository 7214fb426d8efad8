"""Graph hypernetworks GHN-1, GHN-2 and GHN-3."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
