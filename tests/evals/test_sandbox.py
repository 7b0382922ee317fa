"""Ordinary programs run in the sandbox, a verdict cannot be faked, and no wall may be missing."""

import platform
import re
import sys
from pathlib import Path

import pytest

from evals.sandboxing import assert_passes, needs_sandbox, run
from ledmerge.errors import LedmergeError
from ledmerge.evals import _sandbox
from ledmerge.evals._sandbox import check_sandbox

pytestmark = needs_sandbox


# What runs.


MODULES = (
    "array base64 bisect calendar cmath collections contextlib copy csv ctypes dataclasses "
    "datetime decimal enum fractions functools hashlib heapq inspect io itertools json logging "
    "math operator os pathlib pickle pprint queue random re secrets shutil statistics string "
    "struct tempfile textwrap threading time timeit traceback types typing unicodedata unittest "
    "uuid zlib"
)


def test_the_standard_library_can_be_imported():
    assert_passes(f"import {', '.join(MODULES.split())}")


@pytest.mark.parametrize(
    "program",
    [
        "",
        "assert 1 + 1 == 2",
        "π = 3.14\nassert 'größer 🎉'[::-1][0] == '🎉' and π > 3",
        "# -*- coding: latin-1 -*-\nassert len('é') == 1",
        "x = 1\r\nassert x == 1\r\n",
        "import math\nassert math.gcd(12, 18) == 6",
        "import re\nassert re.findall(r'\\d+', 'a12b3') == ['12', '3']",
        "from collections import Counter\nassert Counter('aab').most_common(1) == [('a', 2)]",
        "import heapq\nh = [3, 1, 2]; heapq.heapify(h)\nassert heapq.heappop(h) == 1",
        "import random\nassert 0 <= random.random() < 1 and random.SystemRandom().random() < 1",
        "import datetime, zoneinfo\nassert datetime.datetime.now().year > 2000",
        "def depth(n): return 0 if n == 0 else 1 + depth(n - 1)\nassert depth(900) == 900",
        "import sys\nsys.setrecursionlimit(20_000)\n"
        "def depth(n): return 0 if n == 0 else 1 + depth(n - 1)\nassert depth(15_000) == 15_000",
        "import threading\nfound = []\nthreads = [threading.Thread(target=found.append, args=(i,)) "
        "for i in range(20)]\nfor t in threads: t.start()\nfor t in threads: t.join()\n"
        "assert sorted(found) == list(range(20))",
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as pool: assert sum(pool.map(abs, [-1, -2])) == 3",
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 3\n"
        "assert asyncio.run(f()) == 3",
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport typing\n"
        "@dataclass\nclass A:\n    x: int\nassert typing.get_type_hints(A) == {'x': int}",
        "import pickle\nclass A: pass\nassert type(pickle.loads(pickle.dumps(A()))) is A",
        "with open('note', 'w') as f: f.write('ä')\nassert open('note').read() == 'ä'",
        "import os\nopen('a', 'w').close()\nos.rename('a', 'b'); os.remove('b')",
        "import tempfile\nwith tempfile.NamedTemporaryFile() as f: f.write(b'x')",
        "import signal\nsignal.alarm(50); signal.alarm(0)",
        "import sys\nsys.stdout.write('x' * 10**6); sys.stderr.write('y' * 10**6)",
        "import sys\nassert sys.stdin.read() == ''",
        "import platform\nassert platform.platform()",
    ],
)
def test_good_programs_pass(program: str):
    assert_passes(program)


def test_a_demonstration_does_not_run():
    assert_passes("if __name__ == '__main__':\n    number = int(input())")


def test_threads_left_running_do_not_hold_a_verdict_up():
    assert run("import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()")[0]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError"),
        ("x = '\0'", "SyntaxError|ValueError"),
        ("x = '\ud800'", "UnicodeEncodeError"),
        ("undefined", "NameError"),
        ("import numpy", "ModuleNotFoundError"),
        ("raise ValueError('é')", "ValueError: é"),
        ("input()", "EOFError"),
        ("def f(): f()\nf()", "RecursionError"),
        ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "left early"),
        ("raise ValueError('x' * 10**6)", "ValueError: x{900}"),
    ],
)
def test_bad_programs_fail_and_say_why(program: str, reason: str):
    passed, why = run(program)
    assert not passed
    assert re.match(reason, why)
    assert len(why) <= _sandbox.MOST_REASON


