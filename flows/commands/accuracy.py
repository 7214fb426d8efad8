"""`ghn evaluate FILE --images DIR`: the accuracy of one network.

Heavy imports are inside.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flows.words import standard_error
from ghn import options

if TYPE_CHECKING:
    from torch import nn

    from datasets.images import ImageTensors


def evaluate_file(
    file: str,
    images: str | None,
    network: str | None,
    split: str,
    image_size: int | None,
    device: options.Device,
    as_json: bool,
) -> None:
    """What `ghn evaluate FILE --images DIR` does: the accuracy of a network in a file.

    Raises:
        ConfigError: there are no images, or the file does not say which network it is of.
        GHNError: the file or the images cannot be read.
    """
    from ghn.errors import ConfigError

    if images is None:
        raise ConfigError("--images is missing: say where the images are, or `digits`")
    from ghn.finetune import FinetuneConfig, evaluate, lacks_statistics

    model, size = _network_in(file, network, images, image_size)
    model.to(options.torch_device(device))
    shown = load_split(images, split, size)
    train = load_split(images, "train", size) if lacks_statistics(model) else None
    _check_classes(model, shown, file, images)
    accuracy = evaluate(model, shown, FinetuneConfig(), train)
    error = standard_error(accuracy, len(shown))
    about = {
        "file": file,
        "images": images,
        "split": split,
        "n_images": len(shown),
        "accuracy": accuracy,
        "standard_error": error,
        "statistics": "estimated" if train is not None else "own",
    }
    if as_json:
        typer.echo(json.dumps(about))
        return
    typer.echo(
        f"{file}: {accuracy:.1%} of {len(shown):,} images ({split}) of {images}, standard error"
        f" {error:.1%}, chance {1 / shown.num_classes:.1%}"
    )
    if train is not None:
        typer.echo("The statistics of batch norm were estimated from training images.")


def _check_classes(model: nn.Module, shown: ImageTensors, file: str, images: str) -> None:
    """Refuses images of other classes than the network has, of which an accuracy means nothing."""
    from ghn.errors import ConfigError
    from ghn.finetune import FinetuneConfig, logits

    few = shown.subset(range(min(2, len(shown))))
    found = logits(model, few, FinetuneConfig()).shape[-1]
    if found != shown.num_classes:
        raise ConfigError(
            f"the network in {file} has {found} classes, {images} has {shown.num_classes}; `ghn"
            f" init NETWORK --images {images}` makes one of as many"
        )


def _network_in(
    file: str, network: str | None, images: str, image_size: int | None
) -> tuple[nn.Module, int]:
    """The network that a file or a name means, and the side of its images."""
    from datasets.images import load
    from ghn.architectures.own import is_own
    from ghn.architectures.own import network as make
    from ghn.errors import ConfigError
    from ghn.initialize import load_initialized, made_of

    path = Path(file)
    if is_own(file) and not path.exists():  # a function that gives a trained network
        size = image_size or 32
        return make(file, load(images, split="test", image_size=size).num_classes, size), size
    made = made_of(path)
    size = image_size or (int(made["image_size"]) if made else 32)
    name = network or made.get("architecture")
    if name is None:
        raise ConfigError(f"{file} does not say which network it is of: --network FILE.py:NAME")
    if is_own(name) and network is None:
        raise ConfigError(f"{file} is of {name}, your own code: --network {name} runs it")
    if made and network is None:
        return load_initialized(path), size
    classes = (
        int(made["num_classes"])
        if made
        else load(images, split="test", image_size=size).num_classes
    )
    return _with_state(make(name, classes, size), path, bool(made)), size


def _with_state(model: nn.Module, path: Path, initialised: bool) -> nn.Module:
    """`model` with the state dict of a file: of `ghn init`, safetensors, or of `torch.save`."""
    from ghn.checkpoint.unpickler import load_untrusted
    from ghn.errors import ConfigError
    from ghn.files import read_safetensors
    from ghn.initialize import load_initialized, misfit

    if initialised:
        return load_initialized(path, model)
    state: Any = (
        read_safetensors(path)[0] if path.suffix == ".safetensors" else load_untrusted(path)
    )
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"{path} does not fit the network: {misfit(error)}") from None
    return model


def load_split(
    images: str,
    split: str,
    size: int,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    limit: int | None = None,
) -> ImageTensors:
    """A split, of each class in proportion at most `limit` images together."""
    from datasets.images import load
    from ghn.finetune import stratified_order

    found = load(
        images,
        split=split,
        image_size=size,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
    )
    if limit is None or len(found) <= limit:
        return found
    return found.subset(stratified_order(found.labels, 0)[:limit])
