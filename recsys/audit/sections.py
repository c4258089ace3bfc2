"""The audit as sections of the data report."""

from collections.abc import Sequence

from recsys.audit.claims import HEADINGS, claim_cells
from recsys.audit.findings import Finding
from recsys.audit.prepared import Audit
from recsys.data.report_page import Section


def leak_section(findings: Sequence[Finding]) -> Section:
    """Return the findings as a section."""
    return Section(
        "Leak audit",
        "An error spoils every number measured on the data; a warning is to be looked at; info is as it should be.",
        ("severity", "finding", "where", "rows", "evidence", "what to do"),
        tuple((f.severity, f.leak, f.place, f"{f.rows:,}", f.evidence, f.remedy) for f in findings),
    )


def audit_sections(audit: Audit) -> tuple[Section, ...]:
    """Return the findings and the claims as sections."""
    claims = Section(
        "What other splits would have claimed",
        "The same simple models under three splits. A random or leave-one-out split fits on events that are later than "
        "those it asks for, as no shop can; the temporal figure is the one to expect. With leave-one-out every user "
        "has one item to find, so only its Recall compares. x: the ratio to temporal. Ahead: the share "
        "of what is asked for that is not later than the last event of the past.",
        HEADINGS,
        tuple(tuple(claim_cells(claim, audit.claims)) for claim in audit.claims),
    )
    return leak_section(audit.findings), claims
