"""From a network to its graph: the network is run once on meta tensors, without arithmetic."""

from ghn.tracing.run import trace

__all__ = ["trace"]
