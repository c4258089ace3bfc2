"""What of the data would tell a model the answer: leaks by name, and what another split would have claimed."""
