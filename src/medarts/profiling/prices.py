"""What operations cost in the networks that a supernet is searched for: their latency as a share of the budget."""

from medarts.config import Recipe, StageSettings
from medarts.errors import RecipeError
from medarts.profiling.budget import in_numbers
from medarts.profiling.latency_table import LatencyTable
from medarts.spaces.base import SearchSpace


def prices(space: SearchSpace, stage: StageSettings, recipe: Recipe) -> dict[str, float]:
    """Returns the latency of all operations that a supernet chooses from, as shares of that which a budget allows.

    Args:
        space: of the supernet.
        stage: of the search.
        recipe: whose budget limits latency.

    Returns:
        Key of `SearchSpace.operation_pieces` -> share.

    Raises:
        RecipeError: the space does not name the pieces of operations.
    """
    budget = recipe.budget.at(recipe.data.size)
    assert budget.size is not None
    pieces = space.operation_pieces(stage, size=budget.size, norm=recipe.train.norm)
    if not pieces:
        raise RecipeError(
            f"The space {recipe.space.name} does not say of which pieces its operations are, so that their latency is "
            "not known.",
            fix="Leave the regularizer of latency out of search.regularizers.",
        )
    about = {"in_channels": recipe.data.in_channels, "outputs": recipe.data.outputs}
    limit = in_numbers(budget, **about).limits["latency_ms"]
    ms = LatencyTable(threads=budget.threads).latencies(piece for each in pieces.values() for piece in each)
    return {key: sum(number * ms[piece] for piece, number in each.items()) / limit for key, each in pieces.items()}
