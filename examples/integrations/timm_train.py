"""A search in the loop of timm's train script, with its networks, mixup, schedule and clipping.

python examples/integrations/timm_train.py
"""

import argparse

import timm
import torch
from _digits import digits
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.scheduler import CosineLRScheduler
from timm.utils import accuracy, dispatch_clip_grad

import supermask as sm

BATCH, SIZE = 64, 16


def main(steps: int = 120, out: str = "timm.ticket") -> float:
    model = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    sm.randomize_(model, init="signed_constant", seed=0, density=0.5)
    search = sm.EdgePopup(model, density=0.5, lr=0.1, momentum=0.9)
    schedule = CosineLRScheduler(search, t_initial=steps, warmup_t=steps // 20, t_in_epochs=False)
    mixup = Mixup(mixup_alpha=0.1, num_classes=10, label_smoothing=0.1)
    criterion = SoftTargetCrossEntropy()
    (images, labels), (test_images, test_labels) = digits()
    draw = torch.Generator().manual_seed(0)
    model.train()
    for step in range(steps):
        rows = torch.randint(len(images), (BATCH,), generator=draw)
        inputs, targets = mixup(torch.nn.functional.interpolate(images[rows], size=SIZE), labels[rows])
        search.zero_grad()
        criterion(model(inputs), targets).backward()
        dispatch_clip_grad(model.parameters(), 5.0)
        search.step()
        schedule.step_update(step + 1)
    search.ticket().save(out)
    model.eval()
    with torch.no_grad():
        outputs = model(torch.nn.functional.interpolate(test_images, size=SIZE))
    return float(accuracy(outputs, test_labels)[0]) / 100


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    print(f"test accuracy {main(parser.parse_args().steps):.3f}")
