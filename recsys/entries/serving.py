"""The second stage as a bundle holds it, and the proof that it answers as it was trained."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from recsys.config.schema import Config
from recsys.entries.lesson import ranker_ids
from recsys.entries.ranker import SecondStage
from recsys.entries.snapshots import CHUNK_USERS, pairs_of, state_as_of

if TYPE_CHECKING:
    from recsys.bundle.reader import Bundle
    from recsys.data.dataset import FittedData
    from recsys.data.log import InteractionLog
    from recsys.data.prepared import Prepared
    from recsys.data.snapshots import Snapshot
    from recsys.export.bundle import ServedRanker
    from recsys.models.two_tower import TwoTower
    from recsys.models.wide_deep import WideDeep

CHECKED_USERS = 32
"""Users by whom a bundle is compared with what was trained."""
LOGIT_TOLERANCE, MIN_AGREEMENT = 0.01, 0.95
"""How far the two logits of a pair may be apart, and of how many pairs they may not."""

MOST_OFF = 2.0
"""How many times the rate of positives a mean probability may be, or the other way round."""


def served(
    cfg: Config,
    prepared: "Prepared",
    log: "InteractionLog",
    data: "FittedData",
    towers: "TwoTower",
    stage: SecondStage,
    ranker: "WideDeep",
) -> "ServedRanker":
    """Put together what a bundle's second stage consists of, as of the cut that the retriever was fitted at."""
    from recsys.export.bundle import ServedRanker
    from recsys.models.calibration import CalibratedRanker, PlattScale

    state = state_as_of(cfg, prepared, log, data, towers, stage.plan, data.cut)
    calibrated = CalibratedRanker(ranker, stage.calibration or PlattScale())
    last = stage.snapshots[-1]
    medians = dict(zip(last.names, last.numbers.nanmedian(0).values.tolist(), strict=True))
    return ServedRanker(calibrated, state, float(towers.temperature.detach()), medians)


def check_served(
    bundle: "Bundle",
    prepared: "Prepared",
    log: "InteractionLog",
    data: "FittedData",
    towers: "TwoTower",
    second: "ServedRanker",
    history: int,
) -> float:
    """Compare what the bundle says with what was trained, on the same users, by two ways from events to features.

    One way goes from the log and the tables that training read, the other from the files and vocabularies of the
    bundle. A mismatch of codes between the two leaves every training score healthy.

    Args:
        bundle: As loaded.
        prepared: The data set.
        log: All its events.
        data: What the bundle was made of.
        towers: Its retriever.
        second: Its second stage, in memory.
        history: L, the events that the user tower reads.

    Returns:
        The share of pairs that agree.

    Raises:
        BundleError: Too few agree.
    """
    import torch

    from recsys.data.asked import asked_as_of
    from recsys.data.recent import history_inputs, pairs_at_once, recent_items, take_pairs
    from recsys.data.snapshots import pair_inputs
    from recsys.errors import BundleError
    from recsys.training.task import embed_users

    assert bundle.ranking is not None
    users = torch.arange(log.n_users)[:: max(log.n_users // CHECKED_USERS, 1)][:CHECKED_USERS]
    vectors = embed_users(towers, data.log, data.tables, users, data.cut, history) / second.temperature
    (pairs,) = pairs_of(prepared, data.log, second.state, users, vectors)
    item_ids, user_ids = ranker_ids(data)
    features = pair_inputs(pairs.names, pairs.numbers, pairs.item, users[pairs.query], item_ids, user_ids)
    if second.state.history:
        recent = recent_items(asked_as_of(data.log, users, data.cut), second.state.history)
        features |= history_inputs(recent, pairs.query, item_ids)
    parts = torch.arange(len(pairs)).split(pairs_at_once(features, len(pairs) or 1))
    with torch.no_grad():
        ranker = second.ranker.eval()
        expected = torch.cat([ranker(take_pairs(features, rows))[:, 0] for rows in parts])
    requests = bundle.requests(bundle.user_ids.gather(users.numpy()))
    served = bundle.ranking.candidates(requests)
    found = bundle.ranking.score(requests, served)[:, 0]
    said = dict(zip((served.query * log.n_items + served.item).tolist(), found.tolist(), strict=True))
    keys = (pairs.query * log.n_items + pairs.item).tolist()
    off = [abs(said.get(key, math.inf) - value) for key, value in zip(keys, expected.tolist(), strict=True)]
    # An item at the end of a list may give way to one as good; and then the ranks after it are others.
    agree = sum(difference <= LOGIT_TOLERANCE for difference in off) / max(len(off), 1)
    if agree < MIN_AGREEMENT:
        raise BundleError(
            f"bundle {bundle.folder}: only {agree:.1%} of {len(off)} pairs of {len(users)} users get the logit that "
            f"the ranker gave them in training (within {LOGIT_TOLERANCE}); at least {MIN_AGREEMENT:.0%} must. Its "
            "vocabularies, tables or events are not those that the ranker was fitted with; train again."
        )
    return agree


def check_base_rate(bundle: "Bundle", prepared: "Prepared", window: "Snapshot") -> tuple[float, float]:
    """Compare the mean probability that a bundle gives to pairs with known labels with how many of them are positive.

    Ids are made by the bundle, from raw ids by its own vocabularies and tables, and go through its compiled ranker and
    calibration; numbers and histories are those of the snapshot, for the bundle knows what came after it. Codes that
    mean something else than in training move the mean wherever pairs are spread unevenly over them. It needs nothing
    of the training but labels, and so also finds codes that were others in the fit alone.

    Args:
        bundle: As loaded.
        prepared: The data set.
        window: What the ranker was fitted on last.

    Returns:
        Mean probability and rate of positives, among all candidates.

    Raises:
        BundleError: They are too far apart.
    """
    from recsys.columns import USER_ID
    from recsys.data.snapshots import of_users
    from recsys.errors import BundleError

    assert bundle.ranking is not None
    pairs = expected = weighed = positives = 0.0
    for start in range(0, len(window.users), CHUNK_USERS):
        part = of_users(window, start, start + CHUNK_USERS)
        requests = bundle.requests(prepared.users[USER_ID].gather(part.users.numpy()))
        said = bundle.ranking.score(replace(requests, recent=part.recent), part)[:, 1].double()
        weights = 1.0 / part.rate.double()
        pairs += float(weights.sum())
        weighed += float(weights @ part.labels[:, 0].double())
        expected += float(weights @ said)
        positives += float(part.labels[:, 0].sum())
    mean, rate = expected / max(pairs, 1.0), weighed / max(pairs, 1.0)
    if is_off(mean, rate, positives):
        raise BundleError(
            f"bundle {bundle.folder}: its ranker gives the pairs that it was fitted on last a mean probability of "
            f"{mean:.4g}, but the rate of positives among them is {rate:.4g}; a factor of {MOST_OFF:g} between the two "
            "is allowed. Either its vocabularies and tables are not those that the ranker was fitted with: train "
            "again, from one prepared data set; or the fit went astray: look at train/ranker_loss, and lower "
            "ranker.training.learning_rate."
        )
    return mean, rate


def is_off(mean: float, rate: float, positives: float) -> bool:
    """Say whether a mean probability is too far from a rate that so many positives were counted for.

    The logarithm of a count of n has a standard error of about ``n ** -0.5``: two of them are allowed for beside
    :data:`MOST_OFF`. Without a positive nothing can be said.
    """
    if positives == 0 or rate == 0:
        return False
    return not abs(math.log(max(mean, 1e-12) / rate)) <= math.log(MOST_OFF) + 2.0 * positives**-0.5  # NaN is off, too
