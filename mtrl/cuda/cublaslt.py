"""Hidden layers on a GPU by NVIDIA's cuBLASLt, which computes bias, ReLU, mask and bias gradient within the product.

The library is looked for at run time; torch's CUDA wheels have loaded it already. Before it is used for a shape, it
must name an algorithm for it and give torch's numbers. No GPU has run this yet (docs/decisions/0064). E critics, B
batch rows, W width.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from mtrl.cuda import ops

# The largest error allowed, relative to the largest number of a result. Summing float32 numbers in another order gives
# less than a twentieth of it; TF32 instead of float32 gives more. Two TF32 products may round the factors differently.
TOLERANCE = {"float32": 2e-5, "tf32": 5e-3}


def sonames(cuda: str | None) -> list[str]:
    """File names of cuBLASLt for the loader; the first is that of torch's CUDA version `cuda`, like "13.0"."""
    plain = "libcublasLt.so"
    return [f"{plain}.{cuda.split('.')[0]}", plain] if cuda else [plain]


@functools.cache
def library(device: int) -> Any:
    """cuBLASLt for one device, kept for the rest of the process. Raises RuntimeError with the loader's message."""
    return ops.built().CublasLt(sonames(torch.version.cuda))


def name_of(lt: Any) -> str:
    """Name and version, as `cuBLASLt 13.1.0`."""
    return f"cuBLASLt {lt.version}"


class FusedLayers:
    """The hidden layers after the first, from [E, B, W] to [E, B, W], for one network and one batch size.

    The constructor waits for the GPU. It raises RuntimeError or ValueError, with the reason, if cuBLASLt cannot compute
    the three products or gives other numbers than torch.
    """

    def __init__(self, lt: Any, critics: int, rows: int, width: int, device: torch.device) -> None:
        self._lt, self._shape, self._kernels = lt, (critics, rows, width), ops.built()
        tf32 = ops.products() == "tf32"
        index = torch.empty(0, device=device).get_device()
        choose = functools.partial(self._kernels.cublaslt_choose, lt)
        self._plain, self._masked, self._backward = (
            choose(*product, critics, rows, width, tf32, index)
            for product in ((False, False), (False, True), (True, True))
        )
        self._check(device)

    def forward(self, x: Tensor, kernel: Tensor, bias: Tensor, masked: bool) -> tuple[Tensor, Tensor | None]:
        """max(0, x kernel + bias), [E, B, W], and, if `masked`, the mask for `backward`, else None."""
        mask = None
        if masked:
            size = self._kernels.cublaslt_mask_bytes(*self._shape)
            mask = torch.empty(size, dtype=torch.uint8, device=x.device)
        return self._run(self._masked if masked else self._plain, x, kernel, bias, mask), mask

    def backward(self, dz: Tensor, kernel: Tensor, mask: Tensor, dbias: Tensor) -> Tensor:
        """The gradient [E, B, W] before the ReLU of the layer below; `mask` is that layer's. Writes its sums to dbias.

        dz [E, B, W] is the gradient before this layer's ReLU, kernel [E, W, W] is this layer's, dbias is [E, W].
        """
        return self._run(self._backward, dz, kernel, dbias, mask)

    def _run(self, plan: Any, x: Tensor, kernel: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        out = torch.empty_like(x)
        space = torch.empty(plan.workspace, dtype=torch.uint8, device=x.device)
        stream = ops.stream_of(x)
        self._kernels.cublaslt_run(self._lt, plan, x, kernel, bias, mask, out, space, stream)
        return out

    @torch.no_grad()
    def _check(self, device: torch.device) -> None:
        critics, _, width = self._shape
        generator = torch.Generator(device).manual_seed(0)
        x, dz, kernel, bias = (
            torch.randn(shape, generator=generator, device=device)
            for shape in (self._shape, self._shape, (critics, width, width), (critics, width))
        )
        kernel *= width**-0.5
        dbias = torch.full_like(bias, torch.nan)
        y, mask = self.forward(x, kernel, bias, masked=True)
        assert mask is not None
        plain, _ = self.forward(x, kernel, bias, masked=False)
        dx = self.backward(dz, kernel, mask, dbias)
        expected = torch.baddbmm(bias.unsqueeze(1), x, kernel).relu()
        expected_dx = torch.bmm(dz, kernel.mT).where(y > 0, 0)
        for name, got, wanted in (
            ("RELU_AUX_BIAS", y, expected),
            ("RELU_BIAS", plain, expected),
            ("DRELU_BGRAD", dx, expected_dx),
            ("DRELU_BGRAD's sums", dbias, expected_dx.sum(1)),
        ):
            error = float((got - wanted).abs().max() / wanted.abs().max())
            if not error <= TOLERANCE[ops.products()]:
                raise RuntimeError(f"{name} is off by {error:.1e} of the largest number for {self._shape}")
