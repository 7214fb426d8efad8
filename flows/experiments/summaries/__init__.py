"""From the rows of an experiment to what its page shows: tables with uncertainty, curves, and a
sentence of result.
"""

from collections.abc import Callable

from flows.experiments.summaries.common import Rows, Summary
from flows.experiments.summaries.ensembling import ensembles
from flows.experiments.summaries.filters import first_layers
from flows.experiments.summaries.networks import network_by_network
from flows.experiments.summaries.overall import overview
from flows.experiments.summaries.sizes import scaling, speed
from flows.experiments.summaries.trained import (
    detection,
    fine_tuning,
    verdict,
)
from flows.experiments.summaries.tuning import learning_rates, optimisers
from flows.experiments.summaries.untrained import (
    ablations,
    activations,
    diversity,
    generalisation,
    gradients,
    ranking,
)

__all__ = [
    "SUMMARIES",
    "Rows",
    "Summary",
    "ablations",
    "activations",
    "detection",
    "diversity",
    "ensembles",
    "fine_tuning",
    "first_layers",
    "generalisation",
    "gradients",
    "learning_rates",
    "network_by_network",
    "optimisers",
    "overview",
    "ranking",
    "scaling",
    "speed",
    "verdict",
]

SUMMARIES: dict[str, Callable[[Rows], Summary]] = {
    "generalisation": generalisation,
    "ablations": ablations,
    "low-rank": ablations,
    "detect": detection,
    "diversity": diversity,
    "activations": activations,
    "gradients": gradients,
    "trials": fine_tuning,
    "figure2": first_layers,
    "table4": network_by_network,
    "table15": ensembles,
    "table17": optimisers,
    "table18": learning_rates,
}
"""By the name of an experiment, else by its kind."""
