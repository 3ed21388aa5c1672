"""The command line's grammar: commands, their flags in groups, help, and errors in one line."""

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import supermask
from supermask.cli.catalogue import Catalogue, Command
from supermask.cli.flags import Flag, add_flag, integer
from supermask.suggest import near

GROUPS: dict[str, tuple[str, ...]] = {
    "data": (
        *("data", "data_root", "image_size", "stored_size", "classes", "per_class_fraction"),
        *("allow_corrupt", "cache", "stream", "val_fraction", "augment", "crop_scale"),
    ),
    "network": ("model", "model_args", "init", "search_init", "rescale"),
    "training": (
        *(
            "epochs",
            "batch_size",
            "optimizer",
            "lr",
            "lr_sweep",
            "sweep_share",
            "momentum",
            "nesterov",
            "weight_decay",
            "schedule",
        ),
        *("warmup_epochs", "milestones", "decay", "label_smoothing", "clip", "amp", "sync_norms"),
    ),
    "execution": (
        *("out", "device", "jobs", "threads", "engine", "retries", "keep_going", "gpu_share", "ray_address"),
        *("together", "channels_last", "compile", "cuda_graphs", "accelerate", "checkpoint_seconds", "log"),
    ),
}
"""Title → flags; all others are what the command itself is about."""
COMMON = frozenset(
    "data data_root image_size model model_args epochs batch_size optimizer lr lr_sweep augment out device "
    "jobs seed seeds method methods density densities widths rounds rate rewind_to starts places "
    "constructions".split()
)
"""Flags that `--help` shows; `--help-all` shows all."""
ALL = "--help-all"


class _Formatter(argparse.HelpFormatter):
    """Help whose commands stand in one column: argparse forgets how far they are indented."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        for command in action._get_subactions() if hasattr(action, "_get_subactions") else ():
            width = self._current_indent + self._indent_increment + len(command.dest)
            self._action_max_length = max(self._action_max_length, width)


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, and what was perhaps meant.

    Attributes:
        of_command: Command → its own parser.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.of_command: dict[str, Parser] = {}
        # argparse takes -1e-3 for a flag.
        number = r"-((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|nan)$"
        self._negative_number_matcher = re.compile(number, re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        """Exit with code 2; the line names the flag as it was given."""
        text = message.removeprefix("argument ")
        self.exit(2, f"{self.prog}: {text}\n`{self.prog} --help` lists what there is\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            hint = near(str(value), choices)
            text = f"there is no {value!r}" if hint else f"{value!r} is not one of {', '.join(choices)}"
            raise argparse.ArgumentError(action, f"{text}; {hint}" if hint else text)


def parser_of(found: Catalogue, everything: bool = False) -> Parser:
    """The parser of all commands.

    Args:
        found: What there is.
        everything: Show all flags in help, not the common ones alone.
    """
    parser = Parser(
        prog="supermask",
        usage="supermask COMMAND [FLAG ...]",
        description="Find subnetworks that work without training, and compare them with IMP tickets.",
        epilog="`supermask COMMAND --help` explains a command.",
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action="version", version=f"supermask {supermask.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    parser.of_command = commands.choices
    for command in found.commands:
        _add_experiment(commands, command, everything)
    for name, help, add in OTHERS:
        other = _add(commands, name, help)
        add(other)
        if everything:  # they show all their flags either way
            other.add_argument(ALL, action="help", help=argparse.SUPPRESS)
    return parser


def check_known(parser: Parser, arguments: Sequence[str], found: Catalogue) -> None:
    """Refuse an unknown command before anything else is said about the call."""
    names = command_names(found)
    word = next((word for word in arguments if not word.startswith("-")), None)
    if word is not None and arguments[0] == word and word not in names:
        hint = near(word, names)
        parser.error(f"there is no command {word!r}; {hint or 'it is one of ' + ', '.join(names)}")


def refuse_unknown(parser: Parser, words: Sequence[str], command: str) -> NoReturn:
    """Exit with code 2 over words that no flag of a command takes, with the nearest flag."""
    own = parser.of_command[command]
    word = next((word for word in words if word.startswith("-")), words[0]).partition("=")[0]
    if not word.startswith("-"):
        own.error(f"{word!r} belongs to no flag")
    hint = near(word, own._option_string_actions)
    own.error(f"there is no flag {word}; {hint}" if hint else f"there is no flag {word}")


def command_names(found: Catalogue) -> list[str]:
    """All commands, in the order of help."""
    return [*(command.name for command in found.commands), *(name for name, _, _ in OTHERS)]


def _add(commands: Any, name: str, help: str, flags: str = "[FLAG ...]") -> Parser:
    parser: Parser = commands.add_parser(
        name,
        help=help,
        description=f"supermask {name}: {help}.",
        prog=f"supermask {name}",
        usage=f"supermask {name} {flags}",
        allow_abbrev=False,
    )
    return parser


def _add_experiment(commands: Any, command: Command, everything: bool) -> None:
    parser = _add(commands, command.name, command.help, "[FLAG ...] --out FOLDER")
    parser.add_argument("--config", metavar="FILE", help="YAML or TOML file with the same names; flags win")
    hidden = 0
    for title, flags in _grouped(command):
        shown = [flag for flag in flags if everything or flag.name in COMMON]
        hidden += len(flags) - len(shown)
        group = parser.add_argument_group(title)
        for flag in flags:
            add_flag(group, flag, hidden=flag not in shown)
    parser.add_argument(
        ALL, action="help", help=f"show {f'{hidden} further' if hidden else 'all'} flags and exit"
    )


def _grouped(command: Command) -> Iterable[tuple[str, list[Flag]]]:
    """Titles and their flags: the command's own first, common flags in front in each group."""
    elsewhere = {name for names in GROUPS.values() for name in names}
    by_name = {flag.name: flag for flag in command.flags}
    own = [flag for flag in command.flags if flag.name not in elsewhere]
    for title, flags in (
        (command.name, own),
        *((title, [by_name[name] for name in names if name in by_name]) for title, names in GROUPS.items()),
    ):
        if flags:
            yield title, sorted(flags, key=lambda flag: flag.name not in COMMON)


