"""The reading half of a bundle: all that the serving team needs, on torch, numpy, polars and the index library."""

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.bundle import format as part
from recsys.bundle.answers import NO_ITEMS, answer, check_k, checked_ks
from recsys.bundle.cold import group_codes, told_attributes
from recsys.bundle.explore import check_share, explored, find_new, new_items
from recsys.bundle.format import Manifest, read_manifest
from recsys.bundle.histories import Fresh, Ints
from recsys.bundle.index import ItemIndex, best_items
from recsys.bundle.parts import local_folder, read_vectors
from recsys.bundle.ranking import Ranking, Requests
from recsys.bundle.requests import (
    ADDED,
    ELIGIBLE,
    Event,
    Id,
    allowed_rows,
    checked_ids,
    fresh_events,
    microseconds,
    request_time,
)  # fmt: skip
from recsys.bundle.sample import check_sample
from recsys.bundle.towers import CHUNK, Towers
from recsys.columns import ITEM_ID, USER_ID
from recsys.errors import BundleError

Dropped = Sequence[Collection[int]]
"""For each request the item rows to leave out."""


class Bundle:
    """A verified bundle in memory; nothing in it changes, so threads may share it.

    Attributes:
        folder: Where it lies.
        manifest: What the bundle says about itself.
        user_ids: Raw ids in the order of the users' tables, ``[U]``.
        item_ids: Raw ids in the order of the items' tables, ``[N]``.
        items: The catalogue: ``item_id``, attributes, ``asof/`` features and ``asof/eligible``.
        users: ``user_id`` and attributes, U rows.
        user_vectors: ``[U, D]`` float32, as of the cut.
        item_vectors: ``[N, D]`` float32, as of the cut.
        eligible: ``[N]`` bool, items that may be recommended.
        ranking: The second stage; None in a bundle of retrieval alone.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Load a folder that :meth:`load` has verified."""
        self.manifest, self.folder = manifest, folder
        self.items = pl.read_parquet(folder / part.CATALOGUE)
        self.users = pl.read_parquet(folder / part.USERS)
        self.item_ids, self.user_ids = self.items[ITEM_ID], self.users[USER_ID]
        self.user_vectors = read_vectors(folder / part.USER_EMBEDDINGS, self.user_ids)
        self.item_vectors = read_vectors(folder / part.ITEM_EMBEDDINGS, self.item_ids)
        self.eligible = torch.from_numpy(self.items[ELIGIBLE].to_numpy().copy())
        self._towers = Towers(folder, manifest, self.users, self.items)
        self._index = ItemIndex.load(folder / part.INDEX, manifest.index["search_width"])
        self._user_rows: dict[Id, int] = {user: row for row, user in enumerate(self.user_ids.to_list())}
        self._item_rows: dict[Id, int] = {item: row for row, item in enumerate(self.item_ids.to_list())}
        self._cut = microseconds(datetime.fromisoformat(manifest.cut), "cut")
        self.ranking: Ranking | None = None
        if manifest.ranker:
            self.ranking = Ranking(
                folder,
                self.item_vectors,
                self.eligible,
                self.item_ids,
                self._towers.item_features,
                manifest.ranker["temperature"],
                manifest.n_users,
                manifest.signatures["ranker"],
            )

    @classmethod
    def load(cls, uri: str | Path) -> "Bundle":
        """Verify and load a bundle: a folder, ``models:/NAME/VERSION``, ``models:/NAME@ALIAS`` or ``runs:/ID/bundle``.

        Raises:
            BundleError: Not found, incomplete, changed, mixed, or of an unknown format; the message names the part.
        """
        folder = local_folder(uri)
        manifest = read_manifest(folder)
        manifest.verify(folder)
        return cls(folder, manifest)

    def embed_users(
        self,
        user_ids: Sequence[Id | None] | pl.Series,
        histories: Sequence[Sequence[Event] | None] | None = None,
        as_of: datetime | None = None,
        context: pl.DataFrame | None = None,
        attributes: pl.DataFrame | None = None,
    ) -> Tensor:
        """Run the user tower; returns ``[B, D]`` float32.

        A user that the bundle does not know, or None, is answered from the fresh history and the attributes that are
        given; without any the answer is what the model gives to a visitor it knows nothing of.

        Args:
            user_ids: Raw ids, B of them.
            histories: For each user the events since the cut, oldest first: item ids or ``(item id, time)``;
                they are appended to what the bundle knows.
            as_of: Time of the request, at or after the cut; by default that of the latest event, or the cut.
            context: B rows of context columns, which may be none but the time of the request; None for a batch
                job, which has no hour and no store.
            attributes: B rows of attributes of users, such as a stranger's answers to questions; a null says nothing,
                another value stands in place of what the bundle knows.

        Raises:
            BundleError: An id of the wrong type, a wrong number of rows, a time that cannot be, or an attribute that
                the bundle does not have.
        """
        ids = checked_ids(user_ids, self.manifest.user_id_type, USER_ID)
        now, fresh = self._fresh(histories, len(ids), as_of)
        told = None if attributes is None else told_attributes(attributes, len(ids), self.users)
        return self._towers.users(ids, self._rows_of_users(ids), fresh, now, context, told)

    def embed_items(self, item_ids: Sequence[Id] | pl.Series) -> Tensor:
        """Run the item tower on items of the catalogue as of the cut; returns ``[B, D]`` float32.

        Items that joined after the fit have more than their attributes say, so theirs are the stored vectors.

        Raises:
            BundleError: An item that the bundle does not know.
        """
        rows = self._rows_of_items(item_ids)
        vectors = self._towers.items(rows)
        if ADDED in self.items.columns:
            added = torch.from_numpy(self.items[ADDED].to_numpy().copy())[rows]
            vectors[added] = self.item_vectors[rows][added]
        return vectors

    def check_sample(self) -> int:
        """Reproduce the golden sample; returns the number of answers, all of which agreed.

        Raises:
            BundleError: Names the first request that is answered differently on this machine.
        """
        return check_sample(self, self.folder / part.SAMPLE)

    def scores(self, users: Tensor) -> Tensor:
        """Return exact scores ``[B, N]`` of all items for user rows ``[B]``, from the stored vectors."""
        return self.user_vectors[users] @ self.item_vectors.T

    def retrieve(
        self,
        vectors: Tensor,
        k: int,
        exclude: Dropped | None = None,
        allowed: Tensor | None = None,
    ) -> tuple[Ints, NDArray[np.float32]]:
        """Return the best eligible items for user vectors: found by the index, scored and ordered exactly.

        Args:
            vectors: ``[B, D]``.
            k: Items a user, at least 1.
            exclude: For each user the item rows to leave out.
            allowed: Item rows that any of them may get, bool ``[N]``; None: all.

        Returns:
            Item rows ``[B, k]``, best first, and their scores; where there are fewer than ``k`` items the rows
            end in -1 and the scores in -inf.
        """
        check_k(k)
        return best_items(self._index, self.item_vectors, self.eligible, vectors, k, exclude, allowed)

    def recommend(
        self,
        users: Sequence[Id | None] | pl.Series | None = None,
        k: int | Sequence[int] = 20,
        histories: Sequence[Sequence[Event] | None] | None = None,
        exclude_seen: bool = False,
        exclude: Sequence[Id] | pl.Series = (),
        as_of: datetime | None = None,
        context: pl.DataFrame | None = None,
        allow: Sequence[Id] | pl.Series | None = None,
        attributes: pl.DataFrame | None = None,
        explore: float = 0.0,
        new_days: float = 28.0,
        explore_among: Sequence[Id] | pl.Series | None = None,
    ) -> pl.DataFrame:
        """Return the best items for each user: ``user_id, item_id, rank, score``, rank 1 first.

        The score is the probability that the user takes the item in the days that the ranker was trained for, or,
        without a ranker, the inner product of the vectors. Users come in the order asked for; one who asks for more
        items than there are gets all there are.

        Args:
            users: Raw ids; None takes every user of the bundle.
            k: Items a user, or one number for each user.
            histories: As in :meth:`embed_users`.
            exclude_seen: Leave out what the user has had, fresh events included.
            exclude: Items to leave out for everybody; unknown ones do no harm.
            as_of: As in :meth:`embed_users`.
            context: As in :meth:`embed_users`.
            allow: The only items that anybody gets, such as those in stock; unknown ones do no harm.
            attributes: As in :meth:`embed_users`.
            explore: Least share of the places, from 0 to 1, that new items get: those nearest to the user by their
                vectors, in places that divide the answer evenly, whatever their score.
            new_days: An item is new that nobody has had, or nobody earlier than so many days before the request.
            explore_among: The items that count as new instead, such as those of this week: a catalogue may be full of
                what nobody has ever had.

        Raises:
            BundleError: As in :meth:`embed_users`, a ``k`` below 1, or an ``explore`` that is no share.
        """
        check_share(explore)
        ids = checked_ids(self.user_ids if users is None else users, self.manifest.user_id_type, USER_ID)
        ks = checked_ks(k, len(ids))
        now, fresh = self._fresh(histories, len(ids), as_of)
        allowed = allowed_rows(exclude, allow, self._item_rows, self.manifest.item_id_type)
        told = None if attributes is None else told_attributes(attributes, len(ids), self.users)
        stored = as_of is None and histories is None and context is None and told is None
        answers = [self._answer([], [], *NO_ITEMS)]
        for start in range(0, len(ids), CHUNK):
            chunk = slice(start, start + CHUNK)
            rows = self._rows_of_users(ids[chunk])
            some = None if context is None else context[chunk]
            theirs = None if told is None else told[chunk]
            vectors = self._vectors(ids[chunk], rows, fresh[chunk], now, some, theirs, stored=stored)
            dropped: Dropped = [()] * len(rows)
            if exclude_seen:
                past, n = self._towers.inputs.histories, len(self.item_ids)
                had = [past.seen(u, f) for u, f in zip(rows, fresh[chunk], strict=True)]
                dropped = [items[items < n].tolist() for items in had]  # an unknown item is no row
            asked = None
            if self.ranking is None:
                found = self.retrieve(vectors, max(ks[chunk]), dropped, allowed)
            else:
                asked = self._asked(self.ranking, ids[chunk], fresh[chunk], now, vectors, some, theirs)
                more = partial(self._further, vectors, max(ks[chunk]), allowed)
                found = self.ranking.best(asked, ks[chunk], dropped, more, allowed)
            if explore:
                new = allowed_rows((), explore_among, self._item_rows, self.manifest.item_id_type)
                new = new_items(self, now, new_days) if new is None else new
                find = partial(find_new, self, vectors, asked, dropped, new if allowed is None else new & allowed)
                found = explored(*found, ks[chunk], explore, new.numpy(), find)
            answers.append(self._answer(ids[chunk], ks[chunk], *found))
        return pl.concat(answers)

    def rank(
        self,
        users: Sequence[Id | None] | pl.Series,
        histories: Sequence[Sequence[Event] | None] | None = None,
        as_of: datetime | None = None,
    ) -> pl.DataFrame:
        """Return all candidates of each user: ``user_id, item_id, rank, score``, the score being the probability.

        Args:
            users: Raw ids.
            histories: As in :meth:`embed_users`.
            as_of: As in :meth:`embed_users`.

        Raises:
            BundleError: As in :meth:`embed_users`, or the bundle has no second stage.
        """
        ranking, ids = self._ranker(), checked_ids(users, self.manifest.user_id_type, USER_ID)
        now, fresh = self._fresh(histories, len(ids), as_of)
        answers = [self._answer([], [], *NO_ITEMS)]
        for start in range(0, len(ids), CHUNK):
            chunk = slice(start, start + CHUNK)
            asked = self._requests(ranking, ids[chunk], fresh[chunk], now, stored=as_of is None and histories is None)
            limit = [ranking.state.candidate_plan.limit] * len(ids[chunk])
            answers.append(self._answer(ids[chunk], limit, *ranking.best(asked, limit, [()] * len(limit), None)))
        return pl.concat(answers)

    def requests(
        self,
        users: Sequence[Id | None] | pl.Series,
        histories: Sequence[Sequence[Event] | None] | None = None,
        as_of: datetime | None = None,
    ) -> Requests:
        """Return what the second stage reads of users, for :attr:`ranking`.

        Args:
            users: Raw ids.
            histories: As in :meth:`embed_users`.
            as_of: As in :meth:`embed_users`.

        Raises:
            BundleError: As in :meth:`embed_users`, or the bundle has no second stage.
        """
        ranking, ids = self._ranker(), checked_ids(users, self.manifest.user_id_type, USER_ID)
        now, fresh = self._fresh(histories, len(ids), as_of)
        return self._requests(ranking, ids, fresh, now, stored=as_of is None and histories is None)

    def _ranker(self) -> Ranking:
        if self.ranking is None:
            raise BundleError(f"bundle {self.folder}: it has no ranker; train with ranker=wide_deep to have one.")
        return self.ranking

    def _requests(
        self, ranking: Ranking, ids: list[Id | None], fresh: list[Fresh], now: int, *, stored: bool
    ) -> Requests:
        rows = self._rows_of_users(ids)
        vectors = self._vectors(ids, rows, fresh, now, None, None, stored=stored)
        return self._asked(ranking, ids, fresh, now, vectors, None, None)

    def _asked(
        self,
        ranking: Ranking,
        ids: list[Id | None],
        fresh: list[Fresh],
        now: int,
        vectors: Tensor,
        context: pl.DataFrame | None,
        told: pl.DataFrame | None,
    ) -> Requests:
        """Return what the second stage reads of users with known vectors."""
        inputs, rows = self._towers.inputs, self._rows_of_users(ids)
        people = inputs.people(ids, rows, fresh, [now] * len(rows), told)
        strange = group_codes(ranking.state.candidate_plan.group, inputs.encoder, people, context, len(rows))
        return ranking.requests(rows, fresh, now, vectors, people, strange)

    def _vectors(
        self,
        ids: list[Id | None],
        rows: list[int],
        fresh: list[Fresh],
        now: int,
        context: pl.DataFrame | None,
        told: pl.DataFrame | None,
        *,
        stored: bool,
    ) -> Tensor:
        """Return the vectors of users, ``[B, D]``: the ``stored`` ones will do where all are known, else new ones."""
        if stored and min(rows, default=-1) >= 0:
            return self.user_vectors[rows]
        return self._towers.users(ids, rows, fresh, now, context, told)

    def _further(self, vectors: Tensor, k: int, allowed: Tensor | None, some: Tensor, taken: Dropped) -> Ints:
        """Return further items for requests whose filters leave too few candidates."""
        return self.retrieve(vectors[some], k, taken, allowed)[0]

    def _answer(self, ids: list[Id | None], ks: Sequence[int], rows: Ints, scores: NDArray[np.float32]) -> pl.DataFrame:
        return answer(ids, self.manifest.user_id_type, self.item_ids, ks, rows, scores)

    def _rows_of_users(self, ids: list[Id | None]) -> list[int]:
        return [-1 if user is None else self._user_rows.get(user, -1) for user in ids]

    def _fresh(
        self, histories: Sequence[Sequence[Event] | None] | None, n_users: int, as_of: datetime | None
    ) -> tuple[int, list[Fresh]]:
        now = request_time(as_of, self._cut, histories)
        return now, fresh_events(histories, n_users, self._item_rows, self.manifest.item_id_type, now)

    def _rows_of_items(self, item_ids: Sequence[Id] | pl.Series) -> list[int]:
        ids = checked_ids(item_ids, self.manifest.item_id_type, "item_ids")
        rows = [-1 if item is None else self._item_rows.get(item, -1) for item in ids]
        if -1 in rows:
            raise BundleError(
                f"item_ids: {rows.count(-1)} of {len(rows)} are not in the catalogue, such as {ids[rows.index(-1)]!r}."
            )
        return rows
