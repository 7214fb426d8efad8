"""What the report says first, and the sections that show single things."""

import base64
import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import torch
from PIL import Image
from torch import nn

from flows.report import cifar10, families, samples, torchvision, verdict
from flows.report.blocks import Figure, Panels, Pictures, Table, Text
from flows.report.evaluation import Setting
from flows.report.pictures import filter_grid, png
from flows.report.published import published
from flows.rows.schema import identity
from flows.settings.report import Targets
from ghn.tracing import trace

SETTING = Setting("digits", 16, 10, (64, 64), 850_000, 2000, 1000)
TARGETS = Targets(images="digits", accuracy={"test": 0.65, "bnfree": 0.3})


def evaluated(name: str, split: str, accuracy: float, random: float = 0.1) -> dict:
    head = identity(name, split, "ghn3", 1, "hash")
    return head | {"accuracy": accuracy, "randinit_accuracy": random, "images": 64}


def trained(init: str, network: int, test: float, images: str = "digits") -> dict:
    return identity(f"deepnets1m/test/{network}", "test", init, 1, "hash") | {
        "images": images, "step": [0, 10], "val_accuracy": [0.1, test], "selected": True,
        "test_accuracy": test, "steps": 10, "batch_size": 32,
        "n_train": 100, "n_val": 50, "n_test": 60,
    }  # fmt: skip


def pairs(gains: list[float], images: str = "digits") -> list[dict]:
    return [
        row
        for n, gain in enumerate(gains)
        for row in (trained("ghn3", n, 0.5 + gain, images), trained("randinit", n, 0.5, images))
    ]


HELPED = pairs([0.2 + 0.0002 * n for n in range(24)])
UNCLEAR = pairs([0.1, -0.1, 0.05, -0.04], "cifar10")
HURT = pairs([-0.2 - 0.0002 * n for n in range(10)], "cifar10")


def sentence(finetuned: list[dict], transferred: list[dict], judged: list | None = None) -> str:
    return verdict.first_sentence("ghn3", finetuned, transferred, judged or [])


def test_the_first_sentence_says_what_helped_with_numbers() -> None:
    told = sentence(HELPED, UNCLEAR)
    assert told.startswith("Predicted parameters helped fine-tuning on digits (+20.2 points")
    assert "24 networks" in told
    assert "ahead in 100\N{NO-BREAK SPACE}%" in told
    assert "and made no clear difference to transfer to cifar10" in told
    assert told.count("p = ") == 2
    assert "hurt transfer to cifar10 (-20.1 points" in sentence(HELPED, HURT)
    both = sentence(pairs([0.1, -0.1, 0.0, 0.1]), UNCLEAR)
    assert both.startswith("Predicted parameters made no clear difference to fine-tuning on digits")
    assert ") or transfer to cifar10 (" in both


def test_a_network_without_a_partner_is_not_compared_along_training() -> None:
    alone = trained("randinit", 99, 0.99)  # whose predicted parameters ended in an error
    assert verdict.gaps([*HELPED, *[alone] * 40], "ghn3") == verdict.gaps(HELPED, "ghn3")
    assert verdict.gaps(HELPED, "ghn3")[10] > 0.2


def test_what_was_not_measured_is_not_claimed() -> None:
    assert "was not measured" in sentence([], [])
    failed = [{**row, "error": "ValueError: no", "selected": False} for row in UNCLEAR]
    assert "transfer" not in sentence(HELPED, failed)


def test_missed_targets_are_in_the_sentence_and_met_ones_are_not() -> None:
    rows = [evaluated("a", "test", 0.7), evaluated("b", "bnfree", 0.12)]
    judged = verdict.judge(TARGETS, "ghn3", SETTING, rows, HELPED, UNCLEAR)
    found = {entry.what: entry.met for entry in judged}
    assert found == {
        "test untrained": True,
        "BN-free untrained": False,
        "gain of fine-tuning": True,
        "networks ahead": True,
        "certainty of that": True,
        "networks compared": True,
        "ahead along training": False,  # both begin at 0.1
        "gain of transfer": True,
        "networks transferred": False,
    }
    told = sentence(HELPED, UNCLEAR, judged)
    assert "3 of 9 targets are missed: BN-free untrained 12.0 % (target 30 %), ahead" in told
    assert "not after 0 steps" in told
    assert "networks transferred 4 (target 8)." in told
    assert "test untrained" not in told


def test_targets_of_other_images_are_not_judged_and_missing_results_miss_them() -> None:
    other = TARGETS.model_copy(update={"images": "cifar10"})
    assert verdict.judge(other, "ghn3", SETTING, [], HELPED, UNCLEAR) == []
    judged = verdict.judge(TARGETS, "ghn3", SETTING, [], [], [])
    assert [entry.met for entry in judged] == [False] * 4


