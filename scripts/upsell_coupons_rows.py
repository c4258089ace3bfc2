"""Households that received a campaign, what was known of them when it began, and whether they redeemed."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from recsys.columns import BASKET_ID, ITEM_ID, QUANTITY, TIMESTAMP, USER_ID, VALUE
from recsys.data.dataset import microseconds
from recsys.segments.behaviour import behaviour
from recsys.segments.rfm import fit_rfm

TABLES = ("campaigns", "campaign_descriptions", "coupons", "coupon_redemptions", "transactions", "products")
BEHAVIOUR = ("frequency", "recency", "tenure", "gap", "monetary", "spend", "basket_size", "variety", "repeat")
RFM = ("rfm_recency", "rfm_frequency", "rfm_monetary")
AFFINITY = ("coupon_lines", "coupon_baskets", "coupon_products", "coupon_recency", "coupon_share", "type_share")
DEALS = ("redeemed_lines", "redeemed_share", "discounted_share")
PAST = ("received", "redeemed_campaigns", "redeemed_rate", "redeemed_recency")
OFFER = ("type_a", "type_b", "days", "coupons", "products")
FEATURES = (*BEHAVIOUR, *RFM, *AFFINITY, *DEALS, *PAST, *OFFER)
"""Columns that models learn from; everything is as of the first moment of the campaign."""


@dataclass(frozen=True)
class Coupons:
    """The tables of Complete Journey; ids and columns as they come, times in UTC, microseconds.

    Attributes:
        campaigns: ``campaign_id, household_id``: who received it.
        descriptions: ``campaign_id, campaign_type, start_date, end_date``.
        coupons: ``coupon_upc, product_id, campaign_id``.
        redemptions: ``household_id, coupon_upc, campaign_id, redemption_date``.
        transactions: Lines of baskets.
        products: ``product_id`` and attributes.
    """

    campaigns: pl.DataFrame
    descriptions: pl.DataFrame
    coupons: pl.DataFrame
    redemptions: pl.DataFrame
    transactions: pl.DataFrame
    products: pl.DataFrame

    @classmethod
    def read(cls, folder: Path) -> "Coupons":
        """Read the Parquet files of the package, or others with their columns."""
        times = pl.selectors.datetime().dt.cast_time_unit("us").dt.replace_time_zone("UTC")
        return cls(*(pl.read_parquet(folder / f"{name}.parquet").with_columns(times) for name in TABLES))

    @property
    def end(self) -> datetime:
        """The last moment of the data: what was redeemed later is not known."""
        last = self.transactions["transaction_timestamp"].max()
        assert isinstance(last, datetime)
        return last


def campaign_rows(data: Coupons) -> pl.DataFrame:
    """Return a row for each household and campaign it received: ids, dates, ``redeemed`` and :data:`FEATURES`.

    Campaigns come in the order in which they began; those that began before the first transaction are left out, as
    nothing was known then.
    """
    first = data.transactions["transaction_timestamp"].min()
    begun = data.descriptions.filter(pl.col("start_date") > first).sort("start_date", "campaign_id")
    return pl.concat([rows_of(data, campaign) for campaign in begun.iter_rows(named=True)])


def rows_of(data: Coupons, campaign: dict[str, object]) -> pl.DataFrame:
    """Return the rows of one campaign, sorted by household.

    Args:
        data: All tables; of transactions and redemptions only those before the start shape the features.
        campaign: A row of ``descriptions``.
    """
    number, start = campaign["campaign_id"], campaign["start_date"]
    assert isinstance(start, datetime)
    here = pl.col("campaign_id") == number
    households = data.campaigns.filter(here).select(pl.col("household_id").unique()).sort("household_id")
    past = data.transactions.filter(pl.col("transaction_timestamp") < start)
    coupons = data.coupons.filter(here)
    parts = [_behaviour(past, start), _affinity(past, coupons, data.products, start), _deals(past), _past(data, start)]
    rows = households
    for part in parts:
        rows = rows.join(part, on="household_id", how="left", maintain_order="left")
    redeemed = data.redemptions.filter(here)["household_id"].unique()
    end = campaign["end_date"]
    assert isinstance(end, datetime)
    offer = {
        "type_a": float(campaign["campaign_type"] == "Type A"),
        "type_b": float(campaign["campaign_type"] == "Type B"),
        "days": float((end - start).days),
        "coupons": float(coupons["coupon_upc"].n_unique()),
        "products": float(coupons["product_id"].n_unique()),
    }
    known = {name: pl.col(name).cast(pl.Float64) for name in FEATURES if name not in offer}
    zero = (*AFFINITY, *DEALS, *PAST, "frequency", "monetary")
    known |= {name: known[name].fill_null(0.0) for name in zero if not name.endswith("recency")}
    return rows.select(
        pl.lit(number).alias("campaign_id"),
        pl.lit(str(campaign["campaign_type"])).alias("campaign_type"),
        pl.lit(start).alias("start"),
        pl.lit(end).alias("end"),
        "household_id",
        pl.col("household_id").is_in(redeemed.implode()).alias("redeemed"),
        *(known[name] if name in known else pl.lit(offer[name]).alias(name) for name in FEATURES),
    )


def _behaviour(past: pl.DataFrame, start: datetime) -> pl.DataFrame:
    """Return what the project knows of users as of a cut, and their RFM scores among all households then."""
    events = past.select(
        pl.col("household_id").alias(USER_ID),
        pl.col("product_id").alias(ITEM_ID),
        pl.col("transaction_timestamp").alias(TIMESTAMP),
        pl.col("basket_id").alias(BASKET_ID),
        pl.col("quantity").alias(QUANTITY),
        pl.col("sales_value").alias(VALUE),
    )
    table = behaviour(events, microseconds(start))
    table = table.with_columns(fit_rfm(table).score(table).select(RFM))
    return table.select(pl.col(USER_ID).alias("household_id"), *BEHAVIOUR, *RFM)


def _affinity(past: pl.DataFrame, coupons: pl.DataFrame, products: pl.DataFrame, start: datetime) -> pl.DataFrame:
    """Return how much each household had bought of the coupons' products, and of their types."""
    on_offer = coupons.select(pl.col("product_id").unique()).with_columns(hit=pl.lit(value=True))
    types = on_offer.join(products, on="product_id").select(pl.col("product_type").drop_nulls().unique())
    lines = past.select("household_id", "product_id", "basket_id", "transaction_timestamp")
    lines = lines.join(on_offer, on="product_id", how="left").join(
        products.select("product_id", "product_type"), on="product_id", how="left"
    )
    hit = pl.col("hit").fill_null(value=False)
    age = (pl.lit(start) - pl.col("transaction_timestamp")).dt.total_seconds() / 86_400
    return lines.group_by("household_id").agg(
        coupon_lines=hit.sum(),
        coupon_baskets=pl.col("basket_id").filter(hit).n_unique(),
        coupon_products=pl.col("product_id").filter(hit).n_unique(),
        coupon_recency=age.filter(hit).min(),
        coupon_share=hit.mean(),
        type_share=pl.col("product_type").is_in(types["product_type"].implode()).mean(),
    )


