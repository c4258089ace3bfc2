"""Package sizes as numbers: "22 LB", "6 PK/12 OZ", "1 1/2 L", "18-22 LB" in grams, millilitres and pieces."""

import re
from collections.abc import Mapping, Sequence

import polars as pl

from recsys.data.cleaning.finding import Finding
from recsys.data.cleaning.text import require_text
from recsys.errors import ConfigError, DataError, did_you_mean

MEASURES = ("grams", "millilitres", "pieces")
UNITS: dict[str, tuple[str, float]] = {
    **dict.fromkeys(("G", "GM", "GMS", "GS", "GR", "GRAM", "GRAMS"), ("grams", 1.0)),
    "MG": ("grams", 0.001),
    **dict.fromkeys(("KG", "KGS", "KILO"), ("grams", 1000.0)),
    **dict.fromkeys(("OZ", "OZS", "ONZ", "Z", "OUNCE", "OUNCES"), ("grams", 28.349523125)),
    **dict.fromkeys(("LB", "LBS", "POUND", "POUNDS"), ("grams", 453.59237)),
    **dict.fromkeys(("ML", "CC"), ("millilitres", 1.0)),
    "CL": ("millilitres", 10.0),
    "DL": ("millilitres", 100.0),
    **dict.fromkeys(("L", "LT", "LTR", "LITER", "LITERS", "LITRE", "LITRES"), ("millilitres", 1000.0)),
    **dict.fromkeys(("FL OZ", "FL.OZ", "FLOZ"), ("millilitres", 29.5735295625)),
    **dict.fromkeys(("PT", "PTS", "PINT"), ("millilitres", 473.176473)),
    **dict.fromkeys(("QT", "QTS", "QUART"), ("millilitres", 946.352946)),
    **dict.fromkeys(("GAL", "GA", "GALS", "GALLON", "GALON"), ("millilitres", 3785.411784)),
    **dict.fromkeys(("CT", "COUNT", "PC", "PCS", "PIECE", "PIECES", "EA", "EACH", "CTN", "CARTON"), ("pieces", 1.0)),
    **dict.fromkeys(("PK", "PKS", "PACK", "PKG", "PKGS", "P"), ("pieces", 1.0)),
    **dict.fromkeys(("STEM", "STEMS", "ROLL", "ROLLS", "SHEET", "SHEETS", "BAG", "BAGS"), ("pieces", 1.0)),
    **dict.fromkeys(("LOAD", "LOADS", "LD", "LDS", "USE", "USES", "DOSE", "DOSES", "KIT", "SET"), ("pieces", 1.0)),
    "PAIR": ("pieces", 2.0),
    **dict.fromkeys(("DZ", "DZN", "DOZ", "DOZEN"), ("pieces", 12.0)),
}
"""Unit -> what it measures, and how much of it. An ounce is of weight unless FL stands before it (NIST HB 44)."""
PACKS = ("PK", "PKS", "PACK", "P")
"""``n PK`` beside a weight or volume multiplies it; other counts say into how many pieces it is divided."""
LARGEST = {"grams": 2e5, "millilitres": 2e5, "pieces": 1e4}
"""More than this is a code that stands in the wrong place: 200 kg, 200 l, 10,000 pieces."""

_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_MOST_UNPARSED = 1000


def parse_sizes(texts: pl.Series, words: Mapping[str, str]) -> pl.DataFrame:
    """Read sizes: ``grams, millilitres, pieces`` (Float64), null where the text does not say, one row a text.

    The first size of each measure counts, and it is that of the whole package: ``6 PK/12 OZ``, ``6/12 OZ``,
    ``12 OZ/6 PK`` and ``6 x 12 OZ`` are 72 ounces in 6 pieces; ``12 OZ/6 CT`` is 12 ounces in 6 pieces. Fractions
    (``1/2``, ``1 1/2``, ``1-1/2``, ``1½``) are reduced and of halves, thirds, quarters or eighths. ``18-22 LB`` is a
    range, read as its middle; where the second number is twice the first or more, or less than it, the first is a
    count (``24-12 OZ``). ``1 LB 4 OZ`` is a sum. A unit alone is one of it.

    Args:
        texts: Any writing; each different text once saves time.
        words: Other words for units.

    Raises:
        ConfigError: A word that stands for no unit.
    """
    _require_units(words)
    units = UNITS | {word.upper(): UNITS[unit.upper()] for word, unit in words.items()}
    frame = pl.DataFrame({"text": texts.cast(pl.String)}).select(_plain(pl.col("text")).alias("text"))
    packs = [*PACKS, *(word.upper() for word, unit in words.items() if unit.upper() in PACKS)]
    pack = frame.select(_amount("text", {p: units[p] for p in packs}, "pieces")).to_series().struct.field("value")
    parts = {}
    for measure in MEASURES:
        own = {unit: value for unit, value in units.items() if value[0] == measure}
        parts[measure] = frame.select(_amount("text", own, measure).alias("part")).unnest("part")
    sizes = {}
    for measure in ("grams", "millilitres"):
        value, times = parts[measure]["value"], parts[measure]["times"]
        whole = pl.select(pl.when(times.is_null()).then(value * pack.fill_null(1.0)).otherwise(value)).to_series()
        sizes[measure] = _within(whole, measure)
    pieces = pl.select(
        pl.coalesce(parts["pieces"]["value"], parts["grams"]["times"], parts["millilitres"]["times"])
    ).to_series()
    return pl.DataFrame({**sizes, "pieces": _within(pieces, "pieces")})


