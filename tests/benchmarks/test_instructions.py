"""An event takes no more instructions than it did: the check of speed that a busy machine cannot disturb."""

from __future__ import annotations

import pytest

from benchmarks.instructions import PYTHON, SCENARIOS, counted, counting, kept

MORE, LESS = 1.25, 0.5
ANEW = "`python -m benchmarks.instructions` writes the counts anew"


@pytest.mark.skipif(PYTHON not in kept(), reason=f"no counts are kept for Python {PYTHON}; {ANEW}")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_event_takes_no_more_instructions_than_it_did(scenario: str) -> None:
    counts = counted(scenario)
    before, now = kept()[PYTHON][scenario], counts.total()
    most = "\n".join(f"{number:6} {name}" for name, number in counts.most_common(10))
    assert now <= MORE * before, f"{scenario}: {now} instructions, {before} were kept; if that has to be so, {ANEW}. Most are in\n{most}"
    assert now >= LESS * before, f"{scenario}: {now} instructions, {before} were kept: so good that the check is blind; {ANEW}"


def test_only_code_of_ours_is_counted() -> None:
    from runtime.pattern import matches

    def other() -> int:
        return sum(range(1000))

    with counting() as counts:
        other()
        matches("order.*", "order.placed")
    assert {code.co_filename.rpartition("/")[2] for code in counts} == {"pattern.py"}
    assert 5 < counts.total() < 500


def test_the_count_grows_with_the_work() -> None:
    from runtime.pattern import matches

    found = []
    for times in (1, 10):
        with counting() as counts:
            for _ in range(times):
                matches("order.*", "order.placed")
        found.append(counts.total())
    assert found[1] == 10 * found[0]