def _deals(past: pl.DataFrame) -> pl.DataFrame:
    """Return how much of each household's lines came with a coupon, and with any discount of the shop."""
    with_coupon = (pl.col("coupon_disc") > 0) | (pl.col("coupon_match_disc") > 0)
    return past.group_by("household_id").agg(
        redeemed_lines=with_coupon.sum(),
        redeemed_share=with_coupon.mean(),
        discounted_share=(pl.col("retail_disc") > 0).mean(),
    )


def _past(data: Coupons, start: datetime) -> pl.DataFrame:
    """Return the campaigns that each household had received before, and what it had redeemed until then."""
    begun = data.descriptions.filter(pl.col("start_date") < start).select("campaign_id")
    received = data.campaigns.join(begun, on="campaign_id").group_by("household_id").agg(received=pl.len())
    before = data.redemptions.filter(pl.col("redemption_date") < start)
    age = (pl.lit(start) - pl.col("redemption_date")).dt.total_seconds() / 86_400
    redeemed = before.group_by("household_id").agg(
        redeemed_campaigns=pl.col("campaign_id").n_unique(), redeemed_recency=age.min()
    )
    both = received.join(redeemed, on="household_id", how="full", coalesce=True)
    return both.with_columns(redeemed_rate=pl.col("redeemed_campaigns") / pl.col("received").clip(1))
