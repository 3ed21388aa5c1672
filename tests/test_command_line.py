"""The command line around its commands: help without torch, spelling, numbers, locales, lists, progress."""

import ast
import io
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

import supermask
from supermask.cli import main, progress, streams
from supermask.cli.catalogue import PATH, as_text, live
from supermask.cli.entry import parse
from supermask.cli.errors import with_flags
from supermask.cli.parser import COMMON, GROUPS, command_names
from supermask.cli.streams import console_of
from supermask.data import load_data
from supermask.experiments import plan
from supermask.experiments.errors import ConfigError
from supermask.experiments.execution.store import Store
from supermask.experiments.plan import Plan
from supermask.experiments.search import SearchConfig, plan_search
from supermask.experiments.stability import StabilityConfig, plan_stability
from supermask.suggest import near

ROOT = Path(__file__).parent.parent


def call(*words: object) -> int:
    """The exit code of a call, however it ends."""
    try:
        return main(list(map(str, words)))
    except SystemExit as end:
        return int(end.code or 0)


# What needs no tensor.


def test_the_catalogue_holds_what_is_registered() -> None:
    text = as_text(live())
    assert PATH.read_text(encoding="utf-8") == text, "`make catalogue` writes it anew"
    assert json.loads(text)["searches"][0] == "edge-popup"


LIGHT = (
    *(
        "--version",
        "--help",
        "search --help",
        "compare --help-all",
        "list methods",
        "list models",
        "list data",
    ),
    *("list recipes recipes", "list tickets .", "list data --json", "completion bash", "eval --help"),
    *("serach", "search --densty 1", "search --method edgepopup --out x", "search --data mnits --out x"),
    *("compare --methods imp dens", "search --epochs", "list nothing", "list tickets /nowhere"),
)


