"""How fast networks learn through a hypernetwork, beside the same networks with parameters of their
own.

    python benchmarks/learning.py --params params.yaml --architectures 4
    python benchmarks/learning.py --params params.yaml --architectures 4 --own random
    python benchmarks/learning.py --params params.yaml --architectures 64 --network-clip 0.5

A short training from fresh or trained weights on a few architectures that come again and again (all
of the training split: `--architectures 0`), with the recipe of section `train` of params.yaml but
for what is given here. `--own` trains the parameters of the networks instead, starting at random or
from the prediction: what the networks can learn from as many images. Prints, for every 50 steps,
medians of the cross-entropy and of the gradient norm, the mean accuracy and "layers apart": the
mean cosine distance between predicted convolution weights of one shape in one network, 0 where the
hypernetwork gives all layers the same weights. Run where `ghn generate` and `ghn images` have left
their files; with MLFLOW_TRACKING_URI set, each is a run in the experiment `learning`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import mlflow
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import avg_pool2d, cross_entropy

from datasets.deepnets import MetaBatch, MetaBatches, meta_batches
from datasets.images import ImageTensors
from flows.networks.targets import open_split
from flows.params import Params, load_params
from flows.settings import paths
from flows.stages.images import load_split
from flows.training.start import emphasize_distance, new_hypernetwork, trained_hypernetwork
from ghn.analysis.diversity import layer_distance
from ghn.models import GHN
from ghn.train import TrainConfig
from ghn.train.optimizer import make_optimizer
from ghn.train.schedule import learning_rate
from ghn.train.step import meta_batch_losses

WINDOW = 50

Step = Callable[[int, MetaBatch, Tensor, Tensor], tuple[float, float, float]]
"""From step, architectures, images and labels to cross-entropy, accuracy and gradient norm."""


def architectures(
    params: Params, seed: int, classes: int, pixels: int, pool: int
) -> Iterator[MetaBatch]:
    """Meta-batches of the training split, without end; of its first `pool` architectures drawn,
    unless 0.
    """
    config = params.train
    split = open_split(paths.DEEPNETS, config.split)
    drawn = MetaBatches(
        split, config.meta_batch_size, classes, pixels, seed, config=config.networks
    )
    stream = meta_batches(drawn, 0)
    yield from (
        itertools.cycle(itertools.islice(stream, pool // config.meta_batch_size))
        if pool
        else stream
    )


def images(
    data: ImageTensors, batch_size: int, seed: int, pixels: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches without end, averaged down to `pixels`."""
    for epoch in itertools.count():
        for x_BCHW, y_B in data.batches(batch_size, seed, epoch, True):
            x_BCHW = avg_pool2d(x_BCHW, data.image_size // pixels)
            yield x_BCHW.contiguous(memory_format=torch.channels_last), y_B


def through(ghn: GHN, recipe: TrainConfig) -> Step:
    """Trains the hypernetwork."""
    optimizer = make_optimizer(ghn, recipe)

    def step(
        number: int, batch: MetaBatch, x_BCHW: Tensor, y_B: Tensor
    ) -> tuple[float, float, float]:
        optimizer.param_groups[0]["lr"] = learning_rate(number, recipe)
        optimizer.zero_grad()
        losses, pending = meta_batch_losses(ghn, batch, x_BCHW, y_B, recipe, number)
        pending.run()
        norm = nn.utils.clip_grad_norm_(ghn.parameters(), recipe.clip, error_if_nonfinite=True)
        optimizer.step()
        return float(losses.cross_entropy), float(losses.accuracy), float(norm)

    return step


def directly(start: Sequence[Mapping[str, Tensor]], recipe: TrainConfig) -> Step:
    """Trains the networks' own parameters, with the same optimizer."""
    own = [
        {name: tensor.detach().clone().requires_grad_() for name, tensor in network.items()}
        for network in start
    ]
    leaves = nn.ParameterList(tensor for network in own for tensor in network.values())
    optimizer = make_optimizer(leaves, recipe)

    def step(
        number: int, batch: MetaBatch, x_BCHW: Tensor, y_B: Tensor
    ) -> tuple[float, float, float]:
        optimizer.param_groups[0]["lr"] = learning_rate(number, recipe)
        optimizer.zero_grad()
        pairs = zip(batch.networks, own, strict=True)
        logits = torch.stack(
            [functional_call(network, tensors, (x_BCHW,)) for network, tensors in pairs]
        )
        loss = cross_entropy(logits.flatten(0, 1), y_B.repeat(len(own)))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach()), float((logits.argmax(2) == y_B).float().mean()), float("nan")

    return step


