"""A search in a loop of Hugging Face accelerate: `prepare` takes it like any optimizer.

python examples/integrations/accelerate_loop.py
"""

import argparse

import torch
from _digits import accuracy, digits, network, search_of
from accelerate import Accelerator
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


def main(steps: int = 200, out: str = "accelerate.ticket") -> float:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    net = network()
    search = search_of(net)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(search, T_max=steps)
    loader = DataLoader(TensorDataset(*digits()[0]), batch_size=32, shuffle=True)
    model, optimizer, batches, schedule = accelerator.prepare(net, search, loader, schedule)
    done = 0
    while done < steps:
        for images, labels in batches:
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(images), labels))
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            done += accelerator.sync_gradients
            if done == steps:
                break
    search.ticket().save(out)
    return accuracy(net)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    print(f"test accuracy {main(parser.parse_args().steps):.3f}")
