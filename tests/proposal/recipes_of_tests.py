"""What tests of proposals share."""

NO_BUDGET = "budget={}"
"""Change of a proposed recipe without which every candidate is exported and measured."""

SMALLEST = (
    "space={init_channel: 2, double_down_channel: false, choices: {depth: [3]}}",
    NO_BUDGET,
    "search.select={candidates: 2, rungs: [1]}",
    "train.epochs=1",
    "train.warmup_epochs=0",
    "data.size=16",
)
"""Changes of a proposed recipe with which a search and a training take a second or two."""
