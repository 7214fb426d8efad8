"""All experiments at the profile tiny, as stages of DVC in a clone; two entries of each table, from
its rows alone.
"""

import json
import math
import re
from html import unescape
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from clone import Clone
from scipy.stats import kendalltau

from flows.settings import paths

pytestmark = pytest.mark.slow

PROFILE = "params/experiments/tiny.yaml"


def repro(clone: Clone) -> list[str]:
    """The stages that ran, without those of the pipeline."""
    result = clone.run("-m", "dvc", "repro", "experiments/dvc.yaml")
    ran = re.findall(r"Running stage 'experiments/dvc.yaml:([^']+)'", result.stdout)
    return [
        name.removeprefix("measured@").removeprefix("compared@")
        for name in ran
        if name != "sources"
    ]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("experiments") / "clone", data_root)
    for name in ("dvc.yaml", "dvc.lock"):
        (clone.path / "experiments" / name).unlink(missing_ok=True)
    clone.run("-m", "ghn.cli", "experiments", "stages", "--profile", "tiny")
    profile = yaml.safe_load((clone.path / PROFILE).read_text())
    names = {name for name, entry in profile["experiments"].items() if entry["kind"] != "derived"}
    assert set(repro(clone)) == {
        *names,
        *(f"hypernetwork@{ghn}" for ghn in profile["hypernetworks"]),
        "pages",
    }
    return clone


def rows(clone: Clone, name: str) -> list[dict]:
    found = pq.read_table(clone.path / "results" / "experiments" / f"{name}.parquet").to_pylist()
    assert [row["error"] for row in found] == [None] * len(found)
    return found


def cells(clone: Clone, name: str, caption: str) -> dict[str, dict[str, str]]:
    """The first table of a page whose caption begins so: by row, then by column."""
    page = (clone.path / "reports" / "experiments" / f"{name}.html").read_text()
    start = re.search(rf'<p class="caption">{re.escape(caption)}', page)
    assert start, f"{name}: no table {caption!r}"
    table = page[start.end() : page.index("</table>", start.end())]
    header = [unescape(text) for text in re.findall(r'<th scope="col">(.*?)</th>', table)]
    body = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        for row in re.findall(r'<tr>(<th scope="row">.*?)</tr>', table)
    ]
    return {
        unescape(row[0]): dict(zip(header[1:], map(unescape, row[1:]), strict=True)) for row in body
    }


