"""Segments as attributes of users, for towers, ranker and candidates."""

from dataclasses import replace
from functools import lru_cache

import polars as pl

from recsys.config.schema import SegmentsConfig
from recsys.data.prepared import Prepared
from recsys.errors import ConfigError
from recsys.features import Feature, FeatureSpec
from recsys.segments.fit import fit_wanted
from recsys.segments.model import PREFIX, SegmentModel

CUTS_KEPT = 8
"""Cuts whose users stay in memory; snapshots and refits ask for the same few again and again."""


def with_segments(prepared: Prepared, settings: SegmentsConfig, seed: int) -> tuple[Prepared, SegmentModel | None]:
    """Give users the attributes ``segment_rfm`` and so on for each kind of ``settings.features``, as of any cut.

    The segments are fitted once, on the training window, so that a name means the same at every cut; who is in which
    follows from the events before the cut alone. Users without an event have none but a demographic group.

    Returns:
        The prepared data with these attributes, and the segments; as it was, and None, where none are asked for.

    Raises:
        ConfigError: An attribute has the name already, or a kind needs attributes that the users do not have.
        DataError: Nobody has bought in the training window.
    """
    if not settings.features:
        return prepared, None
    taken = {f.name for f in prepared.spec} | set(prepared.users.columns)
    for kind in settings.features:
        if PREFIX + kind in taken:
            raise ConfigError(
                f"segments.features: '{kind}' becomes the user attribute '{PREFIX}{kind}', and the data have one"
                " of that name; rename it in data.user_columns, or leave it out with data.user_attributes."
            )
    model = fit_wanted(prepared, settings, seed, "features")

    @lru_cache(CUTS_KEPT)
    def users_at(cut: int) -> pl.DataFrame:
        return prepared.users.hstack(model.attributes(prepared.events, prepared.users, cut))

    added = (Feature(PREFIX + kind, "user", "id") for kind in model.kinds)
    return replace(prepared, spec=FeatureSpec((*prepared.spec, *added)), users_at=users_at), model
