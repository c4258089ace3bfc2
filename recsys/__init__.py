"""Two-stage recommendation for e-commerce: from an event log to a registered, servable bundle."""

__version__ = "0.1.0"
