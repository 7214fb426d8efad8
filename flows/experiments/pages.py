"""A page per table or figure of the paper, ours and the published one together, and an index of
them.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from flows.experiments.catalogue import (
    DetectEntry,
    Entry,
    GeneralisationEntry,
    NasEntry,
    Profile,
    SpeedEntry,
)
from flows.experiments.runner import RESULTS, path_of
from flows.experiments.summaries import (
    SUMMARIES,
    Rows,
    Summary,
    overview,
    ranking,
    scaling,
    speed,
)
from flows.report import Block, Section, Table, Text, cifar10, render
from flows.report.evaluation import column
from flows.report.published import published
from flows.rows.schema import Row, failures, read_rows, sound, timings_path
from flows.settings import paths
from flows.settings.images import ImagesSpec
from flows.settings.trials import TrialsEntry
from flows.trials import samples
from flows.trials.statistics import chosen_rows
from flows.words import counted
from ghn.files import atomic_path

PAGES = paths.REPORTS / "experiments"
_LONG = ("correct", "val_correct", "logits", "labels", "layers", "variance", *samples.COLUMNS)
"""Columns that stay in the Parquet file and out of the page's CSV."""


def write_pages(profile: Profile) -> Path:
    """Writes the page of every experiment that has results and the index; returns the index."""
    paper = published("experiments")
    listed: list[tuple[str, Entry, str | None]] = []
    trials: dict[str, Rows] = {}
    for name, entry in profile.experiments.items():
        rows = rows_of(name, entry)
        if rows is None:
            listed.append((name, entry, None))
            continue
        summary = summarise(name, entry, rows, profile)
        page = _page(name, entry, profile, rows, summary, paper)
        with atomic_path(PAGES / f"{name}.html") as temporary:
            temporary.write_text(page)
        listed.append((name, entry, summary.sentence))
        if isinstance(entry, TrialsEntry):
            trials[name] = rows
    index = PAGES / "index.html"
    with atomic_path(index) as temporary:
        temporary.write_text(_index(listed, trials))
    return index


def rows_of(name: str, entry: Entry) -> Rows | None:
    """The rows that an experiment's page is made of; None if it has not run."""
    path = path_of(entry.needs[0] if entry.kind == "derived" else name)
    return read_rows(path) if path.exists() else None


def summarise(name: str, entry: Entry, rows: Rows, profile: Profile) -> Summary:
    """The summary of an experiment's rows."""
    if not rows:
        return Summary("Nothing was chosen, so nothing was measured.", [])
    if not sound(rows):
        return Summary("Nothing was measured: every row has an error.", [])
    if isinstance(entry, NasEntry):
        return ranking(rows, read_rows(path_of(entry.truth)))
    if isinstance(entry, SpeedEntry):
        made = [path for path in map(path_of, entry.needs) if path.exists()]
        measured = [row for path in made for row in read_rows(path)]
        return speed(rows, read_rows(timings_path(path_of(name))), measured)
    if name == "figure1":
        return scaling(rows, _facts(profile, rows))
    return (SUMMARIES.get(name) or SUMMARIES[entry.kind])(rows)


def _facts(profile: Profile, rows: Rows) -> dict[str, tuple[int, int]]:
    """Parameters and meta-batch size of the profile's hypernetworks that rows name."""
    from ghn import from_pretrained

    names = {row["ghn"] for row in rows} & set(profile.hypernetworks)
    return {
        name: (
            sum(p.numel() for p in from_pretrained(paths.weights(name)).parameters()),
            profile.meta_batch(name),
        )
        for name in sorted(names)
    }


def _page(
    name: str,
    entry: Entry,
    profile: Profile,
    rows: Rows,
    summary: Summary,
    paper: dict[str, object],
) -> str:
    setting = Text(f"Setting here: {entry.difference}.", "note")
    blocks: list[Block] = [*summary.blocks, setting]
    if (protocol := _protocol(entry)) is not None:
        blocks.append(Text(protocol, "note"))
    errors = Counter(row["error"].splitlines()[0] for row in failures(rows))
    for error, count in errors.most_common(5):
        blocks.append(Text(f"{counted(count, 'row')} failed: {error}", "warning"))
    sections = [Section("ours", "Ours", blocks)]
    images = getattr(entry, "images", None)
    images = images if isinstance(images, ImagesSpec) else profile.images
    if (table := _published_table(name, paper)) is not None:
        sections.append(
            Section("published", "Published", [table, Text(f"{paper['source']}.", "note")])
        )
    if images.name == cifar10.IMAGES and (beside := _beside(entry, rows)) is not None:
        sections.append(Section("cifar10", "Published, CIFAR-10", [beside]))
    provenance = {
        "rows": str(path_of(name)),
        "images": f"{images.name}, {images.image_size} pixels",
        "all experiments": _link("index", "index"),
    }
    title = f"{entry.title} ({entry.paper})"
    return render(title, summary.sentence, [], sections, provenance, {f"{name}.csv": _csv(rows)})