def test_hashes_are_the_same_in_every_run():
    program = "raise ValueError(hash('ledmerge'))"
    assert run(program) == run(program)


# The verdict.


@pytest.mark.parametrize(
    "leave",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "raise SystemExit",
        "raise KeyboardInterrupt",
        "import os; os.kill(os.getpid(), 9)",
        "import ctypes; ctypes.string_at(0)",
        "import threading, os; threading.Thread(target=os._exit, args=(0,)).start(); input()",
        "import atexit, sys; atexit.register(print); sys.exit(0)",
    ],
)
def test_leaving_early_is_not_passing(leave: str):
    assert not run(f"{leave}\nassert True").passed


@pytest.mark.parametrize(
    "last", ["", "os._exit(0)", "raise SystemExit(0)"], ids=["end", "_exit", "exit"]
)
def test_a_result_cannot_be_faked(last: str):
    program = f"""
        import os
        for file in range(256):
            for guess in (b"ready", b"passed", b"True", b"0" * 32, bytes(32), b"a" * 70_000):
                try:
                    os.set_blocking(file, False)
                    os.write(file, guess)
                except OSError:
                    pass
        print("passed", flush=True)
        {last}
    """
    assert not run(program).passed


def test_secrets_are_new_every_time(monkeypatch):
    start, seen = _sandbox._start, []

    def look(given: bytes, *rest: object) -> object:
        seen.extend(given.split(b"\n")[:2])
        return start(given, *rest)

    monkeypatch.setattr(_sandbox, "_start", look)
    assert run("").passed
    assert run("").passed
    assert len(set(seen)) == 4
    assert {len(secret) for secret in seen} == {2 * _sandbox.SECRET}


def test_closing_everything_is_not_passing():
    assert not run("import os; os.closerange(0, 256)").passed
    assert not run(
        "import os\nnull = os.open('/dev/null', 2)\nfor n in range(99): os.dup2(null, n)"
    )[0]


def test_closing_the_output_changes_nothing():
    assert_passes("import os, sys\nsys.stdout.close(); os.close(2)")
    assert not run("import os, sys\nsys.stdout.close(); os.close(2)\nassert False").passed


def test_output_patched_away_does_not_pass():
    assert not run("import os\nos.write = os._exit = print\nassert False").passed


# Where there is no sandbox.


def test_the_check_passes_here():
    check_sandbox()


@pytest.mark.parametrize(("name", "value"), [("machine", "riscv64"), ("system", "Darwin")])
def test_another_machine_is_refused(monkeypatch, name: str, value: str):
    monkeypatch.setattr(platform, name, lambda: value)
    if name == "system":
        monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(LedmergeError, match=rf"{value}.*use Linux 5\.13"):
        check_sandbox()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (("long(444)", "long(999)"), "Landlock: Function not implemented"),
        (
            ("PR_SET_SECCOMP, SECCOMP_MODE_FILTER", "PR_SET_SECCOMP, 77"),
            "seccomp: Invalid argument",
        ),
        (("    main()\n", "    pass\n"), "Python ended with code 0"),
        (("import ctypes\n", "import nothing\n"), "Python ended with code 1"),
    ],
)
def test_nothing_runs_where_a_wall_is_missing(
    monkeypatch, tmp_path: Path, broken: tuple[str, str], reason: str
):
    text = _sandbox.BOOTSTRAP.read_text()
    assert broken[0] in text
    (tmp_path / "b.py").write_text(text.replace(*broken))
    monkeypatch.setattr(_sandbox, "BOOTSTRAP", tmp_path / "b.py")
    with pytest.raises(LedmergeError, match=f"cannot be run safely here: .*{reason}"):
        run("x = 1")


def test_a_python_that_does_not_work_inside_is_found(monkeypatch):
    monkeypatch.setattr(_sandbox, "PROBE", "import numpy")
    with pytest.raises(LedmergeError, match=r"does not work inside the sandbox .*numpy"):
        check_sandbox()
