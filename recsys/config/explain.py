"""One clear message for whatever Hydra or OmegaConf refuse."""

from dataclasses import fields, is_dataclass
from typing import Any, get_origin, get_type_hints

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import (
    ConfigKeyError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from recsys.errors import did_you_mean

GROUPS = ("callbacks", "data", "debug", "evaluation", "experiment", "logger", "model", "trainer")
"""Of the verbs that read data."""
ELSEWHERE = {
    "bundle": "bundle_uri",
    "bundle_uri": "bundle",
    "tracking.uri": "tracking_uri",
    "tracking_uri": "tracking.uri",
}
"""What a key is called by verbs that read data, and by those that need a bundle alone."""


def explain(error: Exception) -> str:
    """Return the message for a failed composition: the place, what was found, what is legal.

    Args:
        error: A ``HydraException`` or an ``OmegaConfBaseException``.
    """
    if isinstance(error, MissingConfigException):
        return _unknown_option(error)
    if isinstance(error, OverrideParseException):
        return f"cannot read the override '{error.override}': write KEY=VALUE, for example seed=1 or model=id_only."
    cause = _cause(error)
    where = _file_of(error)
    if cause is None:
        return str(error)
    key = str(cause.full_key or "")
    if isinstance(cause, InterpolationToMissingValueError):
        key = str(cause).splitlines()[0].rpartition(": ")[2]  # the key that is pointed at has none
    if isinstance(cause, InterpolationToMissingValueError | MissingMandatoryValue):
        return f"{where}{key} has no value; give one on the command line: {key}=..."
    if isinstance(cause, ConfigKeyError | AttributeError):
        return f"{where}{_unknown_key(key, cause)}"
    first_line = str(cause).splitlines()[0].rstrip(".")
    if isinstance(cause, ValidationError):
        other = ELSEWHERE.get(key)
        hint = f" Did you mean '{other}'?" if other in _keys_beside(cause) else ""
        return f"{where}{key}: {first_line}; expected {_expected(cause, key)}.{hint}"
    return f"{where}{key}: {first_line}."


def _cause(error: BaseException | None) -> OmegaConfBaseException | None:
    while error is not None and not isinstance(error, OmegaConfBaseException):
        error = error.__cause__ or error.__context__
    return error


def _file_of(error: Exception) -> str:
    """Return ``"data/myshop.yaml: "`` where a YAML file is at fault, else nothing."""
    first_line = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, HydraException) and first_line.startswith("In '"):
        return f"{first_line.split(chr(39))[1]}.yaml: "
    return ""


def _unknown_option(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    options = [option for option in error.options or () if option != "schema"]
    if not group or not options:
        return str(error).splitlines()[0]
    return f"{group}={name}: no such option.{did_you_mean(name, options)} Legal: {', '.join(options)}."


def _unknown_key(key: str, cause: OmegaConfBaseException) -> str:
    parent, _, leaf = key.rpartition(".")
    prefix = f"{parent}." if parent else ""
    siblings = sorted(str(name) for name in getattr(cause, "parent_node", None) or ())
    legal = [f"{prefix}{name}" for name in siblings if name != "hydra"]
    if not parent and "data" in legal:
        legal = sorted({*legal, *GROUPS})
    elsewhere = [path for path in _keys_beside(cause) if path != key]
    same_leaf = [path for path in elsewhere if path == ELSEWHERE.get(key) or path.rpartition(".")[2] == leaf]
    hint = f" Did you mean '{same_leaf[0]}'?" if same_leaf else did_you_mean(key, legal) or did_you_mean(key, elsewhere)
    is_map = getattr(cause, "object_type", None) is dict
    add = f" To add it all the same: +{key}=..." if is_map and not same_leaf else ""
    return f"{key}: no such key.{hint} Legal: {', '.join(legal)}.{add}"


def _keys_beside(cause: OmegaConfBaseException) -> list[str]:
    """Return every dotted key of the configuration in which something is wrong."""
    node: Any = getattr(cause, "parent_node", None)
    while node is not None and node._get_parent() is not None:
        node = node._get_parent()
    schema = None if node is None else OmegaConf.get_type(node)
    return _paths(schema) if is_dataclass(schema) else []


def _paths(schema: Any, prefix: str = "") -> list[str]:
    """Return every dotted key of a schema."""
    paths = []
    hints = get_type_hints(schema)
    for f in fields(schema):
        paths.append(f"{prefix}{f.name}")
        if is_dataclass(hints[f.name]):
            paths += _paths(hints[f.name], f"{prefix}{f.name}.")
    return paths


def _expected(cause: OmegaConfBaseException, key: str) -> str:
    """Return the annotation of the key at fault, such as ``int`` or ``list[str]``."""
    schema: Any = getattr(cause, "object_type", None)
    leaf = key.rpartition(".")[2].partition("[")[0]
    if "[" in key:  # an element, whose owner is the list
        schema = getattr(getattr(getattr(cause, "parent_node", None), "_parent", None), "_metadata", None)
        schema = getattr(schema, "object_type", None)
    if not is_dataclass(schema):
        return "the type that the schema gives"
    hint = get_type_hints(schema).get(leaf)
    if hint is None:
        return "the type that the schema gives"
    if is_dataclass(hint):
        return f"the keys of {getattr(hint, '__name__', hint)}"
    return str(hint) if get_origin(hint) else str(getattr(hint, "__name__", hint))
