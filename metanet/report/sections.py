"""The registry of sections of a run's report.

A section is a function from a `ReportInputs` to parts of the page, [] where it does not
apply:

    @SECTIONS.register("my_section", position=55)
    def my_section(report: ReportInputs) -> list[Markup]:
        return [page.section("Title", page.table(("", "value"), rows))]

Sections appear by ascending position; those of the package have multiples of 10.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metanet.registry import Registry
from metanet.report.page import Markup
from metanet.training import Run, RunResult


class ReportInputs(NamedTuple):
    """Arguments of a section.

    Attributes:
        workdir: The run's directory.
        run: The run, with its zoo and best checkpoint.
        result: Its result.
        config: Content of config.json: config, overrides, versions.
    """

    workdir: Path
    run: Run
    result: RunResult
    config: dict[str, Any]


Section = Callable[[ReportInputs], Sequence[Markup]]
SECTIONS: Registry[Section] = Registry("report section")
# Position of sections that name none: behind the task's own, before the settings.
_DEFAULT_POSITION = 65


def all_sections(report: ReportInputs) -> list[Markup]:
    """Returns the parts of all registered sections in order."""

    def position(name: str) -> float:
        value = SECTIONS.defaults(name).get("position", _DEFAULT_POSITION)
        assert isinstance(value, int | float)
        return value

    names = sorted(SECTIONS, key=position)
    return [part for name in names for part in SECTIONS[name](report)]
