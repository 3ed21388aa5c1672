"""Files of a store that are sound but hold something else: each is named, with the remedy."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from supermask.cli import main
from supermask.data import load_data
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.run import execute
from supermask.experiments.execution.store import Run, Store
from supermask.experiments.search import SearchConfig, plan_search
from supermask.experiments.spec import RunSpec
from supermask.experiments.theory import _finished
from supermask.io import DamagedFileError, load_tree, read_json, save_tree, write_json, write_text
from supermask.models import create_model
from supermask.training.checkpoint import Checkpoint
from supermask.training.loop import fit

SHORT = {"epochs": 0.2, "batch_size": 64, "model_args": {"width": 0.05}, "threads": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, Path]:
    spec = plan_search(SearchConfig(**SHORT), load_data("digits")).graph[0]
    store = Store(tmp_path_factory.mktemp("store"))
    execute(spec, store, Environment())
    return spec, store.root


@pytest.fixture
def run(finished: tuple[RunSpec, Path], tmp_path: Path) -> Run:
    spec, root = finished
    shutil.copytree(root, tmp_path / "runs")
    return Store(tmp_path / "runs").run(spec.id)


@pytest.mark.parametrize(
    "change",
    [
        {"test_accuracy": "0.5"},
        {"test_accuracy": float("nan")},
        {"test_accuracy": True},
        {"seed": 1},
        {"seed": "0"},
        {"method": "imp"},
        {"method": []},
        {"run": "edge-popup-d0.5-s0-0123456789ab"},
        {"ticket_bytes": "many"},
        {"dense_bytes": None},
        {"total_steps": {}},
    ],
)
def test_a_result_of_other_content_is_refused(run: Run, change: dict[str, object]) -> None:
    path = run.folder / "result.json"
    sound = read_json(path)
    assert run.result == sound
    path.write_text(json.dumps(sound | change))
    with pytest.raises(DamagedFileError, match=r"result\.json is damaged; delete .* to have it made again"):
        _ = run.result


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", "[" * 100_000, "1" * 5000, '{"test_accuracy": 1}'])
def test_other_json_is_no_result(run: Run, text: str) -> None:
    (run.folder / "result.json").write_text(text)
    with pytest.raises(DamagedFileError, match=r"result\.json .*delete"):
        _ = run.result


@pytest.mark.parametrize("text", ["[]\n", '{"step": "1"}\n', '{"loss": 1.0}\n', "null\n", "[" * 100_000])
def test_other_json_is_no_learning_curve(run: Run, text: str) -> None:
    (run.folder / "metrics.jsonl").write_text(text)
    with pytest.raises(DamagedFileError, match=r"metrics\.jsonl is damaged; delete"):
        run.history()


@pytest.mark.parametrize("tree", [[], {"a": 1}, {"a": [True]}, {"a": torch.zeros(3)}])
def test_another_tree_is_no_mask(run: Run, tree: object) -> None:
    save_tree(run.folder / "mask.safetensors", tree)
    with pytest.raises(DamagedFileError, match=r"mask\.safetensors holds no mask\. Delete"):
        run.mask()


# Checkpoints.


def interrupted(spec: RunSpec, store: Store) -> Path:
    """The checkpoint of a run that was stopped on its way."""

    def stop(step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(spec, store, Environment(checkpoint_seconds=0), stop)
    return store.run(spec.id).checkpoint


@pytest.fixture
def checkpoint(finished: tuple[RunSpec, Path], tmp_path: Path) -> Path:
    return interrupted(finished[0], Store(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"model": {}},
        {"model": 3},
        {"optimizer": {}},
        {"optimizer": []},
        {"progress": {}},
        {"progress": {"step": "2"}},
        {"progress": {"step": 10**6}},
        {"progress": {"step": -1}},
        {"progress": {"step": 1, "further": 2}},
        {"progress": {"step": 1, "history": 2}},
        {"rng": None},
        {"rng": torch.zeros(3)},
        {"others": 1},
        {"training": "another"},
        {"training": []},
    ],
)
def test_a_checkpoint_of_other_content_is_refused(
    finished: tuple[RunSpec, Path], checkpoint: Path, change: dict[str, object]
) -> None:
    saved = load_tree(checkpoint)
    save_tree(checkpoint, saved | change)
    with pytest.raises(DamagedFileError, match=r"checkpoint\.safetensors .*Delete it to begin this training"):
        execute(finished[0], Store(checkpoint.parents[1]), Environment())
    save_tree(checkpoint, saved)
    result = execute(finished[0], Store(checkpoint.parents[1]), Environment())
    assert result["test_loss"] == Store(finished[1]).run(finished[0].id).result["test_loss"]


@pytest.mark.parametrize("tree", [[], "text", {}, None, 1])
def test_another_tree_is_no_checkpoint(
    finished: tuple[RunSpec, Path], checkpoint: Path, tree: object
) -> None:
    save_tree(checkpoint, tree)
    with pytest.raises(DamagedFileError, match=r"checkpoint\.safetensors .*Delete it to begin this training"):
        execute(finished[0], Store(checkpoint.parents[1]), Environment())


def test_the_checkpoint_of_another_run_is_refused(finished: tuple[RunSpec, Path], tmp_path: Path) -> None:
    spec, _ = finished
    other = plan_search(SearchConfig(**SHORT, seed=1), load_data("digits")).graph[0]
    store = Store(tmp_path)
    path = interrupted(spec, store)
    store.open(other)
    shutil.copy(path, store.run(other.id).checkpoint)
    with pytest.raises(DamagedFileError, match=rf"is of '{spec.id}' and not of '{other.id}'"):
        execute(other, store, Environment())


def test_a_checkpoint_without_a_name_is_taken(tmp_path: Path) -> None:
    """As those are that were written before checkpoints had names, and those of a loop of one's own."""
    images, labels = torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64)
    arguments = {"num_classes": 2, "in_channels": 1, "image_size": 8, "width": 0.05}
    model = create_model("lenet-300-100", **arguments)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plain = Checkpoint(tmp_path / "c", seconds=0)
    fit(model, optimizer, lambda _: (images, labels), steps=3, checkpoint=plain)
    assert "training" not in load_tree(plain.path)
    named = Checkpoint(tmp_path / "c", training="mine")
    assert fit(model, optimizer, lambda _: (images, labels), steps=4, checkpoint=named).step == 4
    with pytest.raises(DamagedFileError, match="at step 2 of a training from step 0 to 1"):
        fit(model, optimizer, lambda _: (images, labels), steps=1, checkpoint=named)


