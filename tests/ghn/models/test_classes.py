"""A trained hypernetwork for another number of classes."""

import torch

from ghn.architectures import build
from ghn.models import GHN, GHNConfig, for_classes
from ghn.models.embedding import channel_steps

CONFIG = GHNConfig.from_dict(
    GHNConfig.variant("ghn3-t", 10).to_dict() | {"hidden": 16, "layers": 1, "decoder_channels": 8}
)


def hypernetwork() -> GHN:
    torch.manual_seed(3)
    return GHN(CONFIG).eval()


def test_all_but_the_heads_stay_as_they_are() -> None:
    ghn = hypernetwork()
    other = for_classes(ghn, 7, seed=1)
    assert other.num_classes == 7
    assert not other.training
    known = ghn.state_dict()
    changed = {
        name
        for name, tensor in other.state_dict().items()
        if tensor.shape != known[name].shape or not torch.equal(tensor, known[name])
    }
    assert changed == {
        "embedding.channel.weight",
        "tensors.classes.weight",
        "tensors.classes.bias",
        "vectors.classes.weight",
        "vectors.classes.bias",
    }
    with torch.no_grad():
        after = other(build("resnet18", num_classes=7, image_size=32)).state_dict()
    assert after["fc.weight"].shape == (7, 512)


def test_the_metadata_stay_but_for_those_of_the_old_head() -> None:
    ghn = hypernetwork()
    ghn.metadata = {"images": "digits", "image_size": 16, "classes": list("0123456789")}
    ghn.metadata |= {"accuracy": {"no norm": 0.2}, "metrics": {"accuracy": 0.5}}
    other = for_classes(ghn, 7)
    assert other.metadata == {"images": "digits", "image_size": 16}
    assert other.image_size == 16


def test_each_count_of_channels_keeps_its_embedding() -> None:
    ghn = hypernetwork()
    for classes in (1, 2, 3, 7, 10, 16, 64, 128, 1000):
        other = for_classes(ghn, classes)
        table, known = other.embedding.channel.weight, ghn.embedding.channel.weight
        before, after = list(channel_steps(10)), list(channel_steps(classes))
        assert torch.equal(table[-1], known[-1])
        for row, count in enumerate(after):
            wanted = count if count in channel_steps() else 10
            assert torch.equal(table[row], known[before.index(wanted)]), (classes, count)


def test_what_is_learned_of_classes_is_read_by_heads_alone() -> None:
    """Heads of 4 to 7 classes, and those of as many classes as layers have channels, read the
    entry of layers.
    """
    ghn = hypernetwork()
    table = ghn.embedding.channel.weight
    learned = table[ghn.embedding.channel_index[10]]
    for classes in (1, 3, 5, 7, 8, 11, 64, 100, 128):
        other = for_classes(ghn, classes).embedding
        read = other.channel(other.channel_index)
        for count in (1, 3, 8, 32, 64, 128, 512):
            assert torch.equal(read[count], table[ghn.embedding.channel_index[count]]), classes
        own = learned
        if classes not in (11, 100):
            own = table[ghn.embedding.channel_index[8 if 4 <= classes < 8 else classes]]
        assert torch.equal(read[classes], own), classes


def test_the_new_heads_hang_on_the_seed_and_nothing_else_is_drawn() -> None:
    ghn = hypernetwork()
    state = torch.random.get_rng_state()
    one, same, two = (for_classes(ghn, 7, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    heads = [other.tensors.classes.weight for other in (one, same, two)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
