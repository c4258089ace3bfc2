"""Raw ids to the rows of a bundle's tables."""

from collections.abc import Sequence
from dataclasses import dataclass
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
    told_events,
)  # fmt: skip
from recsys.bundle.touchpoints import anchor_rows
from recsys.columns import USER_ID
from recsys.errors import BundleError


@dataclass(frozen=True)
class Asking:
    """Who asks: B requests.

    Attributes:
        ids: Raw ids.
        rows: Of the users' tables, -1 for who is unknown.
        fresh: Events since the cut.
        now: Time of all requests, microseconds since 1970 UTC.
        context: B rows of the moment; None for a batch job.
        told: B rows of what they say of themselves; None for nothing.
        is_plain: Whether they bring nothing but their ids.
    """

    ids: list[Id | None]
    rows: list[int]
    fresh: list[Fresh]
    now: int
    context: pl.DataFrame | None
    told: pl.DataFrame | None
    is_plain: bool

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, some: slice) -> "Asking":
        """Return some of the requests."""
        context = None if self.context is None else self.context[some]
        told = None if self.told is None else self.told[some]
        return Asking(self.ids[some], self.rows[some], self.fresh[some], self.now, context, told, self.is_plain)


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
        self._relevant = tuple(manifest.relevant)

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

    def asking(
        self,
        users: Sequence[Id | None] | pl.Series,
        histories: Sequence[Sequence[Event] | None] | None = None,
        as_of: datetime | None = None,
        context: pl.DataFrame | None = None,
        told: pl.DataFrame | None = None,
    ) -> Asking:
        """Return who asks, and what they bring; arguments as :meth:`recsys.bundle.reader.Bundle.embed_users`.

        Args:
            users: Raw ids, B of them.
            histories: For each the events since the cut.
            as_of: Time of the request.
            context: B rows of the moment.
            told: Attributes, of :func:`recsys.bundle.cold.told_attributes`.

        Raises:
            BundleError: An id of the wrong type, or as :func:`~recsys.bundle.requests.told_events`,
                :func:`~recsys.bundle.requests.request_time` and :func:`~recsys.bundle.requests.fresh_events`.
        """
        ids = checked_ids(users, self._user_type, USER_ID)
        events = told_events(histories, len(ids))
        now = request_time(as_of, self._cut, events)
        fresh = fresh_events(events, self._item_rows, self._item_type, now, self._relevant)
        is_plain = as_of is None and histories is None and context is None and told is None
        return Asking(ids, self.users(ids), fresh, now, context, told, is_plain)

    def allowed(self, exclude: Sequence[Id] | pl.Series, allow: Sequence[Id] | pl.Series | None) -> Tensor | None:
        """Return the item rows that anybody may get, as :func:`~recsys.bundle.requests.allowed_rows`."""
        return allowed_rows(exclude, allow, self._item_rows, self._item_type)

    def anchors(self, items: Sequence[Sequence[Id]] | None, n_requests: int) -> list[Tensor]:
        """Return the item rows that each of B requests brought, as :func:`~recsys.bundle.touchpoints.anchor_rows`."""
        return anchor_rows(items, n_requests, self._item_rows, self._item_type)
