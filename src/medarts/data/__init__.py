"""From files on disk to batches: manifest, readers, sources, splits, cache, augmentation, mixing."""
