"""Regular expressions of the rules, which the table's engine must be able to read."""

import polars as pl

from recsys.errors import ConfigError


def check_pattern(key: str, pattern: str | None) -> None:
    """Check a pattern before a table is searched with it.

    Raises:
        ConfigError: It uses what the engine does not have, such as looking ahead.
    """
    try:
        pl.select(pl.lit("").str.contains(pl.lit(pattern or "")))
    except pl.exceptions.ComputeError:
        raise ConfigError(
            f"{key}='{pattern}': cannot be read; legal are Rust's regular expressions, which neither look ahead or"
            " back nor refer to groups."
        ) from None
