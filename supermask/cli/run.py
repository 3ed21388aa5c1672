"""A command from its configuration to its folder of results."""

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from supermask.cli.flags import FlagError
from supermask.cli.placement import (
    EXECUTION_FIELDS,
    check_memory_format,
    device_of,
    engine_of,
    environment_of,
)
from supermask.cli.progress import ProgressWatcher, task_progress
from supermask.cli.streams import console_of
from supermask.distributed import Ranks, joined, launched
from supermask.experiments.config import ConfigError, TaskConfig
from supermask.experiments.datasets import dataset
from supermask.experiments.execution.store import Store
from supermask.experiments.plan import Plan
from supermask.experiments.registry import COMPUTATIONS, EXPERIMENTS, Computation, commands
from supermask.experiments.results import describe_machine, write_results
from supermask.extras import EXTRAS, require
from supermask.io import DamagedFileError, read_json, write_json
from supermask.report import headline, summary_table, sweep_table, write_report


def run_command(command: str, config: Any, line: str, console: Console) -> dict[str, Any]:
    """Plan, execute, collect and report; returns the document of `results.json`.

    Where torchrun started several processes, they execute every run together, and rank 0 writes.

    Args:
        command: Name of a registered command.
        config: Its configuration; `config.out` is the folder.
        line: The command line, to be shown in the report.
        console: Where progress is shown: a bar on a terminal, a line now and then elsewhere.

    Raises:
        ConfigError: A value does not fit the data or the network.
        FlagError: It runs in one process, and torchrun started several.
        OSError: The folder cannot be written.
    """
    if command in COMPUTATIONS:
        return _compute(COMPUTATIONS[command], config, line, console)
    device = device_of(config)
    with joined(device) as ranks:
        return _run(command, config, line, console, device, ranks)


def _run(
    command: str, config: TaskConfig, line: str, console: Console, device: str, ranks: Ranks
) -> dict[str, Any]:
    for name in config.log:
        if name in EXTRAS:
            require(name)
    out = _folder(config.out, command)
    environment, jobs = environment_of(config, device, ranks)
    with ranks.one_per_machine_first():
        data = dataset(
            config.data, environment.data_root, config.image_size, config.selection, environment.cache
        )
    experiment = EXPERIMENTS[command]
    store = Store(out / "runs")
    engine = engine_of(config, store, environment, jobs)

    def carry_out(plan: Plan) -> None:
        check_memory_format(config, plan, data, environment.device)
        with ProgressWatcher(plan, console, store, quiet=not ranks.main, logs=config.log) as watcher:
            engine.run(plan.graph, watcher)

    decided: dict[str, Any] = {}
    if experiment.trials and (trials := experiment.trials.plan(config, data)):
        decide = experiment.trials.decide
        carry_out(trials)
        config, decided = ranks.from_main(lambda: decide(config, trials, store))
    plan = experiment.plan(config, data).decided_by(decided)
    carry_out(plan)
    recorded = {
        key: value for key, value in dataclasses.asdict(config).items() if key not in EXECUTION_FIELDS
    }
    machine = describe_machine(environment.device, environment.threads, jobs)
    if ranks.size > 1:
        machine["ranks"] = ranks.size

    def collect() -> dict[str, Any]:
        document = experiment.document(plan, store, out, recorded, machine)
        document["command"] = line
        write_results(document, out)
        write_report(document, out)
        return document

    return ranks.from_main(collect)


def _compute(computation: Computation, config: Any, line: str, console: Console) -> dict[str, Any]:
    if launched():
        raise FlagError(f"{computation.name} runs in one process; start it without torchrun")
    out = _folder(config.out, computation.name)
    with task_progress(computation.name, computation.cases(config), console, out) as told:
        document = computation.compute(config, told)
    document["command"] = line
    write_json(out / "results.json", document)
    write_report(document, out)
    return document


def _folder(name: str, command: str) -> Path:
    """The folder for results, made if it is not there; one command's are not written over another's.

    Raises:
        ConfigError: It is a file, or holds results of another command.
        OSError: It cannot be made.
    """
    out = Path(name)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError("out", name, "it is a file, or lies below one; name a folder") from None
    if not (out / "results.json").exists():
        return out
    document = read_json(out / "results.json")
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, str):
        raise DamagedFileError(f"{out / 'results.json'} holds no results; delete it to have it made again")
    if schema != f"supermask/{command}/1":
        raise ConfigError(
            "out", str(out), f"it holds results of another command ({schema}); name another folder"
        )
    return out


def write_page_again(folder: Path) -> Path:
    """Write the report of a folder of results; returns the page.

    Raises:
        FlagError: It holds no results.
        DamagedFileError: What it holds are none of an experiment.
        OSError: It cannot be written.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise FlagError(f"{folder} holds no results.json; give the --out folder of an experiment")
    document = read_json(path)
    try:
        return write_report(document, folder)
    except OSError:
        raise
    except Exception as error:
        # Of other content anything may be missing; where in the report it is missed is kept as the cause.
        raise DamagedFileError(
            f"{path} does not hold the results of an experiment ({type(error).__name__}: {error}); run the "
            "command again that made it"
        ) from error


def configuration(command: str) -> type[Any]:
    """The configuration of a command."""
    return commands()[command].config


def print_summary(document: dict[str, Any], out: Path) -> None:
    """Print what came out, on standard output."""
    console = console_of(sys.stdout)
    if sweep := sweep_table(document):
        console.print(_table(sweep, sweep[0]))
    if "summary" in document and "curves" in document:
        console.print(_table(summary_table(document), SUMMARY))
    console.print(headline(document), highlight=False)
    console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)


SUMMARY = ("method", "density", "test accuracy %", "min–max", "seeds")
"""Columns of the summary that a terminal has room for; the page has them all."""


def _table(rows: Sequence[Mapping[str, str]], columns: Iterable[str]) -> Table:
    table = Table(box=None, header_style="bold")
    for title in columns:
        table.add_column(title, justify="left" if title == "method" else "right")
    for row in rows:
        table.add_row(*(row[title] for title in columns))
    return table
