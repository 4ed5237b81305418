"""Search spaces: a supernet, a rule that derives a genotype from it, a network built from the genotype."""
