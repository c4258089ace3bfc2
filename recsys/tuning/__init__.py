"""Studies over a search space: who proposes, who prunes, who works, and what came out."""