def random_parameters(batch: MetaBatch) -> list[dict[str, Tensor]]:
    """For each network: He's initialisation of convolutions, 0.01 for matrices, ones and zeros for
    norms.
    """
    found = []
    for network in batch.networks:
        tensors = {}
        for name, parameter in network.named_parameters():
            tensor = torch.empty(parameter.shape)
            if tensor.dim() == 4:
                nn.init.kaiming_normal_(tensor, mode="fan_out", nonlinearity="relu")
            elif tensor.dim() > 1:
                nn.init.normal_(tensor, 0, 0.01)
            else:
                nn.init.constant_(tensor, float(name.endswith("weight")))
            tensors[name] = tensor
        found.append(tensors)
    return found


@torch.no_grad()
def layers_apart(ghn: GHN, batch: MetaBatch) -> float:
    """Mean over the networks of how far their predicted layers are apart."""
    distances = [layer_distance(parameters.values()) for parameters in ghn(batch.graphs).parameters]
    return statistics.mean(distance for distance in distances if distance is not None)


def run(options: argparse.Namespace) -> None:
    params = load_params(options.params)
    asked = {
        name: value
        for name in TrainConfig.model_fields
        if (value := getattr(options, name, None)) is not None
    }
    config = params.train.model_copy(update=asked)
    params = params.model_copy(update={"train": config})
    recipe = config.recipe_with(params.base.seed)
    data = load_split(params.images, params.base.seed, "train")
    shape = config.hypernetwork(data.num_classes)
    ghn = new_hypernetwork(shape, recipe.seed, config.output_gain)
    if options.initial:
        ghn = trained_hypernetwork(options.initial, shape, recipe.seed)
    emphasize_distance(ghn, options.distance_gain)
    source = architectures(
        params, recipe.seed, data.num_classes, options.pixels, options.architectures
    )
    probe = next(architectures(params, recipe.seed, data.num_classes, options.pixels, 0))
    if options.own:
        with torch.no_grad():
            start = (
                ghn(probe.graphs).parameters
                if options.own == "predicted"
                else random_parameters(probe)
            )
        step = directly(start, recipe)
    else:
        step = through(ghn, recipe)
    seen: list[tuple[float, float, float]] = []
    print(
        "| steps | cross-entropy | accuracy | gradient norm | layers apart |\n|---|---|---|---|---|"
    )
    batches = images(data, recipe.batch_size, recipe.seed, options.pixels)
    for number, batch, (x_BCHW, y_B) in zip(range(recipe.steps), source, batches, strict=False):
        seen.append(step(number, batch, x_BCHW, y_B))
        if len(seen) % WINDOW == 0:
            loss, accuracy, norm = zip(*seen[-WINDOW:], strict=True)
            apart = float("nan") if options.own else layers_apart(ghn, probe)
            found = (
                statistics.median(loss),
                statistics.mean(accuracy),
                statistics.median(norm),
                apart,
            )
            print(
                "| {} | {:.3f} | {:.1%} | {:.2f} | {:.4f} |".format(len(seen), *found), flush=True
            )
            if mlflow.active_run():
                names = ("cross_entropy", "accuracy", "gradient_norm", "layers_apart")
                mlflow.log_metrics(dict(zip(names, found, strict=True)), len(seen))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument(
        "--initial", help="a trained hypernetwork to start from; without it fresh weights"
    )
    parser.add_argument(
        "--own", choices=("random", "predicted"), help="train the networks' own parameters"
    )
    parser.add_argument(
        "--architectures", type=int, default=4, help="a multiple of m; with --own: m; 0: all"
    )
    parser.add_argument("--pixels", type=int, default=16)
    parser.add_argument("--distance-gain", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--warmup-steps", type=int, default=20)
    parser.add_argument("--meta-batch-size", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--network-clip", type=float)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.own and options.architectures != options.meta_batch_size:
        parser.error(
            "--own trains as many networks as a meta-batch has: give --architectures as"
            " --meta-batch-size"
        )
    torch.set_num_threads(options.threads)
    tracked = bool(os.environ.get("MLFLOW_TRACKING_URI"))
    if tracked:
        mlflow.set_experiment("learning")
    with mlflow.start_run() if tracked else nullcontext():
        if tracked:
            mlflow.log_params(
                {name: value for name, value in vars(options).items() if name != "params"}
            )
        run(options)


if __name__ == "__main__":
    main()
