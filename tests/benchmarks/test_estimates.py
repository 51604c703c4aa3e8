"""The comparison of estimates with what is measured: the right stages, the right way round."""

from benchmarks.estimates import CASES, Case, rows_of

FOUND = {
    "stages": {"timelines": {"seconds": 2.0}, "gru": {"seconds": 30.0}}, "peak_memory": 3 << 20, "disk": 1 << 20,
    "measured": {"seconds": {"timelines": 1.0, "gru": 70.0, "all": 99.0}, "peak_memory": 6 << 20, "disk": 4 << 20},
}  # fmt: skip


def test_rows_compare_the_stages_of_a_case() -> None:
    """A case that sums other stages on one side, or divides the wrong way round, would say nothing."""
    rows = rows_of(Case("training", "", "", stages=("gru",)), FOUND)
    assert [(row["name"], round(row["ratio"], 2), row["met"]) for row in rows] == [
        ("training, time (s)", 0.43, False), ("training, memory (MiB)", 0.5, True), ("training, disk (MiB)", 0.25, False),
    ]  # fmt: skip
    assert rows_of(Case("all", "", ""), FOUND)[0]["ratio"] == 32 / 71


def test_cases_that_only_encode_leave_memory_to_the_case_that_trains() -> None:
    """The same run's peak would be counted twice."""
    assert [row["name"] for row in rows_of(Case("encoding", "", "", stages=("gru",)), FOUND)][1:]
    encoding = {**FOUND, "stages": {"gru: encode": {"seconds": 1.0}}, "measured": {**FOUND["measured"], "seconds": {"gru: encode": 1.0}}}
    assert len(rows_of(next(case for case in CASES if case.name == "encoding small"), encoding)) == 1
