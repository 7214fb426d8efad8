"""The node types of DeepNets-1M (Knyazev et al., 2021). The index of a primitive is the feature of
its node.
"""

from __future__ import annotations

from enum import IntEnum


class Primitive(IntEnum):
    """Type of a node; the order is that of the released checkpoints' embedding rows and must not
    change.
    """

    max_pool = 0
    avg_pool = 1
    sep_conv = 2
    dil_conv = 3
    conv = 4
    msa = 5
    cse = 6
    sum = 7
    concat = 8
    input = 9
    bias = 10
    bn = 11
    ln = 12
    pos_enc = 13
    glob_avg = 14


N_PRIMITIVES = len(Primitive)
