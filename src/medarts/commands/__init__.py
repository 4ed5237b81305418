"""What the commands do, as Python functions over the rooms; the command line adds nothing but words."""