# Results.


@pytest.mark.parametrize(
    "document",
    [
        *([], 3, None, {}, {"schema": "supermask/search/1"}, {"schema": 3}),
        {"schema": "supermask/search/1", "rows": 3, "summary": [], "curves": []},
        {"schema": "supermask/compare/1", "rows": [{}], "summary": [{}], "curves": [{}], "config": {}},
        {"schema": "supermask/theory/1", "rows": []},
        {"schema": "supermask/stability/1", "rows": [1]},
    ],
)
def test_report_names_a_document_that_it_does_not_understand(
    document: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "results.json", document)
    assert main(["report", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"{tmp_path / 'results.json'} does not hold the results of an experiment" in said
    assert "Traceback" not in said


def test_a_case_of_other_content_is_refused(tmp_path: Path) -> None:
    keys = [*("mean_weight_error", "max_weight_error", "mean_output_error", "max_output_error", "accuracy")]
    keys += ["kept_weights", "random_weights", "target_accuracy", "target_weights", "mean_output_norm"]
    row = {"construction": "malach", "n": 8, "seed": 0, **dict.fromkeys(keys, 0.5)}
    path = tmp_path / "malach-8-0-01234567.json"
    write_json(path, row)
    assert _finished(path) == row
    for change in ({"n": 9}, {"seed": "0"}, {"accuracy": "high"}, {"construction": "pensia"}):
        write_json(path, row | change)
        with pytest.raises(DamagedFileError, match=r"malach-8-0-01234567\.json is damaged; delete it"):
            _finished(path)


def test_names_that_are_no_utf8_come_back_from_json(tmp_path: Path) -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")
    write_json(tmp_path / "a.json", {"out": name})
    assert read_json(tmp_path / "a.json") == {"out": name}
    write_text(tmp_path / "a.txt", name)
    assert (tmp_path / "a.txt").read_bytes() == rb"caf\udce9"
