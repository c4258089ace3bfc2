"""From raw ids, histories and times to the tensors that the towers read."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recsys.bundle.cold import with_told
from recsys.bundle.histories import NOTHING, Fresh, Histories
from recsys.bundle.segments import FreshSegments
from recsys.columns import ITEM_ID, TIMESTAMP, USER_ID
from recsys.data.encode import Encoder
from recsys.data.log import as_time
from recsys.errors import BundleError
from recsys.features import OOV_ID

Id = int | str
Event = Id | tuple[Id, datetime] | tuple[Id, datetime | None, str | None]
"""An item, an item and when, or these and the type of the event; without a time it happened just before the request,
and without a type it counts, as a purchase does."""
Told = tuple[Id, datetime | None, str | None]
"""An item, when, and the type of the event."""

ASOF = ("popularity", "age")
"""Item features as of the cut, made by the data side and stored with the catalogue as the item tower reads them."""
ASOF_COLUMN = {name: f"asof/{name}" for name in ASOF}
"""Their columns in the catalogue, beside attributes of any name."""
ELIGIBLE = "asof/eligible"
"""Whether the item may be recommended."""
ADDED = "asof/added"
"""Whether an item joined after the fit, with a vector that is stored; bundles without such items lack the column."""
DTYPES = {"int": pl.Int64, "str": pl.String}


@dataclass(frozen=True)
class UserInputs:
    """Everything that stands between a raw request and the user tower.

    Attributes:
        encoder: Vocabularies and statistics.
        users: ``user_id`` and attributes, U rows.
        table: Item feature -> ``[N + 2, ...]``: row 0 is padding, row ``i + 1`` item ``i``, the last one an
            item that the bundle does not know.
        histories: The stored past.
        length: L of the model.
        user_type: ``int`` or ``str``.
        segments: Of people whom the bundle does not know; None where segments are no attributes.
    """

    encoder: Encoder
    users: pl.DataFrame
    table: dict[str, Tensor]
    histories: Histories
    length: int
    user_type: str
    segments: FreshSegments | None = None

    @property
    def n_items(self) -> int:
        """N; as an item row it stands for an item that the bundle does not know."""
        return len(next(iter(self.table.values()))) - 2

    @cached_property
    def _known(self) -> dict[str, Tensor]:
        """Encoded features of the users that the bundle knows, ``[U]`` or ``[U, slots]``."""
        return self.encoder.encode(self.users, "user")

    @cached_property
    def _no_moment(self) -> dict[str, Tensor]:
        """Encoded context of one request that brings none."""
        return self.encoder.encode(self._moment(pl.DataFrame({"asof/row": [0]})), "context")

    def _moment(self, context: pl.DataFrame) -> pl.DataFrame:
        """Add the columns of the context that are missing, as missing values.

        Raises:
            BundleError: A time has a type that none can be read from.
        """
        for feature in self.encoder.spec.side("context"):
            dtype = context.schema.get(feature.column, pl.Null())
            if feature.kind == "timestamp" and dtype not in (pl.Datetime, pl.Date, pl.Null):
                raise BundleError(f"context: column '{feature.column}' is {dtype}; make it a datetime.")
        absent = {f.column for f in self.encoder.spec.side("context")} - set(context.columns)
        return context.with_columns(pl.lit(None).alias(c) for c in sorted(absent))

    def people(
        self,
        user_ids: Sequence[Id | None],
        rows: Sequence[int],
        fresh: Sequence[Fresh],
        now: Sequence[int],
        told: pl.DataFrame | None = None,
    ) -> dict[str, Tensor]:
        """Return the encoded features of users, ``[B]`` or ``[B, slots]``; arguments as :meth:`build` takes them.

        The attributes of who is unknown are missing, but for what is ``told`` and for segments, which follow from the
        fresh events.
        """
        if told is None and min(rows, default=-1) >= 0:
            return {name: column[list(rows)] for name, column in self._known.items()}
        asked = pl.DataFrame({USER_ID: pl.Series(list(user_ids), dtype=DTYPES[self.user_type])})
        found = asked.join(self.users, on=USER_ID, how="left", maintain_order="left")
        if self.segments is not None and min(rows, default=0) < 0:
            unknown = pl.Series([row < 0 for row in rows])
            theirs = self.segments.attributes(fresh, now)
            found = found.with_columns(found[column.name].zip_with(~unknown, column) for column in theirs)
        if told is not None:
            found = with_told(found, told)
        return self.encoder.encode(found, "user")

    def build(
        self,
        user_ids: Sequence[Id | None],
        rows: Sequence[int],
        fresh: Sequence[Fresh],
        now: Sequence[int],
        context: pl.DataFrame | None,
        told: pl.DataFrame | None = None,
    ) -> dict[str, Tensor]:
        """Return the user tower's input for B requests.

        Args:
            user_ids: Raw ids; None is a visitor without one.
            rows: User rows, -1 where unknown.
            fresh: Events to append to each history.
            now: Time of each request, microseconds since 1970 UTC.
            context: B rows of context columns; missing columns are missing values, but ``timestamp`` is then
                ``now``. None: a batch job, which has no hour and no store.
            told: What the users say about themselves, B rows, from :func:`recsys.bundle.cold.told_attributes`.

        Raises:
            BundleError: A time of the context is none.
        """
        inputs = self.people(user_ids, rows, fresh, now, told)

        if context is None:  # a batch job: its own hour of the day says nothing about the customers'
            inputs |= {name: column[[0] * len(user_ids)] for name, column in self._no_moment.items()}
        else:
            asked_at = pl.Series(TIMESTAMP, list(now), dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))
            moment = asked_at.to_frame().with_columns(context.get_columns())
            inputs |= self.encoder.encode(self._moment(moment), "context")

        past = self.histories.gather(rows, fresh, now, self.length)
        places = torch.from_numpy(past.items + 1)
        inputs |= {f"history/{name}": column[places] for name, column in self.table.items()}
        inputs["history/age"] = torch.from_numpy(past.age)
        inputs["history/repeats"] = torch.from_numpy(past.repeats)
        return inputs


def item_table(encoder: Encoder, items: pl.DataFrame) -> dict[str, Tensor]:
    """Encode the catalogue once, with a padding row in front and a row for unknown items at the end."""
    encoded = encoder.encode(items, "item")
    nothing = encoder.encode(items.clear(n=1), "item")
    table = {name: torch.cat([nothing[name], column, nothing[name]]) for name, column in encoded.items()}
    for feature in encoder.spec.side("item"):
        if feature.column == ITEM_ID:
            table[feature.name][-1] = OOV_ID
    return table


def checked_ids(values: Sequence[Id | None] | Sequence[Id] | pl.Series, kind: str, what: str) -> list[Id | None]:
    """Return plain ids of the bundle's type; None stays None.

    Raises:
        BundleError: They are no list, or a value has another type.
    """
    if isinstance(values, str) or not np.iterable(values):
        raise BundleError(f"{what}: {values!r} is no list; give a list of ids.")
    out: list[Id | None] = []
    for value in values:
        if value is None or (kind == "str" and isinstance(value, str)):
            out.append(value)
        elif kind == "int" and not isinstance(value, bool | np.bool_) and hasattr(value, "__index__"):
            whole = operator.index(value)
            if not -(2**63) <= whole < 2**63:
                raise BundleError(f"{what}: {whole} does not fit into 64 bits, as this bundle's ids do. Correct it.")
            out.append(whole)
        else:
            raise BundleError(
                f"{what}: {value!r} is a {type(value).__name__}; this bundle's ids are {kind}. Convert the column."
            )
    return out


def allowed_rows(
    exclude: Sequence[Id] | pl.Series,
    allow: Sequence[Id] | pl.Series | None,
    item_rows: Mapping[Id, int],
    item_type: str,
) -> Tensor | None:
    """Return the item rows that anybody may get, bool ``[N]``; None: all.

    Args:
        exclude: Items to leave out; unknown ones do no harm.
        allow: The only items to take; None: all.
        item_rows: Raw item id -> row.
        item_type: ``int`` or ``str``.

    Raises:
        BundleError: An id has the wrong type.
    """
    left_out = checked_ids(exclude, item_type, "exclude")
    if allow is None and not left_out:
        return None
    mask = torch.full((len(item_rows),), allow is None)
    for ids, value in ((() if allow is None else checked_ids(allow, item_type, "allow"), True), (left_out, False)):
        mask[[item_rows[i] for i in ids if i is not None and i in item_rows]] = value
    return mask


def told_events(histories: Sequence[Sequence[Event] | None] | None, n_requests: int) -> list[list[Told]]:
    """Return the raw events of each of B requests with their times and types, None for an event without one.

    Args:
        histories: For each request its events, oldest first; None for none.
        n_requests: B.

    Raises:
        BundleError: They are no lists, there are not B of them, or a tuple is no event.
    """
    if histories is None:
        return [[]] * n_requests
    if isinstance(histories, str) or not hasattr(histories, "__len__"):
        raise BundleError(f"histories: {histories!r} is no list; give one with a history (or None) for each user.")
    if len(histories) != n_requests:
        raise BundleError(f"histories: {len(histories)} given for {n_requests} users; give one (or None) for each.")
    return [[] if history is None else _told(history) for history in histories]


def _told(history: Sequence[Event]) -> list[Told]:
    if isinstance(history, str) or not np.iterable(history):
        raise BundleError(f"histories: {history!r} is no list; give a list of events (or None) for each user.")
    found: list[Told] = []
    for event in history:
        item, when, kind = (*event, None, None)[:3] if isinstance(event, tuple) else (event, None, None)
        if (isinstance(event, tuple) and len(event) not in (2, 3)) or not isinstance(kind, str | None):
            raise BundleError(f"histories: {event!r} is no event; give an item, or a tuple of item, time and type.")
        found.append((item, when, kind))
    return found


def request_time(as_of: datetime | None, cut: int, events: Sequence[Sequence[Told]]) -> int:
    """Return the time of a request in microseconds since 1970 UTC: ``as_of``, or the latest event, or the cut.

    Raises:
        BundleError: ``as_of`` lies before the cut, whose vectors know events after it; or has no time zone.
    """
    if as_of is not None:
        now = microseconds(as_of, "as_of")
        if now < cut:
            raise BundleError(f"as_of {as_of} lies before the bundle's cut {as_time(cut)}; take an earlier bundle.")
        return now
    timed = [when for told in events for _, when, _ in told if when is not None]
    return max([cut, *(microseconds(when, "histories") for when in timed)])


def fresh_events(
    events: Sequence[Sequence[Told]],
    item_rows: Mapping[Id, int],
    item_type: str,
    now: int,
    relevant: tuple[str, ...],
) -> list[Fresh]:
    """Turn the raw fresh history of each of B requests into item rows, times and types.

    Args:
        events: Of :func:`told_events`.
        item_rows: Raw item id -> row.
        item_type: ``int`` or ``str``.
        now: Time of the request, which events without a time get.
        relevant: The types that count; empty: all.

    Raises:
        BundleError: An id has the wrong type, or an event is later than ``now``.
    """
    parsed = []
    for told in events:
        if not told:
            parsed.append(NOTHING)
            continue
        ids = checked_ids([item for item, _, _ in told], item_type, "histories")
        times = [now if when is None else microseconds(when, "histories") for _, when, _ in told]
        if max(times) > now:
            raise BundleError(f"histories: an event at {as_time(max(times))} is later than as_of {as_time(now)}.")
        # an item that is not in the catalogue is an event all the same
        rows = [len(item_rows) if item is None else item_rows.get(item, len(item_rows)) for item in ids]
        types = [kind for _, _, kind in told]
        parsed.append(Fresh(np.array(rows, dtype=np.int64), np.array(times, dtype=np.int64), types, relevant))
    return parsed


def microseconds(when: datetime, what: str) -> int:
    """Return microseconds since 1970 UTC.

    Raises:
        BundleError: It is no time, or has no zone.
    """
    if not isinstance(when, datetime):
        raise BundleError(f"{what}: {when!r} is a {type(when).__name__}; give an aware datetime, such as UTC.")
    if when.tzinfo is None:
        raise BundleError(f"{what}: {when} has no time zone; give an aware datetime, such as UTC.")
    return round((when - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)
