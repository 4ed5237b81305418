import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medarts.engine.engine import cosine


def test_ends_and_middle() -> None:
    options = {"epochs": 80, "start": 0.025, "end": 1e-5}
    assert cosine(0, **options) == 0.025
    assert cosine(80, **options) == pytest.approx(1e-5)
    assert cosine(40, **options) == pytest.approx((0.025 + 1e-5) / 2)
    assert cosine(90, **options) == pytest.approx(1e-5)  # does not rise again


def test_agrees_with_torch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=0.01)
    for epoch in range(10):
        assert cosine(epoch, epochs=10, start=0.1, end=0.01) == pytest.approx(oracle.get_last_lr()[0])
        optimizer.step()
        oracle.step()


def test_warm_up_rises_from_a_tenth_and_joins_the_cosine() -> None:
    def at(epoch: float) -> float:
        return cosine(epoch, epochs=10, start=1.0, end=0.0, warmup=2)

    assert at(0) == pytest.approx(0.1)
    assert at(1) == pytest.approx(0.55)
    assert at(2) == 1.0
    assert at(2 - 1e-9) == pytest.approx(1.0)
    assert at(6) == pytest.approx(0.5)
    assert at(10) == pytest.approx(0.0)


@given(st.integers(1, 50), st.integers(0, 60), st.floats(0, 1))
def test_stays_within_its_ends_and_falls_after_the_warm_up(epochs: int, warmup: int, part: float) -> None:
    a, b = sorted((part * epochs, epochs))
    lr_a, lr_b = (cosine(e, epochs=epochs, start=1.0, end=0.1, warmup=warmup) for e in (a, b))
    assert 0.1 - 1e-12 <= lr_a <= 1 + 1e-12
    assert math.isfinite(lr_b)
    if a >= warmup:
        assert lr_b <= lr_a + 1e-12
