"""Pages from rows on disk, through the same functions as the command line."""

import re

import pytest

from flows.experiments.catalogue import load_profile
from flows.experiments.pages import write_pages
from flows.experiments.runner import TRIAL_COLUMNS, path_of
from flows.rows.schema import identity, read_rows, write_rows

PROFILE = """
images: {name: digits}
num_classes: 10
experiments:
  table2:
    kind: trials
    title: Fine-tuning
    paper: table 2
    difference: small <and> quick
    select: {names: [resnet18]}
    inits: [randinit, g]
    seeds: 2
    tune_each_seed: false
    parts: [{grid: {lr: [0.1, 0.01]}, train: {steps: 4, batch_size: 16}}]
  table18: {kind: derived, title: Rates, paper: table 18, difference: none, needs: [table2]}
  table9: {kind: diversity, title: Not yet, paper: table 9, difference: none, inits: [g]}
"""


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profile.yaml").write_text(PROFILE)
    rows = [
        identity(name, "torchvision", init, seed, "x")
        | {
            "part": "main",
            "lr": 0.1,
            "selected": True,
            "test_accuracy": accuracy,
            "step": [0, 4],
            "val_accuracy": [0.1, accuracy],
            "train_accuracy": [None, accuracy],
            "train_loss": [None, 1.0],
            "final_val_accuracy": accuracy,
            "diverged": False,
            "init_seconds": 0.1,
        }
        for name in ("a", "b", "c", "d", "e", "f")
        for init, accuracy in (("randinit", 0.5), ("g", 0.625))
        for seed in (1, 2)
    ]
    rows.append(identity("g", "torchvision", "g", 1, "x", "RuntimeError: no room\nfor it"))
    write_rows(path_of("table2"), rows, TRIAL_COLUMNS)
    return load_profile("profile.yaml")


def test_an_experiment_without_rows_says_so_and_others_have_their_pages(profile):
    kept = read_rows(path_of("table2"))
    write_rows(path_of("table2"), [], TRIAL_COLUMNS)
    index = write_pages(profile)
    for name in ("table2", "table18", "index"):
        assert "Nothing was chosen" in index.with_name(f"{name}.html").read_text()
    write_rows(path_of("table2"), kept, TRIAL_COLUMNS)
    write_pages(profile)
    assert "Nothing was chosen" not in index.read_text()


def test_a_page_has_ours_the_published_the_protocol_the_failures_and_the_rows(profile, tmp_path):
    index = write_pages(profile)
    page = (index.parent / "table2.html").read_text()
    assert "+12.5" in page  # the paired difference, in points
    assert "50.1 ± 3.0" in page  # published, GHN-3-XL/m16
    assert "small &lt;and&gt; quick" in page
    assert "2 grid points (learning rate 0.1, 0.01" in page
    assert "2 seeds, of which the first chooses the point for all" in page
    assert "1 row failed: RuntimeError: no room" in page
    assert 'download="table2.csv"' in page
    assert page.count("<svg") == 2
    assert "http-equiv" not in page
    assert 'src="http' not in page


def test_trained_networks_of_cifar_10_stand_beside_the_published_ones(profile, tmp_path):
    text = PROFILE.replace("name: digits", "name: cifar10")
    (tmp_path / "profile.yaml").write_text(text)
    of_digits = (write_pages(profile).parent / "table2.html").read_text()
    rows = [
        row | {"steps": 25} | ({"split": "test"} if row["architecture"] in "ab" else {})
        for row in read_rows(path_of("table2"))
    ]
    write_rows(path_of("table2"), rows, TRIAL_COLUMNS)
    page = (write_pages(load_profile("profile.yaml")).parent / "table2.html").read_text()
    assert "published: RandInit, 50 epochs of SGD" in page
    assert "published:" not in of_digits
    assert re.search(r"g, 25 steps</th>\s*<td[^>]*>62.5 ± 0.0", page)


def test_the_protocol_names_the_larger_network(profile, tmp_path):
    larger = "larger: {architecture: resnet34, train: {lr: 0.2, steps: 7, batch_size: 8}}"
    (tmp_path / "profile.yaml").write_text(
        PROFILE.replace("    seeds: 2", f"    {larger}\n    seeds: 2")
    )
    page = (write_pages(load_profile("profile.yaml")).parent / "table2.html").read_text()
    assert "resnet34 is trained before, 7 steps of 8 images, learning rate 0.2" in page


def test_the_index_links_what_has_run_and_says_what_has_not(profile):
    text = write_pages(profile).read_text()
    assert 'href="table2.html"' in text
    assert 'href="table18.html"' in text  # derived from table2's rows
    assert 'href="table9.html"' not in text
    assert "not run yet" in text
    assert "g is clearly better: +12.5 points against randinit" in text
    assert "Clearly better: g in table2." in text


def test_the_same_rows_give_the_same_pages(profile):
    index = write_pages(profile)
    first = {path.name: path.read_bytes() for path in index.parent.iterdir()}
    write_pages(profile)
    assert first == {path.name: path.read_bytes() for path in index.parent.iterdir()}
