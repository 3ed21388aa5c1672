"""A search in a loop of Lightning Fabric, in bfloat16: `setup` takes it like any optimizer.

python examples/integrations/fabric_loop.py
"""

import argparse
import itertools

from _digits import accuracy, digits, network, search_of
from lightning.fabric import Fabric
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


def main(steps: int = 200, out: str = "fabric.ticket") -> float:
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    net = network()
    search = search_of(net)
    model, optimizer = fabric.setup(net, search)
    loader = fabric.setup_dataloaders(DataLoader(TensorDataset(*digits()[0]), batch_size=64, shuffle=True))
    epochs = itertools.chain.from_iterable(itertools.repeat(loader))
    for images, labels in itertools.islice(epochs, steps):
        fabric.backward(F.cross_entropy(model(images), labels))
        optimizer.step()
        optimizer.zero_grad()
    search.ticket().save(out)
    return accuracy(net)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    print(f"test accuracy {main(parser.parse_args().steps):.3f}")
