"""The CUDA kernels compile everywhere without a warning or a spill, and the module needs no CUDA to be imported."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
KERNELS = sorted((ROOT / "csrc").rglob("*.cu"))
ARCHITECTURES = ("80", "90", "100")
ACCEPTED = "// Spills accepted: "  # followed by the reason, in the kernel's file


def find_nvcc() -> str | None:
    wheels = Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin")
    places = [os.environ["PATH"], *map(str, wheels), "/usr/local/cuda/bin"]
    return os.environ.get("CUDACXX") or shutil.which("nvcc", path=os.pathsep.join(places))


@pytest.fixture(scope="module")
def nvcc() -> str:
    found = find_nvcc()
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("CI compiles the CUDA kernels, but there is no nvcc; docs/gpu.md has a line for pip")
    if found is None:
        pytest.skip(
            "no nvcc on this machine (docs/gpu.md has a line for pip); the CUDA kernels were not compiled"
        )
    return found


def compile_kernel(nvcc: str, source: Path, folder: Path) -> str:
    """nvcc's report on the registers of each kernel; fails the test where it complains."""
    flags = (ROOT / "csrc/cuda/nvcc.flags").read_text().split()
    flags += ["-Werror=all-warnings", "-Xcompiler=-Werror"]
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    output = ["-c", str(source), "-o", str(folder / "kernel.o")]
    command = [nvcc, "-std=c++17", f"-I{ROOT / 'csrc'}", *flags, *targets, "--resource-usage", *output]
    result = subprocess.run(command, capture_output=True, text=True)
    report = result.stdout + result.stderr
    assert result.returncode == 0, report
    return subprocess.run(["c++filt"], input=report, capture_output=True, text=True, check=True).stdout


def resources(report: str) -> list[tuple[str, str, int, int, int]]:
    """(kernel, architecture, registers, bytes of shared memory, bytes spilled) of each kernel in nvcc's report."""
    entry = re.compile(
        r"Compiling entry function '(.*?)' for '(sm_\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?",
        re.DOTALL,
    )
    found = []
    for name, architecture, stores, loads, registers, shared in entry.findall(report):
        short = name.replace("(anonymous namespace)::", "").removeprefix("void ").split("(")[0]
        found.append((short, architecture, int(registers), int(shared or 0), int(stores) + int(loads)))
    return found


@pytest.mark.nvcc
@pytest.mark.parametrize("source", KERNELS, ids=lambda path: path.stem)
def test_kernel_compiles_without_warnings_or_spills(
    nvcc: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kernels = resources(compile_kernel(nvcc, source, tmp_path))
    if "__global__" in source.read_text():
        assert {kernel[1] for kernel in kernels} == {f"sm_{a}" for a in ARCHITECTURES}
    with capsys.disabled():
        print()
        for name, architecture, registers, shared, spilled in kernels:
            print(
                f"  {name:40} {architecture:7} {registers:4} registers  {shared:6} B shared  {spilled:4} B spilled"
            )
    spilling = [kernel for kernel in kernels if kernel[4]]
    assert not spilling or ACCEPTED in source.read_text(), f"{spilling}; say why after '{ACCEPTED}'"


@pytest.mark.nvcc
def test_a_spill_and_a_warning_are_seen(nvcc: str, tmp_path: Path) -> None:
    source = tmp_path / "spill.cu"
    source.write_text(
        "__global__ void __launch_bounds__(1024, 2) spill(float* x) {\n"
        "  float a[96];\n"
        "  __shared__ float last[128];\n"
        "#pragma unroll\n"
        "  for (int i = 0; i < 96; ++i) a[i] = x[i * 1024 + threadIdx.x];\n"
        "  __syncthreads();\n"
        "#pragma unroll\n"
        "  for (int i = 0; i < 96; ++i) x[i * 1024 + 1023 - threadIdx.x] = a[95 - i];\n"
        "  last[threadIdx.x % 128] = a[0];\n"
        "  __syncthreads();\n"
        "  x[0] = last[7];\n"
        "}\n"
    )
    kernels = resources(compile_kernel(nvcc, source, tmp_path))
    assert kernels
    assert all(spilled > 0 and shared == 512 for _, _, _, shared, spilled in kernels)
    source.write_text("__global__ void warning(float* x) { int unused = 1; x[0] = 0; }\n")
    with pytest.raises(AssertionError, match="unused"):
        compile_kernel(nvcc, source, tmp_path)


def test_the_module_loads_no_cuda_library() -> None:
    script = (
        "import mtrl._core as core; build = core.cuda_build();"
        "assert build is None or build['version'] and build['architectures'], build;"
        "print(open('/proc/self/maps').read())"
    )
    maps = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "_core" in maps
    assert "libcuda" not in maps


def test_cuda_on_without_nvcc_names_the_cure(tmp_path: Path) -> None:
    import pybind11

    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), "-G", "Ninja", "-DMTRL_CUDA=ON", "-DMTRL_NVCC="]
    paths = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    result = subprocess.run([*command, *paths], capture_output=True, text=True)
    assert result.returncode != 0
    words = " ".join(result.stderr.split())
    assert "MTRL_CUDA=ON but there is no nvcc" in words
    assert "MTRL_CUDA=OFF" in words


@pytest.mark.parametrize(
    ("first", "words", "calls"),
    [
        ("echo there is no nvcc; exit 1", ["CUDA=1"], ["build ON", "pip install", "build ON"]),
        ("echo another error; exit 1", ["CUDA=1"], ["build ON"]),
        ("exit 0", ["CUDA=1"], ["build ON"]),
        ("exit 0", [], ["build "]),
    ],
)
def test_make_takes_nvcc_from_pip_where_there_is_none(
    tmp_path: Path, first: str, words: list[str], calls: list[str]
) -> None:
    """Around a stand-in for .venv's python, whose first build ends as `first` says."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\n[ "$1" = setup.py ] && echo "build $MTRL_CUDA" >> calls || echo "$2 $3" >> calls\n'
        f'[ "$(wc -l < calls)" = 1 ] || exit 0\n{first}\n'
    )
    python.chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt", "setup.py", ".venv/installed"):
        (tmp_path / name).touch()
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MTRL_CUDA", "MAKEFLAGS")
    }
    made = subprocess.run(
        ["make", "-C", str(tmp_path), "build", *words], env=environment, capture_output=True
    )
    assert (tmp_path / "calls").read_text().splitlines() == calls
    assert (made.returncode == 0) == ("another" not in first)
