"""``recsys promote``: a registered version beside the champion on the test window; it takes the alias if it passes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.promote import PromoteConfig
from recsys.errors import BundleError

if TYPE_CHECKING:
    from datetime import datetime

    import polars as pl
    from rich.console import Console

    from recsys.bundle.reader import Bundle
    from recsys.bundle.requests import Event
    from recsys.data.prepared import Prepared
    from recsys.evaluation.evaluate import ModelResult
    from recsys.evaluation.gate import Contender, Decision
    from recsys.evaluation.slices import Targets

REFUSED = 3
"""Exit code of a candidate that did not pass."""
DEPTH = 500
"""Items that a bundle without a ranker is asked for; one with a ranker tells of all its candidates."""
USERS_AT_ONCE = 256
PARTS = ("all", "new", "repeat")
"""Slices that are compared, where the window has them: lists of candidates say nothing of the others."""


def run(cfg: PromoteConfig) -> "Decision":
    """Decide about a candidate, write down why, and give it the alias if it passes.

    Raises:
        BundleError: A bundle cannot be used, or knows events of the window.
        TrackingError: The registry could not be reached, has no such version, or another champion by then.
        SystemExit: With :data:`REFUSED`, when the candidate does not pass.
    """
    from rich.console import Console

    from recsys.data.dataset import fit_data, interaction_log, microseconds
    from recsys.data.prepare import prepare
    from recsys.data.sources import check_paths
    from recsys.entries.prepare import note_access
    from recsys.entries.recommend import load
    from recsys.evaluation.gate import decide
    from recsys.evaluation.slices import make_targets
    from recsys.files import json_bytes, write_all
    from recsys.tracking import aliases
    from recsys.tracking.run import start_run

    console, folder = Console(), Path(cfg.run_dir)
    check_paths(cfg.data)
    name, version = aliases.parse(cfg.candidate, cfg.tracking.uri)
    holder = aliases.holder(name, cfg.alias)
    uris = [cfg.candidate] if holder in (None, version) else [cfg.candidate, f"models:/{name}/{holder}"]
    bundles = [load(uri, cfg.tracking.uri) for uri in uris]
    with start_run(cfg.tracking, folder) as tracked:
        prepared = prepare(cfg.data)
        note_access(cfg, prepared, "promote")
        log = interaction_log(prepared)
        for uri, bundle in zip(uris, bundles, strict=True):
            refuse_later(bundle, uri, prepared)
        data = fit_data(prepared, log, prepared.windows.test_start)
        truth = log.between(data.cut, microseconds(prepared.windows.end))
        targets = make_targets(data.log, truth, data.eligible).at_most(cfg.evaluation.max_users, cfg.seed)
        contenders = measure(cfg, dict(zip(uris, bundles, strict=True)), prepared, targets)
        k = cfg.objective.k
        champion = contenders[1] if len(contenders) > 1 else None
        decision = decide(contenders[0], champion, cfg.gate, k, cfg.evaluation.bootstrap, cfg.seed)
        content = {"candidate": uris[0], "champion": uris[1] if champion else None} | decision.to_plain()
        aliases.judge(name, version, decision.granted, decision.why, cfg.alias, holder)
        write_all(folder, {"decision.json": json_bytes(content), "decision.md": as_page(content)})
        tracked.log_tags({"promotion": "granted" if decision.granted else "refused"})
        tracked.log_metrics(contenders[0].result.flat("test"))
        for file in ("decision.json", "decision.md"):
            tracked.log_file(folder / file)
    show(console, decision, content, folder, f"models:/{name}@{cfg.alias}")
    if not decision.granted:
        raise SystemExit(REFUSED)
    return decision


def refuse_later(bundle: "Bundle", uri: str, prepared: "Prepared") -> None:
    """Refuse a bundle that knows events of the window.

    Raises:
        BundleError: It does.
    """
    from datetime import datetime

    begins = prepared.windows.test_start
    if datetime.fromisoformat(bundle.manifest.cut) > begins:
        raise BundleError(
            f"{uri}: knows events until {bundle.manifest.cut}, and the test window begins at {begins.isoformat()}, so "
            "its figures there would mean nothing. Bring newer events (data.split moves the window), or train with "
            "bundle.refit_on=train_val."
        )


def measure(
    cfg: PromoteConfig, bundles: "dict[str, Bundle]", prepared: "Prepared", targets: "Targets"
) -> "list[Contender]":
    """Ask every bundle about the users of the window, and time single requests in turns.

    Args:
        cfg: Cut-offs and the gate.
        bundles: Uri to bundle.
        prepared: The data set; bundles may know less of it, and are told the rest as fresh events.
        targets: The window.
    """
    from recsys.columns import USER_ID
    from recsys.evaluation.evaluate import evaluate
    from recsys.evaluation.gate import Contender

    ids = prepared.users[USER_ID].gather(targets.users.numpy())
    asked = {uri: Questions(bundle, *fresh(bundle, ids, prepared)) for uri, bundle in bundles.items()}
    spent = milliseconds(list(asked.values()), ids, cfg.gate.requests)
    out = []
    for (uri, questions), slowest in zip(asked.items(), spent, strict=True):
        answers = Answers(uri, questions, ids, prepared, targets)
        slices = [part for part in PARTS if part in targets.truth_slices]
        result: ModelResult = evaluate(
            answers.scorer, targets, cfg.evaluation.ks, slices, chunk_users=cfg.evaluation.chunk_users
        )
        size = sum(file.stat().st_size for file in questions.bundle.folder.rglob("*") if file.is_file())
        out.append(Contender(result, slowest, answers.calibration_error(targets), parity(questions.bundle), size))
    return out


@dataclass(frozen=True)
class Questions:
    """How a bundle is asked as of the window's beginning.

    Attributes:
        bundle: Who is asked.
        histories: User id to the events that the bundle does not know of, oldest first.
        as_of: When; None for a bundle that knows all that lies before.
    """

    bundle: "Bundle"
    histories: "dict[int | str, list[Event]]"
    as_of: "datetime | None"

    def ask(self, ids: "pl.Series") -> "pl.DataFrame":
        """Return ``user_id, item_id, rank, score`` of users: of all candidates, or of as many as are compared."""
        past = None if self.as_of is None else [self.histories.get(user) for user in ids]
        if self.bundle.ranking is None:
            return self.bundle.recommend(ids, DEPTH, histories=past, as_of=self.as_of)
        return self.bundle.rank(ids, past, self.as_of)


def fresh(
    bundle: "Bundle", ids: "pl.Series", prepared: "Prepared"
) -> "tuple[dict[int | str, list[Event]], datetime | None]":
    """Return what users did between a bundle's cut and the window, and when they are asked."""
    from datetime import datetime

    import polars as pl

    from recsys.columns import ITEM_ID, TIMESTAMP, USER_ID
    from recsys.entries.recommend import events_by_user

    cut, begins = datetime.fromisoformat(bundle.manifest.cut), prepared.windows.test_start
    if cut == begins:
        return {}, None
    since = prepared.events.filter((pl.col(TIMESTAMP) >= cut) & (pl.col(TIMESTAMP) < begins))
    since = since.filter(pl.col(USER_ID).is_in(ids.implode())).sort(USER_ID, TIMESTAMP, ITEM_ID)
    return events_by_user(since), begins


