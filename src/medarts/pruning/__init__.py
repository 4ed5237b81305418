"""Filter pruning: channels, cells and heads of trained networks, really removed."""