def size_columns(
    items: pl.DataFrame, columns: Sequence[str], words: Mapping[str, str]
) -> tuple[pl.DataFrame, tuple[Finding, ...]]:
    """Add ``NAME_grams``, ``NAME_millilitres`` and ``NAME_pieces`` for each column, those that any item has.

    Raises:
        ConfigError: A word that stands for no unit.
        DataError: A column that is not there or holds no text, or a name that is taken.
    """
    findings = []
    _require_units(words)  # where no column is asked for, too
    for name in columns:
        require_text(items, name, "data.cleaning.units")
        counts = items[name].drop_nulls().alias("text").value_counts(name="rows")
        sizes = parse_sizes(counts["text"], words)
        sizes = sizes.select(s.alias(f"{name}_{s.name}") for s in sizes if s.null_count() < len(s))
        for new in sizes.columns:
            if new in items.columns:
                raise DataError(f"data.cleaning.units: '{name}' would make a column '{new}', which the items have.")
        known = sizes.select(pl.any_horizontal(pl.all().is_not_null())).to_series() if sizes.width else None
        if known is None:
            known = pl.Series([False]).new_from_index(0, len(counts))
        items = items.join(
            pl.concat([counts.select(pl.col("text").alias(name)), sizes], how="horizontal"),
            on=name,
            how="left",
            maintain_order="left",
        )
        rows, read = int(counts["rows"].sum()), int(counts.filter(known)["rows"].sum())
        done = (
            f"{read:,} of {rows:,} read as numbers ({read / max(1, rows):.2%}), in {', '.join(sizes.columns) or 'none'}"
        )
        unread = counts.filter(~known).sort(["rows", "text"], descending=[True, False])
        parts = tuple((f"not read: {text!r}", count) for text, count in unread.head(_MOST_UNPARSED).iter_rows())
        findings.append(Finding("units", rows, f"values of {name}", done, parts))
    return items, tuple(findings)


def _require_units(words: Mapping[str, str]) -> None:
    for word, unit in words.items():
        if unit.upper() not in UNITS:
            raise ConfigError(
                f"data.cleaning.unit_words.{word}: '{unit}' is no unit; legal: {', '.join(UNITS)}."
                + did_you_mean(unit.upper(), UNITS)
            )


def _plain(text: pl.Expr) -> pl.Expr:
    return (
        text.str.replace_all(r"(\d)([\u00bc-\u00be\u2150-\u215e])", "${1} ${2}")
        .str.normalize("NFKC")
        .str.to_uppercase()
        .str.replace_all("\u2044", "/")
        .str.replace_all("[\u2010-\u2015]", "-")
        .str.replace_all(r"(\d),(\d{3})\b", "${1}${2}")
        .str.replace_all(r"(\d),(\d)", "${1}.${2}")
        .str.replace_all(r"[\s_]+", " ")
        .str.replace(r"^\s*HALF\b", "1/2")
        .str.strip_chars()
    )


def _amount(text: str, units: Mapping[str, tuple[str, float]], measure: str) -> pl.Expr:
    """Return a struct of ``value``, in grams, millilitres or pieces, and ``times``, the count it is a multiple of."""
    names = "|".join(re.escape(unit) for unit in sorted(units, key=len, reverse=True))
    pattern = (
        rf"(?:(?P<first>{_NUMBER}) ?(?P<sign>[/X -]) ?)?(?P<second>{_NUMBER})(?:/(?P<parts>\d+))?[ -]*(?P<unit>{names})"
        rf"(?:\.? (?P<more>{_NUMBER}) ?OZ)?(?:[^A-Z]|$)"
    )
    found = pl.col(text).str.extract_groups(pattern)
    factors = {unit: factor for unit, (_, factor) in units.items()}

    def number(name: str) -> pl.Expr:
        return found.struct.field(name).cast(pl.Float64, strict=False)

    first, sign, second, parts = number("first"), found.struct.field("sign"), number("second"), number("parts")
    is_mixed = _is_fraction(second, parts)
    plain = pl.when(parts.is_null()).then(second).when(is_mixed).then(second / parts).otherwise(parts)
    is_fraction = (sign == "/") & parts.is_null() & _is_fraction(first, second)
    ratio = second / first
    narrow = ratio <= 2 if measure == "pieces" else ratio < 2
    signs = ("-", "/") if measure == "pieces" else ("-",)
    is_pack = found.struct.field("unit").is_in(list(PACKS))
    is_range = sign.is_in(signs) & parts.is_null() & (first < second) & narrow & ~is_pack
    is_single = is_fraction | is_range | (parts.is_not_null() & ~(is_mixed & (sign != "-")))
    is_multiple = sign.is_in(["/", "X", "-"]) & ~is_single
    value = (
        pl.when(is_fraction).then(first / second)
        .when(is_range).then((first + second) / 2)
        .when(is_multiple).then(first * plain)
        .when(is_mixed & first.is_not_null()).then(first + plain)
        .otherwise(plain)
    )  # fmt: skip
    unit = pl.coalesce(found.struct.field("unit"), pl.col(text).str.extract(rf"^({names})\.?$"))
    factor = unit.replace_strict(factors, default=None, return_dtype=pl.Float64)
    more = pl.when(unit.is_in(["LB", "LBS"])).then(number("more") * UNITS["OZ"][1])
    return pl.struct(value=value.fill_null(1.0) * factor + more.fill_null(0.0), times=pl.when(is_multiple).then(first))


def _is_fraction(top: pl.Expr, bottom: pl.Expr) -> pl.Expr:
    odd = top % 2 == 1
    return ((bottom.is_in([2.0, 4.0, 8.0]) & odd & (top < bottom)) | ((bottom == 3) & top.is_in([1.0, 2.0]))).fill_null(
        False
    )


def _within(values: pl.Series, measure: str) -> pl.Series:
    return pl.select(pl.when((values > 0) & (values <= LARGEST[measure])).then(values)).to_series()
