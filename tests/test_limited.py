"""Which of the passes of `make test` a CPU needs, and what they are limited to."""

import os
import subprocess
import sys

import pytest

from tests import limited

ZEN_3 = "processor\t: 0\nflags\t\t: fpu sse2 avx f16c fma bmi2 avx2 vaes vpclmulqdq\nbugs\t\t: avx512\n"
TOLD = "import os; print(os.environ['ATEN_CPU_CAPABILITY'], os.environ['ONEDNN_MAX_CPU_ISA'])"


@pytest.mark.parametrize(
    ("flags", "more"), [("", False), (" avx512f avx512bw", True), (" avx_vnni", True), (" amx_tile", True)]
)
def test_what_counts_as_more_than_avx2(flags, more):
    assert limited.has_more_than_avx2(ZEN_3.replace("avx2 ", f"avx2{flags} ")) == more
    assert not limited.has_more_than_avx2("processor\t: 0\nFeatures\t: fp asimd sve\n")


@pytest.mark.parametrize("more", [False, True])
def test_avx2_is_left_out_where_it_limits_nothing(more, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(limited, "has_more_than_avx2", lambda _: more)
    ran = []
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(os, "execvp", lambda program, words: ran.append((program, words)))
    limited.main("avx2", "pytest", "-x")
    assert ran == ([("pytest", ("pytest", "-x"))] if more else [])
    assert ("left out" in capsys.readouterr().out) != more
    assert limited.limits() == (["avx2", "default"] if more else ["default"])


def test_the_command_is_run_with_the_limit_and_its_failure_is_ours():
    command = [sys.executable, "-m", "tests.limited", "default", sys.executable, "-c"]
    done = subprocess.run([*command, TOLD], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["default", "SSE41"]
    assert subprocess.run([*command, "raise SystemExit(7)"]).returncode == 7
    assert subprocess.run([*command[:3], "avx3", "true"], capture_output=True).returncode != 0
