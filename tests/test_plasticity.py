"""Plasticity measures, by hand and against a singular value decomposition."""

import numpy as np
import pytest
import torch

from mtrl import plasticity


def test_dormant_neurons_by_hand():
    hidden = torch.tensor([[2.0, 0.0, 0.15, 1.0], [2.0, 0.0, 0.13, 3.0]])
    # Activities 2, 0, 0.14, 2: their mean is 1.035, so that 0.1035 is the limit.
    assert plasticity.dormant(hidden).tolist() == [False, True, False, False]
    assert plasticity.dormant(hidden, threshold=0.2).tolist() == [False, True, True, False]


def test_a_dead_layer_is_wholly_dormant():
    assert plasticity.dormant(torch.zeros(3, 4)).all()
    assert plasticity.srank(torch.zeros(3, 4)) == 0


@pytest.mark.parametrize("shape", [(50, 20), (20, 50), (3000, 7), (1, 1)])
def test_srank_equals_the_svds(shape):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(shape, generator=generator) * torch.logspace(0, -4, shape[1])
    rows = hidden[:: -(-shape[0] // 1024)].double()
    singular = np.linalg.svd(rows.numpy(), compute_uv=False)
    expected = next(k for k in range(1, len(singular) + 1) if singular[:k].sum() >= 0.99 * singular.sum())
    assert plasticity.srank(hidden) == expected


def test_weight_norm():
    layer = torch.nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(3.0)
        layer.bias.fill_(4.0)
    assert plasticity.weight_norm(layer) == pytest.approx(5.0)