def _add_eval(parser: Parser) -> None:
    parser.usage = "supermask eval TICKET [FLAG ...]"
    parser.add_argument("ticket", metavar="TICKET", help="ticket file")
    parser.add_argument("--data", help="data set; by default the one the ticket was made on")
    parser.add_argument("--data-root", help="where data sets lie (else $SUPERMASK_DATA, else ./data)")
    parser.add_argument(
        "--image-size", type=integer, help="pixels a side of the images that the network sees"
    )
    parser.add_argument(
        "--stored-size", type=integer, help="pixels a side that a folder's images are stored at"
    )
    parser.add_argument("--classes", nargs="+", help="classes of a folder: names, or files that list them")
    parser.add_argument(
        "--allow-corrupt", action="store_true", help="leave out images that are missing or corrupt"
    )
    parser.add_argument(
        "--cache", help="where decoded images lie (else $SUPERMASK_CACHE, else ~/.cache/supermask)"
    )
    parser.add_argument("--batch-size", type=integer, default=500, help="images at a time (default: 500)")
    parser.add_argument(
        "--packed",
        choices=("exact", "int8"),
        help="compute from packed weights; int8 rounds the inputs of packed linear layers",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, … (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_info(parser: Parser) -> None:
    parser.usage = "supermask info TICKET [--json]"
    parser.add_argument("ticket", metavar="TICKET", help="ticket file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_report(parser: Parser) -> None:
    parser.usage = "supermask report FOLDER"
    parser.add_argument("folder", metavar="FOLDER", help="folder that holds results.json")


def _add_advise(parser: Parser) -> None:
    parser.usage = "supermask advise RESULTS [--json]"
    parser.add_argument(
        "path", metavar="RESULTS", help="folder of results, its results.json, or the folder of one run in it"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_zoo(parser: Parser) -> None:
    parser.usage = "supermask zoo [NAME] [--json]"
    parser.add_argument("name", nargs="?", metavar="NAME", help="print the card of this ticket")
    parser.add_argument("--json", action="store_true", help="print JSON")


LISTS = ("methods", "models", "data", "recipes", "tickets")


def _add_list(parser: Parser) -> None:
    parser.usage = f"supermask list {{{','.join(LISTS)}}} [FOLDER] [--json]"
    parser.add_argument("what", choices=LISTS, metavar="WHAT", help=f"one of {', '.join(LISTS)}")
    parser.add_argument(
        "folder", nargs="?", metavar="FOLDER", help="where recipes or tickets lie (else ./recipes, ./runs)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_completion(parser: Parser) -> None:
    parser.usage = "supermask completion SHELL"
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="bash, zsh or tcsh")


def _add_diff(parser: Parser) -> None:
    parser.usage = "supermask diff A B [FLAG ...]"
    parser.add_argument("ours", metavar="A", help="ticket file, or hf://user/name")
    parser.add_argument("theirs", metavar="B", help="the other")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_export(parser: Parser) -> None:
    parser.usage = "supermask export TICKET FILE [FLAG ...]"
    parser.add_argument("ticket", metavar="TICKET", help="ticket file, or hf://user/name")
    parser.add_argument(
        "file", metavar="FILE", help="ends in .onnx, or in .pt2 for a program of torch.export"
    )
    help = "2bit: two bits per weight in linear layers of signed constants, .onnx only (default: float32)"
    parser.add_argument("--weights", choices=("float32", "2bit"), default="float32", help=help)


OTHERS = (
    ("eval", "accuracy of a ticket on a data set", _add_eval),
    ("info", "what a ticket is", _add_info),
    ("diff", "what two tickets share and where they differ", _add_diff),
    ("export", "write the network of a ticket as ONNX or .pt2", _add_export),
    ("advise", "what the numbers of a run or of results say to do next", _add_advise),
    ("report", "write the report of a results folder again", _add_report),
    ("list", "methods, networks, data sets, recipes or tickets", _add_list),
    ("zoo", "tickets that ship with the library", _add_zoo),
    ("completion", "print a script that completes commands and flags in a shell", _add_completion),
)
"""Commands without a configuration: name, help, and what adds their flags."""
