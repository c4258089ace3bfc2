"""What a run would do, found out before it does it: its tables by a sample, its places, its memory and time."""
