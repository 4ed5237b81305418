"""What operations cost for a supernet, by a table that is made up."""

import pytest

from medarts.config import Recipe, apply_overrides, parse
from medarts.errors import RecipeError
from medarts.profiling import prices as module
from medarts.profiling.prices import prices
from medarts.spaces import make_space


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Table:
        def __init__(self, *, threads: int) -> None:
            assert threads == 1

        def latencies(self, pieces):
            return {piece: 0.001 * piece.shapes[0][0] * piece.shapes[0][1] for piece in pieces}

    monkeypatch.setattr(module, "LatencyTable", Table)


def test_operations_at_finer_levels_and_changes_of_resolution(small_recipe: Recipe) -> None:
    """A piece takes its channels times its height; level 0 has half the size of the image."""
    given = ("data.size=32", "space.init_channel=4", "space.double_down_channel=false", "budget.latency_ms=2")
    recipe = parse(apply_overrides(small_recipe.model_dump(mode="json"), given))
    found = prices(make_space(recipe), recipe.search.stages[0], recipe)
    assert found["normal conv at level 0"] == pytest.approx(0.001 * 4 * 16 / 2)
    assert found["normal conv at level 2"] == pytest.approx(0.001 * 4 * 4 / 2)
    assert found["down down_conv at level 1"] == pytest.approx(0.001 * 4 * 16 / 2)
    assert found["up up_conv at level 0"] == pytest.approx(0.001 * 4 * 8 / 2)
    assert "normal identity at level 0" not in found
    assert "down down_conv at level 0" not in found


def test_a_space_that_does_not_name_them(small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = parse(apply_overrides(small_recipe.model_dump(mode="json"), ["budget.latency_ms=2"]))
    space = make_space(recipe)
    monkeypatch.setattr(space, "operation_pieces", lambda *_, **__: {})
    with pytest.raises(RecipeError, match="space nas-wdan does not say of which pieces"):
        prices(space, recipe.search.stages[0], recipe)
