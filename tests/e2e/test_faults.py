"""Never two builds by accident, never a build lost, never green without a build: seen in real processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .cases import CASES

if TYPE_CHECKING:
    from .cases import Case
    from .stage import Outcome, Stage


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_case(case: Case, stage: Stage, outcomes: list[Outcome]) -> None:
    outcome = stage.outcome(case)
    outcomes.append(outcome)
    differences = outcome.differences()
    assert not differences, "\n".join([f"{case.title} ({case.mode}); {case.because}", *differences])
