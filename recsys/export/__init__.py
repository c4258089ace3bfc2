"""From trained models to a bundle: written, proven, sealed; and what changes a sealed one: metrics, erasure."""
