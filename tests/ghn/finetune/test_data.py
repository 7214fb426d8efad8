import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ghn.finetune import stratified_order


@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=5),
    seed=st.integers(0, 1000),
    share=st.floats(0.1, 0.9),
)
@settings(max_examples=40, deadline=None)
def test_every_prefix_of_the_order_is_stratified(counts, seed, share):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    order = stratified_order(labels, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    prefix = labels[order[: round(share * len(labels))]]
    for label, count in enumerate(counts):
        # each class is off by at most 1, and together they may move the cut by as many places as
        # there are classes
        assert abs(int((prefix == label).sum()) - share * count) <= 2 + len(counts) * count / len(
            labels
        )


def test_the_seed_decides_the_order():
    labels = torch.arange(100) % 10
    assert torch.equal(stratified_order(labels, 1), stratified_order(labels, 1))
    assert not torch.equal(stratified_order(labels, 1), stratified_order(labels, 2))
