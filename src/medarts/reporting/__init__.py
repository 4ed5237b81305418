"""What people look at: drawings of a genotype, plots of a run, and the HTML page that holds both."""
