"""The command line as a user meets it: results, help, configuration files, and every wrong call."""

import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import supermask as sm
from supermask.cli import main
from supermask.experiments import CompareConfig, ImpConfig, SearchConfig

QUICK = ["--epochs", "3", "--batch-size", "64", "--threads", "1"]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("search")
    assert run("search", "--density", 0.5, "--seed", 7, *QUICK, "--out", out) == 0
    return out


def ticket_of(out: Path) -> Path:
    return out / json.loads((out / "results.json").read_text())["rows"][-1]["ticket"]


def test_search_leaves_a_strong_ticket_and_a_report(searched):
    ticket = sm.Ticket.load(ticket_of(searched))
    assert ticket.strong and ticket.seed == 7 and ticket.density == 0.5
    assert {"results.json", "results.csv", "report.html", "runs"} <= {p.name for p in searched.iterdir()}
    document = json.loads((searched / "results.json").read_text())
    assert document["config"]["density"] == 0.5 and document["command"].startswith("supermask search")
    with (searched / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["test_accuracy"]) == document["rows"][0]["test_accuracy"]


def test_another_command_does_not_overwrite_the_results(searched, capsys):
    before = (searched / "results.json").read_bytes()
    assert run("imp", "--rounds", 1, *QUICK, "--out", searched) == 2
    assert "results of another command" in capsys.readouterr().err
    assert (searched / "results.json").read_bytes() == before


def test_eval_measures_what_the_search_reported(searched, capsys):
    assert run("eval", ticket_of(searched), "--json") == 0
    measured = json.loads(capsys.readouterr().out)
    document = json.loads((searched / "results.json").read_text())
    assert measured["accuracy"] == document["rows"][0]["test_accuracy"] and measured["images"] == 360


@pytest.mark.parametrize("packed", ["exact", "int8"])
def test_eval_measures_packed_networks(searched, capsys, packed, monkeypatch):
    monkeypatch.setattr("supermask.packed.linear.SMALLEST_SIGNS", 1)
    assert run("eval", ticket_of(searched), "--packed", packed, "--json") == 0
    measured = json.loads(capsys.readouterr().out)
    reported = json.loads((searched / "results.json").read_text())["rows"][0]["test_accuracy"]
    assert measured["packed"] == packed and abs(measured["accuracy"] - reported) <= 0.02


def test_eval_refuses_data_that_does_not_fit(searched, capsys):
    assert run("eval", ticket_of(searched), "--image-size", 16) == 2
    assert "image_size is 16" in capsys.readouterr().err


def test_info_says_what_a_ticket_is(searched, capsys):
    assert run("info", ticket_of(searched)) == 0
    text = capsys.readouterr().out
    assert "kind: strong" in text and "density: 0.5" in text and "300×64" in text
    assert run("info", ticket_of(searched), "--json") == 0
    assert json.loads(capsys.readouterr().out)["kept_weights"] == 25_100


def test_report_writes_the_page_again(searched):
    page = searched / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert run("report", searched) == 0
    assert page.read_bytes() == before


def test_imp_leaves_a_ticket_per_round(tmp_path):
    arguments = ["--rounds", 3, "--rewind-to", 10, "--rate", 0.3, "--reinit", *QUICK]
    assert run("imp", *arguments, "--out", tmp_path) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["dense"] + ["imp-rewind", "reinit"] * 3
    densities = [row["kept_density"] for row in rows if row["method"] == "imp-rewind"]
    assert densities == pytest.approx([0.7, 0.49, 0.343], abs=1e-3)
    assert all(not sm.Ticket.load(tmp_path / row["ticket"]).strong for row in rows[1:])


def test_a_configuration_file_is_overridden_by_flags(tmp_path):
    toml, yaml = tmp_path / "a.toml", tmp_path / "a.yaml"
    toml.write_text('density = 0.2\nepochs = 1\n"batch-size" = 64\nmodel_args = {width = 0.5}\n')
    yaml.write_text(
        "density: 0.2\nweight_decay: 5e-4\nepochs: 1\nbatch-size: 64\nmodel_args:\n  width: 0.5\n"
    )
    for config in (toml, yaml):
        out = tmp_path / config.suffix[1:]
        assert run("search", "--config", config, "--density", 0.4, "--out", out) == 0
        ticket = sm.Ticket.load(ticket_of(out))
        assert ticket.density == pytest.approx(0.4, abs=1e-3)
        assert ticket.info()["layers"][0]["shape"] == [150, 64]