def _beside(entry: Entry, rows: Rows) -> Table | None:
    """Ours beside the published accuracies on CIFAR-10, which are of networks of DeepNets-1M; None
    where we have none of those.
    """
    match entry:
        case GeneralisationEntry():
            titled, accuracy = [(row["ghn"], row) for row in sound(rows)], "accuracy"
        case TrialsEntry():
            chosen = chosen_rows(rows)
            titled = [(_trained(row, len(entry.parts)), row) for row in chosen]
            accuracy = "test_accuracy"
        case _:
            return None
    found: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for title, row in titled:
        if row["split"] in cifar10.SPLITS:
            found[title][row["split"]].append(row)
    if not found:
        return None
    ours = {
        title: {split: column(mine, accuracy) for split, mine in by_split.items()}
        for title, by_split in found.items()
    }
    return cifar10.beside_published(ours, published("cifar10"))


def _trained(row: Row, parts: int) -> str:
    """What a network started from, and how long it trained."""
    part = f", {row['part']}" if parts > 1 else ""
    return f"{row['ghn']}{part}, {counted(row['steps'], 'step')}"


def _protocol(entry: Entry) -> str | None:
    """Grid, budget and n, which are the same for every initialisation."""
    if isinstance(entry, TrialsEntry):
        told = []
        for part in entry.parts:
            grid = part.grid
            points = len(part.grid.points(part.train))
            rates = ", ".join(f"{lr:g}" for lr in grid.lr)
            decays = ", ".join(f"{decay:g}" for decay in grid.weight_decay)
            told.append(
                f"{part.name}: {counted(points, 'grid point')} (learning rate {rates}; weight decay"
                f" {decays}; {', '.join(grid.optimizer)}), {part.train.steps} steps of"
                f" {part.train.batch_size} images each"
            )
        if entry.larger is not None:
            first = entry.larger.train
            told.append(
                f"selection: {entry.larger.architecture} is trained before, {first.steps} steps of"
                f" {first.batch_size} images, learning rate {first.lr:g}"
            )
        seeds = counted(entry.seeds, "seed")
        if entry.seeds > 1 and not entry.tune_each_seed:
            seeds += ", of which the first chooses the point for all"
        shared = (
            f"the same grid and budget for every initialisation ({', '.join(entry.inits)}), {seeds}"
        )
        chosen = (
            "the point is chosen on held-out validation images and the test images are used once"
        )
        return f"Protocol: {'; '.join(told)}; {shared}; {chosen}."
    if isinstance(entry, DetectEntry):
        config = entry.detect.detector
        return (
            f"Protocol: one setting for every initialisation (lr {config.lr:g}, {config.epochs}"
            f" epochs, images of {config.min_size} pixels), {counted(entry.detect.seeds, 'seed')},"
            f" {entry.detect.n_test} test images each."
        )
    return None


def _published_table(name: str, paper: dict[str, object]) -> Table | None:
    tables = paper["tables"]
    assert isinstance(tables, dict)
    entry = tables.get(name) or tables.get(name.split("-")[0])
    return Table(entry["header"], entry["rows"], entry["caption"]) if entry else None


def _csv(rows: Rows) -> str:
    if not rows:
        return ""
    buffer = io.StringIO()
    columns = [column for column in rows[0] if column not in _LONG]
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _index(listed: Sequence[tuple[str, Entry, str | None]], trials: Mapping[str, Rows]) -> str:
    everything = overview(trials)
    pages = [
        Text(
            Markup("<strong>{}</strong> ({})<br>{}").format(
                entry.title if sentence is None else _link(name, entry.title),
                entry.paper,
                "not run yet" if sentence is None else sentence,
            )
        )
        for name, entry, sentence in listed
    ]
    sections = [
        Section("overview", "Where a hypernetwork helps and where it does not", everything.blocks),
        Section("experiments", "Tables and figures", pages),
    ]
    provenance = {"rows": f"{RESULTS}/*.parquet"}
    return render("Experiments of the paper", everything.sentence, [], sections, provenance, {})


def _link(name: str, text: str) -> Markup:
    return Markup('<a href="{}.html">{}</a>').format(name, text)
