"""What `dvc metrics show` says of a stage: few numbers, under the same names in each stage."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Literal

from flows.settings import paths
from ghn.files import atomic_path

Name = Literal["networks", "failed", "predicted", "random", "share"]
"""`networks` of which `failed` have an error; mean accuracy from `predicted` and from `random`
parameters; `share` of the parameters that were predicted. One column each, so that the table stays
narrow.
"""


def write_metrics(stage: str, values: Mapping[Name, float | None]) -> None:
    """Writes results/metrics/<stage>.json; values that are not there are left out.

    Args:
        stage: its name in dvc.yaml.
        values: fractions are rounded to four digits.
    """
    known = {
        name: value if isinstance(value, int) else round(value, 4)
        for name, value in values.items()
        if value is not None and math.isfinite(value)
    }
    with atomic_path(paths.METRICS / f"{stage}.json") as temporary:
        temporary.write_text(json.dumps(known, indent=2) + "\n")
