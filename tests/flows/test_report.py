import itertools
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from flows import words
from flows.report import (
    Figure,
    Section,
    Table,
    Text,
    evaluation,
    figures,
    learning,
    render,
    torchvision,
    transfer,
    use,
)
from flows.report.evaluation import Setting
from flows.report.published import published
from flows.report.rows import as_csv
from flows.report.verdict import first_sentence, untrained
from flows.rows.answers import pack
from flows.rows.schema import identity
from flows.settings import paths
from flows.stages import report

SETTING = Setting("digits", 32, 10, (16, 64), 850_000, 2000, 1000)
PAPER = published("paper")
TABLE_20 = published("pytorch74")


def evaluated(architecture: str, split: str, accuracy: float, random: float) -> dict:
    head = identity(architecture, split, "ghn3", 1, "hash")
    return head | {
        "accuracy": accuracy,
        "randinit_accuracy": random,
        "images": 64,
        "parameters": 10**6,
    }


def finetuned(init: str, lr: float, curve: list[float], selected: bool, test: float | None) -> dict:
    return identity("resnet18", "torchvision", init, 1, "hash") | {
        "lr": lr, "step": [0, 5, 10], "val_accuracy": curve, "selected": selected,
        "test_accuracy": test, "steps": 10,
        "batch_size": 32, "images": "digits", "n_train": 100, "n_val": 50, "n_test": 60,
    }  # fmt: skip


def table(section: Section) -> Table:
    return next(block for block in section.blocks if isinstance(block, Table))


def test_published_numbers_are_those_of_the_paper() -> None:
    models = TABLE_20["models"]
    assert len(models) == 74
    accuracies = np.array(
        [
            [facts[name] for name in ("ghn3", "ghn3_1ep", "ghn3_10ep", "randinit_1ep", "sota")]
            for facts in models.values()
        ]
    )
    # The last rows of table 20: averages and standard deviations.
    assert accuracies.mean(0) == pytest.approx([1.66, 25.42, 51.79, 17.36, 76.33], abs=0.006)
    assert accuracies.std(0) == pytest.approx([4.97, 12.31, 11.26, 7.18, 6.33], abs=0.06)
    # table 4: 55 of 74
    assert sum(f["ghn3_1ep"] > f["randinit_1ep"] for f in models.values()) == 55


def test_generalisation_table_by_hand() -> None:
    rows = [
        evaluated("a", "test", 0.2, 0.1),
        evaluated("b", "test", 0.6, 0.1),
        evaluated("c", "wide", 0.05, 0.1),
    ]
    section = evaluation.generalisation(rows, SETTING, 10, PAPER)
    cells = {row[0]: row[1:] for row in table(section).rows}
    nbsp = "\N{NO-BREAK SPACE}"
    assert cells["Test"][:4] == ["2", f"40.0 ± 20.0{nbsp}%", f"10.0 ± 0.0{nbsp}%", f"100{nbsp}%"]
    assert cells["Test"][6:] == [
        f"{value}{nbsp}%" for value in ("12.1 ± 7.6", "19.0 ± 7.6", "29.8 ± 11.2")
    ]
    assert cells["DeepNets-1M, all five"][3] == f"67{nbsp}%"
    assert "torchvision" not in cells


def test_rows_with_errors_are_left_out_of_means_and_listed() -> None:
    failed = identity("bad", "test", "ghn3", 1, "hash", ValueError("no")) | {
        "accuracy": None,
        "randinit_accuracy": None,
    }
    rows = [evaluated("a", "test", 0.2, 0.1), failed]
    assert table(evaluation.generalisation(rows, SETTING, 10, PAPER)).rows[0][1] == "1"
    section = evaluation.failures(("evaluate", rows))
    assert section is not None
    assert table(section).rows == [["bad", "evaluate", "ghn3", "ValueError: no"]]
    assert evaluation.failures(("evaluate", rows[:1])) is None


