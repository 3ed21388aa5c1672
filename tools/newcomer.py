"""The path of a new user, from a wheel to a network served elsewhere, in a fresh environment.

    python tools/newcomer.py dist/supermask-*.whl [--steps install compare]

Each step runs as a user would run it, with nothing on PATH but the environment, so without a compiler. Its
output and its time are checked; the times go to the last line as JSON. The seconds of CPU beside them tell a
slow step from a busy machine.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cpu_time

STEPS: dict[str, tuple[float, Callable[["Journey"], None]]] = {}
"""Name → the most seconds that it may take, and what is done."""


def step(seconds: float) -> Callable[[Callable[["Journey"], None]], Callable[["Journey"], None]]:
    """Register a step under the name of its function."""

    def register(function: Callable[["Journey"], None]) -> Callable[["Journey"], None]:
        STEPS[function.__name__.replace("_", "-")] = seconds, function
        return function

    return register


@dataclass
class Journey:
    """A new user's folder and environment.

    Attributes:
        wheel: The wheel that was handed out.
        folder: Where everything happens.
        constraints: Versions to install, or None for the newest.
        seconds: Step → how long it took.
    """

    wheel: Path
    folder: Path
    constraints: Path | None
    seconds: dict[str, float] = field(default_factory=dict)

    def bin(self, environment: str = "env") -> Path:
        """The folder of an environment's programs."""
        return self.folder / environment / "bin"

    def install(self, environment: str, what: str) -> None:
        """Make an environment and install the wheel with extras, with uv where there is one."""
        venv.create(self.folder / environment, with_pip=shutil.which("uv") is None)
        python = self.bin(environment) / "python"
        install = ["uv", "pip", "install", "--quiet", "--python", str(python)]
        if shutil.which("uv") is None:
            install = [str(python), "-m", "pip", "install", "--quiet"]
        if self.constraints:
            install += ["--constraint", str(self.constraints)]
        subprocess.run([*install, f"{what} @ {self.wheel.resolve().as_uri()}"], check=True)

    def run(self, *command: str, environment: str = "env", cwd: Path | None = None) -> str:
        """Run a program of an environment; what it printed. Ends the journey where it fails."""
        path = str(self.bin(environment))
        program = shutil.which(command[0], path=path)
        expect(program is not None, f"{command[0]} is not in the environment")
        keep = ("HOME", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES")
        variables = {name: os.environ[name] for name in keep if name in os.environ}
        done = subprocess.run(
            [str(program), *command[1:]],
            cwd=cwd or self.folder,
            env={**variables, "PATH": path, "SUPERMASK_CACHE": str(self.folder / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        expect(done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def script(self, code: str, environment: str = "env", cwd: Path | None = None) -> str:
        """Run a script with an environment's Python; what it printed."""
        return self.run(
            "python", "-W", "error", "-c", textwrap.dedent(code), environment=environment, cwd=cwd
        )

    def ticket(self, folder: str) -> Path:
        """The ticket that a search left in its folder of results."""
        (found,) = (self.folder / folder).rglob("edge-popup-*/final.ticket")
        return found


def expect(held: bool, otherwise: str) -> None:
    """End the journey where something does not hold."""
    if not held:
        sys.exit(f"newcomer: {otherwise}")


@step(600)
def install(journey: Journey) -> None:
    journey.install("env", "supermask[cli,onnx]")
    for compiler in ("c++", "g++", "clang++", "cc", "gcc"):
        expect(shutil.which(compiler, path=str(journey.bin())) is None, f"{compiler} is in the environment")
    said = journey.run("python", str(Path(__file__).with_name("check_kernels.py").resolve()))
    expect("have compiled kernels" in said, said)


@step(120)
def quick_start(journey: Journey) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    snippet = readme.partition("```python\n")[2].partition("```")[0]
    (journey.folder / "quick_start.py").write_text(
        "import torch\n"
        "steps = 2\n"
        "loader = [(torch.randn(4, 3, 64, 64), torch.randint(10, (4,))) for _ in range(steps)]\n"
        f"{snippet}\n"
        "assert torch.equal(network(images), model.eval()(images))\n"
    )
    journey.run("python", "-W", "error", "quick_start.py")
    size = (journey.folder / "resnet18.ticket").stat().st_size
    expect(size < 1_500_000, f"the ticket of the README's snippet has {size} bytes")


@step(180)
def zoo(journey: Journey) -> None:
    """The tickets that the wheel brings: listed, told of, and with the accuracy of their cards."""
    cards = json.loads(journey.run("supermask", "zoo", "--json"))
    shipped = {path.stem for path in (Path(__file__).parent.parent / "supermask/zoo").glob("*.ticket")}
    expect({card["name"] for card in cards} == shipped, f"the wheel brings {[c['name'] for c in cards]}")
    for card in cards:
        facts = json.loads(journey.run("supermask", "info", f"zoo:{card['name']}", "--json"))
        expect(facts["multiply_adds"] == card["multiply_adds"], f"{card['name']}: {facts}")
    (card,) = [card for card in cards if card["data"] == "digits"]
    result = json.loads(journey.run("supermask", "eval", f"zoo:{card['name']}", "--json"))
    expect(abs(result["accuracy"] - card["accuracy"]) < 0.005, f"{result} is not what the card says")
    journey.script(
        """
        import torch, supermask as sm

        for name in sm.list_tickets():
            arguments = sm.Ticket.load(f"zoo:{name}").factory["args"]
            image = torch.zeros(1, arguments["in_channels"], *[arguments["image_size"]] * 2)
            assert sm.load(f"zoo:{name}")(image).shape == (1, 10)
        """
    )


@step(300)
def compare(journey: Journey) -> None:
    command = (
        "supermask compare --epochs 2 --methods dense edge-popup --densities 0.5 --seeds 0 --out compare"
    )
    said = journey.run(*command.split())
    expect("report: compare/report.html" in said and "edge-popup" in said, said)
    results = json.loads((journey.folder / "compare/results.json").read_text())
    accuracy = {entry["method"]: entry["mean"] for entry in results["summary"]}
    expect(accuracy["dense"] > 0.5 and accuracy["edge-popup"] > 0.5, f"accuracies are {accuracy}")


@step(120)
def own_images(journey: Journey) -> None:
    journey.script(
        """
        from pathlib import Path
        import numpy as np
        from PIL import Image

        draw = np.random.default_rng(0)
        for split, count in (("train", 24), ("test", 8)):
            for label, level in (("dark", 60), ("light", 190)):
                folder = Path("images", split, label)
                folder.mkdir(parents=True)
                for index in range(count):
                    pixels = draw.normal(level, 20, (16, 16, 3)).clip(0, 255).astype("uint8")
                    Image.fromarray(pixels).save(folder / f"{index}.png")
        """
    )
    command = (
        "supermask search --data images --model conv-2 --density 0.5 --epochs 6 --batch-size 8 --out own"
    )
    said = journey.run(*command.split())
    expect("report: own/report.html" in said, said)
    result = json.loads(
        journey.run("supermask", "eval", str(journey.ticket("own")), "--data", "images", "--json")
    )
    expect(result["accuracy"] > 0.8, f"two shades are told apart at {result['accuracy']}")


@step(120)
def own_model(journey: Journey) -> None:
    journey.script(
        """
        import torch, supermask as sm
        from torch import nn
        from torch.nn import functional as F

        def network():
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2))

        draw = torch.Generator().manual_seed(0)
        images = torch.rand(256, 1, 8, 8, generator=draw)
        labels = torch.randint(2, (256,), generator=draw)
        images[labels == 0, :, :, :4] += 1  # the left half is the lighter one, or the right half
        images[labels == 1, :, :, 4:] += 1
        model = network()
        sm.randomize_(model, init="signed_constant", seed=0, density=0.5)
        search = sm.EdgePopup(model, density=0.5, lr=0.1, momentum=0.9)
        for _ in range(100):
            F.cross_entropy(model(images), labels).backward()
            search.step()
            search.zero_grad()
        search.ticket().save("own-model.ticket")
        again = sm.Ticket.load("own-model.ticket").apply(network())
        assert torch.equal(again(images), model(images))
        accuracy = float((again(images).argmax(1) == labels).float().mean())
        assert accuracy > 0.8, accuracy
        """
    )


@step(60)
def report(journey: Journey) -> None:
    page = journey.folder / "compare/report.html"
    before = page.read_bytes()
    page.unlink()
    said = journey.run("supermask", "report", "compare")
    expect("report.html" in said and page.read_bytes() == before, "the page made again is another one")


@step(180)
def export(journey: Journey) -> None:
    ticket = journey.ticket("compare")
    said = journey.run("supermask", "export", str(ticket), "network.onnx", "--weights", "2bit")
    expect("network.onnx" in said, said)
    journey.script(
        f"""
        import numpy as np, onnxruntime, torch, supermask as sm

        images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = sm.load({str(ticket)!r})(images).numpy()
        session = onnxruntime.InferenceSession("network.onnx", providers=["CPUExecutionProvider"])
        (outputs,) = session.run(None, {{"input": images.numpy()}})
        assert (outputs.argmax(1) == expected.argmax(1)).all()
        assert np.allclose(outputs, expected, rtol=1e-3, atol=1e-4)
        """
    )


@step(600)
def load_elsewhere(journey: Journey) -> None:
    predictions = """
        import torch, supermask as sm

        network = sm.load("final.ticket")
        images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        torch.set_num_threads(1)
        print(network(images).flatten().tolist())
        """
    ticket = journey.ticket("compare")
    elsewhere = journey.folder / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(ticket, elsewhere)
    journey.install("core", "supermask")
    here = journey.script(predictions, cwd=ticket.parent)
    there = journey.script(predictions, environment="core", cwd=elsewhere)
    expect(here == there, "the network loaded elsewhere gives other outputs")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--constraints", type=Path, help="versions to install")
    parser.add_argument(
        "--patience", type=float, default=1.0, help="factor on what a step may take, for a busy machine"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="newcomer-") as folder:
        journey = Journey(options.wheel, Path(folder), options.constraints)
        for name in options.steps:
            limit, do = STEPS[name]
            began, computed = time.monotonic(), cpu_time.of_children()
            do(journey)
            took = journey.seconds[name] = round(time.monotonic() - began, 1)
            print(f"{name}: {took} s ({cpu_time.of_children() - computed:.0f} s of CPU)", flush=True)
            limit *= options.patience
            expect(took <= limit, f"{name} took {took} s, and {limit:g} are allowed")
    print(json.dumps(journey.seconds))


if __name__ == "__main__":
    main()
