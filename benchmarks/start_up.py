"""How long Python takes to import the library, and to import all that a search and its packed ticket need.

Beside `import torch`, each in a process of its own, in turns. Time is that of the processor.

python benchmarks/start_up.py [--threads 1] [--out DIR]
"""

import resource
import subprocess
import sys
from functools import partial

from _measure import arguments, ratio, report, take_turns

NAMES = ("EdgePopup", "create_model", "fit", "load", "pack", "randomize_")
PROGRAMS = {
    "torch": "import torch",
    "supermask": "import torch, supermask",
    "names": f"import torch, supermask; [getattr(supermask, name) for name in {NAMES}]",
}
"""What is measured → the program."""


def milliseconds(program: str) -> float:
    """Processor time of a Python process that runs `program`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    """One row."""
    options = arguments("start-up beside that of torch")
    results = take_turns(
        {name: partial(milliseconds, program) for name, program in PROGRAMS.items()}, options.seconds, 20
    )
    ratios = {f"{name}/torch": ratio(results, name, "torch") for name in PROGRAMS if name != "torch"}
    report("start_up", options, [{"what": "import", **ratios, **results}])


if __name__ == "__main__":
    main()
