"""The bundle: what a training run hands to the serving team, its export and its reader."""
