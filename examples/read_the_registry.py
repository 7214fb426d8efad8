"""Read the registry: which hypernetworks there are, how good they are, and how to use one.

    python examples/read_the_registry.py             # where `make run` has put its model
    python examples/read_the_registry.py NAME        # another name; default: ghn3

MLFLOW_TRACKING_URI names the server, or the database: sqlite:///path/to/mlflow.db.
"""

import os
import sys
from pathlib import Path

import mlflow
from torchvision.models import resnet18

import ghn

name = sys.argv[1] if len(sys.argv) > 1 else "ghn3"
address = os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
if address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///")).exists():
    sys.exit(f"{address} does not exist (SQLite would make an empty one): `make run` fills it")

# A registered model has versions; an alias points to one of them. The stage register makes each new
# version @challenger, and @champion if it predicts better than the champion before it.
client = mlflow.MlflowClient()
versions = client.search_model_versions(f"name = '{name}'")
aliases = client.get_registered_model(name).aliases if versions else {}
if not versions:
    sys.exit(f"no model {name!r} at {address}: `make run` registers one")
for version in sorted(versions, key=lambda v: int(v.version), reverse=True):
    names = [f"@{alias}" for alias, number in aliases.items() if number == version.version]
    print(f"{name} version {version.version}", *names)

    # Tags say what a version was made from: data sets by their hashes, the git revision, metrics
    # and the decision about it. `ghn registry show` prints them all.
    for key, value in sorted(version.tags.items())[:5]:
        print(f"    {key}: {value[:60]}")

    # The run that made it has its metrics.
    if version.run_id:
        metrics = client.get_run(version.run_id).data.metrics
        print(
            "    " + ", ".join(f"{key} {value:.3g}" for key, value in sorted(metrics.items())[:4])
        )

# By alias or number a version is a source like any other, here and for `ghn init --from`.
chosen = f"models:/{name}@champion" if "champion" in aliases else f"models:/{name}/{len(versions)}"
hypernetwork = ghn.from_pretrained(chosen)
state = hypernetwork.predict(resnet18(num_classes=hypernetwork.config.num_classes))
print(f"{chosen} predicts {sum(w.numel() for w in state.values()):,} numbers of a ResNet-18")
