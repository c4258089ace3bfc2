"""What is typed on the command line, in the form that Hydra reads: ids and paths need no quotes of its grammar."""

import re

TEXTS = ("user", "users", "item")
"""Keys whose values are ids, which stay what was typed: 007, 1E5, true; ``users=a,b`` is one text, no sweep."""
_OVERRIDE = re.compile(r"([+~]*[\w./@:-]+)=(.*)", re.DOTALL)


def readable(argument: str) -> str:
    """Return an argument with its value in quotes where it is an id, or text that Hydra's grammar cannot read.

    Values that are quoted, lists, maps and interpolations stay as they are, but for ``users=[a,b]``, the same as
    ``users=a,b``.

    Args:
        argument: An override such as ``data.events=shops/josé/events.csv``, or a flag.
    """
    found = _OVERRIDE.fullmatch(argument)
    if found is None:
        return argument
    key, value = found.groups()
    is_list = value.startswith(("[", "{"))
    if key == "users" and value.startswith("[") and value.endswith("]"):
        value = value[1:-1]
    elif value == "null" or value.startswith(("'", '"', "${")) or (key not in TEXTS and (is_list or _parses(argument))):
        return argument
    text = re.sub(r"(\\*)('|$)", lambda run: 2 * run[1] + "\\'" * bool(run[2]), value)
    return f"{key}='{text}'"


def _parses(argument: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True
