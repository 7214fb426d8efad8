"""Checkpoints of hypernetworks: released ones and ours, from files, the Hugging Face hub or an
MLflow registry.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
