"""What a network is asked to do: losses and scores."""
