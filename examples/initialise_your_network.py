"""Initialise a network of your own with predicted parameters, in a second.

    python examples/initialise_your_network.py

No images are needed, and nothing is written.
"""

import torch
from torch import Tensor, nn

import ghn


# Any PyTorch network will do, as long as a forward pass does not depend on the values of
# activations. This one has convolutions, batch norm, a residual connection and a linear head.
class SmallCNN(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.down = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.down(x + self.block(x)).relu()
        return self.head(x.mean((2, 3)))


# The hypernetwork of the package knows 32-pixel images and ten classes; a released one, such as
# "ghn3xlm16.pt", knows those of ImageNet.
hypernetwork = ghn.from_pretrained()

# It reads the network's graph, which you can look at. `example_inputs` is what a forward pass
# takes: without it an input is made up, which not every network accepts.
images = torch.randn(64, 3, 32, 32)
graph = ghn.trace(SmallCNN(), example_inputs=images)
print(f"{graph.n_nodes} nodes:", ", ".join(ghn.Primitive(p).name for p in graph.primitive))

# In place, and the network comes back. The report says what was predicted, what not, and why.
model = hypernetwork(SmallCNN(), example_inputs=images)
print(hypernetwork.reports[0])

# Running statistics of batch norm are not predicted. Before `model.eval()` estimate them from a few
# batches of your images; for these random ones it makes no difference, for real ones all of it.
ghn.reestimate_batch_norm(model, [images])
print("logits:", tuple(model.eval()(images).shape))

# Or leave the network alone and take a state dict.
state = hypernetwork.predict(SmallCNN(), example_inputs=images)
print(f"a state dict of {len(state)} tensors, {sum(w.numel() for w in state.values()):,} numbers")