def test_table_of_the_74_has_ours_beside_published() -> None:
    rows = [evaluated("resnet18", "torchvision", 0.25, 0.1)]
    tuned = [
        finetuned("ghn3", 0.1, [0.2, 0.5, 0.9], True, 0.875),
        finetuned("randinit", 0.1, [0.1, 0.2, 0.3], True, 0.25),
    ]
    section = torchvision.torchvision_table(rows, [], tuned, "ghn3", TABLE_20, SETTING)
    (row,) = table(section).rows
    numbers = [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row]
    assert numbers == [
        "resnet18", "1.0", "25.0 ± 5.4 %", "10.0 ± 3.9 %", "87.5 %", "25.0 %", "2.21 %", "41.63 %",
        "56.67 %", "22.39 %", "69.76 %"
    ]  # fmt: skip


def test_accuracies_of_few_images_have_their_error_and_single_ones_no_spread() -> None:
    # 17 right of 34 with one right and one wrong more: sqrt(0.5 * 0.5 / 36)
    assert words.measured(0.5, 34) == "50.0 ± 8.3\N{NO-BREAK SPACE}%"
    assert words.measured(0.0, 16) == "0.0 ± 5.4\N{NO-BREAK SPACE}%"  # and not 0
    assert words.spread(np.array([0.5])) == "50.0\N{NO-BREAK SPACE}%"
    assert words.spread(np.array([0.4, 0.6])) == "50.0 ± 10.0\N{NO-BREAK SPACE}%"


def test_the_splits_that_were_evaluated_are_explained() -> None:
    rows = [evaluated("a", "wide", 0.2, 0.1), evaluated("b", "bnfree", 0.2, 0.1)]
    told = evaluation.meanings(rows)
    assert told.startswith("Wide: ")
    assert "BN-free: without batch norm" in told
    assert "Deep" not in told


def test_each_network_is_a_point_of_its_own() -> None:
    def trained(name: str, init: str, test: float) -> dict:
        return finetuned(init, 0.1, [0.1, 0.2, 0.3], True, test) | {"architecture": name}

    rows = [
        trained(name, init, test)
        for name, tests in (("resnet18", (0.5, 0.4)), ("deepnets1m/test/1", (0.3, 0.6)))
        for init, test in zip(("ghn3", "randinit"), tests, strict=True)
    ]
    (figure,) = learning.by_network(rows, "ghn3", "after it")
    assert isinstance(figure, Figure)
    assert "2 networks; predicted parameters are ahead in 1" in figure.alt
    assert (
        learning.by_network([row for row in rows if row["ghn"] != "ghn3"], "ghn3", "after it") == []
    )


def test_the_page_says_how_to_use_what_it_is_about() -> None:
    page = render("T", "S", [], [use.use(paths.weights("own"), "hyper")], {}, {})
    assert "--from models:/hyper@champion" in page
    assert "ghn init my.py:Net --images photos --from models/own/ghn.safetensors" in page


def test_key_figures_begin_with_training_and_count_what_failed() -> None:
    rows = [
        finetuned(init, 0.1, [0.1, 0.2, 0.3], True, test) | {"architecture": name}
        for name in ("a", "b")
        for init, test in (("ghn3", 0.75), ("randinit", 0.5))
    ]
    failed = identity("a", "test", "ghn3", 1, "hash", ValueError("no"))
    tables = {"finetune": rows, "transfer": [failed], "evaluation": [], "predictions": []}
    first, last = report.tiles(tables, "ghn3")
    assert first[0] == "+25.0"
    assert last == ("4", "measurements", "1 failed")


