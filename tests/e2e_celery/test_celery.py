"""Never two builds by accident, never a build lost, never green without a build: seen on CeleryExecutor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .cases import CASES

if TYPE_CHECKING:
    from e2e.case import Case
    from e2e.stage import Outcome, Stage


def _param(case: Case) -> object:
    marks = [pytest.mark.xfail(strict=True, reason=case.fails)] if case.fails else []
    return pytest.param(case, id=case.id, marks=marks)


@pytest.mark.parametrize("case", [_param(case) for case in CASES])
def test_case(case: Case, stage: Stage, outcomes: list[Outcome]) -> None:
    outcome = stage.outcome(case)
    outcomes.append(outcome)
    differences = outcome.differences()
    assert not differences, "\n".join([f"{case.title} ({case.mode}); {case.because}", *differences])
