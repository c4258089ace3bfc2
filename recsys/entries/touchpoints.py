"""``recsys touchpoints``: each touchpoint of a bundle beside baselines, on events of the test window of its kind.

The bundle knows nothing of the window; a request brings its user and its own items, and baselines answer the same
requests under the same filters.
"""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.schema import TouchpointsEvaluationConfig
from recsys.errors import BundleError, DataError

if TYPE_CHECKING:
    from datetime import datetime

    from torch import Tensor

    from recsys.bundle.profiles import Profile
    from recsys.bundle.reader import Bundle
    from recsys.data.log import InteractionLog
    from recsys.evaluation.questions import Questions
    from recsys.evaluation.touchpoints import Measured

BUNDLE = "bundle"
"""Name of the bundle in the tables."""
POOL = 400
"""Candidates that a baseline names at a time; more are asked for where caps leave too few."""


def run(cfg: TouchpointsEvaluationConfig) -> "list[Measured]":
    """Measure every touchpoint of a bundle; print, save and log the table.

    Raises:
        BundleError: The bundle cannot be used, has no touchpoints, has seen the test window, or is of other data.
        ConfigError: The data do not have what a touchpoint of the configuration needs.
        DataError: The window has no question for any of them.
        RecsysError: Data, tracking server or output folder cannot be used.
    """
    from rich.console import Console

    from recsys.bundle.touchpoints import Touchpoints
    from recsys.data.dataset import interaction_log
    from recsys.data.prepare import prepare
    from recsys.data.sources import check_paths
    from recsys.entries.evaluate import refuse_other_data, refuse_seen
    from recsys.entries.prepare import note_access
    from recsys.entries.recommend import load
    from recsys.evaluation.touchpoints import metric_dict, save, touchpoints_table
    from recsys.export.touchpoints import fit_touchpoints
    from recsys.tracking.environment import describe
    from recsys.tracking.run import start_run

    console, folder = Console(), Path(cfg.run_dir)
    check_paths(cfg.data)  # a mistyped path shall not leave a run, or even a store, behind
    bundle = load(cfg.bundle_uri, cfg.tracking.uri)
    refuse_seen(bundle, cfg.bundle_uri)
    if cfg.from_bundle and not bundle.touchpoints.profiles:
        raise BundleError(
            f"bundle_uri={cfg.bundle_uri}: it has no touchpoints; with from_bundle=false those of this configuration "
            "are measured, and recsys train puts them into a bundle."
        )
    with start_run(cfg.tracking, folder) as tracked:
        prepared = prepare(cfg.data)
        note_access(cfg, prepared, "touchpoints")
        refuse_other_data(bundle, cfg.bundle_uri, prepared)
        describe(tracked, cfg, prepared, folder)
        tracked.log_tags({"bundle_fingerprint": bundle.manifest.fingerprint})
        if not cfg.from_bundle:
            fitted = fit_touchpoints(cfg.touchpoints, prepared, bundle.ranking is not None)
            parts = bundle.items, bundle.item_vectors, bundle.eligible, bundle.ranking
            bundle.touchpoints = Touchpoints(fitted.profiles, fitted.price, *parts)
        windows = prepared.windows
        measured = list(measure_all(cfg, bundle, interaction_log(prepared), (windows.test_start, windows.end)))
        if not measured:
            names = ", ".join(bundle.touchpoints.profiles)
            raise DataError(
                f"touchpoints: nobody in the test window can be asked for one of {names}; some need baskets of several "
                "items (data.columns.basket_id). Name others, or take a longer window."
            )
        paths = save(measured, folder / "evaluation")
        tracked.log_metrics(metric_dict(measured))
        tracked.log_file(folder / "evaluation", "evaluation")
    console.print(touchpoints_table(measured, console))
    console.print(f"bundle          {cfg.bundle_uri}\ntable and plot  {paths[0].parent}", markup=False, soft_wrap=True)
    return measured


def measure_all(
    cfg: TouchpointsEvaluationConfig, bundle: "Bundle", log: "InteractionLog", window: "tuple[datetime, datetime]"
) -> "Iterator[Measured]":
    """Yield each touchpoint of a bundle, measured on a window that begins where its knowledge ends or later.

    Args:
        cfg: How many questions, cut-off, seed.
        bundle: Whose users and items are those of the log.
        log: All events.
        window: Its first moment, and the first after it.
    """
    from recsys.data.dataset import microseconds
    from recsys.evaluation.touchpoints import measure

    start, end = map(microseconds, window)
    history, truth = log.between(None, start), log.between(start, end)
    rivals = Rivals(bundle, history, start)
    k = cfg.objective.k
    for name, profile in bundle.touchpoints.profiles.items():
        what, questions = questions_for(cfg, bundle, profile, history, truth)
        questions = questions.only(lambda row, p=profile, q=questions: rivals.allowed(p, q, [row])[0])  # type: ignore[misc]
        if not len(questions):
            logging.getLogger(__name__).warning(
                "touchpoint '%s' is left out: nobody in the window can be asked for it (%s).", name, what
            )
            continue
        answers, seconds = {}, {}
        for model in (BUNDLE, *rivals.names):
            began = time.perf_counter()
            if model == BUNDLE:
                answers[model] = asked(bundle, name, questions, k)
            else:
                answers[model] = rivals.answers(model, profile, questions, k)
            seconds[model] = time.perf_counter() - began
        yield measure(
            name,
            what,
            questions,
            answers,
            resamples=cfg.evaluation.bootstrap,
            seed=cfg.seed,
            filters=in_words(profile),
            seconds=seconds,
        )


