"""Plain modules: embeddings, the two towers, losses."""
