"""Entries of each table, recomputed from the rows by hand."""

import math

import numpy as np
import pytest
import torch

from flows.experiments.summaries import (
    ablations,
    activations,
    detection,
    diversity,
    ensembles,
    fine_tuning,
    generalisation,
    gradients,
    learning_rates,
    network_by_network,
    optimisers,
    overview,
    ranking,
    verdict,
)
from ghn.analysis import SCORES


def cell(block, row, column):
    body = {entry[0]: entry for entry in block.rows}
    return body[row][list(block.header).index(column)]


def trial(architecture, init, seed, test, curve, **more):
    row = {
        "architecture": architecture,
        "ghn": init,
        "seed": seed,
        "error": None,
        "part": "main",
        "selected": True,
        "test_accuracy": test,
        "step": [0, 4],
        "val_accuracy": curve,
        "train_accuracy": [None, 0.5],
        "final_val_accuracy": curve[-1],
        "diverged": False,
        "init_seconds": 0.25,
        "lr": 0.1,
        "weight_decay": 3e-5,
        "optimizer": "sgd",
    }
    return row | more


@pytest.fixture
def trials():
    rows = []
    for architecture, base in (("a", 0.2), ("b", 0.5)):
        for seed, jitter in ((1, 0.0), (2, 0.02)):
            rows.append(trial(architecture, "randinit", seed, base + jitter, [0.1, base]))
            rows.append(trial(architecture, "ghn", seed, base + 0.1 + jitter, [0.3, base + 0.1]))
    rows.append({**trial("c", "ghn", 1, None, [0.0, 0.0]), "error": "RuntimeError: out of memory"})
    return rows


def test_fine_tuning(trials):
    accuracy, comparison, _ = fine_tuning(trials).blocks
    # test: networks a (0.20, 0.22) and b (0.50, 0.52), hence 0.21 and 0.51
    assert cell(accuracy, "randinit", "test") == f"36.0 ± {100 * np.std([0.21, 0.51], ddof=1):.1f}"
    assert cell(accuracy, "ghn", "step 0") == "30.0 ± 0.0"
    assert cell(accuracy, "ghn", "std over seeds") == f"{100 * np.std([0.0, 0.02], ddof=1):.1f}"
    assert cell(comparison, "ghn", "difference") == "+10.0"
    assert cell(comparison, "ghn", "wins") == "100 %"
    assert cell(comparison, "ghn", "average loss") is None


def test_sentences_name_their_parts_and_small_p_values(trials):
    many = [
        {**row, "architecture": f"{row['architecture']}{copy}"}
        for copy in range(6)
        for row in trials
    ]
    told = fine_tuning([{**row, "part": part} for part in ("low", "high") for row in many]).sentence
    assert "Low: ghn is clearly better" in told
    assert " High: ghn is clearly better" in told
    assert "p = 0.00049" in told  # twelve pairs, all of one sign: 2 / 2**12


def test_random_initialisation_alone(trials):
    alone = fine_tuning([row for row in trials if row["ghn"] == "randinit"])
    assert alone.sentence == "Test accuracy from randinit: 36.0 ± 21.2 % over 2 networks."


def test_verdicts_are_honest(trials):
    six = [
        {**row, "architecture": f"{row['architecture']}{copy}"}
        for row in trials
        for copy in range(3)
    ]
    assert verdict(six, "ghn").startswith("ghn is clearly better: +10.0 points")
    # two networks
    assert verdict(trials, "ghn").startswith("ghn is not clearly better: +10.0 points")
    one = [row for row in trials if row["architecture"] == "a"]
    assert "on the one network measured (31.0 ± 1.4 against 21.0 ± 1.4 %, ± over seeds)" in verdict(
        one, "ghn"
    )
    mixed = [
        *trials,
        trial("d", "randinit", 1, 0.9, [0.1, 0.9]),
        trial("d", "ghn", 1, 0.1, [0.1, 0.1]),
    ]
    assert "not clearly worse" in verdict(mixed, "ghn")


