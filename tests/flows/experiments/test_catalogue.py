import json
import re

import pytest

from flows.experiments.catalogue import GeneralisationEntry, load_profile
from flows.experiments.cost import A100_FLOPS, plan
from flows.networks.build import forward_gmacs
from flows.settings.detect import DetectConfig
from flows.settings.inits import BASELINES, hypernetwork_name
from flows.settings.trials import Grid
from ghn.errors import ConfigError


@pytest.mark.parametrize("name", ["laptop", "paper", "tiny"])
def test_profiles_are_valid_and_complete(name):
    """Every table and figure that issue and paper name is there, and every hypernetwork that an
    entry names exists.
    """
    profile = load_profile(name)
    told = " ".join(entry.paper for entry in profile.experiments.values())
    numbers = {int(number) for number in re.findall(r"\d+", told)}
    assert {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20} <= numbers
    for entry in profile.experiments.values():
        named = getattr(entry, "inits", None) or getattr(entry, "ghns", None) or ()
        named = entry.detect.inits if entry.kind == "detect" else named
        used = {hypernetwork_name(name) for name in named} - set(BASELINES)
        assert used == set(profile.hypernetworks_of(entry))
        for part in getattr(entry, "parts", ()):
            assert part.architectures is None or set(part.architectures) <= set(entry.select.names)
    for hypernetwork in profile.hypernetworks:
        profile.train_config(hypernetwork).hypernetwork(profile.num_classes)


def test_the_paper_profile_has_the_paper_s_grid_and_budget():
    table4 = load_profile("paper").experiments["table4"]
    (part,) = table4.parts
    assert part.grid.lr == (0.4, 0.1, 0.04, 0.01, 0.001)
    assert (part.train.momentum, part.train.weight_decay, part.train.batch_size) == (0.9, 3e-5, 128)
    assert part.train.steps == 1_281_167 // 128
    assert table4.inits == ("randinit", "ghn3-xl")


def test_the_laptop_repeats_everything_that_is_trained():
    for name, entry in load_profile("laptop").experiments.items():
        if entry.kind == "trials" and name not in ("truth", "figure2"):
            assert entry.seeds >= 3, name
            assert set(BASELINES) & set(entry.inits), name


