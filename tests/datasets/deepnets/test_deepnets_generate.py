"""Generation: the rules, determinism, interruption, two writers, a full disk, disjoint splits."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from datasets.deepnets import GenerateConfig, generate_split, open_split
from datasets.deepnets.generation.fingerprint import code_digest
from datasets.deepnets.generation.generate import _first_occurrences, disjoint_hashes
from datasets.deepnets.generation.shard import generate_shard, hexadecimal
from datasets.deepnets.generation.workers import OnThisMachine
from datasets.deepnets.space.architecture import OPERATIONS
from datasets.deepnets.space.rules import PUBLISHED, SplitRules, rules_of
from datasets.deepnets.space.sampling import draw_table, rejections
from datasets.deepnets.space.table import ArchitectureTable
from datasets.deepnets.store.files import only_writer_of, paths_of
from datasets.deepnets.validation.checks import drawing_rules
from ghn.errors import ConfigError, GHNError, InvalidGraphError

ROOT = Path(__file__).resolve().parents[3]

SCRIPT = """
import json, sys
from datasets.deepnets import GenerateConfig, generate_split
directory, fields = sys.argv[1], json.loads(sys.argv[2])
generate_split(directory, "mine", GenerateConfig(**fields))
"""
MINE = GenerateConfig(  # of shards enough that some are left after three kills on a busy machine
    shard_size=10, splits={"mine": {"size": 200, "n_cells": [4, 8], "deep_from": [6, 6]}}
)


FILES = ["mine.digest.json", "mine.h5", "mine.parquet"]


def run(directory: Path, config: GenerateConfig = MINE, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(directory), config.model_dump_json()]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, **options)


def contents(directory: Path, split: str = "mine") -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in paths_of(directory, split))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("uninterrupted")
    generate_split(directory, "mine", MINE)
    return directory


@pytest.mark.parametrize("workers", [2, 4])
def test_files_are_the_same_bytes_with_any_number_of_workers(tmp_path, uninterrupted, workers):
    generate_split(tmp_path, "mine", MINE, map_shards=OnThisMachine(workers))
    assert contents(tmp_path) == contents(uninterrupted)


def test_killed_runs_resume_at_the_first_missing_shard(tmp_path, uninterrupted):
    """Kills the run with SIGKILL each time a shard or two have come, until it is done."""
    kills, before = 0, -1
    for _ in range(40):
        process = run(tmp_path)
        try:
            while process.poll() is None:
                shards = len(list(tmp_path.glob(".mine.shards/*/0*.npz")))
                if shards > before + 1 and kills < 4:
                    process.send_signal(signal.SIGKILL)
                    kills, before = kills + 1, shards
                    break
                time.sleep(0.005)
        finally:
            process.wait()
            process.stderr.close()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        assert len(list(tmp_path.glob(".mine.shards/*/0*.npz"))) >= before >= 0
    assert kills >= 3
    assert contents(tmp_path) == contents(uninterrupted)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


def test_finished_split_is_left_alone_and_other_settings_replace_it(tmp_path):
    config = GenerateConfig(splits={"mine": {"size": 20}})
    first = generate_split(tmp_path, "mine", config)
    times = [path.stat().st_mtime_ns for path in paths_of(tmp_path, "mine")]
    assert generate_split(tmp_path, "mine", config).made == 0
    assert times == [path.stat().st_mtime_ns for path in paths_of(tmp_path, "mine")]
    second = generate_split(tmp_path, "mine", config, seed=7)
    assert second.made == 1
    assert (first.split.code != second.split.code).any()


TINY = {
    "n_cells": [4, 4],
    "deep_from": [4, 4],
    "operations": ["skip_connect", "conv_1x1"],
    "steps": [1, 1],
    "max_steps_deep": 1,
}
"""A space so small that shards repeat one another all the time."""


def test_a_split_is_the_first_different_architectures_of_its_shards(tmp_path):
    config = GenerateConfig(shard_size=20, splits={"mine": {"size": 90, **TINY}})
    made = generate_split(tmp_path, "mine", config).made
    rules = rules_of("mine", config.rules())
    drawn: list[str] = []
    for k in range(made):
        drawn += hexadecimal(generate_shard(rules, 1, k, 20 if k != 4 else 10).hashes)
    expected = list(dict.fromkeys(drawn))[:90]
    split = open_split(tmp_path, "mine")
    assert [raw.hex() for raw in split.metadata(["hash"])["hash"].to_pylist()] == expected
    assert made > 5  # the five of 90 architectures were not enough
    assert split.header.rejected["duplicate"] > 0
    assert set(disjoint_hashes(tmp_path / "elsewhere", ("mine",), config.rules(), 1, 20)) == set(
        expected
    )
    other = tmp_path / "two workers"
    generate_split(other, "mine", config, map_shards=OnThisMachine(2))
    assert contents(other) == contents(tmp_path)


def test_a_space_with_too_few_architectures_is_an_error():
    rng = np.random.default_rng(1)

    def hashes_of(indices: range) -> list[np.ndarray]:
        # 64 different ones
        return [rng.integers(0, 8, (20, 2)).astype(np.uint64) for _ in indices]

    assert sum(int(keep.sum()) for keep in _first_occurrences(hashes_of, 50, 20)) == 50
    with pytest.raises(
        InvalidGraphError, match="hardly more than 64 different architectures of 200"
    ):
        _first_occurrences(hashes_of, 200, 20)


def test_what_killed_runs_left_behind_is_removed(tmp_path):
    config = GenerateConfig(splits={"mine": {"size": 20}, "mine2": {"size": 20}})
    stale = [tmp_path / f".tmp-77-0123abcd-mine.{end}" for end in ("h5", "parquet", "digest.json")]
    others = tmp_path / ".tmp-77-0123abcd-mine2.h5"
    for path in (*stale, others):
        path.write_text("half")
    generate_split(tmp_path, "mine", config)
    assert sorted(path.name for path in tmp_path.iterdir()) == [others.name, *FILES]


def test_shards_of_another_version_of_the_code_are_not_taken(tmp_path, monkeypatch):
    """A run is interrupted after a shard, and goes on with the same or with other code."""

    def interrupted(function, items):
        yield function(next(iter(items)))
        raise InterruptedError

    def runs(version: str) -> None:
        monkeypatch.setattr("datasets.deepnets.generation.generate.code_digest", lambda: version)

    whole = generate_split(tmp_path, "mine", MINE).made
    for version, made in (("old", whole - 1), ("new", whole)):
        runs("old")
        with pytest.raises(InterruptedError):
            generate_split(tmp_path / version, "mine", MINE, map_shards=interrupted)
        runs(version)
        assert generate_split(tmp_path / version, "mine", MINE).made == made


def test_the_digest_of_the_code_is_of_names_and_content_wherever_it_lies(tmp_path):
    def tree(name: str, files: dict[str, str]) -> tuple[Path, ...]:
        for file, text in files.items():
            path = tmp_path / name / "space" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return (tmp_path / name / "space",)

    first = code_digest(tree("a", {"x.py": "1", "y.py": "2"}))
    assert code_digest(tree("b", {"x.py": "1", "y.py": "2"})) == first
    for name, files in {"c": {"x.py": "1", "y.py": "3"}, "d": {"x.py": "1", "z.py": "2"}}.items():
        assert code_digest(tree(name, files)) != first
    assert code_digest() == code_digest.__wrapped__()


def test_second_writer_is_refused_by_name(tmp_path):
    with only_writer_of(tmp_path, "mine"):
        process = run(tmp_path)
        assert process.wait() != 0
        message = process.stderr.read()
        process.stderr.close()
    assert "another process is writing split 'mine'" in message
    assert not any(path.suffix in (".h5", ".parquet") for path in tmp_path.iterdir())


def test_full_disk_names_the_file_and_leaves_what_was_there(tmp_path):
    """A limit on file size makes writes fail as a full disk does."""
    generate_split(tmp_path, "mine", GenerateConfig(splits={"mine": {"size": 20}}))
    before = contents(tmp_path)
    big = GenerateConfig(splits={"mine": {"size": 400}})

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    process = run(tmp_path, big, preexec_fn=limit)
    assert process.wait() != 0
    message = process.stderr.read()
    process.stderr.close()
    assert "could not be written" in message
    assert str(tmp_path) in message
    assert contents(tmp_path) == before


def test_train_is_disjoint_from_the_evaluation_splits(store, small):
    forbidden = disjoint_hashes(
        store, PUBLISHED["train"].disjoint_from, small.rules(), 1, small.shard_size
    )
    splits = {key: open_split(store, key) for key in ("train", "test")}
    keys = {
        name: {raw.hex() for raw in s.metadata(["hash"])["hash"].to_pylist()}
        for name, s in splits.items()
    }
    assert keys["test"] <= set(forbidden)
    assert not keys["train"] & set(forbidden)


@pytest.mark.parametrize("order", [["test", "val", "train"], ["train", "test", "val"]])
def test_a_split_is_disjoint_from_what_another_split_really_has(tmp_path, order):
    """val leaves out what test has, and draws others in their place: these count for train."""
    space = {**TINY, "size": 60, "operations": ["skip_connect", "conv_3x3"]}
    config = GenerateConfig(
        splits={
            "test": space,
            "val": {**space, "disjoint_from": ["test"]},
            "train": {**space, "disjoint_from": ["val", "test"]},
        }
    )
    for name in order:
        generate_split(tmp_path, name, config)
    keys = {
        name: {raw.hex() for raw in its.metadata(["hash"])["hash"].to_pylist()}
        for name in order
        if (its := open_split(tmp_path, name))
    }
    assert open_split(tmp_path, "val").header.redrawn
    assert not keys["train"] & (keys["val"] | keys["test"])
    assert not keys["val"] & keys["test"]
    assert set(disjoint_hashes(tmp_path, ("val", "test"), config.rules(), 1, 5000)) == (
        keys["val"] | keys["test"]
    )


def test_a_split_is_made_again_when_what_it_must_leave_out_has_changed(tmp_path):
    """Its own rules name the other split, and not what that one has."""
    space = {**TINY, "size": 60, "operations": ["skip_connect", "conv_3x3"]}
    before, after = (
        GenerateConfig(splits={"other": {**space, "seed": seed},
                               "mine": {**space, "disjoint_from": ["other"]}})
        for seed in (1, 2)
    )  # fmt: skip
    assert generate_split(tmp_path / "a", "mine", before).made
    assert not generate_split(tmp_path / "a", "mine", before).made
    assert generate_split(tmp_path / "a", "mine", after).made
    assert not generate_split(tmp_path / "a", "mine", after).made
    generate_split(tmp_path / "b", "mine", after)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"mine": ["mine"]}, r"circle \(mine from mine\)"),
        ({"a": ["b"], "b": ["c"], "c": ["a"]}, r"circle \(a from b from c from a\)"),
        ({"val": ["train"]}, "circle"),
        ({"mine": ["nope"]}, "'mine' names 'nope', which is no split"),
    ],
)
def test_a_split_disjoint_from_itself_or_from_no_split_is_refused(splits, message):
    with pytest.raises(ValueError, match=message):
        GenerateConfig(
            splits={name: {"size": 5, "disjoint_from": its} for name, its in splits.items()}
        )


def test_isomorphic_to_a_forbidden_one_is_drawn_again():
    rules = SplitRules(size=30)
    first = generate_shard(rules, 1, 0, 30)
    keys = hexadecimal(first.hashes)
    again = generate_shard(rules, 1, 0, 30, frozenset(keys[3:5]))
    assert set(again.redrawn) == set(keys[3:5])
    assert not set(hexadecimal(again.hashes)) & set(keys[3:5])
    assert hexadecimal(again.hashes)[:28] == keys[:3] + keys[5:]
    assert again.rejected["isomorphic_to_disjoint"] == 2


def test_no_two_graphs_of_a_shard_are_isomorphic():
    rules = SplitRules(
        size=300,
        n_cells=(4, 6),
        deep_from=(4, 4),
        steps=(1, 1),
        max_steps_deep=1,
        operations=("skip_connect", "max_pool_3x3", "conv_1x1"),
    )
    shard = generate_shard(rules, 1, 0, 300)
    assert len(set(hexadecimal(shard.hashes))) == 300
    assert shard.rejected["duplicate"] > 0


def test_every_quantity_is_drawn_as_the_rules_say():
    n = 40_000
    table = draw_table(PUBLISHED["train"], n, np.random.default_rng(0))

    def close(values, expected, of=None):
        of = len(values) if of is None else of
        assert abs(np.mean(values) - expected) < 5 * np.sqrt(expected * (1 - expected) / of)

    for cells in range(4, 19):
        close(table.n_cells == cells, 1 / 15)
    for ks in (3, 5, 7):
        close(table.ks == ks, 1 / 3)
    for column in (table.C_mult == 2, table.stem_type == 1, table.fc_layers == 2):
        close(column, 1 / 2)
    close(table.stem_pool[table.stem_type == 0], 1 / 2)
    assert not table.stem_pool[table.stem_type == 1].any()
    few = table.n_cells <= 7
    for steps in range(1, 5):
        close(table.steps[few] == steps, 1 / 4)
    assert table.steps[table.n_cells > 10].max() == 2
    single, several = table.steps == 1, table.steps > 1
    close(table.operation[several][:, 0, 0] == OPERATIONS.index("none"), 1 / 15)
    close(table.operation[single][:, 0, 0] == OPERATIONS.index("msa"), 1 / 14)
    assert not (table.operation[single][:, :, :2] == 0).any()
    free = (table.operation[:, 1] < 4)[:, :2].all(axis=1)
    close(free[several], 1 / 2 + 1 / 2 * (4 / 15) ** 2)
    close(table.n_concat[table.steps == 2] == 1, 1 / 4)
    first, second = table.source[:, 0, 2], table.source[:, 0, 3]
    assert (first != second)[several].all()
    for pair in ((0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)):
        close(((first == pair[0]) & (second == pair[1]))[several], 1 / 6)
    vit, growing = table.has("msa"), table.C_mult > 1
    assert table.preproc[several | growing].all()
    assert table.preproc[~vit].all()
    close(table.preproc[vit & single & ~growing], 0.2)
    deep = table.n_cells > 10
    assert table.glob_avg[vit | deep].all()
    close(table.glob_avg[~vit & few], 0.9)
    close(table.norm[(table.n_cells <= 5) & (table.steps <= 2)], 1 / 2)
    assert table.norm[(table.n_cells > 5) | (table.steps > 2)].all()


def test_other_splits_differ_as_published():
    rng = np.random.default_rng(1)
    deep, dense, bnfree, search = (
        draw_table(PUBLISHED[s], 5000, rng) for s in ("deep", "dense", "bnfree", "search")
    )
    assert (deep.n_cells.min(), deep.n_cells.max()) == (10, 36)
    assert deep.steps[deep.n_cells > 18].max() == 2
    assert (dense.steps.min(), dense.steps.max()) == (2, 10)
    assert dense.steps[dense.n_cells > 10].max() == 6
    assert not bnfree.norm.any()
    assert search.norm.all()
    assert (search.n_cells.min(), search.n_cells.max(), search.steps.max()) == (6, 20, 6)
    assert PUBLISHED["wide"].width_factor == 4
    assert PUBLISHED["wide"].width_factor_large == 2


def test_rejections_name_what_they_find():
    table = draw_table(PUBLISHED["train"], 5000, np.random.default_rng(2))
    reasons, n_params = rejections(PUBLISHED["train"], table)
    cse = table.count("cse")
    assert (reasons["several_cse"] == (cse > 1).any(axis=1)).all()
    assert (reasons["too_large"] == (n_params > 10**7).any(axis=1)).all()
    for name in (
        "cse_without_convolution",
        "several_cse",
        "several_large_convolutions",
        "no_parameters",
    ):
        assert reasons[name].any()


def test_user_defined_splits_have_rules_and_bad_ones_are_named():
    config = GenerateConfig(
        splits={
            "tiny": {"size": 5, "operations": ["skip_connect", "conv_3x3"]},
            "train": {"size": 9},
        }
    )
    assert config.rules()["train"].size == 9
    assert config.rules()["train"].n_cells == (4, 18)
    assert generate_shard(config.rules()["tiny"], 1, 0, 5).code.shape[0] == 5
    with pytest.raises(ConfigError, match="no rules for a split named 'nope'"):
        rules_of("nope", config.rules())
    for fields, message in (
        ({"size": 0}, "greater than 0"),
        ({"size": 5, "steps": [3, 2]}, "increasing pair"),
        ({"size": 5, "operations": ["conv_4x4"]}, "unknown operations"),
        ({"size": 5, "depth": 3}, "Extra inputs"),
    ):
        with pytest.raises(ValueError, match=message):
            GenerateConfig(splits={"tiny": fields})


def test_rules_that_leave_nothing_to_draw_end():
    rules = SplitRules(
        size=50,
        n_cells=(4, 4),
        deep_from=(4, 4),
        steps=(1, 1),
        max_steps_deep=1,
        operations=("skip_connect", "conv_1x1"),
    )
    with pytest.raises(GHNError, match="hardly any new architecture"):
        generate_shard(rules, 1, 0, 5000)
    with pytest.raises(GHNError, match="reject nearly every architecture"):
        generate_shard(SplitRules(size=5, max_multiply_adds=1.0), 1, 0, 5)


def test_norms_may_have_a_probability_whatever_the_depth():
    shard = generate_shard(SplitRules(size=2000, norm=0.7), 1, 0, 2000)
    table = ArchitectureTable.decode(shard.code)
    for depth in (table.n_cells <= 5, table.n_cells > 5):
        assert table.norm[depth].mean() == pytest.approx(0.7, abs=0.06)
    assert not drawing_rules(table, SplitRules(size=2000, norm=0.7)).any()
    with pytest.raises(ValueError, match="norm"):
        SplitRules(size=1, norm=1.5)


def test_rules_that_reject_most_draws_still_fill_a_shard():
    shard = generate_shard(SplitRules(size=300, norm="always", max_multiply_adds=1e7), 1, 0, 300)
    assert len(shard.code) == 300
    assert shard.rejected["too_costly"] > 20 * 300


@pytest.mark.slow
def test_a_ray_cluster_makes_the_same_bytes(tmp_path, uninterrupted):
    ray = pytest.importorskip("ray", reason="ray is not installed (extra `ray`)")
    from functools import partial

    from flows.compute.fanout import FanOut, fan_out

    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    try:
        generate_split(
            tmp_path, "mine", MINE, map_shards=partial(fan_out, config=FanOut(backend="ray"))
        )
    finally:
        ray.shutdown()
    assert contents(tmp_path) == contents(uninterrupted)
