"""What the other rooms need of the machine: files, locks, signals, processes, memory, the terminal."""
