"""What tests of proposals share."""

SMALLEST = (
    "space={init_channel: 2, double_down_channel: false}",
    "search.stages=[{depth: 3, epochs: 1, batch: 2}]",
    "search.arch_after=0",
    "train.epochs=1",
    "train.warmup_epochs=0",
    "data.size=16",
)
"""Changes of a proposed recipe with which a search and a training take a second or two."""
