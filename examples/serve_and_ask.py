"""Serve a hypernetwork over HTTP, and ask it for the parameters of a network by its description.

    python examples/serve_and_ask.py                          # the hypernetwork of the package
    python examples/serve_and_ask.py models:/ghn3@champion    # one of the registry

Both sides are here; in practice `ghn serve` runs on one machine, and whoever asks needs no PyTorch.
"""

import base64
import json
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from urllib.request import Request, urlopen

from safetensors.torch import load

from flows.serving.package import package

# What is served is an MLflow model: a directory with weights, code and pinned requirements. The
# registry has such directories; for a file of weights we write one.
directory = tempfile.TemporaryDirectory()
if len(sys.argv) > 1:
    model = sys.argv[1]
else:
    weights = str(files("ghn") / "pretrained" / "ghn3-cifar10.safetensors")
    model = str(package(weights, Path(directory.name) / "model"))
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
server = subprocess.Popen([sys.executable, "-m", "ghn.cli", "serve", model, "--port", str(port)])

# A network is a name (`ghn list`) or a list of layers: data, not code, so that a stranger may ask.
layers = [["Conv2d", 3, 16, 3], ["ReLU"], ["AdaptiveAvgPool2d", 1], ["Flatten"], ["Linear", 16, 10]]
rows = [["resnet18", 10, 32], [json.dumps({"layers": layers}), 10, 32]]
question = {"columns": ["architecture", "classes", "image_size"], "data": rows}
body = json.dumps({"dataframe_split": question, "params": {"dtype": "float16"}}).encode()
address, header = f"http://127.0.0.1:{port}", {"content-type": "application/json"}
try:
    ready = False
    while not ready and server.poll() is None:
        time.sleep(0.5)
        with suppress(OSError):
            ready = urlopen(f"{address}/ping").status == 200
    with urlopen(Request(f"{address}/invocations", body, header)) as response:
        answers = json.load(response)["predictions"]
finally:
    server.terminate()
    server.wait()

# Each answer is a state dict in safetensors, as base64 text; sizes and times beside it.
for answer in answers:
    state = load(base64.b64decode(answer["safetensors"]))
    size, predicted = answer["parameters"], answer["predicted"]
    print(f"{size:,} numbers in {len(state)} tensors, {predicted:,} predicted")
