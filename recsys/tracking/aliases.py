"""Who serves: an alias of a registered model, its holder before this one, and why it changed hands."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recsys.errors import TrackingError
from recsys.tracking.server import bounded_http, connect, first_line, quiet

BEFORE = "{alias}_before"
"""Tag of a registered model: the versions that held the alias before, the latest first, with commas between them."""
VERDICT, REASON = "promotion", "promotion_why"
"""Tags of a version."""
LONGEST = 500
"""Characters of a tag that every store takes."""


def holder(name: str, alias: str) -> int | None:
    """Return the version that holds an alias; None where nobody does.

    Raises:
        TrackingError: No such model, or the registry could not be reached.
    """
    import mlflow

    with _asking(name):
        given = mlflow.MlflowClient().get_registered_model(name).aliases
    return int(given[alias]) if alias in given else None


def judge(name: str, version: int, granted: bool, why: str, alias: str, expected: int | None) -> int | None:
    """Write a decision to a version and, where it is granted, give it the alias.

    Args:
        name: Of the registered model.
        version: That was judged.
        granted: The decision.
        why: In words.
        alias: That it asks for.
        expected: The version that it was compared with; None where nobody held the alias.

    Returns:
        The version that held the alias before; None where nobody did.

    Raises:
        TrackingError: Another version holds the alias by now, no such version, or the registry could not be reached.
    """
    import mlflow

    before = holder(name, alias)
    if before != expected:
        raise TrackingError(
            f"model '{name}': the champion changed meanwhile: the alias '{alias}' was at version {expected or 'none'}"
            f" and is at {before or 'none'} now, which version {version} was not compared with. Run it again."
        )
    with _asking(name):
        client = mlflow.MlflowClient()
        client.set_model_version_tag(name, str(version), VERDICT, "granted" if granted else "refused")
        client.set_model_version_tag(name, str(version), REASON, why[:LONGEST])
        if granted and before != version:
            if before is not None:
                earlier = _earlier(name, alias)
                _remember(name, alias, [before, *(v for v in earlier if v != before)])
            client.set_registered_model_alias(name, alias, str(version))
    return before


def restore(name: str, alias: str) -> tuple[int, int]:
    """Give an alias back to the version that held it before.

    Returns:
        The version that loses it, and the one that has it now.

    Raises:
        TrackingError: Nobody holds it, nobody held it before, or the registry could not be reached.
    """
    import mlflow

    now = holder(name, alias)
    with _asking(name):
        earlier = [version for version in _earlier(name, alias) if version != now]  # given by hand
    if now is None or not earlier:
        raise TrackingError(
            f"model '{name}': no version held the alias '{alias}' before "
            f"{'any' if now is None else f'version {now}'}, so there is nothing to go back to."
        )
    with _asking(name):
        client = mlflow.MlflowClient()
        client.set_registered_model_alias(name, alias, str(earlier[0]))
        client.set_model_version_tag(name, str(now), VERDICT, "rolled back")
        _remember(name, alias, earlier[1:])
    return now, earlier[0]


def hand_over(client: Any, name: str, old: str, new: str) -> None:
    """Put a version in the place of another: under its aliases, and where :func:`restore` finds the way back.

    Args:
        client: Of MLflow; what it raises is left to the caller.
        name: Of the registered model.
        old: Number of the version that leaves.
        new: Of the one that takes its place.
    """
    model = client.get_registered_model(name)
    for alias, version in model.aliases.items():
        if str(version) == old:
            client.set_registered_model_alias(name, alias, new)
    for tag, told in model.tags.items():
        earlier = told.split(",")
        if tag.endswith(BEFORE.format(alias="")) and old in earlier:
            moved = dict.fromkeys(new if version == old else version for version in earlier)  # each once
            client.set_registered_model_tag(name, tag, ",".join(moved))


def parse(uri: str, tracking_uri: str | None, key: str = "candidate") -> tuple[str, int]:
    """Return name and version of ``models:/NAME/VERSION`` after a look whether the registry answers.

    Args:
        uri: As given for ``key``.
        tracking_uri: Of the server.
        key: Of the configuration, for messages.

    Raises:
        TrackingError: It is no such URI, or the registry could not be reached.
    """
    name, _, version = uri.removeprefix("models:/").rpartition("/")
    if not uri.startswith("models:/") or not name or not version.isdigit():
        raise TrackingError(f"{key}={uri}: give a registered version, models:/NAME/VERSION.")
    connect(tracking_uri)
    return name, int(version)


def _earlier(name: str, alias: str) -> list[int]:
    """Return the versions that held an alias before and still are, the latest first."""
    import mlflow

    client = mlflow.MlflowClient()
    told = client.get_registered_model(name).tags.get(BEFORE.format(alias=alias), "")
    there = {int(version.version) for version in client.search_model_versions(f"name='{name}'")}
    return [int(version) for version in told.split(",") if version and int(version) in there]


def _remember(name: str, alias: str, versions: list[int]) -> None:
    import mlflow

    told = ",".join(str(version) for version in versions[:20])
    mlflow.MlflowClient().set_registered_model_tag(name, BEFORE.format(alias=alias), told)


@contextmanager
def _asking(name: str) -> Iterator[None]:
    """Turn what MLflow raises about a registered model into one message."""
    import mlflow

    with bounded_http(), quiet():
        try:
            yield
        except mlflow.MlflowException as error:
            raise TrackingError(
                f"model '{name}': the registry at '{mlflow.get_tracking_uri()}' says: {first_line(error)}."
            ) from error
