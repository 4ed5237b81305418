"""One file a format, read as an array in the units the file stores; ``files.py`` chooses among them by content."""
