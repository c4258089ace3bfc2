"""What a plan says: rows by section, what would stop the run, and what is worth knowing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from recsys.errors import RecsysError


@dataclass
class Plan:
    """A plan in the making.

    Attributes:
        sections: Title to rows of a name and what is said of it, in the order of the table.
        problems: What would stop the run, a message each.
        notes: What would not stop it.
    """

    sections: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_ready(self) -> bool:
        """Whether nothing is known that would stop the run."""
        return not self.problems

    def say(self, section: str, name: str, text: str) -> None:
        """Add a row to a section."""
        self.sections.setdefault(section, []).append((name, text))

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Within it, an error that the user can put right becomes a problem of the plan, and the plan goes on."""
        try:
            yield
        except RecsysError as error:
            self.problems += [line for line in str(error).splitlines() if line not in self.problems]
