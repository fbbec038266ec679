"""Who may import whom (ARCHITECTURE.md). Imports are read from the source; what must start fast is also started."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mtrl", "sweeps", "slurm", "analysis")

# Third-party library -> the only files (or folders) that may import it.
ONLY_IN = {
    "submitit": ("slurm/",),
    "h5py": (
        "mtrl/results.py",
        "mtrl/run_writer.py",
        "mtrl/longer_run.py",
        "analysis/frames.py",
        "analysis/roots.py",
        "analysis/run_reader.py",
    ),
    "metaworld": ("mtrl/envs/",),
    "mujoco": ("mtrl/envs/",),
    "gymnasium": ("mtrl/envs/",),
    "pybind11": ("setup.py",),
}

# First-party: each file (or folder) -> what it must not import. Arrows only go down.
FORBIDDEN = {
    "mtrl/": ("sweeps", "slurm", "analysis"),
    "analysis/": ("sweeps", "slurm", "torch", "mtrl.train", "mtrl.agent"),
    "slurm/": ("sweeps", "analysis", "torch"),
    "sweeps/": ("torch",),
    "mtrl/config.py": ("torch", "mtrl.train", "mtrl.agent"),
    "mtrl/systems.py": ("torch",),
    "mtrl/run_ids.py": ("torch", "mtrl"),
    "mtrl/sizing.py": ("torch",),
    "mtrl/networks/kinds.py": ("torch",),
    "mtrl/tasks.py": ("torch",),
    "mtrl/results.py": ("torch", "mtrl.run_writer", "mtrl.run_folder"),
    "mtrl/run_writer.py": ("torch", "mtrl.run_folder"),
    "mtrl/run_folder.py": ("torch",),
    "mtrl/envs/": ("torch", "mtrl.replay", "mtrl.agent", "mtrl.train"),
    "mtrl/cuda/": ("mtrl.agent", "mtrl.train", "mtrl.networks", "mtrl.envs"),
    "mtrl/ops.py": ("mtrl.replay", "mtrl.networks", "mtrl.objective", "mtrl.agent", "mtrl.train"),
    "mtrl/replay.py": ("mtrl.networks", "mtrl.objective", "mtrl.agent", "mtrl.train"),
    "mtrl/networks/": ("mtrl.objective", "mtrl.agent", "mtrl.train", "mtrl.envs", "mtrl.monitor"),
    "mtrl/objective/": ("mtrl.agent", "mtrl.train", "mtrl.envs", "mtrl.monitor", "mtrl.results"),
    "mtrl/agent.py": ("mtrl.train", "mtrl.envs", "mtrl.monitor", "mtrl.results"),
    "mtrl/monitor/": ("mtrl.train", "mtrl.run", "mtrl.checkpoint", "mtrl.cuda"),
}

STARTS_WITHOUT_TORCH = (
    "mtrl.config",
    "mtrl.sizing",
    "mtrl.tasks",
    "mtrl.results",
    "mtrl.run_writer",
    "mtrl.run_folder",
    "mtrl.envs",
    "mtrl.cli",
    "sweeps.launch",
    "slurm.worker",
    "slurm.submit",
    "slurm.executor",
    "slurm.discovery",
    "analysis.frames",
    "analysis.fit_scaling_laws",
)


def imports_of(source: str) -> set[str]:
    """Every module that `source` imports, wherever in the file, as dotted names (`from a import b` gives a and a.b)."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def files() -> list[str]:
    return [str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def violations(file: str, imports: set[str]) -> list[str]:
    def imports_module(module: str) -> bool:
        return any(name == module or name.startswith(f"{module}.") for name in imports)

    wrong = [f"{file} imports {library}; only {', '.join(places)} may"
             for library, places in ONLY_IN.items()
             if imports_module(library) and not file.startswith(places)]  # fmt: skip
    wrong += [f"{file} imports {module}"
              for place, modules in FORBIDDEN.items() if file.startswith(place)
              for module in modules if imports_module(module)]  # fmt: skip
    if file.startswith("sweeps/") and not file.startswith("sweeps/page/") and imports_module("analysis"):
        wrong.append(f"{file} imports analysis; of sweeps only the page may")
    return wrong


@pytest.mark.parametrize("file", files())
def test_imports_only_go_down(file: str) -> None:
    assert violations(file, imports_of((ROOT / file).read_text())) == []


def test_tests_import_no_test_file() -> None:
    """What several need is in a module of its own or in a conftest.py, so that a test file may change alone."""
    sources = {path: path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path, source in sources.items()
        for name in imports_of(source)
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
    ]
    assert wrong == []


def test_a_violation_is_found() -> None:
    source = "def late():\n    from sweeps import grid\n    import submitit.helpers\n"
    assert len(violations("mtrl/objective/losses.py", imports_of(source))) == 2


@pytest.mark.parametrize("module", STARTS_WITHOUT_TORCH)
def test_starts_without_torch(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'metaworld', 'mujoco') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_a_run_on_a_cpu_imports_nothing_of_cuda(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mtrl.overrides import build_config; from mtrl.train import train\n"
        "short = {'train.vector_steps': 3, 'train.random_steps': 1, 'env.horizon': 3, 'run.device': 'cpu'}\n"
        f"assert train(build_config('debug', short), Path({str(tmp_path)!r})) == 'done'\n"
        "print([name for name in sys.modules if name.startswith('mtrl.cuda')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
