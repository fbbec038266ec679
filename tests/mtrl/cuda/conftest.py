"""Each test of this folder that takes `device` runs on a GPU and with the kernels on the host."""

from collections.abc import Iterator

import pytest
import torch

from mtrl.cuda import ops as cuda_ops
from tests.mtrl.cuda import cuda_on_host
from tests.mtrl.cuda.graph_on_host import CudaOnHost


@pytest.fixture(params=cuda_on_host.WAYS)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    return cuda_on_host.take(request.param, monkeypatch)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> CudaOnHost:
    """The kernels, streams and graphs on the host, whatever there is."""
    return cuda_on_host.take_host(monkeypatch)


@pytest.fixture(autouse=True)
def _products_as_they_were() -> Iterator[None]:
    yield
    cuda_ops.set_products("float32")
