"""Problems are counted in full, kept in part, and merged as if one had seen them all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.text.problems import KINDS, Problems, TextError

PROBLEMS = st.tuples(st.sampled_from(sorted(KINDS)), st.sampled_from("ab"), st.integers(1, 9))


def report_of(problems, keep):
    report = Problems(keep=keep)
    for problem in problems:
        report.add(*problem)
    return report.as_json()


@given(st.lists(st.lists(PROBLEMS)), st.integers(0, 3))
def test_merged_reports_say_what_one_report_of_everything_says(parts, keep):
    reports = [json.loads(json.dumps(report_of(part, keep))) for part in parts]
    everything = [problem for part in parts for problem in part]
    assert Problems.merged(reports, keep=keep) == report_of(everything, keep)


def test_all_are_counted_and_the_first_of_each_kind_kept():
    problems = Problems(keep=2)
    for line in range(1, 6):
        problems.add("empty", "a.txt", line)
    problems.add("unreadable", "b.txt", None, "no permission")
    assert problems.counts == {"empty": 5, "unreadable": 1}
    assert [str(problem) for problem in problems.examples] == [
        "a.txt, line 1: no text but white space",
        "a.txt, line 2: no text but white space",
        "b.txt: cannot be read (no permission)",
    ]


def test_what_a_report_quotes_is_cut():
    problems = Problems()
    problems.add("bad_json", "a.jsonl", 1, "x" * 1_000_000)
    assert len(str(problems.examples[0])) < 300


def test_stopping_names_file_line_and_remedy():
    problems = Problems(on_problem="stop")
    with pytest.raises(TextError, match=r"a\.txt, line 7: not UTF-8 .*byte 3.*save it.*'skip'"):
        problems.add("invalid_utf8", "a.txt", 7, "invalid start byte at byte 3")
    assert problems.counts == {"invalid_utf8": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Problems(on_problem="ignore"), "'ignore'.*'skip'.*'stop'"),
        (lambda: Problems(keep=-1), "-1.*0 or more"),
        (lambda: Problems().add("odd", "a.txt", 1), "'odd'.*bad_json"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
