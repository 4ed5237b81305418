"""The bilevel search: its loop, the gradients of the architecture, and regularizers."""
