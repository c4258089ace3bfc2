"""``recsys audit``: prepared data in; what of it would leak, and what other splits would have claimed, out."""

from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config.schema import AuditConfig
from recsys.errors import DataError

if TYPE_CHECKING:
    from recsys.audit.prepared import Audit


def run(cfg: AuditConfig) -> "Audit":
    """Prepare the data (or reuse it), print what leaks, write ``audit.json`` and the data report with a section of it.

    Raises:
        ConfigError: ``item_times`` or ``user_times`` name a column that is not there.
        DataError: The tables cannot be used, or something of severity ``error`` was found.
    """
    import json

    from rich.console import Console

    from recsys.audit.claims import claims_table
    from recsys.audit.findings import findings_table
    from recsys.audit.prepared import audit_prepared
    from recsys.audit.sections import audit_sections
    from recsys.data.prepare import prepare
    from recsys.data.report import data_report
    from recsys.data.report_page import write_html
    from recsys.entries.prepare import note_access
    from recsys.files import write_whole

    console, folder = Console(), Path(cfg.run_dir)
    prepared = prepare(cfg.data)
    note_access(cfg, prepared, "audit")
    times = cfg.item_times, cfg.user_times
    audit = audit_prepared(prepared, *times, cfg.max_auc, cfg.max_users, cfg.seed, cfg.data.timezone)
    console.print(findings_table(audit.findings))
    if audit.claims:
        console.print(claims_table(audit.claims))
    else:
        console.print("the splits are not compared: nothing relevant happens in the validation window")
    text = json.dumps({"data_fingerprint": prepared.fingerprint, **audit.to_dict()}, indent=1)
    path = write_whole(folder / "audit.json", text.encode(), "audit")
    page = write_html(data_report(prepared), folder / "data_report.html", audit_sections(audit))
    console.print(f"audit          {path}\ndata report    {page}", markup=False, soft_wrap=True)
    if audit.errors:
        leaks = "; ".join(f"{found.leak} ({found.place})" for found in audit.errors)
        raise DataError(f"{prepared.path}: {len(audit.errors)} leak(s): {leaks}. What to do about each: {path}")
    return audit
