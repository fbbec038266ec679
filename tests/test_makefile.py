"""What `make test` does when a test takes its process down, and how another torch is chosen."""

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


ROOT = Path(__file__).parents[1]


def test_a_crash_ends_the_tests_with_a_failure(tmp_path: Path) -> None:
    [options] = re.findall(r"python -m pytest (-n .*)", (ROOT / "Makefile").read_text())
    (tmp_path / "test_crash.py").write_text(CRASH)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", *shlex.split(options), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "crashed while running 'test_crash.py::test_crash'" in done.stdout


def test_the_environment_keeps_the_torch_that_was_chosen(tmp_path: Path) -> None:
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho pip >> $(dirname $0)/calls\n")
    python.chmod(0o755)

    def install(*words: str) -> tuple[str, int]:
        """The constraint on torch after `make venv`, and how many times pip has run so far."""
        venv = os.path.relpath(tmp_path, ROOT)
        subprocess.run(["make", "-s", "venv", f"VENV={venv}", *words], cwd=ROOT, check=True, timeout=60)
        [torch] = re.findall("^torch.*", (tmp_path / "constraints.txt").read_text(), re.MULTILINE)
        return torch, len((tmp_path / "bin/calls").read_text().splitlines())

    [usual] = re.findall("^torch==.*", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert install() == (usual, 2)
    assert install("TORCH=torch==2.8.*") == ("torch==2.8.*", 4)
    assert install("TORCH=torch==2.8.*") == ("torch==2.8.*", 4)
    (tmp_path / "installed").unlink()  # as after a change of pyproject.toml
    assert install() == ("torch==2.8.*", 6)