def test_network_by_network():
    """Three networks of torchvision: validation 0.2, 0.3, 0.4 at RandInit's end, 0.1 less or more
    from the other.
    """
    values = (("resnet18", 0.2, 0.1), ("resnet34", 0.3, 0.4), ("resnet50", 0.4, 0.5))
    rows = [trial(name, "randinit", 1, random, [0.05, random]) for name, random, _ in values]
    rows += [trial(name, "g", 1, predicted, [0.25, predicted]) for name, _, predicted in values]
    blocks = {block.caption: block for block in network_by_network(rows).blocks}
    (wins,) = (block for caption, block in blocks.items() if caption.startswith("As table 4"))
    assert cell(wins, "g, step 0", "wins") == "33 %"
    assert cell(wins, "g, step 0", "average gain") == "+5.0"
    assert cell(wins, "g, step 0", "average loss") == "-10.0"
    assert cell(wins, "g, step 4", "difference") == "+3.3"
    (accuracies,) = (
        block for caption, block in blocks.items() if caption.startswith("As table 20")
    )
    assert cell(accuracies, "resnet34", "g, ours") == "40.0"
    assert cell(accuracies, "resnet18", "published, trained") == "69.8"
    (ranks,) = (block for caption, block in blocks.items() if caption.startswith("Kendall"))
    assert cell(ranks, "randinit, ours", "g, ours") == "1.00"


def test_a_run_that_diverged_counts_at_the_steps_that_it_did_not_reach():
    rows = [trial(name, "randinit", 1, 0.3, [0.1, 0.3]) for name in ("a", "b")]
    rows.append(trial("a", "g", 1, 0.5, [0.2, 0.5]))
    short = {"step": [0], "train_accuracy": [None], "diverged": True}
    rows.append(trial("b", "g", 1, 0.1, [0.1], **short))
    (wins,) = (
        block for block in network_by_network(rows).blocks if block.caption.startswith("As table 4")
    )
    assert cell(wins, "g, step 4", "n") == "2"
    assert cell(wins, "g, step 4", "wins") == "50 %"


def test_the_overview_tells_what_is_clear_from_what_is_not(trials):
    six = [
        {**row, "architecture": f"{row['architecture']}{copy}"}
        for row in trials
        for copy in range(3)
    ]
    one = [{**row, "part": "SGD"} for row in trials if row["architecture"] == "a"]
    summary = overview({"table2": six, "table17": one})
    (table,) = summary.blocks
    assert cell(table, "table2", "verdict") == "Clearly better"
    assert cell(table, "table17, SGD", "verdict") == "One network only"
    assert "Clearly better: ghn in table2." in summary.sentence


def test_learning_rates():
    rows = [
        trial("a", "x", 1, None, [0.0, 0.50], lr=0.1),
        trial("a", "x", 1, None, [0.0, 0.40], lr=0.01),
        trial("b", "x", 1, None, [0.0, 0.30], lr=0.1),
        trial("b", "x", 1, None, [0.0, 0.315], lr=0.01),
    ]
    (table,) = learning_rates(rows).blocks
    assert table.rows == [["x (lr 0.1)", "50", "50", "100"]]


def test_a_learning_rate_counts_with_its_best_weight_decay_and_if_all_networks_have_it():
    points = (
        ("a", 0.1, 0.0, 0.5),
        ("a", 0.1, 0.5, 0.1),  # alone its mean with the other would be below that at 0.01
        ("a", 0.01, 0.0, 0.4),
        ("b", 0.1, 0.0, 0.5),
        ("b", 0.01, 0.0, 0.3),
        ("b", 1.0, 0.0, 0.9),  # failed on a
    )
    rows = [
        trial(name, "x", 1, None, [0.0, value], lr=lr, weight_decay=decay)
        for name, lr, decay, value in points
    ]
    (table,) = learning_rates(rows).blocks
    assert table.rows == [["x (lr 0.1)", "100", "100", "100"]]
    apart = [row for row in rows if (row["architecture"], row["lr"]) in (("a", 0.1), ("b", 0.01))]
    (table,) = learning_rates(apart).blocks
    assert table.rows == [["x", None, None, None]]


def test_points_of_different_weight_decay_are_no_seeds_of_one():
    rows = [
        trial("a", "x", seed, None, [0.0, value], part=part, lr=0.1, weight_decay=decay)
        for part, decay, seed, value in (
            ("AdamW", 0.01, 1, 0.4),
            ("AdamW", 0.01, 2, 0.5),
            ("AdamW", 0.05, 1, 0.8),
            ("SGD", 0.01, 1, 0.3),
        )
    ]
    (table,) = optimisers(rows).blocks
    assert cell(table, "x", "AdamW, lr 0.1, weight decay 0.01") == "45.0 ± 7.1"
    assert cell(table, "x", "AdamW, lr 0.1, weight decay 0.05") == "80.0"
    assert cell(table, "x", "SGD, lr 0.1") == "30.0"


