"""The command line: every registered experiment, and `eval`, `info` and `report`.

Exit codes: 0 done, 2 a wrong call, 1 a failure, 130 an interrupt that the same command resumes.
"""

import argparse
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from supermask.cli import sharing
from supermask.cli.flags import FlagError, add_flags, read_config

EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPT = 1, 2, 130
GRACE = 3.0
"""Seconds that rank 0 has to name an error that all ranks meet, before another rank names its own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    from supermask.distributed import launched, rank

    arguments = list(sys.argv[1:] if argv is None else argv)
    with _only_rank_0_speaks():
        options = _parser().parse_args(arguments)
    try:
        if launched() and options.run is not _run_experiment:
            raise FlagError(f"{options.command} runs in one process; start it without torchrun")
        with _terminated_as_interrupted():
            options.run(options, arguments)
        return 0
    except KeyboardInterrupt:
        if rank() == 0:
            _say("interrupted; what is finished is kept, and the same command goes on from there")
        return EXIT_INTERRUPT
    except Exception as error:
        code = _exit_code(error)
        if rank() > 0:
            time.sleep(GRACE)  # torchrun ends this process as soon as rank 0 has ended
        if code is None:
            raise
        said = f"supermask{f' (rank {rank()})' if rank() else ''}: {_message(error)}"
        _say("\n".join([said, *getattr(error, "__notes__", ())]))
        return code


@contextmanager
def _only_rank_0_speaks() -> Iterator[None]:
    """Of several processes one prints help and wrong flags."""
    from supermask.distributed import rank

    if rank() == 0:
        yield
        return
    try:
        with open(os.devnull, "w") as nothing, redirect_stderr(nothing), redirect_stdout(nothing):
            yield
    except SystemExit:
        time.sleep(GRACE)
        raise


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, as job schedulers send it, ends a command as Ctrl-C does: workers end, nothing is lost."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit_code(error: Exception) -> int | None:
    """The code of an error that a user can mend; None for a defect of ours, which deserves a traceback."""
    from supermask.data import DamagedDataError, DataError
    from supermask.distributed import RankLostError, RanksDifferError
    from supermask.experiments import ConfigError, EngineError
    from supermask.extras import MissingExtraError
    from supermask.io import DamagedFileError
    from supermask.models import UnknownModelError
    from supermask.training.loop import DivergedError

    wrong_call = (FlagError, ConfigError, UnknownModelError, FileNotFoundError, MissingExtraError)
    if isinstance(error, wrong_call):
        return EXIT_USAGE
    if isinstance(error, DataError) and not isinstance(error, DamagedDataError):
        return EXIT_USAGE
    failures = (DamagedFileError, DamagedDataError, DivergedError, EngineError, OSError, ValueError)
    ranks_failed = isinstance(error, RankLostError | RanksDifferError)
    return EXIT_FAILURE if ranks_failed or isinstance(error, failures) else None


def _message(error: Exception) -> str:
    from supermask.data import DataError
    from supermask.models import UnknownModelError

    if isinstance(error, UnknownModelError):
        return f"--model: {error}"
    if isinstance(error, DataError):
        return f"--data: {error}"
    if isinstance(error, OSError) and error.strerror:
        where = error.filename or "writing a file"
        return f"{where}: {error.strerror}. Choose another --out or --cache, or make room or access there"
    return str(error)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    # The experiment modules import torch; they come in only when a command line is really parsed.
    from supermask.experiments import EXPERIMENTS
    from supermask.theory.run import TheoryConfig

    parser = argparse.ArgumentParser(
        prog="supermask",
        description="Find subnetworks that work without training, and compare them with IMP tickets.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for experiment in EXPERIMENTS.values():
        description = f"supermask {experiment.name}: {experiment.help}."
        command = commands.add_parser(experiment.name, help=experiment.help, description=description)
        add_flags(command, experiment.config)
        command.set_defaults(run=_run_experiment, config_type=experiment.config)
    help = "strong tickets by construction: random networks pruned into trained ones"
    command = commands.add_parser("theory", help=help, description=f"supermask theory: {help}.")
    add_flags(command, TheoryConfig)
    command.set_defaults(run=_run_theory, config_type=TheoryConfig)
    for name, help, run, add in (
        ("eval", "accuracy of a ticket on a data set", _run_eval, _add_eval),
        ("info", "what a ticket is", _run_info, _add_info),
        ("report", "write the report of a results folder again", _run_report, _add_report),
        ("diff", "what two tickets share and where they differ", sharing.run_diff, sharing.add_diff),
        ("export", "write the network of a ticket as ONNX or .pt2", sharing.run_export, sharing.add_export),
    ):
        command = commands.add_parser(name, help=help, description=f"supermask {name}: {help}.")
        add(command)
        command.set_defaults(run=run)
    return parser


# experiments ----------------------------------------------------------------------------------------


def _run_experiment(options: argparse.Namespace, arguments: list[str]) -> None:
    from supermask.cli.run import run_command
    from supermask.distributed import rank

    config = read_config(options.config_type, options)
    if not config.out:
        raise FlagError("--out is missing: name a folder for the results")
    document = run_command(options.command, config, _line(arguments), _console())
    if rank() == 0:
        _print_summary(document, Path(config.out))


def _line(arguments: list[str]) -> str:
    """The command line that was given, with torchrun where it started this process as one of several."""
    from supermask.distributed import launched

    if not launched():
        return shlex.join(["supermask", *arguments])
    size = int(os.environ["WORLD_SIZE"])
    here = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    nodes = [f"--nnodes={size // here}"] if here < size else []
    return shlex.join(["torchrun", *nodes, f"--nproc-per-node={here}", "-m", "supermask", *arguments])


def _run_theory(options: argparse.Namespace, arguments: list[str]) -> None:
    from supermask.cli.run import run_theory_command

    config = read_config(options.config_type, options)
    document = run_theory_command(config, shlex.join(["supermask", *arguments]), _console())
    _print_summary(document, Path(config.out))


def _print_summary(document: dict[str, Any], out: Path) -> None:
    from supermask.report import headline

    console = Console()
    if "summary" in document and "curves" in document:
        console.print(_summary_table(document))
    console.print(headline(document), highlight=False)
    console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)


def _summary_table(document: dict[str, Any]) -> Table:
    table = Table(box=None, header_style="bold")
    for title in ("method", "density", "test accuracy %", "min", "max", "seeds"):
        table.add_column(title, justify="left" if title == "method" else "right")
    for entry in document["summary"]:
        numbers = [f"{100 * entry[key]:.2f}" for key in ("mean", "min", "max")]
        table.add_row(entry["method"], f"{entry['density']:.4g}", *numbers, str(entry["n"]))
    return table


def _console() -> Console:
    """Progress goes to the error stream, of rank 0; rich shows none when that is not a terminal."""
    from supermask.distributed import rank

    return Console(stderr=True, force_terminal=False if rank() else None)


# eval, info and report -------------------------------------------------------------------------------


def _add_eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ticket", help="ticket file")
    parser.add_argument("--data", help="data set; by default the one the ticket was made on")
    parser.add_argument("--data-root", help="where data sets lie (else $SUPERMASK_DATA, else ./data)")
    parser.add_argument("--image-size", type=int, help="pixels a side of the images that the network sees")
    parser.add_argument("--stored-size", type=int, help="pixels a side that a folder's images are stored at")
    parser.add_argument("--classes", nargs="+", help="classes of a folder: names, or files that list them")
    parser.add_argument("--allow-corrupt", action="store_true", help="leave out images that are corrupt")
    parser.add_argument(
        "--cache", help="where decoded images lie (else $SUPERMASK_CACHE, else ~/.cache/supermask)"
    )
    parser.add_argument("--batch-size", type=int, default=500, help="images at a time (default: 500)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, … (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run_eval(options: argparse.Namespace, _: list[str]) -> None:
    from supermask.data import iterate_eval, load_data
    from supermask.tickets.load import network_of
    from supermask.tickets.ticket import Ticket
    from supermask.training.loop import evaluate

    ticket = Ticket.load(options.ticket)
    name = options.data or ticket.provenance.get("data")
    if not isinstance(name, str):
        raise FlagError("--data is missing, and the ticket does not record the data set it was made on")
    recorded = ticket.provenance.get("image_size")
    size = options.image_size or (recorded if isinstance(recorded, int) else None)
    own = name == ticket.provenance.get("data")
    selection = _selection(options, ticket.provenance.get("selection") if own else None)
    data = load_data(name, options.data_root, size, selection=selection, cache=options.cache)
    _check_fit(ticket.factory, data)
    batches = iterate_eval(
        data.test, options.batch_size, data.mean, data.std, options.device, image_size=data.image_size
    )
    result = evaluate(network_of(ticket, options.device), batches)
    if options.json:
        print(json.dumps({"data": name, "images": len(data.test), **result}))
    else:
        print(f"{100 * result['accuracy']:.2f} % of {len(data.test)} test images of {name}", end="")
        print(f", mean loss {result['loss']:.4f}")


def _selection(options: argparse.Namespace, recorded: Any) -> Any:
    """What is taken of a folder of images: what the ticket records, and what flags say instead.

    Of another data set than the ticket's, flags alone count.
    """
    from supermask.data import Selection
    from supermask.data.selection import read_classes

    chosen = dict(recorded) if isinstance(recorded, dict) else {}
    if options.stored_size:
        chosen["stored_size"] = options.stored_size
    if options.classes:
        chosen["classes"] = read_classes(options.classes)
    if options.allow_corrupt:
        chosen["allow_corrupt"] = True
    if "classes" in chosen:
        chosen["classes"] = tuple(chosen["classes"])
    try:
        return Selection(**chosen)
    except TypeError:
        raise FlagError(f"{options.ticket} records a selection of images that is not understood") from None


def _check_fit(factory: dict[str, Any] | None, data: Any) -> None:
    """Refuse a data set whose images or classes the network was not built for."""
    arguments = (factory or {}).get("args")
    for key in ("num_classes", "in_channels", "image_size"):
        built = arguments.get(key) if isinstance(arguments, dict) else None
        if built is not None and built != getattr(data, key):
            raise FlagError(
                f"--data {data.name}: its {key} is {getattr(data, key)}, and the ticket's network was built "
                f"for {built}; name the data set it was made on, or set --image-size"
            )


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ticket", help="ticket file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run_info(options: argparse.Namespace, _: list[str]) -> None:
    from supermask.tickets.hub import local_file
    from supermask.tickets.ticket import Ticket

    facts = Ticket.load(options.ticket).info() | {"bytes": os.path.getsize(local_file(options.ticket))}
    if options.json:
        print(json.dumps(facts))
        return
    layers = facts.pop("layers")
    console = Console()
    for key, value in facts.items():
        shown = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
        console.print(f"{key.replace('_', ' ')}: {shown}", highlight=False, soft_wrap=True, markup=False)
    table = Table("layer", "shape", "kept", "density", box=None, header_style="bold")
    for layer in layers:
        shape = "×".join(map(str, layer["shape"]))
        table.add_row(escape(layer["name"]), shape, str(layer["kept"]), f"{layer['density']:.4g}")
    console.print(table)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="folder that holds results.json")


def _run_report(options: argparse.Namespace, _: list[str]) -> None:
    from supermask.io import read_json
    from supermask.report import write_report

    folder = Path(options.folder)
    if not (folder / "results.json").is_file():
        raise FlagError(f"{folder} holds no results.json; give the --out folder of an experiment")
    print(write_report(read_json(folder / "results.json"), folder))


if __name__ == "__main__":
    sys.exit(main())
