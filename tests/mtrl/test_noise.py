"""Normal draws in blocks: the numbers do not depend on where a run was stopped."""

import pytest
import torch

from mtrl import noise as module
from mtrl.noise import Noise


def noise(seed: int = 0) -> Noise:
    return Noise(torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NUMBERS", 100)


def test_draws_of_a_block_are_those_of_one_call() -> None:
    drawn = noise()
    block = torch.randn((100 // 24, 6, 4), generator=torch.Generator().manual_seed(0))
    for row in block:
        torch.testing.assert_close(drawn.draw(6, 4), row, rtol=0, atol=0)


def test_no_draw_comes_twice() -> None:
    drawn = noise()
    draws = torch.stack([drawn.draw(6, 4) for _ in range(20)])
    assert len(draws.flatten().unique()) == draws.numel()
    assert abs(draws.mean()) < 0.2  # 480 draws: 4 standard errors
    assert abs(draws.std() - 1) < 0.15


@pytest.mark.parametrize("before", [0, 1, 3, 4, 5, 9])
def test_a_restored_stream_goes_on(before: int) -> None:
    """Within a block of 4, at its end, and before the first."""
    straight = noise()
    for _ in range(before):
        straight.draw(6, 4)
    restored = noise(seed=7)
    restored.draw(3, 4)
    restored.load_state_dict(straight.state_dict())
    for shape in [(6, 4)] * 6 + [(2, 3, 4)] * 3:
        torch.testing.assert_close(restored.draw(*shape), straight.draw(*shape), rtol=0, atol=0)


def test_a_stream_restored_before_its_next_draw_can_be_saved_again() -> None:
    straight = noise()
    for _ in range(4):  # the end of a block
        straight.draw(6, 4)
    restored, again = noise(1), noise(2)
    restored.load_state_dict(straight.state_dict())
    again.load_state_dict(restored.state_dict())
    torch.testing.assert_close(again.draw(6, 4), straight.draw(6, 4), rtol=0, atol=0)


def test_a_draw_larger_than_a_block_is_drawn_alone() -> None:
    assert noise().draw(50, 4).shape == (50, 4)
