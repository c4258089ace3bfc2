"""The reading half of a bundle: all that the serving team needs, on torch, numpy, polars and the index library."""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from weakref import finalize

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.bundle import format as part
from recsys.bundle.answers import NO_ITEMS, answer, checked_k, checked_ks
from recsys.bundle.cold import group_codes, told_attributes, told_context
from recsys.bundle.explore import check_share, explored, find_new, new_items
from recsys.bundle.filters import Filters
from recsys.bundle.format import Manifest, read_manifest
from recsys.bundle.histories import Ints
from recsys.bundle.ids import Asking, Ids
from recsys.bundle.index import ItemIndex, best_items
from recsys.bundle.parts import local_folder, read_vectors
from recsys.bundle.profiles import read_profiles
from recsys.bundle.ranking import Ranking, Requests
from recsys.bundle.requests import ADDED, ELIGIBLE, Event, Id
from recsys.bundle.sample import check_sample
from recsys.bundle.touchpoints import Touchpoints
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
        touchpoints: Profiles by name, and what their filters read.
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
        self._ids = Ids(manifest, self.user_ids, self.item_ids)
        self.ranking: Ranking | None = None
        if manifest.ranker:
            self.ranking = Ranking(
                folder, self.item_vectors, self.eligible, self.item_ids, self._towers.item_features,
                manifest.ranker["temperature"], manifest.n_users, manifest.signatures["ranker"],
            )  # fmt: skip
        profiles = read_profiles(folder)
        self.touchpoints = Touchpoints(*profiles, self.items, self.item_vectors, self.eligible, self.ranking)

    @classmethod
    def load(cls, uri: str | Path) -> "Bundle":
        """Verify and load a bundle: a folder, ``models:/NAME/VERSION``, ``models:/NAME@ALIAS`` or ``runs:/ID/bundle``.

        What is downloaded lies in a temporary folder, which goes with the bundle or at the end of the process.

        Raises:
            BundleError: Not found, incomplete, changed, mixed, or of an unknown format; the message names the part.
        """
        with ExitStack() as copy:
            folder = copy.enter_context(local_folder(uri))
            manifest = read_manifest(folder)
            manifest.verify(folder)
            bundle = cls(folder, manifest)
            finalize(bundle, copy.pop_all().close)
        return bundle

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
            histories: For each user the events since the cut, oldest first: item ids, ``(item id, time)`` or
                ``(item id, time or None, event type)``; they are appended to what the bundle knows. One without a
                type counts, as a purchase does.
            as_of: Time of the requests, at or after the cut; by default that of the latest event that any of them
                brings, or the cut: who answers several at once gives it.
            context: B rows of context columns, which may be none but the time of the request; None for a batch
                job, which has no hour and no store.
            attributes: B rows of attributes of users, such as a stranger's answers to questions; a null says nothing,
                another value stands in place of what the bundle knows.

        Raises:
            BundleError: An id of the wrong type, a wrong number of rows, a time that cannot be, or an attribute that
                the bundle does not have.
        """
        return self._embedded(self._asking(user_ids, histories, as_of, context, attributes))

    def embed_items(self, item_ids: Sequence[Id] | pl.Series) -> Tensor:
        """Run the item tower on items of the catalogue as of the cut; returns ``[B, D]`` float32.

        Items that joined after the fit have more than their attributes say, so theirs are the stored vectors.

        Raises:
            BundleError: An item that the bundle does not know.
        """
        rows = self._ids.items(item_ids)
        vectors = self._towers.items(rows)
        if ADDED in self.items.columns:
            added = torch.from_numpy(self.items[ADDED].to_numpy().copy())[rows]
            vectors[added] = self.item_vectors[rows][added]
        return vectors

    def user_inputs(
        self,
        user_ids: Sequence[Id | None] | pl.Series,
        histories: Sequence[Sequence[Event] | None] | None = None,
        as_of: datetime | None = None,
        context: pl.DataFrame | None = None,
    ) -> dict[str, Tensor]:
        """Return what the user tower reads of B requests, for who runs it elsewhere; arguments as :meth:`embed_users`.

        Raises:
            BundleError: As in :meth:`embed_users`.
        """
        who = self._asking(user_ids, histories, as_of, context)
        return self._towers.inputs.build(who.ids, who.rows, who.fresh, [who.now] * len(who), context)

    def item_inputs(self, item_ids: Sequence[Id] | pl.Series) -> dict[str, Tensor]:
        """Return what the item tower reads of items of the catalogue as of the cut.

        Raises:
            BundleError: An item that the bundle does not know.
        """
        return self._towers.item_inputs(self._ids.items(item_ids))

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
            Item rows ``[B, k]``, ``k`` being N where more are asked for, best first, and their scores; where there
            are fewer items the rows end in -1 and the scores in -inf.
        """
        k = checked_k(k, len(self.item_ids))
        return best_items(self._index, self.item_vectors, self.eligible, vectors, k, exclude, allowed)

    @torch.inference_mode()
    def recommend(
        self,
        users: Sequence[Id | None] | pl.Series | None = None,
        k: int | Sequence[int] | Ints | None = None,
        histories: Sequence[Sequence[Event] | None] | None = None,
        exclude_seen: bool = False,
        exclude: Sequence[Id] | pl.Series = (),
        as_of: datetime | None = None,
        context: pl.DataFrame | None = None,
        allow: Sequence[Id] | pl.Series | None = None,
        touchpoint: str | None = None,
        items: Sequence[Sequence[Id]] | None = None,
        filters: Filters | None = None,
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
            k: Items a user, or one number for each user; None: as many as the touchpoint says, else 20.
            histories: As in :meth:`embed_users`.
            exclude_seen: Leave out what the user has had, fresh events included.
            exclude: Items to leave out for everybody; unknown ones do no harm.
            as_of: As in :meth:`embed_users`.
            context: As in :meth:`embed_users`.
            allow: The only items that anybody gets, such as those in stock; unknown ones do no harm.
            touchpoint: One of ``touchpoints.profiles``, such as ``"cart"``: its candidates, order and filters. Where
                its order is of several signals the score is theirs, fused, and no probability.
            items: For each user what the request brings: the item that is looked at, what is in the cart, what was
                just bought. It is no part of the history, and of no answer; unknown ones are passed over.
            filters: In place of those of the touchpoint; they need none.
            attributes: As in :meth:`embed_users`.
            explore: Least share of the places, from 0 to 1, that new items get: those nearest to the user by their
                vectors, in places that divide the answer evenly, whatever their score; without touchpoint and filters.
            new_days: An item is new that nobody has had, or nobody earlier than so many days before the request.
            explore_among: The items that count as new instead, such as those of this week: a catalogue may be full of
                what nobody has ever had.

        Raises:
            BundleError: As in :meth:`embed_users`, a ``k`` that is no whole number of at least 1, no such touchpoint,
                or an ``explore`` that is no share or stands beside a touchpoint.
        """
        is_plain = touchpoint is None and items is None and filters is None
        check_share(explore, is_plain)
        who = self._asking(self.user_ids if users is None else users, histories, as_of, context, attributes)
        profile = None if is_plain else self.touchpoints.profile(touchpoint, filters)
        ks = checked_ks((profile.k if profile else 20) if k is None else k, len(who), len(self.item_ids))
        allowed, anchors = self._ids.allowed(exclude, allow), self._ids.anchors(items, len(who))
        new = torch.zeros(0)
        if explore:
            named = self._ids.allowed((), explore_among)
            new = new_items(self, who.now, new_days) if named is None else named
        size = CHUNK if profile is None else min(CHUNK, self.touchpoints.at_once)
        answers = []
        for start in range(0, len(who), size):
            chunk = slice(start, start + size)
            vectors, asked = self._asked(who[chunk])
            dropped: Dropped = [()] * len(vectors)
            if exclude_seen or (profile is not None and profile.filters.without_bought):
                dropped = self._seen(who[chunk])
            if profile is not None:
                found = self.touchpoints.answer(profile, anchors[chunk], vectors, asked, dropped, allowed, ks[chunk])
            elif self.ranking is None or asked is None:
                found = self.retrieve(vectors, max(ks[chunk]), dropped, allowed)
            else:
                more = partial(self._further, vectors, max(ks[chunk]), allowed)
                found = self.ranking.best(asked, ks[chunk], dropped, more, allowed)
            if explore:
                find = partial(find_new, self, vectors, asked, dropped, new if allowed is None else new & allowed)
                found = explored(*found, ks[chunk], explore, new.numpy(), find)
            answers.append(self._answer(who[chunk].ids, ks[chunk], *found))
        return pl.concat(answers or [self._answer([], [], *NO_ITEMS)])

    @torch.inference_mode()
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
        ranking, who = self._ranker(), self._asking(users, histories, as_of)
        answers = []
        for start in range(0, len(who), CHUNK):
            some = who[start : start + CHUNK]
            asked = self._asked(some)[1]
            assert asked is not None
            limit = [ranking.state.candidate_plan.limit] * len(some)
            answers.append(self._answer(some.ids, limit, *ranking.best(asked, limit, [()] * len(limit), None)))
        return pl.concat(answers or [self._answer([], [], *NO_ITEMS)])

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
        self._ranker()
        asked = self._asked(self._asking(users, histories, as_of))[1]
        assert asked is not None
        return asked

    def _ranker(self) -> Ranking:
        if self.ranking is None:
            raise BundleError(f"bundle {self.folder}: it has no ranker; train with ranker=wide_deep to have one.")
        return self.ranking

    def _asking(
        self,
        users: Sequence[Id | None] | pl.Series,
        histories: Sequence[Sequence[Event] | None] | None,
        as_of: datetime | None,
        context: pl.DataFrame | None = None,
        attributes: pl.DataFrame | None = None,
    ) -> Asking:
        told = None if attributes is None else told_attributes(attributes, len(users), self.users)
        moment = None if context is None else told_context(context, len(users), self._towers.inputs.encoder.spec)
        return self._ids.asking(users, histories, as_of, moment, told)

    def _embedded(self, who: Asking) -> Tensor:
        return self._towers.users(who.ids, who.rows, who.fresh, who.now, who.context, who.told)

    def _asked(self, who: Asking) -> tuple[Tensor, Requests | None]:
        """Return vectors of users ``[B, D]``, and what the second stage reads of them; None without one.

        The stored vectors will do where all are known and bring nothing; else the user tower runs.
        """
        known = who.is_plain and min(who.rows, default=-1) >= 0
        vectors = self.user_vectors[who.rows] if known else self._embedded(who)
        if self.ranking is None:
            return vectors, None
        inputs, group = self._towers.inputs, self.ranking.state.candidate_plan.group
        people = inputs.people(who.ids, who.rows, who.fresh, [who.now] * len(who), who.told)
        strange = group_codes(group, inputs.encoder, people, who.context, len(who))
        return vectors, self.ranking.requests(who.rows, who.fresh, who.now, vectors, people, strange)

    def _seen(self, who: Asking) -> Dropped:
        """Return the item rows that users have had, fresh events included."""
        past, n = self._towers.inputs.histories, len(self.item_ids)
        had = [past.seen(user, fresh) for user, fresh in zip(who.rows, who.fresh, strict=True)]
        return [items[items < n].tolist() for items in had]  # an unknown item is no row

    def _further(self, vectors: Tensor, k: int, allowed: Tensor | None, some: Tensor, taken: Dropped) -> Ints:
        """Return further items for requests whose filters leave too few candidates."""
        return self.retrieve(vectors[some], k, taken, allowed)[0]

    def _answer(self, ids: list[Id | None], ks: Sequence[int], rows: Ints, scores: NDArray[np.float32]) -> pl.DataFrame:
        return answer(ids, self.manifest.user_id_type, self.item_ids, ks, rows, scores)