def test_finetuning_shows_the_chosen_rows_only() -> None:
    rows = [
        finetuned("ghn3", 0.1, [0.5, 0.6, 0.8], True, 0.75),
        finetuned("ghn3", 0.01, [0.5, 0.5, 0.5], False, None),
        finetuned("randinit", 0.01, [0.1, 0.2, 0.4], True, 0.5),
    ]
    section = learning.finetuning(rows, "ghn3", SETTING, PAPER)
    assert table(section).header[2:6] == ["step 0", "step 5", "step 10", "test, end"]
    cells = [
        [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in table(section).rows
    ]
    assert cells[0] == [
        "torchvision, predicted",
        "1",
        "50.0 %",
        "60.0 %",
        "80.0 %",
        "75.0 %",
        "0.1",
        "0",
    ]
    assert cells[1][0] == "torchvision, random"
    assert any("+25.0 points" in block.text for block in section.blocks if isinstance(block, Text))


@pytest.mark.parametrize("inits", itertools.permutations(("a+orth2", "ghn3", "randinit")))
def test_only_the_page_s_own_hypernetwork_is_called_predicted(inits: tuple[str, ...]) -> None:
    rows = [
        finetuned(init, 0.1, [0.1, 0.2, test], True, test) | {"architecture": name}
        for name in ("resnet18", "resnet34")
        for init, test in zip(inits, (0.5, 0.6, 0.7), strict=True)
    ]
    section = learning.finetuning(rows, "ghn3", SETTING, PAPER)
    names = ["predicted", "a+orth2", "random"]
    assert [row[0] for row in table(section).rows] == [f"torchvision, {name}" for name in names]
    told = [block.text for block in section.blocks if isinstance(block, Text)]
    ahead = [text.split(", test")[0] for text in told if text.startswith("Predicted")]
    assert ahead == ["Predicted against a+orth2", "Predicted against random"]
    few = [row | {"lineage": ["letters"]} for row in rows]
    assert table(transfer.transfer(few, "ghn3", PAPER)).header == ["network", *names]
    others = [row for row in rows if row["ghn"] != "ghn3"]
    assert "redicted" not in str(table(learning.finetuning(others, "ghn3", SETTING, PAPER)).rows)
    assert learning.comparisons(others, "ghn3") == []


def test_a_diverged_run_counts_with_what_it_ended_with_and_cuts_nothing() -> None:
    whole = finetuned("ghn3", 0.1, [0.5, 0.6, 0.8], True, 0.75)
    cut = finetuned("ghn3", 0.1, [0.3], True, 0.3)
    rows = [whole, {**cut, "step": [0], "diverged": True, "architecture": "resnet34"}]
    (cells,) = table(learning.finetuning(rows, "ghn3", SETTING, PAPER)).rows
    shown = [(cell or "").replace("\N{NO-BREAK SPACE}", " ") for cell in cells]
    assert shown[2:6] == ["40.0 ± 10.0 %", "45.0 ± 15.0 %", "55.0 ± 25.0 %", "52.5 ± 22.5 %"]
    assert shown[-1] == "1"


def test_the_step_between_is_the_nearest_to_half_of_all_and_says_which_it_is() -> None:
    rows = [
        finetuned("ghn3", 0.1, [0.1, 0.2, 0.3, 0.6], True, 0.6) | {"step": [0, 100, 1000, 1900]}
    ]
    found = table(learning.finetuning(rows, "ghn3", SETTING, PAPER))
    assert found.header[2:5] == ["step 0", "step 1,000", "step 1,900"]
    assert found.rows[0][3].startswith("30.0")
    rows[0] |= {"step": [0, 1900], "val_accuracy": [0.1, 0.6]}
    found = table(learning.finetuning(rows, "ghn3", SETTING, PAPER))
    assert found.header[2:5] == ["step 0", "step 1,900", "test, end"]


def answered(name: str, predicted: np.ndarray, random: np.ndarray) -> dict:
    """The row of a network that is right on these images."""
    row = evaluated(name, "test", float(predicted.mean()), float(random.mean()))
    return row | {"correct": pack(predicted), "randinit_correct": pack(random)}


def test_headline_does_not_claim_what_is_not_there() -> None:
    draw = np.random.default_rng(0).random((3, 30, 64))
    equal = [
        answered(str(i), a < 0.2, b < 0.2) for i, (a, b, _) in enumerate(zip(*draw, strict=True))
    ]
    better = [
        answered(str(i), a < 0.5, b < 0.1) for i, (a, b, _) in enumerate(zip(*draw, strict=True))
    ]
    assert "not clearly above random" in untrained(equal, SETTING)
    assert ": clearly above random" in untrained(better, SETTING)


def test_headline_knows_that_all_networks_see_the_same_images() -> None:
    """Thirty networks that are right on the same six images more are one observation of six."""
    images = np.arange(64)
    alike = [answered(str(i), images < 28 + i % 2, images < 22) for i in range(30)]
    gains = np.array([row["accuracy"] - row["randinit_accuracy"] for row in alike])
    assert gains.mean() > 3 * gains.std(ddof=1) / np.sqrt(len(gains))
    assert "not clearly above random" in untrained(alike, SETTING)


def test_page_is_self_contained_escaped_and_deterministic() -> None:
    rows = [evaluated("<b>", "test", 0.2, 0.1), evaluated("b", "test", 0.6, 0.1)]
    sections = [
        evaluation.generalisation(rows, SETTING, 10, PAPER),
        Section("x", "A & B", [Text("<script>")]),
    ]
    arguments = (
        "Title",
        "Summary",
        [("1", "what", "beside")],
        sections,
        {"a": "b"},
        {"rows.csv": as_csv(rows)},
    )
    page = render(*arguments)
    assert page == render(*arguments)
    assert '<p class="body">&lt;script&gt;</p>' in page
    assert "A &amp; B" in page
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    assert 'name="viewport"' in page
    assert "@media print" in page


def test_figures_are_well_formed_take_the_page_s_colours_and_share_no_ids() -> None:
    one = figures.lines(
        [figures.Series("a", [0, 1], [0.1, 0.9], [0.1, 0.1])], "One", "x", "y", chance=0.1
    )
    two = figures.histogram(
        {"predicted": np.array([0.2, 0.5]), "random": np.array([])}, "Two", "x", 5, 0.1, 0.5
    )
    ids = []
    for svg in (one, two):
        ElementTree.fromstring(svg)
        assert "var(--series-1)" in svg
        assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]\b", svg)
        assert "<metadata" not in svg
        found = re.findall(r'\bid="([^"]+)"', svg)
        assert all(
            f'id="{reference}"' in svg
            for reference in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)
            for reference in reference
            if reference
        )
        ids += found
    assert len(ids) == len(set(ids))


