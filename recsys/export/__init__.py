"""From trained models to a bundle: written, proven, sealed; what changes a sealed one: metrics, erasure, products."""
