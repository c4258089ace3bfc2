"""Category text in one way of writing, so that one category is one value."""

from collections.abc import Sequence

import polars as pl

from recsys.columns import ITEM_ID, TIMESTAMP
from recsys.data.cleaning.finding import Finding
from recsys.errors import DataError, did_you_mean

_DASHES = "[\u2010-\u2015\u2212]"
_SINGLE, _DOUBLE = "[\u2018\u2019\u201a\u201b`\u00b4]", "[\u201c\u201d\u201e\u00ab\u00bb]"
_MARKS = "/:|>,;&"


def plain_text(text: pl.Expr) -> pl.Expr:
    """Return text in NFKC and lower case, with plain dashes and quotes and single spaces.

    There is no space around ``/ : | > , ; &`` and no punctuation at the ends; text of nothing else becomes null.
    """
    written = (
        text.str.normalize("NFKC")
        .str.to_lowercase()
        .str.replace_all(_DASHES, "-")
        .str.replace_all(_SINGLE, "'")
        .str.replace_all(_DOUBLE, '"')
        .str.replace_all(r"\s+", " ")
        .str.replace_all(rf" ?([{_MARKS}]) ?", "${1}")
        .str.strip_chars(" .,;:|/>-_*'\"")
    )
    return pl.when(written != "").then(written)


def same_writing(frame: pl.DataFrame, columns: Sequence[str]) -> tuple[pl.DataFrame, tuple[Finding, ...]]:
    """Write the text of each column in one way.

    Raises:
        DataError: A column that the table does not have, or that holds no text.
    """
    findings = []
    for name in columns:
        require_text(frame, name, "data.cleaning.text")
        before = frame[name]
        frame = frame.with_columns(plain_text(pl.col(name)).alias(name))
        changed = int((before != frame[name]).fill_null(True).sum()) - before.null_count()
        n_before, n_after = before.drop_nulls().n_unique(), frame[name].drop_nulls().n_unique()
        done = f"{n_before:,} different values of {name} are {n_after:,}"
        findings.append(Finding("text", changed, f"values of {name} written in another way", done))
    return frame, tuple(findings)


def require_text(frame: pl.DataFrame, name: str, key: str) -> None:
    """Check that a column is there, describes the item, and holds text.

    Raises:
        DataError: It is not, or does not.
    """
    attributes = [c for c in frame.columns if c not in (ITEM_ID, TIMESTAMP)]
    if name not in attributes:
        raise DataError(
            f"{key}: no item attribute '{name}'; there are: {', '.join(attributes)}." + did_you_mean(name, attributes)
        )
    if frame.schema[name] != pl.String:
        raise DataError(f"{key}: '{name}' holds {frame.schema[name]}, not text; take it out of the list.")
