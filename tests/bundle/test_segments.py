"""People whom the bundle does not know are put into segments by their fresh events."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recsys.bundle.format import SEGMENTS
from recsys.bundle.histories import NOTHING, Fresh
from recsys.bundle.reader import Bundle
from recsys.bundle.requests import microseconds
from recsys.bundle.segments import ITEM_VALUE, FreshSegments
from recsys.config.schema import SegmentsConfig
from recsys.data.encode import Encoder
from recsys.export.bundle import export_bundle
from recsys.features import Feature, FeatureSpec
from recsys.segments.fit import fit_segments
from recsys.segments.model import SegmentModel

KINDS = ["rfm", "kmeans", "demographic", "intent"]


@pytest.fixture(scope="module")
def shop(shop_maker: Callable[..., Any]) -> Any:
    """The shop with prices, one an item, whose user tower reads the RFM segment."""
    shop = shop_maker(3)
    shop.user_tower.segment = torch.nn.Embedding(32, shop.user_tower.segment.embedding_dim, padding_idx=0)
    worth = shop.items.select("item_id", value=pl.int_range(1, len(shop.items) + 1).cast(pl.Float64))
    return replace(shop, events=shop.events.join(worth, on="item_id", how="left", maintain_order="left"))


@pytest.fixture(scope="module")
def model(shop: Any) -> SegmentModel:
    cut = microseconds(shop.arguments()["cut"], "cut")
    settings = SegmentsConfig(kinds=KINDS, ks=[2, 3], demographics=["segment"], min_share=0.0)
    return fit_segments(shop.events, shop.users, cut, settings)


@pytest.fixture(scope="module")
def bundles(shop: Any, model: SegmentModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """With the segments, and without."""
    cut: datetime = shop.arguments()["cut"]
    users = shop.users.hstack(model.attributes(shop.events, shop.users, microseconds(cut, "cut")))
    spec = FeatureSpec(
        tuple(replace(f, column="segment_rfm") if f.name == "segment" else f for f in shop.encoder.spec)
        + tuple(Feature(f"segment_{kind}", "user", "id") for kind in KINDS[1:])
    )
    encoder = Encoder.fit(spec, shop.events.filter(pl.col("timestamp") < cut), shop.items, users)
    out = []
    for name, segments in (("with", model), ("without", None)):
        folder: Path = tmp_path_factory.mktemp(name) / "bundle"
        export_bundle(folder, **shop.arguments(users=users, encoder=encoder, segments=segments, second=None))
        out.append(Bundle.load(folder))
    return out[0], out[1]


def test_a_stranger_who_did_the_same_is_in_the_same_segments(shop: Any, model: SegmentModel, bundles: Any) -> None:
    bundle, _ = bundles
    cut = microseconds(shop.arguments()["cut"], "cut")
    numbers = {item: row for row, item in enumerate(bundle.item_ids.to_list())}
    past = shop.events.filter(pl.col("timestamp") < shop.arguments()["cut"])
    users = past["user_id"].unique(maintain_order=True).head(12).to_list()
    fresh = []
    for user in users:
        own = past.filter(pl.col("user_id") == user)
        items = torch.tensor([numbers[item] for item in own["item_id"]]).numpy()
        fresh.append(Fresh(items, own["timestamp"].dt.epoch("us").to_numpy()))
    inputs = bundle._towers.inputs
    n = len(users)
    seen = inputs.people([None] * n, [-1] * n, fresh, [cut] * n)
    known = inputs.people(users, bundle._ids.users(users), [NOTHING] * n, [cut] * n)
    for name in ("segment", "segment_kmeans", "segment_intent"):
        assert torch.equal(seen[name], known[name]), name
    assert len(set(known["segment"].tolist())) > 2
    vocabulary = inputs.encoder.encode(
        inputs.users.head(0).clear(n=1).with_columns(segment_demographic=pl.lit("unknown")), "user"
    )
    assert set(seen["segment_demographic"].tolist()) == set(vocabulary["segment_demographic"].tolist())


def test_a_catalogue_without_a_known_value_has_none(bundles: Any, tmp_path: Path) -> None:
    bundle, _ = bundles
    items = bundle.items.with_columns(pl.lit(None, pl.Float64).alias(ITEM_VALUE))
    assert FreshSegments.load(bundle.folder / SEGMENTS, items).values is None
    assert FreshSegments.load(bundle.folder / SEGMENTS, bundle.items).values is not None


def test_each_request_counts_from_its_own_time(shop: Any, bundles: Any) -> None:
    """And known people keep the segments of the cut, whatever a stranger beside them did."""
    inputs, cut = bundles[0]._towers.inputs, microseconds(shop.arguments()["cut"], "cut")
    day = 86_400_000_000
    items = torch.arange(3).numpy()
    one = Fresh(items, torch.tensor([cut, cut + day, cut + 2 * day]).numpy())
    later = Fresh(items, one.times + 9 * day)
    user = bundles[0].user_ids[0]
    both = inputs.people([None, user, None], [-1, 0, -1], [one, later, later], [cut + 2 * day, cut, cut + 11 * day])
    alone = inputs.people([user], [0], [NOTHING], [cut])
    for name in ("segment", "segment_kmeans", "segment_intent"):
        assert both[name][0] == both[name][2]
        assert both[name][1] == alone[name][0]
    nothing = inputs.people([None], [-1], [NOTHING], [cut])
    assert (
        nothing["segment"][0] == inputs.people([None], [-1], [NOTHING], [cut + day])["segment"][0] != both["segment"][0]
    )


def test_the_user_tower_reads_them(shop: Any, bundles: Any) -> None:
    with_segments, without = bundles
    assert ITEM_VALUE in with_segments.items.columns
    assert ITEM_VALUE not in without.items.columns
    history = [(item, shop.arguments()["cut"] + timedelta(hours=n)) for n, item in enumerate(shop.items["item_id"][:4])]
    one, other = (bundle.embed_users([None], histories=[history]) for bundle in bundles)
    assert not torch.allclose(one, other)
    assert torch.equal(*(bundle.embed_users([None]) for bundle in bundles))
    users = with_segments.user_ids[:5]
    assert torch.equal(*(bundle.embed_users(users) for bundle in bundles))
