"""Fits the segments of a shop as of one cut."""

from dataclasses import replace

import numpy as np
import polars as pl

from recsys.config.schema import SegmentsConfig
from recsys.data.dataset import microseconds
from recsys.data.log import as_time
from recsys.data.prepared import Prepared
from recsys.errors import ConfigError, DataError
from recsys.segments.behaviour import behaviour
from recsys.segments.clusters import fit_kmeans, fit_space, fit_tree
from recsys.segments.demographic import fit_demographic
from recsys.segments.intent import fit_intent
from recsys.segments.model import CLUSTERINGS, SegmentModel
from recsys.segments.rfm import fit_rfm


def fit_on_training_window(prepared: Prepared, settings: SegmentsConfig, seed: int) -> SegmentModel:
    """Fit segments of prepared data on the events before the validation window; raises as :func:`fit_segments`."""
    cut = microseconds(prepared.windows.val_start)
    return fit_segments(prepared.events, prepared.users, cut, settings, relevant=prepared.relevant, seed=seed)


def fit_wanted(prepared: Prepared, settings: SegmentsConfig, seed: int, key: str) -> SegmentModel:
    """Fit the kinds that a key of ``segments``, such as ``slices``, names; each has to have something to go by.

    Raises:
        ConfigError: One has not.
        DataError: As :func:`fit_segments`.
    """
    kinds: list[str] = getattr(settings, key)
    model = fit_on_training_window(prepared, replace(settings, kinds=kinds), seed)
    absent = [kind for kind in kinds if kind not in model.kinds]
    if absent:
        raise ConfigError(
            f"segments.{key}: '{absent[0]}' has nothing to go by, the users have no attribute of 2 to 20 values; name"
            " some in segments.demographics, or leave it out."
        )
    return model


def fit_segments(
    events: pl.DataFrame,
    users: pl.DataFrame,
    cut: int,
    settings: SegmentsConfig,
    *,
    relevant: tuple[str, ...] = (),
    seed: int = 42,
) -> SegmentModel:
    """Fit every kind of ``settings.kinds`` on the events before a cut; the order of rows plays no part.

    Args:
        events: Prepared events; those at or after the cut are not read.
        users: Prepared users; of their attributes those of users with an event before the cut.
        cut: Microseconds since 1970 UTC.
        settings: What is fitted, and how.
        relevant: Event types that count as purchases; empty: all.
        seed: Of the sample that clusters are found in, and of K-Means.

    Raises:
        ConfigError: ``settings.demographics`` names no attribute of the users.
        DataError: Nobody has bought before the cut.
    """
    cart_types = tuple(settings.cart_types)
    table = behaviour(events, cut, relevant, cart_types)
    buyers = table.filter(pl.col("frequency") > 0)
    if buyers.is_empty():
        kinds = f" of the types {', '.join(relevant)}" if relevant else ""
        raise DataError(
            f"segments: no event{kinds} before {as_time(cut).isoformat()}, so there is nobody to fit them on; check"
            " data.relevant and data.split."
        )
    wanted = set(settings.kinds)
    methods = [name for name in CLUSTERINGS if name in wanted]
    space, clusterings = None, {}
    if methods:
        space = fit_space(buyers)
        drawn = np.sort(np.random.default_rng(seed).permutation(len(buyers))[: settings.sample])
        points = space.points(buyers[drawn])
        for name in methods:
            if name == "kmeans":
                clusterings[name] = fit_kmeans(
                    points,
                    settings.ks,
                    seeds=settings.seeds,
                    seed=seed,
                    min_share=settings.min_share,
                    min_stability=settings.min_stability,
                )
            else:
                clusterings[name] = fit_tree(points, settings.ks, name, min_share=settings.min_share)
    return SegmentModel(
        cut=cut,
        relevant=tuple(relevant),
        cart_types=cart_types,
        space=space,
        clusterings=clusterings,
        rfm=fit_rfm(table) if "rfm" in wanted else None,
        demographic=fit_demographic(users, table, settings.demographics, settings.min_share)
        if "demographic" in wanted
        else None,
        intent=fit_intent(table, settings.recent_days) if "intent" in wanted else None,
    )
