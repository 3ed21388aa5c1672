"""Supermasks in superposition: one frozen network, one mask for each task, and the task inferred.

    python examples/superposition.py --data mnist --out runs/superposition
    python examples/superposition.py --data mnist --tasks permuted --out runs/permuted
    python examples/superposition.py --data cifar10 --steps 800 --out runs/split-cifar
    python examples/superposition.py --data cifar100 --task-classes 5 --steps 4750 --out runs/split-cifar100

Wortsman et al., "Supermasks in Superposition" (NeurIPS 2020, arXiv 2006.14769). A split data set has a task
for every two classes: which of the two is it? `--task-classes` makes it more than two. A permuted one has
the same classes in every task, and an order of pixels of its own. All tasks share one network, drawn from
one seed and never trained, and its outputs; those that no task uses are superfluous. The script searches a
mask for each task, then measures on test images how often the task is inferred from the images alone, and
the accuracy when the task is given and when it is inferred. Each way to infer sees 20 batches a task. The
last command is the paper's SplitCIFAR100, 20 tasks of 5 classes and 250 epochs for each, with edge-popup's
own rule for their Adam and a ResNet-20 for their ResNet-18.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from _trio import parser, row, start, write_result
from torch import nn, nonzero

import supermask as sm
from supermask.data import Dataset, Images, Loader, iterate_eval, load_data
from supermask.masks import permutation
from supermask.tickets.superposition import Superposition
from supermask.training.loop import Schedule

PERMUTATIONS = 5
"""Tasks of a permuted data set."""
BATCHES = (8, 128)
"""Numbers of images from which a task is inferred."""
METHODS = (
    ("one-shot", "entropy"),
    ("binary", "entropy"),
    ("one-shot", "superfluous"),
    ("exhaustive", "entropy"),
)

Select = Callable[[Images, int], Images]


def split(images: Images, task: int, classes: int = 2) -> Images:
    """The images of as many classes from classes·task on, with labels from 0."""
    chosen = images.take(nonzero(images.labels // classes == task).flatten())
    return Images(chosen.pixels, chosen.labels - classes * task)


def permuted(images: Images, task: int) -> Images:
    """All images, their pixels in the task's own order."""
    order = permutation(images.pixels[0, 0].numel(), task, "example/superposition")
    return Images(images.pixels.flatten(2)[:, :, order].view_as(images.pixels), images.labels)


def network(data: Dataset, outputs: int, width: float) -> nn.Module:
    """A network whose norms have no scale and shift, as the authors use."""
    if data.in_channels == 3:
        return sm.create_model(
            "resnet-20", num_classes=outputs, image_size=data.image_size, width=width, affine=False
        )
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, units in ((data.image_size**2, 300), (300, 100)):
        layers += [nn.Linear(inputs, units, bias=False), nn.BatchNorm1d(units, affine=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(100, outputs, bias=False))


def search_masks(data: Dataset, known: Sequence[Images], options: argparse.Namespace) -> Superposition:
    """Search one mask for each task, of which `known` are the images, on a network drawn from the seed."""
    model = network(data, options.outputs, options.width)
    sm.randomize_(model, seed=options.seed, density=options.density)
    superposition = Superposition(model)
    for task, images in enumerate(known):
        superposition.reset()
        seed = options.seed + task
        search = sm.EdgePopup(
            model, density=options.density, lr=0.1, momentum=0.9, weight_decay=1e-4, seed=seed
        )
        loader = Loader(images, batch_size=128, seed=options.seed, mean=data.mean, std=data.std)
        steps = Schedule("cosine", options.steps)
        progress = sm.fit(model, search, loader.batch, steps=options.steps, schedule=steps)
        superposition.add(search.ticket())
        print(f"task {task}: {options.steps} steps, {progress.seconds:.0f} s", flush=True)
    return superposition


def measure(
    superposition: Superposition, data: Dataset, asked: Sequence[Images], real: int
) -> list[dict[str, Any]]:
    """A row for the task given, and one for each way to infer it from 8 and from 128 images."""

    def accuracy(mask: int, images: Images) -> float:
        batches = iterate_eval(images, 500, data.mean, data.std)
        return sm.evaluate(superposition.activate(mask), batches)["accuracy"]

    table = [[accuracy(mask, images) for mask in range(len(asked))] for images in asked]
    given = sum(table[task][task] for task in range(len(asked))) / len(asked)
    rows = [row("task given", None, {"accuracy": given}, None)]
    for method, objective in METHODS:
        for count in BATCHES:
            found = []
            for task, images in enumerate(asked):
                whole = min(20 * count, len(images) // count * count) or len(images)
                few = Images(images.pixels[:whole], images.labels[:whole])
                for inputs, _ in iterate_eval(few, count, data.mean, data.std):
                    guess = superposition.infer_task(
                        inputs, method=method, objective=objective, real_outputs=real
                    )
                    found.append((task == guess, table[task][guess]))
            inferred, reached = (sum(values) / len(found) for values in zip(*found, strict=True))
            name = f"{method}, {objective}, {count} images"
            rows.append(row(name, None, {"accuracy": reached, "inferred": inferred}, None))
    return rows


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    flags = parser(__doc__, steps=200, density=0.3)
    flags.add_argument("--data", default="mnist", choices=("mnist", "cifar10", "cifar100", "digits"))
    flags.add_argument("--data-root", default=None, help="folder of the data sets ($SUPERMASK_DATA)")
    flags.add_argument("--tasks", default="split", choices=("split", "permuted"))
    flags.add_argument("--task-classes", type=int, default=2, help="classes of each task of a split data set")
    flags.add_argument("--outputs", type=int, default=20, help="of the network; tasks use 2 or 10")
    flags.add_argument(
        "--width", type=float, default=1.0, help="of ResNet-20; the authors' ResNet-18 is wider"
    )
    options = start(flags, arguments)
    data = load_data(options.data, options.data_root)
    tasks, real = PERMUTATIONS, data.num_classes
    select: Select = permuted
    if options.tasks == "split":
        tasks, real = data.num_classes // options.task_classes, options.task_classes
        select = partial(split, classes=real)
    train, asked = (data.train, data.test)
    if options.validation:
        train, asked = data.split(0.1, seed=0)
    superposition = search_masks(data, [select(train, task) for task in range(tasks)], options)
    superposition.save(options.out)
    rows = measure(superposition, data, [select(asked, task) for task in range(tasks)], real)
    about = {
        "task": f"{options.tasks} {options.data}, {tasks} tasks",
        "network": "ResNet-20" if data.in_channels == 3 else "300-100 with norms",
        "width": options.width,
        "outputs": options.outputs,
        "density": options.density,
        "steps": options.steps,
        "seed": options.seed,
        "mask bytes": superposition.mask_bytes,
    }
    measures = {"accuracy": "accuracy, %", "inferred": "task inferred, %"}
    return write_result("superposition", options, about=about, measures=measures, rows=rows)


if __name__ == "__main__":
    main()
