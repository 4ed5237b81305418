"""The fast execution of mixed cells: all edges that leave a state at once, the same numbers as one by one."""
