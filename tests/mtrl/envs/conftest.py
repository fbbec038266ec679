"""Fixtures for tests of the vector env."""

import pytest

from mtrl.config import EnvSettings
from mtrl.envs import VectorEnv


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """A cache that the tests of one module share, empty at its start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def compiled_models(own_cache, request):
    """The compiled models of the module's TASKS: envs of the same tasks copy them from one that lives."""
    living = VectorEnv(EnvSettings(tasks=request.module.TASKS), seed=0, workers=0)
    yield
    living.close()


@pytest.fixture
def made():
    """The envs that a test's `make` appends; closed after the test."""
    envs = []
    yield envs
    for env in envs:
        env.close()