def mean_std(values: list[float]) -> str:
    return f"{100 * np.mean(values):.1f}" + (
        f"±{100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    )


def test_a_second_time_nothing_runs(clone: Clone) -> None:
    assert repro(clone) == []


@pytest.mark.parametrize(
    ("name", "inits"),
    [
        ("table2", ("randinit", "x-ghn3")),
        ("table6-cnn", ("metainit", "x-ghn3")),
        ("table6-transformer", ("gradinit", "x-ghn3")),
        ("table7", ("orthogonal", "x-ghn3")),
        ("table16", ("fixup", "gradinit")),
        ("selection", ("selection", "x-ghn3")),
    ],
)
def test_trained_accuracy_of_one_network(clone: Clone, name: str, inits: tuple[str, str]) -> None:
    """Tables 2, 6, 7 and 16, weight selection: mean over seeds of the test accuracy of the grid
    point that is best on validation.
    """
    table = cells(
        clone,
        name,
        "Validation accuracy (%) along training and test accuracy at the end; 1 network,",
    )
    for init in inits:
        mine = [row for row in rows(clone, name) if row["ghn"] == init]
        best = {row["seed"]: row for row in mine if row["selected"]}
        assert all(best[row["seed"]]["val_accuracy"][-1] >= row["val_accuracy"][-1] for row in mine)
        assert table[init]["test"] == mean_std([row["test_accuracy"] for row in best.values()])
        assert table[init]["step 1"] == mean_std(
            [row["val_accuracy"][row["step"].index(1)] for row in best.values()]
        )


def test_tables_4_and_20_and_14(clone: Clone) -> None:
    for name, prefix in (("table4", "Paired"), ("table14", "Convolutional: paired")):
        accuracy = {
            (r["architecture"], r["ghn"]): r["test_accuracy"]
            for r in rows(clone, name)
            if r["selected"]
        }
        names = sorted({architecture for architecture, _ in accuracy})
        gaps = np.array(
            [
                accuracy[architecture, "x-ghn3"] - accuracy[architecture, "randinit"]
                for architecture in names
            ]
        )
        table = cells(clone, name, f"{prefix} over networks")
        assert table["x-ghn3"]["difference"] == f"{100 * gaps.mean():+.1f}"
        assert table["x-ghn3"]["wins"] == f"{100 * (gaps > 0).mean():.0f} %"
    accuracy = {
        (r["architecture"], r["ghn"]): r["test_accuracy"]
        for r in rows(clone, "table4")
        if r["selected"]
    }
    table = cells(clone, "table4", "As table 20")
    published = json.loads((paths.PUBLISHED / "pytorch74.json").read_text())["models"]
    for architecture in ("mnasnet0_5", "mobilenet_v3_small"):
        assert (
            table[architecture]["x-ghn3, ours"] == f"{100 * accuracy[architecture, 'x-ghn3']:.1f}"
        )
        assert (
            table[architecture]["published GHN-3, 1 epoch"]
            == f"{published[architecture]['ghn3_1ep']:.1f}"
        )


def test_table_18(clone: Clone) -> None:
    table = cells(clone, "table18", "Networks (%)")
    for init in ("randinit", "x-ghn3"):
        mine = sorted(rows(clone, "table4"), key=lambda row: row["architecture"])
        by_rate = {
            lr: np.array(
                [row["val_accuracy"][-1] for row in mine if (row["ghn"], row["lr"]) == (init, lr)]
            )
            for lr in (0.01, 0.1)
        }
        best, other = sorted(by_rate, key=lambda lr: -by_rate[lr].sum())
        reached = by_rate[best] >= by_rate[other] - 0.02
        assert table[f"{init} (lr {best:g})"]["±2 %"] == f"{100 * np.mean(reached):.0f}"


def test_tables_5_and_10_to_12(clone: Clone) -> None:
    table = cells(clone, "generalisation", "Accuracy (%) without training")
    found = [r for r in rows(clone, "generalisation") if r["split"] == "test"]
    assert table["x-ghn3"]["test"] == mean_std(
        [r["accuracy"] for r in found if r["ghn"] == "x-ghn3"]
    )
    assert table["randinit"]["test"] == mean_std(
        [r["randinit_accuracy"] for r in found if r["ghn"] == "x-ghn3"]
    )
    table = cells(clone, "ablations", "Accuracy (%) without training")
    found = rows(clone, "ablations")
    of_seed = [
        np.mean([r["accuracy"] for r in found if r["ghn"] == f"a-ghn3-s{seed}"]) for seed in (1, 2)
    ]
    assert table["a-ghn3"]["all, mean ± std over seeds"] == mean_std(of_seed)
    assert table["a-mlp"]["test"] == mean_std(
        [r["accuracy"] for r in found if r["ghn"] == "a-mlp-s1"]
    )


def test_table_8(clone: Clone) -> None:
    table = cells(clone, "table8", "AP (%)")
    for init in ("randinit", "x-ghn3"):
        values = [r["ap50"] for r in rows(clone, "table8") if r["ghn"] == init]
        assert len(values) == 2
        assert table[init]["resnet18"] == mean_std(values)


def test_tables_9_and_13_and_figure_9(clone: Clone) -> None:
    table = cells(clone, "table9", "Mean absolute cosine distance")
    for row in rows(clone, "table9"):
        if row["shape"] == "256x256x3x3":
            title = f"{row['ghn']}, matched" if row["matched"] else row["ghn"]
            assert table[title]["256x256x3x3"] == f"{row['distance']:.3g} (n = {row['tensors']})"
    table = cells(clone, "table13", "L2 norm")
    for row in rows(clone, "table13"):
        assert math.isclose(
            float(table[f"resnet18, {row['ghn']}, seed 1"]["gradient norm"]),
            row["gradient_norm"],
            rel_tol=1e-3,
        )
    table = cells(clone, "figure9", "Variance after")
    for init in ("orthogonal", "x-ghn3"):
        last = [r["variance"][-1] for r in rows(clone, "figure9") if r["ghn"] == init]
        assert math.isclose(
            float(table[f"shufflenet_v2_x0_5, {init}"]["last"]), np.mean(last), rel_tol=1e-2
        )


def test_table_15(clone: Clone) -> None:
    table = cells(clone, "table15", "Test accuracy (%)")
    for init in ("randinit", "x-ghn3"):
        right = []
        for seed in (1, 2):
            members = [
                r
                for r in rows(clone, "table15")
                if (r["part"], r["ghn"], r["seed"], r["selected"]) == ("trained", init, seed, True)
            ]
            assert len(members) == 2
            logits = np.mean(
                [np.reshape(r["logits"], (len(r["labels"]), -1)) for r in members], axis=0
            )
            right.append(float(np.mean(logits.argmax(1) == members[0]["labels"])))
        assert table[f"{init}, trained"]["ensemble"] == mean_std(right)


def test_table_17(clone: Clone) -> None:
    table = cells(clone, "table17", "Validation accuracy (%)")
    for init, part, lr in (("randinit", "AdamW", 0.001), ("x-ghn3", "SGD", 0.05)):
        values = [
            r["val_accuracy"][-1]
            for r in rows(clone, "table17")
            if (r["ghn"], r["part"], r["lr"]) == (init, part, lr)
        ]
        assert table[init][f"{part}, lr {lr:g}"] == mean_std(values)


def test_table_19(clone: Clone) -> None:
    truth = {r["architecture"]: r["test_accuracy"] for r in rows(clone, "truth") if r["selected"]}
    table = cells(clone, "table19", "Rank correlation")
    found = rows(clone, "table19")
    ranked = {
        name: {r["architecture"]: r[name] for r in found if r["ghn"] == "randinit"}
        for name in ("snip", "synflow")
    }
    ranked["x-ghn3, untrained"] = {
        r["architecture"]: r["accuracy"] for r in found if r["ghn"] == "x-ghn3"
    }
    for name, score in ranked.items():
        tau = kendalltau([score[each] for each in truth], [truth[each] for each in truth]).statistic
        assert table[name]["Kendall's tau"] == ("–" if math.isnan(tau) else f"{tau:.2f}")
        assert table[name]["n"] == "4"


def test_a_changed_entry_runs_again_alone(clone: Clone) -> None:
    path = clone.path / PROFILE
    text = path.read_text()
    path.write_text(
        text.replace("names: [resnet18, resnet34, resnet50]", "names: [resnet18, resnet34]")
    )
    ran = repro(clone)
    assert (ran[0], ran[-1]) == ("table9", "pages")
    assert set(ran[1:-1]) <= {"table2", "table7", "table19"}  # look their rows up
    path.write_text(text)
