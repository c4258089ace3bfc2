"""The small shop and its bundle, for the tests of the reader."""

from tests.bundle.shop import bundle, exported, shop, shop_maker

__all__ = ["bundle", "exported", "shop", "shop_maker"]
