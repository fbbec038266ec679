"""Builds the extension `mtrl._core` with CMake and Ninja; everything else about the package is in pyproject.toml.

Environment: MTRL_CUDA=OFF|ON|AUTO (default AUTO: where nvcc is found), CUDAARCHS=90 and the like (default: all from
sm_80 on), MTRL_SANITIZE=address|undefined|thread (comma-separated list), MTRL_WERROR=ON (warnings are errors).
The CMake tree is MTRL_TREE, by default build/<python tag>, outside pip's temporary folder, so that a second build
compiles only what changed.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCE = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Configures and builds the CMake project, then puts the module where setuptools expects it."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        tree = SOURCE / os.environ.get("MTRL_TREE", f"build/{sysconfig.get_config_var('SOABI')}")
        configure = [
            "cmake",
            "-S",
            str(SOURCE),
            "-B",
            str(tree),
            "-G",
            "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",  # pip's isolated ninja moves at every build
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DMTRL_CUDA={os.environ.get('MTRL_CUDA', 'AUTO')}",
            f"-DMTRL_SANITIZE={os.environ.get('MTRL_SANITIZE', '')}",
            f"-DMTRL_WERROR={os.environ.get('MTRL_WERROR', 'OFF')}",
            "-DMTRL_TESTS=OFF",
        ]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(tree), "--target", "_core"], check=True)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        built = tree / target.name
        if not target.exists() or built.stat().st_mtime > target.stat().st_mtime:
            shutil.copy2(built, target)


setup(ext_modules=[Extension("mtrl._core", sources=[])], cmdclass={"build_ext": CMakeBuild})