def test_optimisers():
    rows = [
        trial("a", "x", seed, value, [0.0, value], part=part, lr=lr)
        for seed, value, part, lr in (
            (1, 0.4, "SGD", 0.05),
            (2, 0.5, "SGD", 0.05),
            (1, 0.7, "AdamW", 0.001),
        )
    ]
    random = trial("a", "randinit", 1, 0.1, [0.0, 0.1], part="SGD", lr=0.05)
    summary = optimisers([*rows, random])
    (table,) = summary.blocks
    assert summary.sentence.startswith("SGD: x has +35.0 points against randinit on the one")
    assert cell(table, "x", "SGD, lr 0.05") == "45.0 ± 7.1"
    assert cell(table, "x", "AdamW, lr 0.001") == "70.0"


def evaluation(ghn, split, architecture, accuracy, random=0.1):
    return {
        "ghn": ghn,
        "split": split,
        "architecture": architecture,
        "accuracy": accuracy,
        "randinit_accuracy": random,
        "error": None,
    }


def test_generalisation():
    rows = [
        evaluation("g", "test", "a", 0.2),
        evaluation("g", "test", "b", 0.4),
        evaluation("g", "deep", "c", 0.3, 0.2),
    ]
    table, panels = generalisation(rows).blocks
    assert len(panels.figures) == 1
    assert cell(table, "g", "test") == "30.0 ± 14.1"
    assert cell(table, "randinit", "deep") == "20.0"
    assert "(test 2, deep 1)" in table.caption


def test_histograms_beside_each_other_have_one_axis():
    rows = [evaluation("weak", "test", "a", 0.2), evaluation("strong", "test", "a", 0.9)]
    _, panels = generalisation(rows).blocks
    assert all(">100%<" in figure.svg for figure in panels.figures)
    assert len(panels.figures) == 2


def test_ablations_pool_seeds():
    rows = [
        evaluation(f"{name}-s{seed}", "test", architecture, value)
        for name, seed, architecture, value in (
            ("full", 1, "a", 0.5),
            ("full", 2, "a", 0.52),
            ("mlp", 1, "a", 0.2),
            ("mlp", 2, "a", 0.22),
            ("odd", 1, "a", 0.1),
        )
    ]
    summary = ablations(rows)
    (table,) = summary.blocks
    assert cell(table, "full", "all, mean ± std over seeds") == "51.0 ± 1.4"
    assert cell(table, "mlp", "seeds") == "2"
    assert (
        summary.sentence == "Points against full, beyond the noise of seeds: mlp -30.0. "
        "Within that noise, or with one seed only: odd -41.0."
    )


def test_a_base_of_one_seed_tells_nothing_of_noise():
    values = (("full-s1", 0.5), ("mlp-s1", 0.2), ("mlp-s2", 0.2))
    rows = [evaluation(name, "test", "a", value) for name, value in values]
    assert ablations(rows).sentence == (
        "Points against full, beyond the noise of seeds: none. "
        "Within that noise, or with one seed only: mlp -30.0."
    )


def test_a_variant_s_name_is_no_seed():
    rows = [evaluation(name, "wide", "a", 0.5) for name in ("ghn3-t", "logah-s", "ghn3-d32")]
    (table,) = ablations(rows).blocks
    assert [row[0] for row in table.rows] == ["ghn3-t", "logah-s", "ghn3-d32"]


def test_detection():
    rows = [
        {"architecture": "resnet18", "ghn": init, "ap50": value, "error": None}
        for init, value in (("randinit", 0.2), ("randinit", 0.3), ("ghn", 0.5))
    ]
    (table,) = detection(rows).blocks
    assert cell(table, "randinit", "resnet18") == "25.0 ± 7.1"
    assert cell(table, "ghn", "resnet18") == "50.0"


def test_diversity_and_gradients():
    rows = [
        {
            "ghn": "g",
            "matched": False,
            "shape": "64x3x7x7",
            "distance": 0.25,
            "tensors": 9,
            "error": None,
        }
    ]
    rows.append({**rows[0], "ghn": "randinit", "matched": True, "distance": None})
    assert cell(diversity(rows).blocks[0], "g", "64x3x7x7") == "0.25 (n = 9)"
    assert cell(diversity(rows).blocks[0], "randinit, matched", "64x3x7x7") is None
    row = {
        "architecture": "vit",
        "ghn": "g",
        "seed": 1,
        "init_seconds": 2.0,
        "parameters": 12e8,
        "error": None,
    }
    (table,) = gradients(
        [row | {"gradient_norm": None}, row | {"gradient_norm": 4.8, "ghn": "r"}]
    ).blocks
    assert table.rows == [
        ["vit, g, seed 1", "overflow", "1200M"],
        ["vit, r, seed 1", "4.8", "1200M"],
    ]


