# %% [markdown]
# # Your own network
#
# A network of our own, a training loop of our own, and a search in place of the optimizer. What comes out
# is a file of a few kilobytes that rebuilds the network anywhere. Everything here runs on a laptop in
# seconds; the images are the 8×8 digits that come with scikit-learn.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask.data import Loader, iterate_eval, load_data
from supermask.weights.roles import classify, decision_table

torch.set_num_threads(1)

# %% [markdown]
# ## The network
#
# Any `nn.Module` will do. This one has convolutions, a norm, a residual connection and a linear layer.


# %%
class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.relu(self.norm(self.conv(x)))


def network() -> nn.Module:
    width = 32
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        Block(width),
        Block(width),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, 10, bias=False),
    )


model = network()

# %% [markdown]
# What would be masked? The library decides by the kind of layer; `include=` and `exclude=` of a search say
# otherwise.

# %%
print(decision_table(classify(model)))

# %% [markdown]
# ## Data
#
# `Loader` gives the batch of a step number, always the same one; a `DataLoader` does as well. The test
# split is looked at once, at the end. Until then 200 training images tell how the search is doing.

# %%
digits = load_data("digits")
order = torch.randperm(len(digits.train), generator=torch.Generator().manual_seed(0))
held_out, shown = digits.train.take(order[:200]), digits.train.take(order[200:])
loader = Loader(shown, batch_size=64, seed=0, mean=digits.mean, std=digits.std)
print(f"{len(shown)} images to search on, {len(held_out)} held out, {len(digits.test)} to test on")


def accuracy(images: object) -> float:
    return sm.evaluate(model, iterate_eval(images, 500, digits.mean, digits.std))["accuracy"]


# %% [markdown]
# ## The search
#
# `randomize_` draws all weights from a seed and freezes them. The search is an optimizer: it has `step` and
# `zero_grad`, takes a learning-rate schedule, and leaves the masked weights in the model after each step.

# %%
steps, density = 400, 0.3
sm.randomize_(model, init="signed_constant", seed=0, density=density)
search = sm.EdgePopup(model, density=density)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(search, T_max=steps)

curve = [(0, accuracy(held_out))]
for step in range(steps):
    images, labels = loader.batch(step)
    F.cross_entropy(model(images), labels).backward()
    search.step()
    search.zero_grad()
    schedule.step()
    if (step + 1) % 40 == 0:
        curve.append((step + 1, accuracy(held_out)))
        model.train()

# %%
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(*zip(*curve, strict=True), marker="o", markersize=3)
axes.set(xlabel="step", ylabel="accuracy on held-out images", ylim=(0, 1))
axes.grid(alpha=0.3)
plt.show()

# %% [markdown]
# No weight was ever changed: those that are kept are the ones the seed gave. On the test split:

# %%
print(f"{100 * accuracy(digits.test):.1f} % of the test images")

# %% [markdown]
# ## The ticket
#
# It holds the seed, one bit or less for each weight, and the statistics of the norms.

# %%
ticket = search.ticket()
path = ticket.save("digits.ticket")
dense = sum(4 * parameter.numel() for parameter in model.parameters())
print(f"{path.stat().st_size} bytes; the same network with dense float32 weights takes {dense}")
ticket

# %% [markdown]
# Elsewhere the ticket is put onto a network that was built the same way. The outputs are equal bit for bit,
# which the file proves with a checksum over the weights.

# %%
elsewhere = sm.Ticket.load("digits.ticket").apply(network()).eval()
images, _ = loader.batch(0)
model.eval()
assert torch.equal(elsewhere(images), model(images))
