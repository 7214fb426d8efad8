"""Prediction of parameters for a network that exists: in place, as a state dict, with a report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
