"""For all tests: neither the cluster nor the profiles of whoever runs them play a part. Tests that need a cluster start
one of their own (tests/slurm/slurm_cluster.py)."""

import os
from collections.abc import Iterator
from unittest import mock

import pytest


@pytest.fixture(autouse=True, scope="session")
def no_cluster_and_no_profiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    home = str(tmp_path_factory.mktemp("config"))
    with mock.patch.dict(os.environ, {"SLURM_CONF": "/dev/null", "XDG_CONFIG_HOME": home}):
        yield