def test_mistakes_are_named(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text("images: {name: digits}\nnum_classes: 10\nexperiments: {a: {kind: trails}}\n")
    with pytest.raises(ConfigError, match=r"experiments\.a"):
        load_profile(str(path))
    with pytest.raises(ConfigError, match="there are laptop, paper, tiny"):
        load_profile("desktop")
    entry = "{kind: derived, title: t, paper: p, difference: d, needs: [b]}"
    path.write_text(f"images: {{name: digits}}\nnum_classes: 10\nexperiments: {{a: {entry}}}\n")
    with pytest.raises(ConfigError, match=r"a\.needs names b"):
        load_profile(str(path))


TOLD = "title: t, paper: p, difference: d"
TRIALS = f"{{kind: trials, {TOLD}, inits: [randinit], parts: [{{}}], select: {{%s}}}}"


@pytest.mark.parametrize(
    ("experiments", "message"),
    [
        (
            f"a: {{kind: derived, {TOLD}, needs: [b]}}, b: {{kind: derived, {TOLD}, needs: [a]}}",
            r"in a circle, by their `needs`: (a -> b -> a|b -> a -> b)$",
        ),
        (f"a: {{kind: derived, {TOLD}}}", r"experiments\.a\.needs is empty"),
        (
            f"a: {{kind: nas, {TOLD}, truth: thruth}}, truth: {TRIALS % 'names: [resnet18]'}",
            r"a\.truth = 'thruth': no experiment of kind trials; there are truth$",
        ),
        (
            f"a: {TRIALS % 'best_of: gnh3'}, generalisation:"
            f" {{kind: generalisation, {TOLD}, ghns: [ghn3], architectures: {{}}}}",
            r"a\.select\.best_of = 'gnh3': .* whose ghns are ghn3$",
        ),
        (
            f"a: {TRIALS % 'best_of: ghn3'}, generalisation:"
            f" {{kind: generalisation, {TOLD}, ghns: [ghn3], architectures: {{}}}}",
            r"experiments\.a\.needs lacks generalisation, whose rows it reads$",
        ),
        (
            f"a: {{kind: nas, {TOLD}, truth: b}}, b: {TRIALS % 'names: [resnet18]'}",
            r"experiments\.a\.needs lacks b, whose rows it reads$",
        ),
        (
            f"a: {TRIALS % 'cheapest: 1, primitive: attention'}",
            r"a\.select\.primitive = 'attention': no node type; there are .*msa",
        ),
    ],
    ids=["circle", "derived", "truth", "best_of", "reads best_of", "reads truth", "primitive"],
)
def test_entries_that_name_what_is_not_there_are_refused(tmp_path, experiments, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(f"images: {{name: digits}}\nnum_classes: 10\nexperiments: {{{experiments}}}\n")
    with pytest.raises(ConfigError, match=message):
        load_profile(str(path))


@pytest.mark.parametrize(
    ("section", "name", "message"),
    [
        *(("experiments", name, "should match pattern") for name in ("my own", "a/b", "a.b", "-a")),
        ("experiments", "index", "the page that lists all"),
        ("hypernetworks", "a/b", "should match pattern"),
        ("hypernetworks", "orthogonal", "an initialisation without a hypernetwork"),
    ],
)
def test_names_that_are_no_file_s_and_no_word_of_a_command_are_refused(
    tmp_path, section, name, message
):
    own = {"images": {"name": "digits"}, "num_classes": 10, "experiments": {}}
    path = tmp_path / "own.yaml"
    told = {"kind": "derived", "title": "t", "paper": "p", "difference": "d"}
    path.write_text(json.dumps(own | {section: {name: told if section == "experiments" else {}}}))
    with pytest.raises(ConfigError, match=rf"{section}\.{name}\.\[key\] = '{name}': .*{message}"):
        load_profile(str(path))


def test_what_an_entry_names_twice_counts_once() -> None:
    entry = GeneralisationEntry(
        title="a",
        paper="b",
        difference="c",
        ghns=["ghn3", "ghn2", "ghn3"],
        architectures={"splits": ["test", "test"], "torchvision": ["resnet18", "resnet18"]},
    )
    assert entry.ghns == ("ghn3", "ghn2")
    assert entry.architectures.splits == ("test",)
    assert entry.architectures.torchvision == ("resnet18",)
    detect = DetectConfig(backbones=["resnet50"] * 2, inits=["randinit", "ghn", "randinit"])
    assert (detect.backbones, detect.inits) == (("resnet50",), ("randinit", "ghn"))
    assert Grid(lr=[0.1, 0.01, 0.1]).lr == (0.1, 0.01)


def test_costs_are_calibrated_by_the_papers_own_figure():
    """ResNet-50: 90 epochs in 0.4 days on 4 GPUs."""
    hours = 3 * 2 * 4.09e9 * 1_281_167 * 90 / A100_FLOPS / 3600
    assert hours == pytest.approx(0.4 * 24 * 4)


def test_a_plan_lists_every_trial_with_its_grid(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(
        "images: {name: imagenet, image_size: 224, max_val: 1, max_test: 1}\nnum_classes:"
        " 1000\nexperiments:\n  one:\n    {kind: trials, title: t, paper: p, difference: d, select:"
        " {names: [resnet50]},\n     inits: [randinit, orthogonal], seeds: 3, parts: [{grid: {lr:"
        " [0.1, 0.01]},\n     train: {steps: 10009, batch_size: 128}}]}\n"
    )
    jobs = list(plan(load_profile(str(path))))
    assert len(jobs) == 2 * 3
    assert all(job.experiment == "one" for job in jobs)
    assert {job.job.split(",")[0] for job in jobs} == {
        "resnet50 from randinit",
        "resnet50 from orthogonal",
    }
    # an epoch of ResNet-50 at two learning rates: 2/90 of full training
    assert jobs[0].gpu_hours == pytest.approx(2 * 38.4 / 90, rel=0.02)


def test_later_seeds_cost_one_point_where_the_first_tunes() -> None:
    profile = load_profile("paper")
    entry = profile.experiments["selection"].model_copy(
        update={"seeds": 3, "tune_each_seed": False, "inits": ("randinit",)}
    )
    tuned_once = profile.model_copy(update={"experiments": {"selection": entry}})
    jobs = [job for job in plan(tuned_once) if job.experiment == "selection"]
    (part,) = entry.parts
    points = len(part.grid.points(part.train))
    assert points > 1
    assert f" {points} points of" in jobs[0].job
    assert all(" 1 point of" in job.job for job in jobs[1:3])
    assert jobs[1].gpu_hours == jobs[2].gpu_hours
    assert jobs[0].gpu_hours / points <= jobs[1].gpu_hours < 1.1 * jobs[0].gpu_hours / points


def test_selecting_weights_costs_the_training_of_the_larger_network():
    profile = load_profile("paper")
    alone = profile.model_copy(
        update={"experiments": {"selection": profile.experiments["selection"]}}
    )
    jobs = [job for job in plan(alone) if job.experiment == "selection"]
    hours = {
        init: job.gpu_hours
        for job in jobs
        for init in ("randinit", "selection")
        if f"from {init}," in job.job
    }
    images = 225180 * 512
    trained = 3 * 2 * forward_gmacs("swin_s", 1000, 224) * 1e9 * images / A100_FLOPS / 3600
    assert hours["selection"] - hours["randinit"] == pytest.approx(trained)


def test_a_plan_counts_what_would_run(tmp_path):
    path = tmp_path / "profile.yaml"
    path.write_text(f"""
images: {{name: digits, image_size: 16}}
num_classes: 10
hypernetworks: {{g: {{released: ghn3}}}}
experiments:
  generalisation:
    {{kind: generalisation, {TOLD}, ghns: [g], cheapest: 2, architectures: {{splits: [test, wide],
      torchvision: [resnet50, squeezenet1_1, resnet18]}}}}
  table9: {{kind: diversity, {TOLD}, inits: [randinit, g]}}
  table2: {TRIALS % "names: [deepnets1m/val/3]"}
""")
    jobs = [(job.experiment, job.job) for job in plan(load_profile(str(path)))]
    assert [job for name, job in jobs if name == "generalisation"] == [
        "2 networks of test from g",
        "2 networks of wide from g",
        "squeezenet1_1 from g",
        "resnet18 from g",
    ]
    assert [job.split(", ")[0] for name, job in jobs if name == "table9"] == [
        "74 networks from randinit",
        "74 networks from g",
    ]
    assert sum(name == "table2" for name, _ in jobs) == 3
