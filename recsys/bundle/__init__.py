"""What the serving team receives: the reader of a bundle, on torch, numpy, polars and the index library alone."""