def test_activations_average_over_seeds():
    rows = [
        {"architecture": "n", "ghn": "g", "variance": v, "error": None}
        for v in ([1.0, 4.0], [3.0, 8.0])
    ]
    panels, table = activations(rows).blocks
    assert cell(table, "n, g", "first layer") == "2"
    assert cell(table, "n, g", "last") == "6"
    assert "<svg" in panels.figures[0].svg


def test_layers_whose_variance_overflows_are_left_out():
    rows = [
        {"architecture": "n", "ghn": init, "variance": variance, "error": None}
        for init, variance in (("g", [1.0, None, 4.0]), ("dead", [None, 0.0, None]))
    ]
    _, table = activations(rows).blocks
    assert [cell(table, "n, g", name) for name in ("first layer", "middle", "last")] == [
        "1",
        "4",
        "4",
    ]
    assert cell(table, "n, dead", "last") is None


def test_ensembles_average_the_logits_of_a_seed():
    one, two = torch.tensor([[3.0, 0], [1, 0]]), torch.tensor([[-1.0, 0], [0, 4]])
    rows = [
        trial(name, "g", 1, 0.5, [0.1, 0.2], logits=logits.flatten().tolist(), labels=[0, 1])
        for name, logits in (("a", one), ("b", two))
    ]
    summary = ensembles(rows)
    assert cell(summary.blocks[0], "g, main", "ensemble") == "100.0"
    assert cell(summary.blocks[0], "g, main", "b") == "50.0"
    assert "g, main: +50.0" in summary.sentence


def test_an_ensemble_that_lacks_a_network_is_none():
    """In the second seed the weaker network failed."""
    one, two = torch.tensor([[3.0, 0], [1, 0]]), torch.tensor([[-1.0, 0], [0, 4]])
    rows = [
        trial(name, "g", seed, test, [0.1, 0.2], logits=logits.flatten().tolist(), labels=[0, 1])
        for name, seed, test, logits in (("a", 1, 0.5, one), ("b", 1, 0.5, two), ("b", 2, 0.5, two))
    ]
    summary = ensembles(rows)
    assert cell(summary.blocks[0], "g, main", "ensemble") == "100.0"
    assert "g, main: +50.0" in summary.sentence
    alone = ensembles([row for row in rows if row["seed"] == 2 or row["architecture"] == "a"])
    assert cell(alone.blocks[0], "g, main", "ensemble") is None


def test_a_ranking_is_of_means_over_seeds_from_one_initialisation():
    truth = [
        trial(name, init, seed, value, [0, value])
        for name, values in (("a", (0.1, 0.3)), ("b", (0.3, 0.3)), ("c", (0.5, 0.3)))
        for init, of_seeds in (("randinit", values), ("g", (0.3 - values[0], 0.0)))
        for seed, value in enumerate(of_seeds)
    ]
    rows = [
        {"architecture": name, "error": None, "ghn": "randinit"}
        | dict.fromkeys(SCORES)
        | {"snip": value}
        for name, values in (("a", (0.0, 9.0)), ("b", (8.0, 2.0)), ("c", (10.0, 1.0)))
        for value in values
    ]
    (table,) = ranking(rows, truth).blocks
    assert cell(table, "snip", "Kendall's tau") == "1.00"


def test_ranking():
    truth = [
        trial(name, "randinit", 1, value, [0, value])
        for name, value in (("a", 0.1), ("b", 0.2), ("c", 0.3), ("d", 0.4))
    ]
    empty = dict.fromkeys(SCORES)
    scores = [
        {"architecture": name, "error": None} | empty | {"snip": value}
        for name, value in (("a", 1.0), ("b", 2.0), ("c", 4.0), ("d", 3.0))
    ]
    scores = [{"ghn": "randinit", **row} for row in scores]
    scores += [
        {"architecture": name, "error": None, "ghn": "g", "accuracy": value} | empty
        for name, value in (("a", 0.4), ("b", 0.3), ("c", 0.2), ("d", 0.1))
    ]
    (table,) = ranking(scores, truth).blocks
    # one of six pairs is the wrong way round
    assert cell(table, "snip", "Kendall's tau") == f"{4 / 6:.2f}"
    assert cell(table, "g, untrained", "Kendall's tau") == "-1.00"
    assert "gradnorm" not in {row[0] for row in table.rows}
    assert not any(math.isnan(float(row[1])) for row in table.rows)
