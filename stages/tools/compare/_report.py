"""What `compare` found, as text for a terminal, Markdown for a pull request, and JSON."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from stages.tools.compare._bootstrap import LEVEL, RESAMPLES, Interval, Verdict
from stages.tools.compare._revisions import Changes

MARKER = "<!-- verdict: compare -->"  # by which a workflow finds its comment again
LONGEST = 60  # characters of a param's value
VERDICTS: tuple[Verdict, ...] = ("better", "worse", "undecided", "same")
MOST = 40  # lines of a list in Markdown: GitHub takes comments up to 65,536 characters


@dataclass(frozen=True)
class Comparison:
    """One model of one dataset: its rows and groups on both sides, and the mean losses there."""

    dataset: str
    model: str
    rows: int
    groups: int
    only_before: int  # rows
    only_after: int
    before: float
    after: float
    interval: Interval


@dataclass(frozen=True)
class Report:
    """All comparisons of two revisions, the models that could not be compared, what changed."""

    before: str
    after: str
    comparisons: list[Comparison]
    left_out: dict[str, list[str]]  # why -> <dataset>/<model>
    changes: Changes


@dataclass(frozen=True)
class Section:
    """A table with its title; where it is `typed`, all of it may hold what people typed."""

    title: str
    header: list[str]
    rows: list[list[str]]
    typed: bool = True


def as_text(report: Report) -> str:
    """Aligned tables for a terminal."""
    parts = [f"{report.before} -> {report.after}: {summary(report)}"]
    for section in results(report) + changes(report.changes):
        parts += ["", section.title, *aligned([section.header, *section.rows])]
    return "\n".join([*parts, "", *notes(report)])


def as_markdown(report: Report) -> str:
    """For a comment on a pull request: found again by its first line, changes folded."""
    parts = [
        MARKER,
        f"### {summary(report)}",
        f"Out-of-fold losses of {code(report.after)} against {code(report.before)}.",
    ]
    parts += [f"**{code(section.title)}**\n\n{piped(section)}" for section in results(report)]
    parts.append("\n".join(f"- {note}" for note in notes(report, code)))
    parts += [
        f"<details><summary>{section.title}</summary>\n\n{piped(section)}\n</details>"
        for section in changes(report.changes)
    ]
    return "\n\n".join(parts) + "\n"


def summary(report: Report) -> str:
    """How many of the comparisons ended how."""
    verdicts = Counter(comparison.interval.verdict for comparison in report.comparisons)
    return ", ".join(f"{n} {name}" for name in VERDICTS if (n := verdicts[name]))


def results(report: Report) -> list[Section]:
    """A table for each dataset of the models whose losses differ, the smallest loss first."""
    header = [
        "model", "rows", "groups", "only before / after", "before", "after", "difference",
        f"{LEVEL:.0%} interval", "detectable", "verdict",
    ]  # fmt: skip
    by_dataset: dict[str, list[Comparison]] = {}
    for comparison in sorted(report.comparisons, key=lambda found: (found.after, found.model)):
        if comparison.interval.verdict != "same":
            by_dataset.setdefault(comparison.dataset, []).append(comparison)
    return [
        Section(dataset, header, [cells(comparison) for comparison in found], typed=False)
        for dataset, found in sorted(by_dataset.items())
    ]


def cells(comparison: Comparison) -> list[str]:
    """The row of a comparison, in the order of the header."""
    found = comparison.interval
    known = found.low is not None
    return [
        comparison.model,
        f"{comparison.rows:,}",
        f"{comparison.groups:,}",
        f"{comparison.only_before:,} / {comparison.only_after:,}",
        f"{comparison.before:.4f}",
        f"{comparison.after:.4f}",
        f"{found.difference:+.3g}",
        f"{found.low:+.3g} to {found.high:+.3g}" if known else "-",
        f"{found.detectable:.3g}" if known else "-",
        found.verdict,
    ]


def notes(report: Report, shown: Callable[[str], str] = str) -> list[str]:
    """What the tables do not say; `shown` writes the name of a model."""
    same = [
        f"{found.dataset}/{found.model}"
        for found in report.comparisons
        if found.interval.verdict == "same"
    ]
    listed = {"The same loss in every shared row": same} | report.left_out
    found = [f"{why}: {', '.join(map(shown, names))}." for why, names in listed.items() if names]
    judged = len(report.comparisons) - len(same)
    if judged:
        found.append(
            "Difference: mean log loss after - before on the shared rows, below 0 is better. "
            f"Interval: studentised bootstrap over groups, {RESAMPLES:,} resamples. Detectable: "
            "the true difference that 80 % of all repetitions would find."
        )
    if judged > 1:
        found.append(
            f"{judged} comparisons at {1 - LEVEL:.0%} each: with no true difference at all, "
            f"{judged * (1 - LEVEL):.2g} of them would still be called better or worse on average."
        )
    return found


def changes(changed: Changes) -> list[Section]:
    """What differs between the two sides; no section for what does not."""
    keys = list(dict.fromkeys(key for values in changed.cost.values() for key in values))
    costs = [
        [name, *(" → ".join(map(str, values.get(key, ()))) for key in keys)]
        for name, values in changed.cost.items()
    ]
    params = [[name, *map(shortened, values)] for name, values in changed.params.items()]
    sections = [
        Section(f"params: {len(params)} changed", ["param", "before", "after"], params),
        Section(
            f"code: {len(changed.code)} files changed",
            ["file", "lines"],
            [list(entry) for entry in changed.code.items()],
        ),
        Section(
            "data changed: the shared rows may not be what they were",
            ["file"],
            [[path] for path in changed.data],
        ),
        Section(f"cost: {len(costs)} models changed", ["model", *keys], costs),
    ]
    return [section for section in sections if section.rows]


def shortened(value: Any) -> str:
    """A value on one line; a dash where there is none."""
    text = "-" if value is None else " ".join(str(value).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def aligned(rows: list[list[str]]) -> Iterable[str]:
    """Lines of a table, its columns as wide as their widest cell."""
    first, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *figures in rows:
        right = (cell.rjust(width) for cell, width in zip(figures, widths, strict=True))
        yield "  ".join([name.ljust(first), *right]).rstrip()


def piped(section: Section) -> str:
    """The table in GitHub's Markdown, cut off after its first lines."""
    quoted = len(section.header) if section.typed else 1
    rows = [[*map(code, row[:quoted]), *row[quoted:]] for row in section.rows[:MOST]]
    rule = ["---"] * quoted + ["---:"] * (len(section.header) - quoted)
    lines = [f"| {' | '.join(row)} |" for row in [section.header, rule, *rows]]
    if len(section.rows) > MOST:
        lines.append(f"\n… and {len(section.rows) - MOST} more.")
    return "\n".join(lines)


def code(text: str) -> str:
    """Text that stays text: no mention, link or HTML of GitHub's comes of it."""
    return text and f"`{text.replace('`', chr(39)).replace('|', chr(92) + '|')}`"
