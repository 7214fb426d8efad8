"""Initialisations that the paper compares with: orthogonal, GradInit, MetaInit, FixUp."""

from ghn.baselines.fixup import ScaleAndShift, fixup, without_norm
from ghn.baselines.gradinit import GradInitConfig, gradinit
from ghn.baselines.metainit import MetaInitConfig, gradient_quotient, metainit
from ghn.baselines.orthogonal import orthogonal, orthogonal_like

__all__ = [
    "GradInitConfig",
    "MetaInitConfig",
    "ScaleAndShift",
    "fixup",
    "gradient_quotient",
    "gradinit",
    "metainit",
    "orthogonal",
    "orthogonal_like",
    "without_norm",
]
