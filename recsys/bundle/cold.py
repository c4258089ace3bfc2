"""People whom the bundle does not know, by what they say about themselves and where they ask."""

import polars as pl
import torch
from torch import Tensor

from recsys.columns import USER_ID
from recsys.data.dtypes import as_stored, plain_attributes
from recsys.data.encode import Encoder
from recsys.data.topk import NONE
from recsys.errors import BundleError, DataError, did_you_mean
from recsys.features import FIRST_ID, FeatureSpec


def told_attributes(attributes: pl.DataFrame, n_users: int, users: pl.DataFrame) -> pl.DataFrame:
    """Return what B requests say about their users, in the types that the bundle has these attributes in.

    Args:
        attributes: B rows; columns are attributes of ``users``, nulls are not told.
        n_users: B.
        users: Of the bundle.

    Raises:
        BundleError: There are not B rows, an attribute that the bundle does not have, or values of another type.
    """
    if len(attributes) != n_users:
        raise BundleError(f"attributes: {len(attributes)} rows given for {n_users} users; give one for each.")
    legal = [name for name in users.columns if name != USER_ID]
    for name in attributes.columns:
        if name not in legal:
            raise BundleError(
                f"attributes: '{name}' is no attribute of this bundle's users; legal: {', '.join(legal) or 'none'}."
                + did_you_mean(name, legal)
            )
    try:
        plain, _ = plain_attributes(attributes, attributes.columns, attributes.columns, "attributes")
    except DataError as error:
        raise BundleError(str(error)) from error
    found = [as_stored(column, users.schema[column.name]) for column in plain]
    for _, problems in found:
        if problems:
            raise BundleError(f"attributes: {problems[0]}")
    return plain.with_columns(column for column, _ in found)


def told_context(context: pl.DataFrame, n_users: int, spec: FeatureSpec) -> pl.DataFrame:
    """Return the context of B requests as that of the events was written: truth values as text, dates as days ...

    Args:
        context: B rows; columns that no feature reads stay as they are.
        n_users: B.
        spec: The features.

    Raises:
        BundleError: There are not B rows, or a column of a type that none of the events could have had.
    """
    if len(context) != n_users:
        raise BundleError(f"context: {len(context)} rows given for {n_users} users; give one for each.")
    read = {f.column for f in spec.side("context") if f.kind != "timestamp"}
    names = [name for name in context.columns if name in read]
    try:
        return plain_attributes(context, names, names, "context")[0]
    except DataError as error:
        raise BundleError(str(error)) from error


def with_told(known: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    """Return users, B rows, with what they say in place of what was known of them, where they say something."""
    return known.with_columns(pl.coalesce(told[name], known[name]).alias(name) for name in told.columns)


def group_codes(
    name: str, encoder: Encoder, people: dict[str, Tensor], context: pl.DataFrame | None, n_users: int
) -> Tensor:
    """Return the group of each of B strangers by what they say, or by where they ask, int64 ``[B]``, -1 for none.

    Args:
        name: Of the attribute of users, or of the context feature, that makes the groups.
        encoder: Says which values are known.
        people: Encoded features of the users.
        context: B rows of the moment; None for none.
        n_users: B.
    """
    codes = people.get(name)
    for feature in encoder.spec.side("context"):
        if feature.name == name and context is not None and feature.column in context.columns:
            codes = encoder.encode_column(feature, context[feature.column])
    if codes is None:
        return torch.full((n_users,), NONE)
    return torch.where(codes >= FIRST_ID, codes, NONE)
