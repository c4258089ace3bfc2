"""What a rule found and what was done about it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the cleaning section of the data report.

    Attributes:
        rule: Name of the rule, as in :data:`recsys.data.cleaning.rules.ORDER`.
        found: How many rows (of events) or values or items it names.
        what: What they are, for example "rows".
        done: What was done about them.
        details: Lines with the parts of the count, the largest first.
    """

    rule: str
    found: int
    what: str
    done: str
    details: tuple[str, ...] = ()
