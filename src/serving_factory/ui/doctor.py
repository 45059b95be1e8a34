"""The doctor's page. Pure, from values to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serving_factory.ui.text import clean, clean_lines

__all__ = ["doctor_page"]


def doctor_page(checks: Sequence[Mapping[str, str]]) -> str:
    """A line per check; below it what it means and what to do, where it is not well.

    Args:
        checks: with the members `name`, `verdict` (`ok`, `warn` or `fail`), `found`, `means` and `remedy`.
    """
    margin = max((len(check["name"]) for check in checks), default=0)
    lines: list[str] = []
    for check in checks:
        lines.append(f"{check['verdict']:<4}  {check['name']:<{margin}}  {clean(check['found'])}")
        for label, text in (("It means", check["means"]), ("What to do", check["remedy"])):
            told = " ".join(clean_lines(text))
            lines += [f"{'':<{margin + 8}}{label}: {told}"] if told else []
    count = {verdict: sum(check["verdict"] == verdict for check in checks) for verdict in ("ok", "warn", "fail")}
    told = ", ".join(f"{number} {verdict}" for verdict, number in count.items() if number)
    return "".join(f"{line}\n" for line in [*lines, "", f"{len(checks)} checks: {told}."])
