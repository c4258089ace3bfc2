"""Errors meant for the person at the keyboard: one message with the place, the finding and the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches


class RecsysError(Exception):
    """Anything the user can put right; the console prints its message without a traceback."""


class ConfigError(RecsysError):
    """A key or value of the configuration is not legal."""


class DataError(RecsysError):
    """A table is missing, malformed or too small for what was asked of it."""


class BundleError(RecsysError):
    """A bundle is incomplete, changed after it was written, or of an unknown format."""


class TrackingError(RecsysError):
    """The tracking server or the model registry cannot be used."""


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest of ``options``, or an empty string."""
    near = get_close_matches(name, list(options), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
