"""Training networks from an initialisation: the engine, its data, and the noise that breaks
symmetry.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
