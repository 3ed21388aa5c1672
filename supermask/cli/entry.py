"""The command line's entry: from words to a command, and from its errors to an exit code.

Nothing here imports torch before a command needs a tensor.
"""

import argparse
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

from supermask.cli.catalogue import Catalogue, catalogue
from supermask.cli.errors import EXIT_INTERRUPT, exit_code, message_of
from supermask.cli.flags import FlagError, read_config
from supermask.cli.parser import ALL, Parser, check_known, parser_of, refuse_unknown
from supermask.cli.streams import console_of, show_what_can_be_shown, use_utf8
from supermask.suggest import near

GRACE = 3.0
"""Seconds that rank 0 has to name an error that all ranks meet, before another rank names its own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; without arguments the process's own."""
    if argv is None:
        use_utf8()
    show_what_can_be_shown()
    arguments = list(sys.argv[1:] if argv is None else argv)
    found = catalogue()
    with _only_rank_0_speaks():
        options = parse(arguments, found)
    try:
        with _terminated_as_interrupted():
            _run(options, arguments, found)
            sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        if _rank() == 0:
            _say("interrupted; what is finished is kept, and the same command goes on from there")
        return EXIT_INTERRUPT
    except BrokenPipeError:
        # Whoever read the output has seen enough, as `head` has; Python must not flush into it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        code = exit_code(error)
        if _rank() > 0:
            time.sleep(GRACE)  # torchrun ends this process as soon as rank 0 has ended
        if code is None:
            raise
        said = f"supermask{f' (rank {_rank()})' if _rank() else ''}: {message_of(error)}"
        _say("\n".join([said, *getattr(error, "__notes__", ())]))
        return code


def parse(arguments: Sequence[str], found: Catalogue | None = None) -> argparse.Namespace:
    """The words of a call as options.

    Raises:
        SystemExit: With code 0 after help, and with code 2, said on the error stream, if the call is wrong.
    """
    found = found or catalogue()
    parser: Parser = parser_of(found, everything=ALL in arguments)
    check_known(parser, arguments, found)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        refuse_unknown(parser, unknown, options.command)
    return options


def _run(options: argparse.Namespace, arguments: list[str], found: Catalogue) -> None:
    if options.command in {command.name for command in found.commands}:
        _check_names(options, found)
        _run_configured(options, arguments)
        return
    if _launched():
        raise FlagError(f"{options.command} runs in one process; start it without torchrun")
    if options.command == "list":
        from supermask.cli.listing import run_list

        run_list(options, found)
    elif options.command == "zoo":
        from supermask.cli.zoo import run_zoo

        run_zoo(options)
    elif options.command == "completion":
        print(_completion(options.shell, found))
    elif options.command == "report":
        from supermask.cli.run import write_page_again

        print(write_page_again(Path(options.folder)))
    else:
        from supermask.cli import advise, sharing, ticket_commands

        run = {
            "advise": advise.run_advise,
            "eval": ticket_commands.run_eval,
            "info": ticket_commands.run_info,
            "diff": sharing.run_diff,
            "export": sharing.run_export,
        }
        run[options.command](options)


def _check_names(options: argparse.Namespace, found: Catalogue) -> None:
    """Refuse a misspelt method or data set at once; whatever is less plain is left to those who know more."""
    method = getattr(options, "method", None)
    if method is not None and method not in found.searches and method not in found.methods:
        if hint := near(method, found.searches):
            raise FlagError(f"--method {method!r}: {hint} `supermask list methods` lists all")
    data = getattr(options, "data", None)
    if data and data not in found.data and len(Path(data).parts) == 1 and (hint := near(data, found.data)):
        root = getattr(options, "data_root", None) or os.environ.get("SUPERMASK_DATA") or "data"
        if not any(path.exists() for path in (Path(data).expanduser(), Path(root).expanduser() / data)):
            raise FlagError(
                f"--data: there is no data set {data!r}, and no folder of that name here or in {root}; "
                f"{hint} `supermask list data` lists all"
            )


def _completion(shell: str, found: Catalogue) -> str:
    try:
        import shtab
    except ImportError:
        raise FlagError(
            "completion needs shtab, which is not installed: pip install 'supermask[completion]'"
        ) from None
    script: str = shtab.complete(parser_of(found, everything=True), shell)
    return script


def _run_configured(options: argparse.Namespace, arguments: list[str]) -> None:
    from supermask.cli.run import configuration, print_summary, run_command

    config = read_config(configuration(options.command), options)
    if not config.out:
        raise FlagError("--out is missing: name a folder for the results")
    document = run_command(options.command, config, _line(arguments), _console())
    if _rank() == 0:
        print_summary(document, Path(config.out))


def _line(arguments: list[str]) -> str:
    """The command line that was given, with torchrun where it started this process as one of several."""
    if not _launched():
        return shlex.join(["supermask", *arguments])
    size = int(os.environ["WORLD_SIZE"])
    here = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    nodes = [f"--nnodes={size // here}"] if here < size else []
    return shlex.join(["torchrun", *nodes, f"--nproc-per-node={here}", "-m", "supermask", *arguments])


def _console() -> Any:
    """Progress goes to the error stream."""
    return console_of(sys.stderr, force_terminal=False if _rank() else None)


def _launched() -> bool:
    """Whether torchrun started this process as one of several; without its variable torch is not asked."""
    if "RANK" not in os.environ:
        return False
    from supermask.distributed import launched

    return launched()


def _rank() -> int:
    if "RANK" not in os.environ:
        return 0
    from supermask.distributed import rank

    return rank()


@contextmanager
def _only_rank_0_speaks() -> Iterator[None]:
    """Of several processes one prints help and wrong flags."""
    if _rank() == 0:
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


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
