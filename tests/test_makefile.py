"""What `make test` does when a test takes its process down."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

CRASH = """
import os, signal, pytest

@pytest.mark.parametrize("i", range(20))
def test_before(i): pass

def test_crash():
    os.kill(os.getpid(), signal.SIGSEGV)

@pytest.mark.parametrize("i", range(20))
def test_after(i): pass
"""


def test_a_crash_ends_the_tests_with_a_failure(tmp_path: Path) -> None:
    makefile = Path(__file__).parents[1] / "Makefile"
    [options] = re.findall(r"python -m pytest (-n .*)", makefile.read_text())
    (tmp_path / "test_crash.py").write_text(CRASH)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", *shlex.split(options), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "crashed while running 'test_crash.py::test_crash'" in done.stdout
