"""What is known of a training step on a card without one: devices are not mixed, nothing waits,
calls are few, and what is called repeats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from pretended import CUDA, Count, card, counted
from torch.testing._internal.distributed.fake_pg import FakeStore
from train_setting import make_batch

from datasets.deepnets import GenerateConfig, MetaBatchConfig, MetaBatches, generate_split
from ghn.models import GHN, GHNConfig
from ghn.train import TrainConfig
from ghn.train.data import StepData, on_device
from ghn.train.determinism import deterministic_algorithms
from ghn.train.distributed import Ranks
from ghn.train.precision import arithmetic
from ghn.train.step import MetaBatch
from ghn.train.update import Updates

MEANS = [1.0, 1.0, 1.0, 1.0]
"""Loss, cross-entropy, penalty, accuracy."""
GATED = {"message_passing": "gated", "layers": 2, "layer_norm": False, "edge_embedding": "none"}
RECIPES = {
    "default": {},
    "network clip": {"network_clip": 0.5},
    "bf16": {"amp": "bf16"},
    "bf16, decoders too": {"amp": "bf16", "amp_decoders": True},
    "fp16": {"amp": "fp16"},
    "fp16, network clip": {"amp": "fp16", "network_clip": 0.5},
    "recompute": {"recompute": True},
    "squares, smoothing": {"penalty": "square", "label_smoothing": 0.1},
}
KINDS = {
    "GHN-3": {},
    "GHN-2": GATED,
    "low-rank": {"decoder": "low-rank", "rank": 8, "factor_length": 256},
    "MLP": {"message_passing": "mlp", "edge_embedding": "none"},
}
UNREPEATABLE = (
    "adaptive_avg_pool", "adaptive_max_pool", "avg_pool3d", "max_pool3d", "fractional_max_pool",
    "max_unpool", "upsample_linear", "upsample_bilinear", "upsample_bicubic", "reflection_pad",
    "nll_loss2d", "_ctc_loss", "put_", "histc", "bincount", "kthvalue", "median", "grid_sampler",
    "cumsum", "scatter_reduce",
)  # fmt: skip
"""Of what PyTorch documents as an error on a GPU under deterministic algorithms, itself or in its
gradient, the names of operations.
"""


def _hypernetwork(**changes: object) -> GHN:
    fields = {"hidden": 32, "layers": 3, "heads": 8, "num_classes": 10, "decoder_kernel": 11}
    return GHN(GHNConfig(**(fields | {"decoder_channels": 32} | changes)))


def _counted(
    ghn: GHN,
    batch: MetaBatch,
    device: torch.device,
    images: int = 64,
    ranks: Ranks | None = None,
    **recipe: object,
) -> Count:
    """What a step asks for."""
    world = ranks.world if ranks else 1
    x_BCHW = torch.zeros(images, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    y_B = torch.zeros(images, dtype=torch.int64, device=device)
    config = TrainConfig(steps=4, warmup_steps=1, batch_size=images, **recipe)
    with counted():  # the scale of fp16 is read
        updates = Updates(ghn, config, ranks or Ranks(device=device))
    # read at first: sums of means, no rank failed, all take part, none is left out
    with counted([world * mean for mean in MEANS] + [0.0, float(world), 0.0]) as count:
        outcome = updates.take(0, StepData(x_BCHW, y_B, batch))
    assert not outcome.reason
    return count


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Count:
    """A step of CIFAR size, m = 8 and C = 32, on a CPU: what is dispatched does not hang on the
    number of images.
    """
    directory = tmp_path_factory.mktemp("split")
    config = GenerateConfig(shard_size=50, splits={"train": {"size": 32}})
    split = generate_split(directory, "train", config, 1).split
    batch = MetaBatches(split, 8, seed=1, config=MetaBatchConfig(channels=(32, 32)))[0]
    return _counted(_hypernetwork(), batch, torch.device("cpu"), images=2)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_waits_twice(recipe: str) -> None:
    ghn, batch = _hypernetwork(), make_batch([0, 1, 2])
    with card() as move:
        move(ghn)
        count = _counted(ghn, batch, CUDA, **RECIPES[recipe])
    assert len(count.waits) == 2, count.waits  # means and verdict; the norm of the gradient
    assert count.sent == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_every_kind_of_hypernetwork_waits_twice(kind: str) -> None:
    ghn, batch = _hypernetwork(**KINDS[kind]), make_batch([0, 2])
    with card() as move:
        move(ghn)
        count = _counted(ghn, batch, CUDA)
    assert len(count.waits) == 2, count.waits
    assert count.sent == []


@pytest.fixture
def two_ranks() -> Iterator[Ranks]:
    """The first of two, whose communication goes nowhere."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield Ranks(0, 2, CUDA, host=dist.new_group([0, 1], backend="fake"))
    dist.destroy_process_group()