class Answers:
    """What a bundle says of the users of a window, once.

    Args:
        name: Of the bundle.
        questions: How it is asked.
        ids: Raw ids of the users of ``targets``.
        prepared: The data set, whose rows count; items that it does not have are left out.
        targets: The window.

    Attributes:
        scorer: Orders the catalogue as the bundle did.
    """

    def __init__(
        self, name: str, questions: Questions, ids: "pl.Series", prepared: "Prepared", targets: "Targets"
    ) -> None:
        import polars as pl
        import torch

        from recsys.columns import ITEM_ID, USER_ID
        from recsys.evaluation.two_stage import PairScorer

        places = pl.DataFrame({USER_ID: ids}).with_row_index("query")
        rows = prepared.items.select(ITEM_ID).with_row_index("item")
        parts = [questions.ask(ids.slice(start, USERS_AT_ONCE)) for start in range(0, len(ids), USERS_AT_ONCE)]
        found = pl.concat(parts).join(places, on=USER_ID, maintain_order="left")
        found = found.join(rows, on=ITEM_ID, maintain_order="left").sort("query", "rank")
        query, item, rank = (
            torch.from_numpy(found[c].cast(pl.Int64).to_numpy().copy()) for c in ("query", "item", "rank")
        )
        self._query, self._item = query, item
        self._score = torch.from_numpy(found["score"].to_numpy().copy()) if questions.bundle.ranking else None
        self.scorer = PairScorer(
            name, targets.n_items, targets.users, query, item, -rank.float(),
            lambda rows: torch.full((len(rows), targets.n_items), -torch.inf),  # what it did not name is no answer
        )  # fmt: skip

    def calibration_error(self, targets: "Targets") -> float | None:
        """Return the expected calibration error of the candidates' probabilities; None where there are none."""
        from recsys.evaluation.ranking import Calibration

        if self._score is None:
            return None
        labels = targets.find(targets.users[self._query], self._item[:, None])[0][:, 0].float()
        metric = Calibration()
        metric.update(self._score, labels)
        return float(metric.compute()["ece"])


