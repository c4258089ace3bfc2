"""Metrics, baselines, significance, the comparison table."""
