"""Does a search find its subnetwork without a learning rate? Relative steps against grids of rates.

    python benchmarks/score_steps.py --data-root DIR
    python benchmarks/score_steps.py --data-root DIR --method signed-supermask

Every setting is searched by edge-popup (or by a signed supermask) with relative steps over a grid of rates,
the default among them, and with the published rule (SGD with momentum 0.9 and weight decay 5e-4) and Adam
over wide grids. Judged on a validation split of 5,000 training images (1,000 of Imagenette), one seed; the
test split is not looked at. Trainings are short, so that all of it takes about 80 minutes of one core. Writes
`benchmarks/results/score-steps.json` (of the signed one `score-steps-signed-supermask.json`) after each run,
and goes on from it.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask.data import Dataset, Images, Loader, iterate_eval, load_data
from supermask.experiments.results import describe_machine
from supermask.io import write_json
from supermask.masks import NonFiniteScoreError
from supermask.search import create_search
from supermask.search.relative_steps import default_rate
from supermask.training.loop import DivergedError
from supermask.training.memory_format import unsafe_in_channels_last
from supermask.training.schedule import Schedule

RESULTS = Path(__file__).parent / "results"
_EDGE_POPUP = (
    ("relative", 0.02),
    ("relative", 0.005),
    ("relative", 0.01),
    ("absolute", 0.1),
    ("absolute", 1.0),
    ("absolute", 10.0),
    ("relative", 0.003),
    ("relative", 0.03),
    ("absolute", 0.3),
    ("relative", 0.1),
    ("adam", 0.001),
    ("adam", 0.003),
    ("adam", 0.01),
    ("adam", 0.03),
)
_SIGNED = (
    *(("relative", lr) for lr in (0.005, 0.02, 0.01, 0.003, 0.03, 0.1)),
    *(("absolute", lr) for lr in (0.2, 1.0, 10.0)),
    *(("adam", lr) for lr in (0.003, 0.01, 0.03)),
)
RATES = {"edge-popup": _EDGE_POPUP, "signed-supermask": _SIGNED}
"""By search: step size (`adam`: absolute steps by Adam) and learning rate."""
RULES: dict[str, dict[str, Any]] = {
    "absolute": {"step_size": "absolute", "momentum": 0.9, "weight_decay": 5e-4},
    "relative": {"step_size": "relative", "momentum": 0.9, "nesterov": True},
    "adam": {"base": "adam"},
}


@dataclass(frozen=True)
class Setting:
    """A search to be tried: data, network, length, and what scales the gradient of its loss."""

    data: str
    model: str
    model_args: dict[str, Any] = field(default_factory=dict)
    steps: int = 600
    batch_size: int = 128
    density: float = 0.5
    loss_factor: float = 1.0
    augment: str = "none"
    label_smoothing: float = 0.0
    init: str = "signed_constant"
    amp: bool = False
    image_size: int | None = None
    validation: int = 5_000


def _airbench(**changes: Any) -> Setting:
    args = {"width": 0.125, **changes.pop("model_args", {})}
    common = {
        "steps": 200,
        "batch_size": 256,
        "augment": "translate-flip",
        "label_smoothing": 0.2,
        "amp": True,
    }
    return Setting("cifar10", "airbench", args, **{**common, **changes})


_LENET = ("mnist", "lenet-300-100")
_CONV = {"steps": 200, "augment": "crop-flip"}
_VIT = {"patch_size": 7, "embed_dim": 64, "depth": 4, "num_heads": 4}
SETTINGS = {
    "LeNet-300-100": Setting(*_LENET),
    "airbench": _airbench(),
    "LeNet-300-100, density 0.1": Setting(*_LENET, density=0.1),
    "LeNet-300-100, loss × 9": Setting(*_LENET, loss_factor=9.0),
    "LeNet-300-100, loss / 9": Setting(*_LENET, loss_factor=1 / 9),
    "airbench, logits not scaled": _airbench(model_args={"logit_scale": 1.0}),
    "airbench, batch 64": _airbench(batch_size=64, steps=800),
    "LeNet-300-100, batch 1024": Setting(*_LENET, batch_size=1024, steps=150),
    "LeNet-300-100, 150 steps": Setting(*_LENET, steps=150),
    "LeNet-300-100, Kaiming normal": Setting(*_LENET, init="kaiming_normal"),
    "LeNet-300-100, 2,400 steps": Setting(*_LENET, steps=2400, density=0.3),
    "Conv-4 with norms": Setting(
        "cifar10", "conv-4", {"width": 0.25, "batch_norm": True, "affine": False}, **_CONV
    ),
    "ViT": Setting("mnist", "timm/vit_tiny_patch16_224", _VIT, steps=250),
    "LeNet-5, batch 64": Setting("mnist", "lenet-5", batch_size=64, steps=400, density=0.3),
    "airbench, density 0.7": _airbench(density=0.7),
    "Conv-4": Setting("cifar10", "conv-4", {"width": 0.25}, **_CONV),
    "ResNet-20": Setting("cifar10", "resnet-20", {"width": 0.5, "affine": False}, **_CONV),
    "VGG-16": Setting("cifar10", "vgg-16", {"width": 0.25}, amp=True, **_CONV),
    "ResNet-18, Imagenette": Setting(
        "imagenette",
        "torchvision/resnet18",
        steps=300,
        batch_size=32,
        augment="resized-crop",
        label_smoothing=0.1,
        amp=True,
        image_size=64,
        validation=1_000,
    ),
}


class Bench:
    """Data and networks of the settings, searched by one method."""

    def __init__(self, data_root: str | None, method: str) -> None:
        self._root, self.method = data_root, method
        self._data: dict[str, tuple[Dataset, Images, Images]] = {}
        self._rates: dict[str, float] = {}

    def accuracy(self, setting: Setting, step_size: str, lr: float, seed: int = 0) -> float:
        """Accuracy on the validation split after a search, in percent."""
        data, train, validation = self._split(setting)
        model = self._model(setting, data, train)
        sm.randomize_(model, setting.init, seed=seed, density=setting.density)
        options = {"density": setting.density, "lr": lr, "seed": seed}
        search = create_search(self.method, model, **options, **RULES[step_size])
        loader = Loader(
            train,
            batch_size=setting.batch_size,
            seed=seed,
            mean=data.mean,
            std=data.std,
            augment=setting.augment,  # type: ignore[arg-type]  # one of them
            channels_last=self._channels_last(model),
        )

        def objective(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            smoothing = setting.label_smoothing
            return setting.loss_factor * F.cross_entropy(model(inputs), labels, label_smoothing=smoothing)

        amp = "bf16" if setting.amp else "none"
        schedule = Schedule("cosine", setting.steps)
        length = {"steps": setting.steps, "schedule": schedule}
        sm.fit(model, search, loader.batch, objective=objective, amp=amp, **length)
        batches = iterate_eval(validation, 500, data.mean, data.std, channels_last=self._channels_last(model))
        return 100 * sm.evaluate(model, batches, amp)["accuracy"]

    def _split(self, setting: Setting) -> tuple[Dataset, Images, Images]:
        name = setting.data
        if name not in self._data:
            data = load_data(name, self._root, setting.image_size)
            self._data[name] = (data, *data.split(setting.validation, seed=0))
        return self._data[name]

    def default_rate(self, name: str) -> float:
        """The learning rate that a search takes by itself in a setting."""
        if name not in self._rates:
            setting = SETTINGS[name]
            data, train, _ = self._split(setting)
            self._rates[name] = round(default_rate(self._model(setting, data, train)), 6)
        return self._rates[name]

    def _model(self, setting: Setting, data: Dataset, train: Images) -> nn.Module:
        shape = {"in_channels": data.in_channels, "image_size": data.image_size}
        model = sm.create_model(setting.model, **shape, **setting.model_args)
        if hasattr(model, "look_at"):
            shown = train.take(torch.arange(5_000))
            model.look_at(torch.cat([x for x, _ in iterate_eval(shown, 500, data.mean, data.std)]))
        return model.to(memory_format=torch.channels_last) if self._channels_last(model) else model

    @staticmethod
    def _channels_last(model: nn.Module) -> bool:
        has_convolutions = any(parameter.dim() == 4 for parameter in model.parameters())
        return has_convolutions and not unsafe_in_channels_last(model)


def runs(bench: Bench, patterns: list[str]) -> Iterator[tuple[str, str, float]]:
    """All that is searched in settings that match a pattern: each with its default rate and all others."""
    for name in SETTINGS:
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            own = ("relative", bench.default_rate(name))
            for step_size, lr in dict.fromkeys((own, *RATES[bench.method])):
                yield name, step_size, lr


def write(path: Path, bench: Bench, done: list[dict[str, Any]]) -> None:
    """Write what was searched so far, with the rate that each setting has by default."""
    document = {
        "machine": describe_machine("cpu", threads=1, jobs=1),
        "method": bench.method,
        "seed": 0,
        "settings": {name: asdict(setting) for name, setting in SETTINGS.items()},
        "default_rates": {
            name: bench.default_rate(name) for name in sorted({run["setting"] for run in done})
        },
        "runs": done,
    }
    write_json(path, document)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", help="where data sets lie (else $SUPERMASK_DATA)")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of settings")
    parser.add_argument("--method", default="edge-popup", choices=RATES, help="search")
    parser.add_argument("--results", type=Path, help="file that grows by each run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    method, done = arguments.method, []
    bench = Bench(arguments.data_root, method)
    name = "score-steps" if method == "edge-popup" else f"score-steps-{method}"
    results = arguments.results or RESULTS / f"{name}.json"
    if results.exists():
        done = json.loads(results.read_text())["runs"]
    known = {(run["setting"], run["step_size"], run["lr"]) for run in done}
    for run in runs(bench, arguments.only):
        if run in known:
            continue
        began = time.process_time()
        try:
            accuracy = bench.accuracy(SETTINGS[run[0]], *run[1:])
        except (DivergedError, NonFiniteScoreError) as error:
            accuracy = None
            print(error)
        name, step_size, lr = run
        cpu = time.process_time() - began
        done.append(
            {"setting": name, "step_size": step_size, "lr": lr, "validation": accuracy, "cpu_seconds": cpu}
        )
        print(f"{name}, {step_size} {lr:g}: {accuracy} % ({cpu:.0f} s)", flush=True)
        write(results, bench, done)


if __name__ == "__main__":
    main()