def milliseconds(asked: Sequence[Questions], ids: "pl.Series", requests: int) -> list[float]:
    """Return the 95th percentile of single requests to each bundle, who are asked in turns."""
    import torch

    spent = torch.zeros(len(asked), requests, dtype=torch.float64)
    for place in range(-3, requests):  # the first ones warm up
        for one, questions in enumerate(asked):
            start = time.perf_counter()
            questions.ask(ids.slice(place % len(ids), 1))
            if place >= 0:
                spent[one, place] = 1e3 * (time.perf_counter() - start)
    return [float(value) for value in torch.quantile(spent, 0.95, dim=1)]


def parity(bundle: "Bundle") -> str:
    """Return why a bundle does not answer as it was proven to; empty if it does."""
    try:
        bundle.check_sample()
    except BundleError as error:
        return str(error)
    return ""


def as_page(content: dict[str, object]) -> bytes:
    """Return a decision as Markdown."""
    checks = content["checks"]
    assert isinstance(checks, list)
    verdict = "granted" if content["granted"] else "refused"
    lines = [f"# Promotion {verdict}", "", f"- candidate: {content['candidate']}", f"- champion: {content['champion']}"]
    lines += [f"- why: {content['why']}", "", "| check | found | asked | holds |", "|---|---|---|---|"]
    lines += [f"| {c['name']} | {c['found']} | {c['legal']} | {'yes' if c['passed'] else 'no'} |" for c in checks]
    return ("\n".join(lines) + "\n").encode()


def show(console: "Console", decision: "Decision", content: dict[str, object], folder: Path, serving: str) -> None:
    """Print the checks, the verdict, and where things are."""
    from rich.table import Table

    table = Table(title=f"{content['candidate']} beside {content['champion'] or 'no champion'}", title_justify="left")
    for column in ("check", "found", "asked", "holds"):
        table.add_column(column)
    for check in decision.checks:
        style = None if check.passed else "bold red"
        table.add_row(check.name, check.found, check.legal, "yes" if check.passed else "no", style=style)
    console.print(table)
    verdict = f"granted: {serving} is {content['candidate']}" if decision.granted else f"refused: {decision.why}"
    console.print(f"{verdict}\ndecision  {folder / 'decision.md'}", markup=False, highlight=False, soft_wrap=True)
