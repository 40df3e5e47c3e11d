"""A short soak, so that the long one (scripts/soak) is known to work, and each change meets it.

Its faults are those that are over within seconds; the seed is fixed, the machine's pace is not.
"""

from pathlib import Path

from tests.flow.forked import ForkedConnector
from tests.soak.report import report
from tests.soak.soak import Plan, soak


def test_nothing_is_lost_while_everything_breaks(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    plan = Plan(seed=8, seconds=35.0, rate=8.0, pace=0.25, longest=4.0, drain=120.0, patience=1.0)
    verdict = soak(tmp_path, plan, ForkedConnector)
    print(report(verdict))
    assert verdict.wrong == []
    assert verdict.whole.accepted > 100
    assert verdict.fates["failed"].accepted and verdict.fates["quarantine"].accepted
    assert verdict.deaths and verdict.struck
