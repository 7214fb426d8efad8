"""DeepNets-1M: a million architectures as computational graphs and as networks (Knyazev et al.,
2021).

Names are imported when first used: a split opens without PyTorch, in a fraction of a second and
little memory.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