@pytest.mark.parametrize("recipe", [{}, {"network_clip": 0.5}], ids=str)
def test_a_step_of_one_of_two_ranks_waits_twice(
    recipe: dict[str, object], two_ranks: Ranks
) -> None:
    ghn, batch = _hypernetwork(), make_batch([0, 1])
    with card() as move:
        move(ghn)
        count = _counted(ghn, batch, CUDA, ranks=two_ranks, **recipe)
    assert len(count.waits) == 2, count.waits
    assert count.operations["c10d.allreduce_.default"] >= 3  # means, verdict, gradients
    assert count.sent == []


def test_a_step_dispatches_no_more_than_before(cifar: Count) -> None:
    # 21,900 for 2,065 parameters: 19,500, and in the first step the optimizer's memory
    assert cifar.total < 22_200, cifar.operations.most_common(20)


@pytest.mark.parametrize("amp", [False, True])
def test_the_edge_term_is_one_gather_that_all_layers_share(amp: bool) -> None:
    batch = make_batch([0, 1, 2]).graphs
    pairs = batch.distance_BNN.numel() * 8  # of heads
    ghn = _hypernetwork()
    with card() as move:
        move(ghn)
        with counted() as count, torch.autocast("cuda", torch.bfloat16, enabled=amp):
            ghn.embed(batch.to(CUDA))
    assert count.operations["aten._scaled_dot_product_efficient_attention.default"] == 3
    assert not {"aten.index_select.default", "aten.scatter_add_.default"} & set(count.operations)
    # the gather, and its result in the order that attention takes; one view for each layer
    assert [name for name, size in count.made if size >= pairs] == [
        "aten.embedding.default",
        "aten.clone.default",
    ]


def test_nothing_of_a_step_is_an_error_under_deterministic_algorithms(cifar: Count) -> None:
    ghn, batch = _hypernetwork(), make_batch([0, 1, 2])
    with deterministic_algorithms(True):
        with card() as move:
            move(ghn)
            on_card = _counted(ghn, batch, CUDA, amp="bf16")
        on_cpu = [_counted(_hypernetwork(), batch, torch.device("cpu"), images=2)]
    on_cpu.append(_counted(_hypernetwork(), batch, torch.device("cpu"), images=2))
    assert on_cpu[0].operations == on_cpu[1].operations  # what it costs on a CPU
    names = {name.removeprefix("aten.") for name in (*cifar.operations, *on_card.operations)}
    assert len(names) > 50
    assert {name for name in names if name.startswith(UNREPEATABLE)} == set()


def test_a_recipe_decides_the_arithmetic_of_a_card_and_leaves_that_of_before() -> None:
    def now() -> tuple[str, bool, bool, bool]:
        convolutions = torch.backends.cudnn.allow_tf32
        repeats = torch.are_deterministic_algorithms_enabled()
        filled = torch.utils.deterministic.fill_uninitialized_memory
        return torch.get_float32_matmul_precision(), convolutions, repeats, filled

    before = now()
    with arithmetic(TrainConfig(), CUDA):
        assert now() == ("high", True, False, before[-1])
    with arithmetic(TrainConfig(tf32=False, deterministic=True), CUDA):
        assert now() == (*before[:2], True, False)
    with arithmetic(TrainConfig(), torch.device("cpu")):
        assert now() == before
    assert now() == before


def test_dropout_draws_from_the_card_s_generator_by_seed_and_step() -> None:
    ghn, batch = _hypernetwork(), make_batch([0, 1])
    seeds = []
    for seed in (1, 2, 1):
        with card() as move, mock.patch("torch.manual_seed", side_effect=AssertionError):
            move(ghn)
            _counted(ghn, batch, CUDA, seed=seed)
            (generator,) = torch.cuda.default_generators
            seeds.append(generator.initial_seed())
    assert seeds[0] == seeds[2] != seeds[1]


def test_levels_and_plan_go_to_the_card_without_waiting() -> None:
    ghn = _hypernetwork(**GATED)
    ahead = make_batch([0, 1]).graphs.planned_for(ghn.config)
    with card(), counted() as count:
        moved = on_device(make_batch([0, 1]), CUDA).graphs
        assert {tensor.device for tensor in ahead.to(CUDA).tensors} == {CUDA}
        assert len(ahead.tensors) == len(moved.tensors) + 4
    assert (count.waits, count.sent) == ([], [])
    assert math.prod(ahead.levels[0].slot_BW.shape) > 0  # type: ignore[index]