def light(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Make all light calls in one new process, which tells what they imported and how long it computed."""
    code = f"""
import sys, time
from supermask.cli import main
for line in {LIGHT!r}:
    try:
        code = main(line.split())
    except SystemExit as end:
        code = end.code
    print("code", code, line)
heavy = {{"torch", "numpy", "rich", "yaml", "safetensors", "matplotlib"}} & sys.modules.keys()
print("heavy", sorted(heavy), "seconds", time.process_time())
"""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=True,
    )


def test_what_needs_no_tensor_imports_no_torch_and_takes_no_time() -> None:
    pytest.importorskip("shtab")
    found = light({})
    *_, last = found.stdout.splitlines()
    assert re.fullmatch(r"heavy \[\] seconds [\d.]+", last)
    # All twenty together; each alone has an interpreter to start as well.
    assert float(last.split()[-1]) < 3
    codes = re.findall(r"^code (\S+) (.*)$", found.stdout, flags=re.MULTILINE)
    wrong = [line for code, line in codes if code == "2"]
    assert wrong == list(LIGHT[LIGHT.index("serach") :])
    assert all(code in ("0", "2") for code, _ in codes) and len(codes) == len(LIGHT)
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
)
def test_no_locale_gives_a_traceback(environment: dict[str, str]) -> None:
    pytest.importorskip("shtab")
    found = light(environment)
    assert "Traceback" not in found.stderr
    assert "heavy" in found.stdout and "cuda:1, ..." in found.stdout, "three dots for the one sign"


def test_public_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse(Path(supermask.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    declared = {
        alias.name: node.module
        for node in block.body
        for alias in node.names
        if isinstance(node, ast.ImportFrom)
    }
    assert set(supermask.__all__) == {*declared, "__version__"}
    for name, module in declared.items():
        assert getattr(supermask, name) is getattr(sys.modules[module], name), name
    assert set(supermask.__all__) <= set(dir(supermask))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = supermask.nothing


OPTIONAL = """
import sys, torch
before = set(sys.modules)
import supermask
for name in supermask.__all__:
    getattr(supermask, name)
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - set(sys.stdlib_module_names)))
"""


def test_the_public_names_import_no_package_that_they_do_not_need() -> None:
    """Neither figures nor pages, nor networks of others: `import supermask` costs what torch costs."""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OPTIONAL], capture_output=True, text=True, check=True
    )
    assert set(found.stdout.split()) <= {
        "einops",
        "filelock",
        "numpy",
        "safetensors",
        "supermask",
        "supermask_editable",
    }


def test_every_group_and_common_flag_is_one_of_a_command() -> None:
    flags = {flag.name for command in live().commands for flag in command.flags}
    assert {*COMMON, *(name for names in GROUPS.values() for name in names)} <= flags
    grouped = [name for names in GROUPS.values() for name in names]
    assert len(set(grouped)) == len(grouped)


def test_long_lists_of_choices_can_be_printed() -> None:
    from supermask.cli.flags import FEW_CHOICES
    from supermask.cli.parser import LISTS

    long = {flag.name for c in live().commands for flag in c.flags if len(flag.choices) > FEW_CHOICES}
    assert long == {"methods"} and long <= set(LISTS)


def test_help_shows_common_flags_first_and_all_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("search", "--help") == 0
    short = capsys.readouterr().out
    assert call("search", "--help-all") == 0
    whole = capsys.readouterr().out
    assert "--epochs" in short and "--retries" not in short and "--retries" in whole
    titles = re.findall(r"^(\w+):$", whole, flags=re.MULTILINE)
    assert titles == ["options", "search", "data", "network", "training", "execution"]
    assert whole.index("--out") < whole.index("--retries") and whole.index("--lr") < whole.index("--momentum")


def test_every_command_has_a_line_of_help_beside_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    said = capsys.readouterr().out
    for name in command_names(live()):
        assert re.search(rf"^ +{name} +\w", said, flags=re.MULTILINE), name


# Spelling.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serach"], "there is no command 'serach'; did you mean search?"),
        (["nonsense"], "there is no command 'nonsense'; it is one of compare, "),
        (
            ["search", "--densty", "0.3"],
            "supermask search: there is no flag --densty; did you mean --density?",
        ),
        (["search", "--batch_size=3"], "there is no flag --batch_size; did you mean --batch-size?"),
        (["search", "--epoch", "3"], "there is no flag --epoch; did you mean --epochs?"),
        (["search", "0.3"], "supermask search: '0.3' belongs to no flag"),
        (["search", "--method", "Edge_Popup"], "--method 'Edge_Popup': did you mean edge-popup?"),
        (["compare", "--methods", "imp", "dens"], "--methods: there is no 'dens'; did you mean dense"),
        (["compare", "--methods", "xyz"], "--methods: 'xyz' is not one of all, snip,"),
        (
            ["search", "--data", "mnits"],
            "no data set 'mnits', and no folder of that name here or in data; did",
        ),
        (["search", "--epochs", "ten"], "supermask search: --epochs: 'ten' is not a number"),
        (["imp", "--rounds", "1.5"], "supermask imp: --rounds: '1.5' is not a whole number"),
        (["eval", "t", "--batch-size", "ten"], "supermask eval: --batch-size: 'ten' is not a whole number"),
        (
            ["search", "--model", "resnet-02", "--out", "out"],
            "'resnet-02'. `supermask list models` lists ours; did",
        ),
        (["scaling", "--widths", "2"], "--widths 2.0: give two widths or more"),
        (["transfer", "--places", "digits", "digts"], "--places: there is no data set 'digts'"),
        (["search", "--model-args", "width"], "--model-args: 'width' is not key=value"),
        (
            ["eval", "t", "--batchsize", "3"],
            "supermask eval: there is no flag --batchsize; did you mean --batch-size",
        ),
        (["eval"], "the following arguments are required: TICKET"),
        (["list", "method"], "there is no 'method'; did you mean methods?"),
        (["list", "data", "somewhere"], "`supermask list data` takes no folder"),
    ],
)
def test_misspelt_calls_say_what_was_meant(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("SUPERMASK_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    words = [*words, "--out", "out"] if words[0] in ("imp", "scaling", "transfer") else words
    assert call(*words) == 2
    said = capsys.readouterr().err
    assert message in said and "usage:" not in said and len(said.splitlines()) <= 2


def test_names_are_near_whatever_their_case_and_signs() -> None:
    assert near("RESNET20", ["resnet-20", "resnet-110"]).startswith("did you mean resnet-20")
    assert near("xyz", ["resnet-20"]) == near("et", ["resnet-20"]) == ""
    assert near("mnist", ["digits", "mnist-lenet-300-100"]) == "did you mean mnist-lenet-300-100?"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pass image_size= to bring all", "pass --image-size to bring all"),
        ("image_size=12 is above the stored_size", "--image-size 12 is above the --stored-size"),
        ("leave them out with allow_corrupt", "leave them out with --allow-corrupt"),
        (
            "give the folder as root= or in SUPERMASK_DATA",
            "give the folder as --data-root or in SUPERMASK_DATA",
        ),
        ("the root of x/image_size/y and my_image_size", "the root of x/image_size/y and my_image_size"),
    ],
)
def test_errors_name_flags(text: str, said: str) -> None:
    assert with_flags(text) == said


# Numbers.

SEARCH = ["search", "--threads", "1"]
COMPARE = ["compare", "--methods", "dense", "imp", "--seeds", "0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [*SEARCH, "--epochs", "1e-9"],
            "--epochs 1e-09: take at least 0.1: an epoch has 10 steps of 128 images",
        ),
        ([*SEARCH, "--epochs", "1e300"], "--epochs 1e+300: take a positive number, at most 1e+09"),
        ([*SEARCH, "--lr", "1e39"], "--lr 1e+39: take a number that is not negative, at most 1e+30"),
        ([*SEARCH, "--lr", "-1e-3"], "--lr -0.001: take a number that is not negative"),
        (
            [*SEARCH, "--val-fraction", "0.99999"],
            "--val-fraction 0.99999: take less: it leaves none",
        ),
        (["transfer", "--adaptive-lr", "-1"], "--adaptive-lr -1.0: take a number that is not negative"),
        ([*SEARCH, "--batch-size", "5000"], "--batch-size 5000: take at most 1293, the training images that"),
        (
            [*SEARCH, "--density", "1e-300"],
            "--density 1e-300: take at least 6e-05: each of 3 layers keeps a",
        ),
        ([*COMPARE, "--densities", "0.5", "1e-9"], "--densities 1e-09: take at least 6e-05"),
        (
            [*COMPARE, "--rate", "1e-9"],
            "--rate 1e-09: take at least 0.0035: the way to density 0.03 has 1000",
        ),
        (["search", "--threads", "100000"], "--threads 100000: take at most "),
        (["search", "--jobs", "100000"], "--jobs 100000: take at most "),
        ([*SEARCH, "--gpu-share", "1e-300"], "--gpu-share 1e-300: take a fraction from 0.01 to 1"),
        ([*SEARCH, "--image-size", "5000"], "--image-size 5000: take a number of pixels from 1 to 4096"),
        ([*SEARCH, "--stored-size", "0"], "--stored-size 0: take a number of pixels from 1 to 4096"),
        ([*SEARCH, "--seed", str(1 << 63)], "--seed 9223372036854775808: take an integer"),
        ([*SEARCH, "--model", "conv-2", "--image-size", "1"], "needs images of at least 2x2 pixels"),
        ([*SEARCH, "--model-args", "width=many"], "--model-args 'width=many': the network cannot be built"),
        ([*SEARCH, "--model-args", "wdth=2"], "--model-args 'wdth=2': the network cannot be built"),
        (["stability", "--orders", "1000000000"], "--orders 1000000000: take from 2 to 1000"),
        (["imp", "--rounds", "1000000000", "--threads", "1"], "--rounds 1000000000: take at most"),
        ([*COMPARE[:3], "imp-rewind", "--epochs", "0.05"], "take more --epochs"),
        ([*COMPARE, "--epochs", "0.05", "--rewind-to", "1"], "--rewind-to 1: leave it out"),
        (["eval", "t", "--batch-size", "0"], "--batch-size 0: take a positive number"),
        (["eval", "t", "--image-size", "-1"], "--image-size -1: take a number from 1 to 4096"),
        (["eval", "t", "--device", "gpu"], "--device 'gpu'"),
        (
            ["eval", "t", "--stored-size", "4", "--image-size", "8"],
            "--stored-size 4: take at least --image-size 8",
        ),
    ],
)
def test_numbers_that_cannot_be_meant_name_the_flag(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if words[0] == "eval" else ["--out", str(tmp_path)]
    assert call(*words, *out) == 2
    assert message in capsys.readouterr().err


def test_images_that_memory_cannot_hold_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supermask.data.registry.available_memory", lambda: 2**30)
    assert call(*SEARCH, "--image-size", "1024", "--out", tmp_path) == 2
    said = capsys.readouterr().err
    assert "--data: the 1797 images of 'digits' take 1.8 GiB at --image-size 1024, and 1.0 GiB" in said


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] can't allocate memory: 9")])
def test_memory_that_runs_out_is_a_failure(
    error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("supermask.cli.run.dataset", full)
    assert call(*SEARCH, "--out", tmp_path) == 1
    assert "memory ran out" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [True, False])
def test_a_network_that_fails_on_the_images_is_refused_before_it_is_trained(
    kept: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a network keeps beside its parameters has no values on the meta device: no fault of its own."""

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = torch.nn.Linear(64 if kept else 100, 10)
            self.order = torch.arange(10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(x.flatten(1))[:, self.order]

    monkeypatch.setattr(plan, "network_of", lambda task, data: Odd())
    planned = plan_search(SearchConfig(epochs=1, out="x"), load_data("digits")) if kept else None
    if planned:
        assert len(planned.graph) == 1
        return
    assert call(*SEARCH, "--out", tmp_path) == 2
    said = capsys.readouterr().err
    assert "--model 'lenet-300-100': take another --image-size or network; it fails on images of 8x8" in said


def test_a_training_of_one_step_is_compared(tmp_path: Path) -> None:
    words = [*COMPARE, "--densities", "0.5", "--epochs", "0.05", "--model-args", "width=0.05", "--jobs", "1"]
    assert call(*words, "--out", tmp_path) == 0
    assert {row["steps"] for row in json.loads((tmp_path / "results.json").read_text())["rows"]} == {1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model_args: {1: 2}", "model_args takes names with numbers"),
        ("model_args: {width: {a: 1}}", "model_args takes names with numbers"),
        ("model_args: {width: 2020-01-01}", "model_args takes names with numbers"),
        ("epochs: 1" + "0" * 400, "epochs takes a float"),
        ("epochs: 1" + "0" * 5000, "is not valid YAML"),
        ("epochs: " + "[" * 3000, "is not valid YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nepochs: [" + "*b, " * 999 + "*b]", "unknown key 'a'"),
        ("epochs: [" + "[1], " * 9_999 + "1]", "epochs takes a float, not ["),
    ],
)
def test_odd_configuration_files_are_refused_in_few_words(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(content)
    assert call("search", "--config", tmp_path / "c.yaml", "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert message in said and len(said) < 2000


def test_a_wrong_value_that_a_worker_finds_stays_one() -> None:
    error = ConfigError("jobs", 3, "take less")
    error.add_note("in run x")
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is ConfigError and str(copied) == "--jobs 3: take less"
    assert copied.__notes__ == ["in run x"]


# Locales.


def test_signs_that_a_terminal_lacks_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", errors="strict"))
    streams.show_what_can_be_shown()
    print("3×4 … Erdős ≤ ½ – “x” \u4e2d", b"\xff".decode(errors="surrogateescape"), flush=True)
    assert raw.getvalue() == b'3x4 ... Erdos <= 1/2 - "x" \\u4e2d \\udcff\n'


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
    ],
)
def test_every_command_runs_without_utf8(environment: dict[str, str], tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "val"):
        for level, name in enumerate(("café", "thé")):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for index in range(8):
                image = Image.new("RGB", (8, 8), (90 * level, index, 0))
                image.save(tmp_path / "photos" / split / name / f"é{index}.png")
    quick = ["--epochs", "1", "--batch-size", "4", "--threads", "1", "--model-args", "width=0.05"]
    data = ["--data", "photos", "--classes", "café", "thé", "--cache", "caché", "--jobs", "2"]
    out = os.fsdecode(b"r\xe9sult")

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "supermask", *words],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
        )
        said = done.stderr.decode(errors="backslashreplace")
        assert done.returncode == 0 and "Traceback" not in said, said
        return done.stdout.decode(errors="surrogateescape")

    run("search", *data, *quick, "--out", out)
    run("compare", "--methods", "dense", "edge-popup", "--seeds", "0", *data, *quick, "--out", "b")
    (ticket,) = [str(path.relative_to(tmp_path)) for path in (tmp_path / out).rglob("final.ticket")]
    seen = ["--data", "photos", "--cache", "caché"]
    assert "of 16 test images of photos" in run("eval", ticket, *seen)
    assert "strong" in run("info", ticket)
    run("report", out)
    run("list", "tickets", ".")
    document = json.loads((tmp_path / out / "results.json").read_text(encoding="utf-8"))
    assert document["config"]["classes"] == ["café", "thé"]
    assert out in document["command"]


