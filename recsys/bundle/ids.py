"""Raw ids to the rows of a bundle's tables."""

from collections.abc import Sequence
from datetime import datetime

import polars as pl
from torch import Tensor

from recsys.bundle.format import Manifest
from recsys.bundle.histories import Fresh
from recsys.bundle.requests import (
    Event,
    Id,
    allowed_rows,
    checked_ids,
    fresh_events,
    microseconds,
    request_time,
)  # fmt: skip
from recsys.bundle.touchpoints import anchor_rows
from recsys.columns import USER_ID
from recsys.errors import BundleError


class Ids:
    """The ids of a bundle; nothing in it changes.

    Args:
        manifest: With the types of the ids and the cut.
        users: Ids in the order of the users' tables, ``[U]``.
        items: Ids in the order of the items' tables, ``[N]``.
    """

    def __init__(self, manifest: Manifest, users: pl.Series, items: pl.Series) -> None:
        self._user_type, self._item_type = manifest.user_id_type, manifest.item_id_type
        self._user_rows: dict[Id, int] = {user: row for row, user in enumerate(users.to_list())}
        self._item_rows: dict[Id, int] = {item: row for row, item in enumerate(items.to_list())}
        self._cut = microseconds(datetime.fromisoformat(manifest.cut), "cut")

    def checked_users(self, ids: Sequence[Id | None] | pl.Series) -> list[Id | None]:
        """Return plain user ids of the bundle's type; None stays None.

        Raises:
            BundleError: A value has another type.
        """
        return checked_ids(ids, self._user_type, USER_ID)

    def users(self, ids: Sequence[Id | None]) -> list[int]:
        """Return user rows, -1 for those that are not known."""
        return [-1 if user is None else self._user_rows.get(user, -1) for user in ids]

    def items(self, item_ids: Sequence[Id] | pl.Series) -> list[int]:
        """Return item rows.

        Raises:
            BundleError: An item is not in the catalogue, or an id has the wrong type.
        """
        ids = checked_ids(item_ids, self._item_type, "item_ids")
        rows = [-1 if item is None else self._item_rows.get(item, -1) for item in ids]
        if -1 in rows:
            raise BundleError(
                f"item_ids: {rows.count(-1)} of {len(rows)} are not in the catalogue, such as {ids[rows.index(-1)]!r}."
            )
        return rows

    def fresh(
        self, histories: Sequence[Sequence[Event] | None] | None, n_requests: int, as_of: datetime | None
    ) -> tuple[int, list[Fresh]]:
        """Return the time of B requests in microseconds since 1970 UTC, and their fresh events.

        Raises:
            BundleError: As :func:`~recsys.bundle.requests.request_time` and :func:`fresh_events`.
        """
        now = request_time(as_of, self._cut, histories)
        return now, fresh_events(histories, n_requests, self._item_rows, self._item_type, now)

    def allowed(self, exclude: Sequence[Id] | pl.Series, allow: Sequence[Id] | pl.Series | None) -> Tensor | None:
        """Return the item rows that anybody may get, as :func:`~recsys.bundle.requests.allowed_rows`."""
        return allowed_rows(exclude, allow, self._item_rows, self._item_type)

    def anchors(self, items: Sequence[Sequence[Id]] | None, n_requests: int) -> list[Tensor]:
        """Return the item rows that each of B requests brought, as :func:`~recsys.bundle.touchpoints.anchor_rows`."""
        return anchor_rows(items, n_requests, self._item_rows, self._item_type)
