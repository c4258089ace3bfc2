"""Tables to batches: sources, validation, cleaning, split, encoding, the interaction log."""