# What the pages say.


def calls_of(page: Path) -> list[str]:
    """The calls of the command in the shell blocks of a page."""
    blocks = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition("supermask ")[2] for line in lines if re.match(r"([A-Z_]+=\S+ )*supermask ", line)]


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_calls_on_the_pages_are_understood(page: str) -> None:
    for line in calls_of(ROOT / page):
        words = shlex.split(line.partition(" > ")[0].partition(" | ")[0], comments=True)
        assert parse(words).command == words[0], line


def test_the_readme_shows_calls() -> None:
    assert len(calls_of(ROOT / "README.md")) > 8


# Lists.


def test_tickets_are_listed_with_their_making(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--epochs", "0.1", "--threads", "1", "--model-args", "width=0.05", "--out", tmp_path]
    assert call("search", *words) == 0
    (tmp_path / "broken.ticket").write_bytes(b"\xff" * 20)
    capsys.readouterr()
    assert call("list", "tickets", tmp_path, "--json") == 0
    broken, sound = json.loads(capsys.readouterr().out)
    accuracy = json.loads((tmp_path / "results.json").read_text())["rows"][0]["test_accuracy"]
    assert sound["method"] == "edge-popup" and sound["data"] == "digits"
    assert sound["test accuracy"] == f"{100 * accuracy:.2f} %"
    assert broken["bytes"] == 20 and broken["method"] == broken["test accuracy"] == "-"


@pytest.mark.parametrize("what", ["recipes", "tickets"])
def test_an_empty_list_says_so(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list", what, tmp_path) == 0
    said = capsys.readouterr()
    assert said.out == "" and said.err == f"there are no {what} in {tmp_path}\n"


def test_recipes_are_listed_as_calls(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list", "recipes", ROOT / "recipes", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == len(list((ROOT / "recipes").glob("*/*.toml")))
    assert all(entry["about"] for entry in found)


# Progress.


def watched(terminal: bool, tmp_path: Path) -> tuple[progress.ProgressWatcher, io.StringIO, Plan, Store]:
    planned = plan_search(SearchConfig(epochs=2, out="x"), load_data("digits"))
    store, said = Store(tmp_path / "runs"), io.StringIO()
    console = Console(file=said, force_terminal=terminal, width=200)
    return progress.ProgressWatcher(planned, console, store), said, planned, store


def test_without_a_terminal_a_line_says_now_and_then_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.0)
    watcher, said, planned, store = watched(False, tmp_path)
    (spec,) = planned.graph
    store.open(spec).checkpoint.write_bytes(b"")
    store.run(spec.id).write_history([{"step": 8, "train_loss": 1.0, "val_accuracy": 0.625}])
    with watcher:
        for step in (9, 10, 11):
            watcher.advanced(spec, step)
        watcher.finished(spec, {})
    lines = said.getvalue().splitlines()
    assert lines[0] == f"1 run of 20 steps; results go to {tmp_path}"
    assert lines[1] == f"{spec.id}: resuming from step 8"
    assert lines[2] == "run 1 of 1: edge-popup-d0.3-s0 (62.5 % val); step 9 of 20"
    assert re.fullmatch(r"1 run done in 0:00:0\d", lines[3])
    assert len(lines) == 4, "the next would come after half a minute"


def test_the_end_is_told_by_the_steps_after_the_first_of_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what a checkpoint had done nor what the first step waits for counts."""
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr(progress, "FIRST", 0.0)
    watcher, said, planned, _ = watched(False, tmp_path)
    (spec,) = planned.graph
    with watcher:
        for step, seconds in ((9, 500.0), (11, 30.0), (14, 60.0)):
            now += seconds
            watcher.advanced(spec, step)
    told = [line.partition("; ")[2] for line in said.getvalue().splitlines()[1:]]
    assert told == [
        "step 9 of 20",
        "step 11 of 20, ends in about 0:02:15",
        "step 14 of 20, ends in about 0:01:48",
    ]


def test_on_a_terminal_the_accuracy_of_the_run_stands_beside_its_bar(tmp_path: Path) -> None:
    watcher, said, planned, store = watched(True, tmp_path)
    (spec,) = planned.graph
    store.open(spec).write_history([{"step": 8, "train_loss": 1.0, "val_accuracy": 0.625}])
    with watcher:
        watcher.advanced(spec, 1)
    assert "62.5 % val" in said.getvalue() and "resuming" not in said.getvalue()


@pytest.mark.parametrize(
    ("room", "text"),
    [
        (None, "one (62.5 % val), two, three"),
        (28, "one (62.5 % val), two, three"),
        (27, "one (62.5 % val) and 2 more"),
        (3, "one (62.5 % val) and 2 more"),
    ],
)
def test_names_of_runs_stop_where_the_terminal_ends(room: int | None, text: str) -> None:
    assert progress._those_that_fit(["one (62.5 % val)", "two", "three"], room) == text
    assert progress._those_that_fit([], room) == "…"


def test_many_runs_at_a_time_keep_to_one_line_of_a_terminal(tmp_path: Path) -> None:
    config = StabilityConfig(epochs=1, seeds=(0,), densities=(0.5,), out="x")
    planned = plan_stability(config, load_data("digits"))
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=100, _environ={})
    with progress.ProgressWatcher(planned, console) as watcher:
        for spec in planned.graph:
            if spec.steps:
                watcher.advanced(spec, 1)
        watcher._bar.refresh()
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.getvalue()).replace("\r", "\n").splitlines()
    bars = [line for line in lines if line.strip()]
    assert all(
        re.match(r"(starting|run \d+ of \d+: .*) [━╸╺ ]+ +\d+/\d+ steps, ends in", bar) for bar in bars
    )
    assert len(bars[-1]) <= 100 and re.search(r" and \d+ more", bars[-1])


def test_a_copy_is_named_by_its_order_and_step() -> None:
    config = StabilityConfig(epochs=1, seeds=(3, 1 << 50), starts=(0, 0.5), orders=3, densities=(), out="x")
    planned = plan_stability(config, load_data("digits"))
    names = {progress._name_of(spec) for spec in planned.graph if spec.kind == "train"}
    assert names == {
        name
        for seed in (3, 1 << 50)
        for name in (
            f"dense-d1-s{seed}",
            *(f"dense-copy-d1-s{seed} order {order} from step 0" for order in (1, 2)),
            f"dense-copy-d1-s{seed}",
            *(f"dense-copy-d1-s{seed} order {order} from step 5" for order in (1, 2)),
        )
    }


def test_other_ranks_say_nothing(tmp_path: Path) -> None:
    planned = plan_search(SearchConfig(epochs=2, out="x"), load_data("digits"))
    said = io.StringIO()
    with progress.ProgressWatcher(planned, Console(file=said), Store(tmp_path), quiet=True) as watcher:
        watcher.advanced(planned.graph[0], 5)
        watcher.finished(planned.graph[0], {})
    assert said.getvalue() == ""


def test_a_notebook_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as kernels have it
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    console = console_of(sys.stdout)
    assert not console.is_terminal and not console.is_jupyter
    console.print("[bold]done[/bold]")
    assert capsys.readouterr().out == "done\n"


@pytest.mark.parametrize(("total", "begins"), [(1, "1 case"), (3, "3 cases")])
def test_a_computation_says_where_its_results_go_and_how_long_it_took(total: int, begins: str) -> None:
    said = io.StringIO()
    with progress.task_progress("theory", total, Console(file=said), Path("out")) as told:
        for done in range(1, total + 1):
            told(done)
    first, last = said.getvalue().splitlines()
    assert first == f"{begins}; results go to out"
    assert re.fullmatch(rf"theory: {total} of {total} in 0:00:0\d", last)
