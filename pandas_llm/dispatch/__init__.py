"""Ways to get answers."""