def test_model_arguments_from_the_command_line(tmp_path):
    arguments = ["--model", "conv-2", "--model-args", "width=0.1", "bias=true", "--epochs", 1]
    assert run("search", *arguments, "--out", tmp_path) == 0
    factory = sm.Ticket.load(ticket_of(tmp_path)).factory
    assert factory["args"]["width"] == 0.1 and factory["args"]["bias"] is True


def test_an_image_folder_is_a_data_set(tmp_path, capsys):
    generator = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 6)):
        for level, name in ((40, "dark"), (200, "bright")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.normal(level, 20, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    out = tmp_path / "out"
    arguments = ["--data", tmp_path / "photos", "--model", "conv-2", "--model-args", "width=0.25"]
    assert run("search", *arguments, "--epochs", 10, "--batch-size", 8, "--out", out) == 0
    assert json.loads((out / "results.json").read_text())["rows"][0]["test_accuracy"] == 1.0
    assert run("eval", ticket_of(out), "--data", tmp_path / "photos") == 0
    assert "100.00 % of 12 test images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "config"), [("compare", CompareConfig), ("search", SearchConfig), ("imp", ImpConfig)]
)
def test_help_prints_every_flag_with_its_default(command, config, capsys):
    with pytest.raises(SystemExit) as caught:
        run(command, "--help-all")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(config):
        assert f"--{field.name.replace('_', '-')}" in text
    assert text.count("(default: ") == len(dataclasses.fields(config))


# Wrong calls: exit code 2, with the flag, the value and the remedy.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "--density", "1.5"], "--density 1.5: take a density in (0, 1]"),
        (["search", "--density", "0"], "--density 0.0: take a density in (0, 1]"),
        (["search", "--method", "magic"], "--method 'magic': take one of edge-popup, biprop"),
        (["search", "--method", "filters-l1"], "no search over frozen weights; `supermask compare --methods"),
        (["search", "--method", "gem-miner", "--method-args", "restore=no"], "restore takes true or false"),
        (["search", "--method", "iterand", "--method-args", "rate=yes"], "'rate=yes': rate takes a number"),
        (["search", "--model", "resnet-21"], "--model: "),
        (["search", "--data", "mnits"], "--data: "),
        (["search", "--data", "mnist", "--data-root", "/nowhere"], "/nowhere"),
        (["search", "--device", "cuda:7"], "--device"),
        (["search", "--config", "absent.toml"], "absent.toml"),
        (["search", "--config", "setup.cfg"], "name a .toml, .yaml or .yml file"),
        (["search", "--epochs", "-1"], "--epochs -1.0: take a positive number"),
        (["search", "--epochs", "inf"], "--epochs inf: take a positive number"),
        (["search", "--clip", "0"], "--clip 0.0: take a positive number"),
        (["search", "--lr", "nan"], "--lr nan: take a number that is not negative"),
        (["search", "--crop-scale", "0"], "--crop-scale 0.0: take a fraction in (0, 1]"),
        (["search", "--label-smoothing", "2"], "--label-smoothing 2.0: take a fraction"),
        (["search", "--momentum", "0", "--nesterov"], "--nesterov True: give a --momentum"),
        (["search", "--seed", "-1"], "--seed -1: take an integer from 0 on"),
        (["imp", "--milestones", "-5"], "--milestones -5.0: take a number that is not negative"),
        (["imp", "--rewind-to", "10000000"], "--rewind-to 10000000: stay below"),
        (["imp", "--rate", "1"], "--rate 1.0: take a fraction"),
        (["compare", "--densities", "0.5", "7"], "--densities 7.0"),
        (["search", "--config", ""], "--config .: name a .toml"),
        (["search", "--data", "pictures", "--classes", ""], "--classes '': no class is named"),
        (["search", "--out", "a_file"], "--out 'a_file': it is a file, or lies below one"),
        (["theory", "--out", "a_file/below"], "--out 'a_file/below': it is a file, or lies below one"),
        (
            ["theory", "--out", "out", "--malach", "99999999999"],
            "--malach 99999999999: take integers from 1",
        ),
        (["theory", "--out", "out", "--seeds", "99999999999"], "--seeds 99999999999: take at most"),
        (["export", "absent.ticket", "no/such/a.onnx"], "no/such/a.onnx: name a file in a folder"),
        (["export", "absent.ticket", "pictures.onnx"], "pictures.onnx: name a file in a folder"),
        (["eval", "absent.ticket"], "no such file: absent.ticket"),
        (["info", "absent.ticket"], "no such file: absent.ticket"),
        (["report", "absent"], "absent holds no results.json"),
    ],
)
def test_wrong_calls(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").touch()
    (tmp_path / "pictures.onnx").mkdir()
    if arguments[0] in ("search", "imp", "compare") and "--out" not in arguments:
        arguments = [*arguments, "--out", "out"]
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["serach"], ["search", "--densty", "0.3"], ["search", "--init", "x"], ["imp", "--rounds", "two"]],
)
def test_calls_that_argparse_refuses(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2 and capsys.readouterr().err


def test_out_is_required(capsys):
    assert run("search") == 2
    assert "--out is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("densty = 0.3", "unknown key 'densty'; did you mean density?"),
        ("density = '0.3'", "density takes a float, not '0.3'"),
        ("rescale = 1", "rescale takes a bool, not 1"),
        ("method = 'magic'", "--method 'magic': take one of edge-popup"),
        ("init = 'magic'", "choose from signed_constant"),
        ("density = ", "not valid TOML"),
    ],
)
def test_wrong_configuration_files(content, message, tmp_path, capsys):
    (tmp_path / "c.toml").write_text(content)
    assert run("search", "--config", tmp_path / "c.toml", "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err


# Failures: exit code 1, a message, and nothing overwritten.


def test_a_damaged_ticket_is_a_failure(searched, tmp_path, capsys):
    broken = tmp_path / "broken.ticket"
    broken.write_bytes(ticket_of(searched).read_bytes()[:-10])
    for command in ("info", "eval"):
        assert run(command, broken) == 1
        assert "broken.ticket is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["shorter", "a bit", "gone"])
def test_the_damaged_ticket_of_a_finished_run_is_a_failure(searched, tmp_path, capsys, damage):
    """The same command again does not show results whose ticket is no longer what it was."""
    shutil.copytree(searched, tmp_path / "out")
    path = ticket_of(tmp_path / "out")
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.unlink() if damage == "gone" else path.write_bytes(data[:-5] if damage == "shorter" else data)
    call = ["search", "--density", 0.5, "--seed", 7, *QUICK, "--out", tmp_path / "out"]
    assert run(*call) == 1
    said = capsys.readouterr().err
    assert str(path) in said and "to have the run made again" in said
    shutil.rmtree(path.parent)
    assert run(*call) == 0 and path.read_bytes() == ticket_of(searched).read_bytes()


@pytest.mark.parametrize(
    ("provenance", "code", "message"),
    [
        ({"data": "/etc"}, 2, "a ticket alone does not choose the folder"),
        ({"data": "../x"}, 2, "a ticket alone does not choose the folder"),
        ({"data": ["digits"]}, 2, "--data is missing"),
        ({"data": "digits", "selection": {"classes": [[1]]}}, 2, "is not understood"),
        ({"data": "digits", "selection": {"stored_size": "8"}}, 2, "is not understood"),
        ({"data": "digits", "selection": [1]}, 2, "is not understood"),
        ({"data": "digits", "selection": {"per_class_fraction": 7.0}}, 2, "cannot be"),
        ({"data": "digits", "image_size": True}, 0, None),
        ({"data": "digits", "image_size": -3}, 0, None),
        ({"data": "digits", "image_size": {"a": []}}, 0, None),
    ],
)
def test_eval_takes_hostile_provenance_without_a_traceback(
    searched, tmp_path, capsys, provenance, code, message
):
    ticket = dataclasses.replace(sm.Ticket.load(ticket_of(searched)), provenance=provenance)
    assert run("eval", ticket.save(tmp_path / "hostile.ticket")) == code
    assert message is None or message in capsys.readouterr().err


def test_a_folder_below_a_file_is_a_wrong_call(tmp_path, capsys):
    (tmp_path / "file").write_text("here")
    assert run("search", *QUICK, "--out", tmp_path / "file" / "out") == 2
    assert "name a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "here"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_access_is_a_failure(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert run("search", *QUICK, "--out", tmp_path / "out") == 1
    assert "Permission denied" in capsys.readouterr().err


def test_a_full_disk_is_a_failure_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    from supermask import io

    whole, written = io.write_bytes, []

    def filling(path, data):
        if len(written) == 4:
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        whole(path, data)

    monkeypatch.setattr(io, "write_bytes", filling)
    assert run("search", *QUICK, "--out", tmp_path) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error and "make room" in error
    monkeypatch.undo()
    assert run("search", *QUICK, "--out", tmp_path) == 0
    assert sm.Ticket.load(ticket_of(tmp_path)).strong


def test_an_interrupt_is_resumed_by_the_same_command(tmp_path, capsys, monkeypatch):
    from supermask.training import loop as train

    real, calls = train.evaluate, []

    def interrupting(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr("supermask.experiments.execution.context.evaluate", interrupting)
    assert run("search", *QUICK, "--out", tmp_path) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert run("search", *QUICK, "--out", tmp_path) == 0
