import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from datasets.deepnets import PUBLISHED, Network, Scaling
from datasets.deepnets.space.cost import multiply_adds
from datasets.deepnets.space.sampling import draw
from datasets.deepnets.space.table import decode_row
from ghn.errors import InvalidGraphError


def test_estimate_is_close_to_the_counted_multiply_adds() -> None:
    table = draw(PUBLISHED["train"], 60, np.random.default_rng(0)).table
    estimate = multiply_adds(table, Scaling())
    ratios = []
    for row, expected in zip(table.encode()[:25], estimate, strict=False):
        try:
            network = Network(decode_row(row.tobytes()), 32, 256, device="meta")
        except InvalidGraphError:
            continue
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, 32, 32, device="meta"))
        ratios.append(2 * expected / counter.get_total_flops())
    assert len(ratios) > 15
    assert min(ratios) > 0.75
    assert max(ratios) < 1.35
    assert abs(np.median(ratios) - 1) < 0.02


def test_a_bound_holds_for_all_that_are_drawn() -> None:
    rules = PUBLISHED["train"].model_copy(update={"max_multiply_adds": 3e7})
    drawn = draw(rules, 2000, np.random.default_rng(0))
    cost = multiply_adds(drawn.table, Scaling())
    assert len(cost) > 100
    assert cost.max() <= 3e7
    assert drawn.rejected["too_costly"] > 500