def test_eight_series_look_different() -> None:
    series = [figures.Series(str(n), [0, 1], [0.1, 0.1 * n], None, n) for n in range(8)]
    svg = figures.lines(series, "Eight", "x", "y")
    styles = re.findall(r'style="(fill: none; stroke[^"]*var\(--series-[^"]*)"', svg)
    assert len(set(styles)) == 8
    points = {str(n): ([0.1 * n], [0.2]) for n in range(8)}
    assert figures.scatter(points, "Points", "x", "y").count("var(--series-8)") >= 1


def test_a_transfer_to_images_seen_before_is_said_to_be_one() -> None:
    rows = [
        finetuned(init, 0.1, [0.1, 0.2, 0.3], True, 0.3)
        | {"images": "cifar10", "lineage": ["cifar10", "digits and letters"]}
        for init in ("ghn3", "randinit")
    ]
    section = transfer.transfer(rows, "ghn3", PAPER)
    assert [block.text for block in section.blocks if isinstance(block, Text)][1].startswith(
        "Images of cifar10 are among those that the hypernetwork"
    )
    assert "images it has been trained on before" in first_sentence("ghn3", [], rows, [])
    fresh = [row | {"lineage": ["digits", "digits and cifar10"]} for row in rows]
    assert "among those" not in str(transfer.transfer(fresh, "ghn3", PAPER).blocks)
    assert "trained on before" not in first_sentence("ghn3", [], fresh, [])
