"""Which sizes of parts are tried for a budget, with memories that are made up."""

import math
from collections.abc import Callable

import pytest

from medarts.engine.engine import Trial
from medarts.profiling.parts import fewest_parts, sizes_of_parts

MEMORIES: dict[str, Callable[[int], float]] = {
    "linear": lambda images: 400 + 50 * images,
    "through zero": lambda images: 100.0 * images,
    "validation takes more at first": lambda images: max(900, 300 + 100 * images),
    "in jumps": lambda images: 400 + 300 * math.ceil(images / 3),
    "the first costs most": lambda images: 400 + 100 * math.sqrt(images),
    "always the same": lambda images: 500.0,
}


def trial(batch: int, parts: int, memory: Callable[[int], float]) -> Trial:
    images = math.ceil(batch / parts)
    return Trial(parameters=1, seconds=1.0, memory_mb=memory(images), accumulate=parts, images_at_once=images)


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1]), (2, [1, 2]), (7, [1, 2, 3, 4, 7]), (12, [1, 2, 3, 4, 6, 12])])
def test_sizes_an_even_split_can_have(batch: int, sizes: list[int]) -> None:
    assert sizes_of_parts(batch) == sizes
    for larger, smaller in zip(sizes[1:], sizes, strict=False):
        assert larger <= 2 * smaller


@pytest.mark.parametrize("there_is", [math.inf, 1200.0], ids=["", "a small machine"])
@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_the_most_images_that_fit_are_found_within_twice_the_budget(
    memory: Callable[[int], float], there_is: float
) -> None:
    for batch in (1, 2, 5, 12, 17, 24):
        for budget in range(math.ceil(memory(1)), 4000, 137):
            tried: list[int] = []

            def measure(parts: int, batch: int = batch, tried: list[int] = tried) -> Trial | None:
                tried.append(parts)
                asked = trial(batch, parts, memory)
                return asked if asked.memory_mb <= there_is else None

            found = fewest_parts(trial(batch, batch, memory), batch, budget_mb=budget, measure=measure)
            fits = [p for p in range(1, batch + 1) if memory(math.ceil(batch / p)) <= min(budget, there_is)]
            assert found.accumulate == min(fits)
            assert found.memory_mb <= budget
            assert len(set(tried)) == len(tried)
            assert all(memory(math.ceil(batch / parts)) <= 2 * budget for parts in tried)


def test_few_trials_do() -> None:
    """Sure to fit, then by the line, then the next larger one, which does not fit."""
    tried: list[int] = []

    def measure(parts: int) -> Trial:
        tried.append(math.ceil(48 / parts))
        return trial(48, parts, lambda images: 400 + 100 * images)

    assert fewest_parts(measure(48), 48, budget_mb=2100, measure=measure).images_at_once == 16
    assert tried == [1, 4, 10, 16, 24]
    tried.clear()
    assert fewest_parts(measure(48), 48, budget_mb=10**5, measure=measure).accumulate == 1
    assert tried == [1, 48]
