"""The verdict on models of one base, of none, and between."""

import pytest

from ledmerge.report.relation import RELATED, UNRELATED, verdict

CASES = {
    "one embedding made anew": ([0.0, 0.99, 0.98], 0.98, "one base"),
    "one embedding shared": ([1.0, 0.01, -0.02], 0.01, "no common base"),
    "at the upper line": ([RELATED], RELATED, "one base"),
    "at the lower line": ([UNRELATED], UNRELATED, "no common base"),
    "between": ([0.3, 0.4], 0.35, "unclear"),
    "no matrix": ([], None, "too little to tell"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_median_decides(case: str):
    cosines, middle, said = CASES[case]
    assert verdict(cosines) == (pytest.approx(middle), said)