def test_families_by_hand() -> None:
    rows = [
        evaluated("resnet18", "torchvision", 0.4),
        evaluated("wide_resnet50_2", "torchvision", 0.2),
        evaluated("swin_v2_t", "torchvision", 0.1),
        evaluated("deepnets1m/test/0", "test", 0.5),
    ]
    section = families.families(rows, [], "ghn3", SETTING)
    assert section is not None
    lead, figure, table = section.blocks
    assert isinstance(lead, Text)
    assert isinstance(figure, Figure)
    assert isinstance(table, Table)
    cells = {row[0]: row[1:4] for row in table.rows}
    nbsp = "\N{NO-BREAK SPACE}"
    assert cells["resnet"] == ["2", f"30.0 ± 10.0{nbsp}%", f"10.0{nbsp}%"]
    assert set(cells) == {"resnet", "swin", "DeepNets-1M, Test"}
    assert lead.text.endswith("without training: swin.")


def test_pictures_are_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    kind, data = png(pixels).split(",")
    assert kind == "data:image/png;base64"
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert np.array_equal(image, pixels)
    assert png(pixels) == png(pixels.copy())


def test_filters_fill_a_grid_each_by_itself() -> None:
    filters = np.stack([np.linspace(-k, k, 12).reshape(3, 2, 2) for k in (0.0, 1.0, 5.0)])
    grid = filter_grid(filters.astype(np.float32), columns=2)
    assert grid.shape == (5, 5, 3)
    assert (grid[:2, :2] == 128).all()  # all equal
    assert grid[0, 3].tolist() == [0, 93, 185]  # the first corner of the three colours
    assert np.array_equal(grid[0:2, 3:5], grid[3:5, 0:2])
    assert (grid[2] == 255).all()


def test_images_show_truth_and_both_answers() -> None:
    row = trained("ghn3", 0, 0.5) | {
        "sample_size": 2,
        "sample_images": base64.b64encode(bytes(range(24))).decode(),
        "sample_labels": [1, 0],
        "sample_start": [0, 0],
        "sample_end": [1, 2],
        "filters_shape": [2, 3, 1, 1],
        "filters_start": [0.0] * 6,
        "filters": [float(n) for n in range(6)],
    }
    section = samples.sample_images([row], ["cat", "dog", "cow"], "ghn3")
    assert section is not None
    lead, pictures = section.blocks
    assert isinstance(lead, Text)
    assert isinstance(pictures, Pictures)
    assert [picture.title for picture in pictures.pictures] == ["dog", "cat"]
    assert [picture.lines for picture in pictures.pictures] == [
        ("predicted: cat → dog ✓",),
        ("predicted: cat → cow ✗",),
    ]
    assert "predicted 1 before and 1 after 10 steps" in lead.text
    filters = samples.first_filters([row], "ghn3")
    assert filters is not None
    assert len(filters.blocks[1].pictures) == 2
    assert samples.sample_images([trained("ghn3", 0, 0.5)], [], "ghn3") is None


def test_published_cifar10_has_the_means_of_the_paper() -> None:
    """Table 3 of Knyazev et al. (2021) has the means of GHN-2 and MLP of each split."""
    known = published("cifar10")
    means = {m: [f[s][0] for s in ("test", "wide", "deep", "dense", "bnfree")]
             for m, f in known["methods"].items()}  # fmt: skip
    assert means["GHN-2"] == [66.9, 64.0, 60.5, 65.8, 36.8]
    assert means["GHN-1"] == [51.4, 43.1, 48.3, 51.8, 13.7]
    assert means["MLP"] == [42.2, 22.3, 37.9, 44.8, 23.9]
    assert means["RandInit, 1 epoch of SGD"] == [46.9, 47.2, 34.2, 45.3, 18.0]
    table = cifar10.beside_published({"ours": {"test": np.array([0.5, 0.6])}}, known)
    nbsp = "\N{NO-BREAK SPACE}"
    assert table.rows[0] == ["ours", f"55.0 ± 5.0{nbsp}%", None, None, None, None]
    assert table.rows[3][:2] == ["published: GHN-2", f"66.9 ± 7.8{nbsp}%"]


def test_taus_of_table_20_are_the_published_ones() -> None:
    models = published("pytorch74")
    rows = [
        evaluated(name, "torchvision", facts["ghn3"] / 100)
        for name, facts in models["models"].items()
    ]
    section = torchvision.torchvision_table(rows, [], [], "ghn3", models, SETTING)
    table = [block for block in section.blocks if isinstance(block, Table)][1]
    found = {row[0]: row[3] for row in table.rows}
    names = ("GHN-3", "GHN-3, 1 epoch", "GHN-3, 10 epochs", "random, 1 epoch", "trained")
    assert [found[f"published, {name}"] for name in names] == [
        "1.00", "0.53", "0.38", "0.26", "-0.06"
    ]  # fmt: skip
    assert found["digits, predicted"] == "1.00"
    assert not any("fine-tuned" in row[0] for row in table.rows)


def test_graphs_are_the_same_bytes_each_time_and_name_themselves() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    network(torch.zeros(1, 3, 8, 8))
    graph = trace(network, torch.zeros(1, 3, 8, 8))
    section = samples.graphs([graph])
    assert section == samples.graphs([graph])
    panels = section.blocks[1]
    assert isinstance(panels, Panels)
    (figure,) = panels.figures
    ElementTree.fromstring(figure.svg)
    assert figure.caption == f"{graph.name}: {graph.n_nodes} nodes, {len(graph.edges)} edges"
