"""Initialisations that the paper compares with: orthogonal, GradInit, NIO, MetaInit, FixUp."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
