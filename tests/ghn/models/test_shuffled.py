"""Layers behind shuffled channels, whose columns are predicted for the channels that they read on
request.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ghn import from_pretrained, trace
from ghn.architectures import build
from ghn.checkpoint.conversion import convert
from ghn.errors import UnsupportedFormatError
from ghn.models import GHN
from ghn.models.batch import GraphBatch

SIZES: dict[str, Any] = {"decoder_channels": 24, "num_classes": 10}
LOW_RANK = {"decoder": "low-rank", "rank": 4, "factor_length": 64}
NAME = "little_shufflenet_v2"


@pytest.mark.parametrize("fields", [{}, LOW_RANK, {"base": "identity"}])
def test_columns_are_those_of_what_they_read(
    fields: dict[str, Any], make_ghn: Callable[..., GHN]
) -> None:
    torch.manual_seed(0)
    graph = trace(build(NAME, 10, 32, device="meta"))
    batch = GraphBatch.from_graphs([graph])
    ghn = make_ghn(**SIZES, **fields, shuffled="channels")
    found, places = (one(batch).parameters[0] for one in (ghn, ghn.with_shuffled("places")))
    assert found.keys() == places.keys()
    assert graph.columns
    for name, value in found.items():
        expected = places[name]
        if (read := graph.columns.get(name)) is not None:
            expected = expected[:, torch.from_numpy(read % value.shape[1]).long()]
            assert not torch.equal(expected, places[name])
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("fields", [{}, LOW_RANK, {"base": "identity"}])
def test_prediction_in_place_is_that_of_training(
    fields: dict[str, Any],
    make_ghn: Callable[..., GHN],
    predicted_in_place: Callable[..., dict[str, Tensor]],
) -> None:
    torch.manual_seed(0)
    ghn = make_ghn(**SIZES, **fields, shuffled="channels")
    model = build(NAME, 10, 32).to(memory_format=torch.channels_last)
    graph = trace(model, image_size=32)
    expected = predicted_in_place(ghn, model, graph)
    expected[next(iter(graph.columns))].sum().backward()
    gradients = [p.grad for p in ghn.tensors.parameters() if p.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


def test_a_file_says_it_only_where_it_is_not_as_published(
    tmp_path: Path, make_ghn: Callable[..., GHN]
) -> None:
    ghn = make_ghn(**SIZES, shuffled="channels")
    ghn.save_pretrained(tmp_path / "own")
    assert from_pretrained(tmp_path / "own").config.shuffled == "channels"
    places = ghn.with_shuffled("places")
    assert "shuffled" not in places.config.to_dict()
    assert places.with_shuffled("places") is places
    for a, b in zip(ghn.parameters(), places.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(UnsupportedFormatError, match="has shuffled = channels, which released"):
        convert(tmp_path / "own", tmp_path / "a.pt", released=True)
