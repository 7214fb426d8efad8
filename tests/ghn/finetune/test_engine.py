import math
from itertools import islice

import pytest
import torch
from torch import nn

from datasets.images import ImageTensors
from ghn.errors import ConfigError, DamagedFileError
from ghn.finetune import FinetuneConfig, engine, estimate_statistics, evaluate, finetune


@pytest.fixture(scope="module")
def data():
    """Two classes told apart by brightness, with noise."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(256) % 2
    pixels = torch.randint(100, (256, 3, 8, 8), generator=random) + 80 * labels.view(-1, 1, 1, 1)
    everything = ImageTensors(
        pixels.to(torch.uint8), labels, "ab", mean=(0.5,) * 3, std=(0.25,) * 3
    )
    return everything.subset(torch.arange(192)), everything.subset(torch.arange(192, 256))


def network(seed=0, dropout=0.0, norm=True):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8, track_running_stats=False) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


CONFIG = FinetuneConfig(steps=20, lr=0.1, batch_size=32, evaluate_at=(5, 10), augment=True)


def test_it_learns_and_the_curve_says_when(data):
    curve = finetune(network(), *data, CONFIG, seed=1)
    assert curve.step == [0, 5, 10, 20]
    assert curve.final > 0.95
    assert curve.train_loss[-1] < curve.train_loss[1]
    assert math.isnan(curve.train_loss[0])
    assert not curve.diverged
    assert curve.seconds == sorted(curve.seconds)


def test_a_known_accuracy_of_the_start_is_not_measured_again(data, monkeypatch):
    """All else is as if it had been."""
    whole = finetune(network(), *data, CONFIG, seed=1)
    measured = []
    monkeypatch.setattr(
        engine, "evaluate", lambda *args: measured.append(evaluate(*args)) or measured[-1]
    )
    again = finetune(network(), *data, CONFIG, seed=1, before=whole.val_accuracy[0])
    assert measured == whole.val_accuracy[1:]
    assert again.step == whole.step
    assert again.val_accuracy == whole.val_accuracy
    assert again.train_loss[1:] == whole.train_loss[1:]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_one_step_is_the_optimisers_on_the_cross_entropy(data, optimizer):
    config = FinetuneConfig(
        steps=1,
        lr=0.01,
        batch_size=32,
        optimizer=optimizer,
        weight_decay=0.1,
        grad_clip=None,
        label_smoothing=0.1,
    )
    model, other = network(norm=False), network(norm=False)
    finetune(model, *data, config, seed=4)
    x, y = next(data[0].batches(32, seed=4, epoch=0))
    torch.nn.functional.cross_entropy(other(x), y, label_smoothing=0.1).backward()
    for (name, trained), initial in zip(model.named_parameters(), other.parameters(), strict=True):
        if optimizer == "sgd":
            expected = initial - 0.01 * (initial.grad + 0.1 * initial)
        else:  # the first step of Adam is the sign of the gradient
            expected = initial * (1 - 0.01 * 0.1) - 0.01 * initial.grad / (
                initial.grad.abs() + 1e-8
            )
        torch.testing.assert_close(trained, expected, msg=name)


def test_the_seed_decides_and_global_random_state_is_untouched(data):
    def weights(seed, dropout=0.5):
        model = network(dropout=dropout)
        torch.manual_seed(99)
        finetune(model, *data, CONFIG.model_copy(update={"steps": 6, "evaluate_at": ()}), seed=seed)
        state = torch.get_rng_state()
        torch.manual_seed(99)
        assert torch.equal(state, torch.get_rng_state())
        return model[0].weight.detach()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_default_device_does_not_matter(data):
    config = CONFIG.model_copy(update={"steps": 6})
    here, there = network(), network()
    expected = finetune(here, *data, config, seed=1)
    torch.set_default_device("meta")
    try:
        found = finetune(there, *data, config, seed=1)
    finally:
        torch.set_default_device(None)
    assert found.train_loss[1:] == expected.train_loss[1:]
    assert torch.equal(here[0].weight, there[0].weight)


def test_a_killed_run_continues_bit_for_bit(data, tmp_path):
    whole, part = network(dropout=0.3), network(dropout=0.3)
    expected = finetune(whole, *data, CONFIG, seed=2)

    class KilledError(Exception):
        pass

    def kill(step):
        if step == 13:
            raise KilledError

    checkpoint = tmp_path / "run.pt"
    with pytest.raises(KilledError):
        finetune(part, *data, CONFIG, seed=2, checkpoint=checkpoint, on_step=kill)
    fresh = network(seed=5, dropout=0.3)  # whatever it starts from, the checkpoint decides
    steps = []
    curve = finetune(fresh, *data, CONFIG, seed=2, checkpoint=checkpoint, on_step=steps.append)
    assert steps[0] == 11  # 10 was the last evaluation before the kill
    assert curve.step == expected.step
    assert curve.val_accuracy == expected.val_accuracy
    assert curve.train_loss[1:] == expected.train_loss[1:]
    for one, other in zip(whole.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(DamagedFileError, match="another run"):
        finetune(fresh, *data, CONFIG, seed=3, checkpoint=checkpoint)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_checkpoint_costs_time_and_changes_nothing(data, tmp_path, damage, caplog):
    config = CONFIG.model_copy(update={"steps": 4, "evaluate_at": (2,)})
    checkpoint = tmp_path / "run.pt"
    expected = finetune(network(), *data, config, seed=2, checkpoint=checkpoint)
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(
        {"flip": bytes(content), "cut": bytes(content[:99]), "empty": b""}[damage]
    )
    steps = []
    curve = finetune(network(), *data, config, seed=2, checkpoint=checkpoint, on_step=steps.append)
    assert steps == [1, 2, 3, 4]
    assert curve.val_accuracy == expected.val_accuracy
    assert f"{checkpoint} is damaged" in caplog.text


def test_divergence_is_recorded_not_raised(data):
    model = network(norm=False)
    curve = finetune(
        model, *data, CONFIG.model_copy(update={"lr": 1e30, "grad_clip": None}), seed=0
    )
    assert curve.diverged
    assert curve.step[-1] < 20


def test_statistics_are_plain_averages_over_training_batches(data):
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.9))
    model.train()
    estimate_statistics(model, data[0], n_images=128, batch_size=64)
    batches = [x for x, _ in data[0].batches(64, seed=0, epoch=0)][:2]
    torch.testing.assert_close(
        model[0].running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    )
    torch.testing.assert_close(
        model[0].running_var, torch.stack([x.var((0, 2, 3)) for x in batches]).mean(0)
    )
    assert model.training
    assert model[0].momentum == 0.3


def test_accuracy_does_not_depend_on_the_order_or_batch(data):
    model = network()
    finetune(model, *data, CONFIG, seed=1)
    one = evaluate(model, data[1], CONFIG.model_copy(update={"evaluation_batch": 7}))
    assert one == evaluate(model, data[1].subset(torch.arange(63, -1, -1)), CONFIG)


def test_auxiliary_heads_take_part_in_the_loss(data):
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.auxiliary = nn.Linear(192, 2), nn.Linear(192, 2)

        def forward(self, x):
            x = x.flatten(1)
            return (self.main(x), self.auxiliary(x)) if self.training else self.main(x)

    model = TwoHeads()
    before = model.auxiliary.weight.detach().clone()
    finetune(model, *data, FinetuneConfig(steps=3, batch_size=16), seed=0)
    assert not torch.equal(before, model.auxiliary.weight)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [("constant", [1, 1, 1]), ("step", [1, 0.1, 0.01]), ("cosine", [1, 0.75, 0.25])],
)
def test_schedules(schedule, factors):
    from ghn.finetune.engine import _schedule

    factor = _schedule(FinetuneConfig(steps=9, schedule=schedule))
    assert [factor(step) for step in (0, 3, 6)] == pytest.approx(factors)
    warm = _schedule(FinetuneConfig(steps=9, warmup=3))
    assert [warm(step) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_a_trained_networks_own_statistics_are_kept(data):
    model = network()
    model[1] = nn.BatchNorm2d(8)
    finetune(model, *data, CONFIG.model_copy(update={"steps": 3, "evaluate_at": ()}))
    own = {name: buffer.clone() for name, buffer in model[1].named_buffers()}
    curve = finetune(model, *data, CONFIG.model_copy(update={"steps": 0}))
    for name, buffer in model[1].named_buffers():
        assert torch.equal(buffer, own[name]), name
    assert curve.final == evaluate(model, data[1], CONFIG)
    fresh = network()
    fresh[1] = nn.BatchNorm2d(8)
    finetune(fresh, *data, CONFIG.model_copy(update={"steps": 0, "lr": 0.1}))
    assert fresh[1].running_mean.any()  # estimated


def test_an_epoch_that_is_shorter_than_it_says_is_an_error(data):
    class Short(ImageTensors):
        def batches(self, *arguments, **options):
            yield from islice(super().batches(*arguments, **options), 5)

    short = Short(**vars(data[0]))
    with pytest.raises(ConfigError, match="epoch 0 has 5 batches of 32, not 6"):
        finetune(network(), short, data[1], CONFIG)


def test_epochs_have_one_length_and_resume_anywhere(data):
    from ghn.images import endless_batches

    class Long(ImageTensors):  # an epoch has more than it says: what is too much is left out
        def n_batches(self, batch_size, drop_last=True):
            return 4

    images = Long(**vars(data[0]))

    def labels(start, count):
        batches = endless_batches(images, 32, 5, start=start, augment=True)
        return [next(batches)[1].tolist() for _ in range(count)]

    whole = labels(0, 12)
    for start in (1, 4, 7, 9):
        assert labels(start, 12 - start) == whole[start:]


class Named(nn.Module):
    """Returns what networks of transformers do: a mapping."""

    def __init__(self, *names):
        super().__init__()
        self.network, self.names = network(), names

    def forward(self, x_BCHW):
        return {name: self.network(x_BCHW) for name in self.names} | {"hidden": None}


@pytest.mark.parametrize("names", [["logits"], ["output"]])
def test_outputs_with_names(data, names):
    expected = finetune(network(), *data, CONFIG, seed=1)
    assert finetune(Named(*names), *data, CONFIG, seed=1).train_loss[1:] == expected.train_loss[1:]
    assert engine.heads({"loss": torch.tensor(0.0), "logits": torch.ones(2, 3)})[0].shape == (2, 3)
    with pytest.raises(ConfigError, match="returns a dict without a tensor"):
        finetune(Named(), *data, CONFIG)
    with pytest.raises(ConfigError, match="returns a str"):
        engine.heads("logits")


def test_maps_are_no_logits(data):
    model = nn.Conv2d(3, 2, 1)
    train, val = data
    for run in (lambda: finetune(model, train, val, CONFIG), lambda: evaluate(model, val, CONFIG)):
        with pytest.raises(ConfigError, match="not logits of shape"):
            run()
    with pytest.raises(ConfigError, match="not logits of shape"):
        finetune(model, train, val, CONFIG, before=0.5)


def test_kernels_of_three_dimensions_are_trained(data):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Conv3d(3, 4, 3, padding=1), nn.Linear(4, 2)

        def forward(self, x_BCHW):
            return self.head(self.layer(x_BCHW[:, :, None]).mean((2, 3, 4)))

    assert len(finetune(Deep(), *data, CONFIG).step) == 4


def test_a_checkpoint_of_another_run_is_refused(data, tmp_path):
    checkpoint = tmp_path / "run.pt"
    finetune(network(), *data, CONFIG, checkpoint=checkpoint)
    train, val = data
    with pytest.raises(DamagedFileError, match=r"other number of training images\)"):
        finetune(network(), val, val, CONFIG, checkpoint=checkpoint)
    with pytest.raises(DamagedFileError, match=r"other number of validation images\)"):
        finetune(network(), train, train, CONFIG, checkpoint=checkpoint)
    other = network()
    other[-1] = nn.Linear(8, 3)
    with pytest.raises(DamagedFileError, match=r"other network\)"):
        finetune(other, train, val, CONFIG, checkpoint=checkpoint)


def test_a_checkpoint_that_began_elsewhere_goes_on_and_says_so(data, tmp_path, caplog):
    checkpoint = tmp_path / "run.pt"
    for _ in range(2):
        finetune(network(), *data, CONFIG, checkpoint=checkpoint)
    assert "began from other values" not in caplog.text
    for _ in range(2):  # the first has not made them its own
        caplog.clear()
        finetune(network(seed=1), *data, CONFIG, checkpoint=checkpoint)
        assert "began from other values" in caplog.text


def test_what_cannot_be_trained_or_measured_is_refused_first(data):
    model = network().requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter to train"):
        finetune(model, *data, CONFIG)
    with pytest.raises(ConfigError, match=r"Sequential\.0\.weight is on the meta device"):
        finetune(network().to("meta"), *data, CONFIG)
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    with pytest.raises(ConfigError, match=r"Sequential\.1\.weight has no shape yet"):
        finetune(lazy, *data, CONFIG)
    train, val = data
    nothing = val.subset(torch.arange(0))
    trained = network()
    before = trained[0].weight.clone()
    with pytest.raises(ConfigError, match="validation set is empty"):
        finetune(trained, train, nothing, CONFIG, before=0.5)
    assert torch.equal(trained[0].weight, before)
    with pytest.raises(ConfigError, match="images to evaluate is empty"):
        evaluate(network(), nothing, CONFIG)


def test_images_of_classes_that_the_network_lacks_are_refused(data):
    train, val = data
    narrow = network()
    narrow[-1] = nn.Linear(8, 1)
    before = narrow[0].weight.clone()
    with pytest.raises(ConfigError, match="the network has 1 classes"):
        evaluate(narrow, val, CONFIG)
    with pytest.raises(ConfigError, match="the network has 1 classes"):
        finetune(narrow, *data, CONFIG)
    one = val.subset(torch.arange(0, 64, 2))  # all are of the class that the network has
    with pytest.raises(ConfigError, match="the network has 1 classes"):
        finetune(narrow, train, one, CONFIG)
    assert torch.equal(narrow[0].weight, before)
    assert evaluate(narrow, one, CONFIG, train) == 1.0
