"""Supermasks in superposition: one frozen network, one mask for each task, and the task inferred.

    python examples/superposition.py --data mnist --out runs/superposition
    python examples/superposition.py --data mnist --tasks permuted --out runs/permuted
    python examples/superposition.py --data cifar10 --epochs 10 --out runs/split-cifar

A split data set has a task for every two classes: which of the two is it? A permuted one has the same
classes in every task, and an order of pixels of its own. All tasks share one network, drawn from one seed
and never trained, and its outputs; those that no task uses are superfluous. The script searches a mask for
each task, then measures on test images how often the task is inferred from the images alone, and the
accuracy when the task is given and when it is inferred. Each method of inference sees 20 batches a task.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn, nonzero

import supermask as sm
from supermask.data import Dataset, Images, Loader, iterate_eval, load_data
from supermask.io import write_json
from supermask.mask import permutation
from supermask.superposition import Superposition
from supermask.train import Schedule

TASKS = 5
BATCHES = (8, 128)
"""Numbers of images from which a task is inferred."""
METHODS = (
    ("one-shot", "entropy"),
    ("binary", "entropy"),
    ("one-shot", "superfluous"),
    ("exhaustive", "entropy"),
)

Select = Callable[[Images, int], Images]


def split(images: Images, task: int) -> Images:
    """The images of classes 2·task and 2·task + 1, with labels 0 and 1."""
    chosen = images.take(nonzero(images.labels // 2 == task).flatten())
    return Images(chosen.pixels, chosen.labels - 2 * task)


def permuted(images: Images, task: int) -> Images:
    """All images, their pixels in the task's own order."""
    order = permutation(images.pixels[0, 0].numel(), task, "example/superposition")
    return Images(images.pixels.flatten(2)[:, :, order].view_as(images.pixels), images.labels)


def network(data: Dataset, outputs: int) -> nn.Module:
    """A network whose norms have no scale and shift, as the authors use."""
    if data.in_channels == 3:
        return sm.create_model(
            "resnet-20", num_classes=outputs, image_size=data.image_size, width=2.0, affine=False
        )
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, units in ((data.image_size**2, 300), (300, 100)):
        layers += [nn.Linear(inputs, units, bias=False), nn.BatchNorm1d(units, affine=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(100, outputs, bias=False))


def search_masks(data: Dataset, select: Select, options: argparse.Namespace) -> Superposition:
    """Search one mask for each task on a network drawn from the seed."""
    model = sm.randomize_(network(data, options.outputs), seed=options.seed, density=options.density)
    superposition = Superposition(model)
    for task in range(TASKS):
        superposition.reset()
        seed = options.seed + task
        search = sm.EdgePopup(
            model, density=options.density, lr=0.1, momentum=0.9, weight_decay=1e-4, seed=seed
        )
        images = select(data.train, task)
        loader = Loader(images, batch_size=128, seed=options.seed, mean=data.mean, std=data.std)
        steps = options.steps or options.epochs * loader.steps_per_epoch
        progress = sm.fit(model, search, loader.batch, steps=steps, schedule=Schedule("cosine", steps))
        superposition.add(search.ticket())
        print(f"task {task}: {steps} steps, {progress.seconds:.0f} s", flush=True)
    return superposition


def measure(superposition: Superposition, data: Dataset, select: Select, real: int) -> dict[str, Any]:
    """Accuracy with the task given; by method, how often it is inferred, and the accuracy that this gives."""
    tests = [select(data.test, task) for task in range(TASKS)]

    def accuracy(mask: int, images: Images) -> float:
        batches = iterate_eval(images, 500, data.mean, data.std)
        return sm.evaluate(superposition.activate(mask), batches)["accuracy"]

    table = [[accuracy(mask, images) for mask in range(TASKS)] for images in tests]
    inferred: dict[str, dict[str, float]] = {}
    accuracies: dict[str, dict[str, float]] = {}
    for method, objective in METHODS:
        name = f"{method}, {objective}"
        inferred[name], accuracies[name] = {}, {}
        for count in BATCHES:
            found = []
            for task, images in enumerate(tests):
                whole = min(20 * count, len(images) // count * count) or len(images)
                few = Images(images.pixels[:whole], images.labels[:whole])
                for inputs, _ in iterate_eval(few, count, data.mean, data.std):
                    guess = superposition.infer_task(
                        inputs, method=method, objective=objective, real_outputs=real
                    )
                    found.append((task == guess, table[task][guess]))
            inferred[name][str(count)] = sum(right for right, _ in found) / len(found)
            accuracies[name][str(count)] = sum(reached for _, reached in found) / len(found)
    return {
        "number": TASKS,
        "accuracy_given_task": sum(table[task][task] for task in range(TASKS)) / TASKS,
        "inferred": inferred,
        "accuracy_inferred_task": accuracies,
        "mask_bytes": superposition.mask_bytes,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="mnist", choices=("mnist", "cifar10", "digits"))
    parser.add_argument("--data-root", default=None, help="folder of the data sets ($SUPERMASK_DATA)")
    parser.add_argument("--tasks", default="split", choices=("split", "permuted"))
    parser.add_argument("--epochs", type=int, default=2, help="of each task")
    parser.add_argument("--steps", type=int, default=None, help="of each task, instead of epochs")
    parser.add_argument("--density", type=float, default=0.3)
    parser.add_argument("--outputs", type=int, default=20, help="of the network; tasks use 2 or 10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for tickets and superposition.json")
    options = parser.parse_args(arguments)
    data = load_data(options.data, options.data_root)
    select, real = (split, 2) if options.tasks == "split" else (permuted, data.num_classes)
    superposition = search_masks(data, select, options)
    superposition.save(options.out)
    settings = {"data": options.data, "tasks": options.tasks, "epochs": options.epochs}
    settings |= {"steps": options.steps, "density": options.density, "outputs": options.outputs}
    result = {**settings, "seed": options.seed, **measure(superposition, data, select, real)}
    write_json(options.out / "superposition.json", result)
    print(f"accuracy when the task is given: {100 * result['accuracy_given_task']:.2f} %")
    for name, by_count in result["inferred"].items():
        for count, rate in by_count.items():
            accuracy = result["accuracy_inferred_task"][name][count]
            print(f"{name}, {count} images: task {100 * rate:.1f} %, accuracy {100 * accuracy:.2f} %")
    print(f"{result['mask_bytes']} bytes of masks for {TASKS} tasks, in {options.out}")
    return result


if __name__ == "__main__":
    main()
