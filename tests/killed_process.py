"""Runs commands in processes that are killed at a moment of one of the files that they write.

    python -m tests.killed_process

A line of the input is JSON, `[arguments, last, moment]`; the answer is `[exit code, files written]`. The
processes are forks of this one, which has imported all that a comparison needs, so that twenty are cheap.
"""

import json
import mmap
import os
import signal
import sys
from pathlib import Path

import sklearn.datasets
import torch

# Every optimizer imports it when it is made, for seconds.
import torch._dynamo

import supermask.cli.run
from supermask.cli import main

MOMENTS = ("before it is written", "half written", "before it has its name", "afterwards")
"""Around a file that is replaced, where a process may be killed: each leaves another state of the folder."""


def run(arguments: list[str], written: mmap.mmap, last: int, moment: str) -> None:
    """Run the command, counting its files; kill this process at a moment of the last."""
    write, replace = Path.write_bytes, Path.replace

    def at(present: str) -> None:
        if count(written) == last and present == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying_write(self: Path, data: bytes) -> int:
        written[:8] = (count(written) + 1).to_bytes(8)
        at(MOMENTS[0])
        if count(written) == last and moment == MOMENTS[1]:
            write(self, data[: len(data) // 2])
        at(MOMENTS[1])
        return write(self, data)

    def dying_replace(self: Path, target: Path) -> Path:
        at(MOMENTS[2])
        target = replace(self, target)
        at(MOMENTS[3])
        return target

    Path.write_bytes, Path.replace = dying_write, dying_replace  # type: ignore[assignment,method-assign]
    os.fsync = lambda _: None
    sys.stdout = sys.stderr = open(os.devnull, "w")  # for as long as it lives
    os._exit(main(arguments))


def count(written: mmap.mmap) -> int:
    return int.from_bytes(written[:8])


if __name__ == "__main__":
    assert sklearn.datasets and supermask.cli.run
    torch.set_num_threads(1)
    for line in sys.stdin:
        arguments, last, moment = json.loads(line)
        shared = mmap.mmap(-1, 8)  # with the fork
        child = os.fork()
        if child == 0:
            run(arguments, shared, last, moment)
        _, status = os.waitpid(child, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), count(shared)]), flush=True)