def questions_for(
    cfg: TouchpointsEvaluationConfig,
    bundle: "Bundle",
    profile: "Profile",
    history: "InteractionLog",
    truth: "InteractionLog",
) -> "tuple[str, Questions]":
    """Return the question that fits a touchpoint, in words, and who is asked."""
    from recsys.evaluation import questions as ask

    most, seed, filters = cfg.questions, cfg.seed, profile.filters
    if profile.request == "none":
        return "what the user takes in the window", ask.window_questions(truth, most, seed)
    if profile.request == "bought":
        what = f"what the user takes within {cfg.days:g} days after a basket, given that basket"
        return what, ask.bought_questions(truth, most, seed, days=cfg.days)
    if filters.band is not None and filters.same:
        facts = bundle.touchpoints.facts
        what = f"the dearer item of a {filters.same} that the user takes, given what they had of it last"
        category = facts.codes(filters.same)
        asked = ask.upsell_questions(
            history, truth, most, seed, prices=facts.prices, category=category, band=filters.band
        )
        return what, asked
    if profile.request == "item":
        return "an item of a basket, given one other", ask.basket_questions(truth, most, seed, shown=1)
    return "an item of a basket, given the others", ask.basket_questions(truth, most, seed)


def asked(bundle: "Bundle", touchpoint: str, questions: "Questions", k: int) -> "Tensor":
    """Ask a bundle through its front door; returns item rows ``[R, k]``, -1 at the end where there are fewer."""
    import polars as pl
    import torch

    from recsys.columns import ITEM_ID, RANK, USER_ID
    from recsys.data.topk import NONE

    users = bundle.user_ids.gather(questions.users.numpy())
    items = [bundle.item_ids.gather(rows.numpy()).to_list() for rows in questions.items]
    found = bundle.recommend(users, k, touchpoint=touchpoint, items=items)
    numbered = pl.DataFrame([users]).with_row_index("question")
    rows = found.join(numbered, on=USER_ID, maintain_order="left")
    rows = rows.join(bundle.items.select(ITEM_ID).with_row_index("row"), on=ITEM_ID, maintain_order="left")
    out = torch.full((len(questions), k), NONE)
    question, place, item = (torch.tensor(rows[c].to_list(), dtype=torch.int64) for c in ("question", RANK, "row"))
    out[question, place - 1] = item
    return out


class Rivals:
    """Baselines that answer the same requests under the same filters.

    Args:
        bundle: Whose filters are used.
        history: Events before the window; what baselines learn from.
        cut: Where the window begins.
    """

    def __init__(self, bundle: "Bundle", history: "InteractionLog", cut: int) -> None:
        from recsys.evaluation.baselines import PersonalFrequency, Popular
        from recsys.evaluation.collaborative import ItemKNN
        from recsys.evaluation.recommender import Past

        self._touchpoints = bundle.touchpoints
        self._history = history.only_relevant()
        past = Past(history, cut, {}, bundle.eligible)
        near, popular, own = ItemKNN(), Popular(), PersonalFrequency()
        for model in (near, popular, own):
            model.fit(past)
        self._by_item, self._by_user = near.near_items, {m.name: m.scores for m in (near, popular, own)}
        self._near = near.name

    @property
    def names(self) -> tuple[str, ...]:
        """Of the baselines."""
        return tuple(self._by_user)

    def allowed(self, profile: "Profile", questions: "Questions", rows: "list[int]") -> "Tensor":
        """Return which items the answers to some questions may hold, bool ``[b, N]``."""
        offsets = self._history.offsets
        had: list[list[int]] = [[] for _ in rows]
        if profile.filters.without_bought:
            users = questions.users[rows]
            had = [self._history.item[offsets[user] : offsets[user + 1]].tolist() for user in users.tolist()]
        return self._touchpoints.allowed(profile, [questions.items[row] for row in rows], had, None)

    def answers(self, name: str, profile: "Profile", questions: "Questions", k: int) -> "Tensor":
        """Return item rows ``[R, k]``, -1 at the end where there are fewer.

        Item neighbours are those of the items that the request brings, where it brings any, else of the history.
        """
        import torch

        out = []
        for rows in torch.arange(len(questions)).split(self._touchpoints.at_once):
            users, shown = questions.users[rows], [questions.items[row] for row in rows.tolist()]
            near = name == self._near and profile.request != "none"
            scores = self._by_item(shown) if near else self._by_user[name](users)
            may = self.allowed(profile, questions, rows.tolist())
            best = pool_of(scores)
            ks = torch.full((len(rows),), k)
            out.append(self._touchpoints.fill(profile, may, ks, best, best).items)
        return torch.cat(out)


def pool_of(scores: "Tensor") -> "Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]":
    """Return a function that names the best allowed items by ``scores``, ``[B, N]``."""
    from recsys.data.topk import top_rows

    def best(may: "Tensor") -> "tuple[Tensor, Tensor, Tensor]":
        items = top_rows(scores.masked_fill(~may, float("-inf")), POOL)
        values = scores.gather(1, items.clamp(min=0))
        return items, values, values

    return best


def in_words(profile: "Profile") -> str:
    """Return the sources, the order and the filters that are on, in words."""
    filters, parts = profile.filters, []
    if filters.without_bought:
        parts.append("nothing that was bought")
    if filters.same:
        parts.append(f"the same {filters.same}")
    for name, bounds in (("price", filters.price), ("band", filters.band)):
        if bounds is not None:
            low, high = ("any" if bound is None else f"{bound:g}" for bound in bounds)
            parts.append(f"{name} {low} to {high}")
    parts += [f"at most {most} of a {attribute}" for attribute, most in filters.caps.items()]
    if filters.diversity < 1:
        parts.append(f"diversity {filters.diversity:g}")
    return ", ".join([f"by {' + '.join(profile.order)}", *parts])
