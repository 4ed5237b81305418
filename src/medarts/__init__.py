"""medarts designs compact neural networks for medical images by differentiable architecture search.

    >>> from medarts import recipe                                              # doctest: +SKIP
    >>> from medarts.commands import runs                                       # doctest: +SKIP
    >>> run = runs.search(recipe.load(Path("my.yaml")), Path("runs/my"))         # doctest: +SKIP

``medarts.commands`` holds what the command line does; ``medarts.config`` the typed recipe; ``medarts.errors`` what can
go wrong. The other rooms stand in the order in which data walk through them: data, tasks, spaces, search, networks,
training, evaluation, reporting.
"""

__version__ = "0.1.0"
