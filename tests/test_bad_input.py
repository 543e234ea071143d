"""Every row of the table of bad input: exit code, message, nothing written, nothing run."""

from pathlib import Path

import pytest

from tests.bad_input import PAGE, Case, cases, make_world, outcome_of, row

CASES = list(cases())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad") / "world"
    make_world(folder)
    return folder


def results_in(folder: Path) -> set[str]:
    found = {path.name for path in folder.rglob("*") if path.is_file() or path.name == "harm"}
    return {name for name in found if name.startswith("out") or name.endswith(".tmp") or name == "harm"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_reported_clearly_and_leaves_nothing(case: Case, world, tmp_path):
    before = results_in(tmp_path)
    outcome = outcome_of(case, world, tmp_path)
    assert outcome.exit_code == case.exit_code, outcome.printed
    message = outcome.message(case.words)
    assert [word for word in case.words if word not in message] == [], message
    assert "Traceback" not in outcome.printed
    assert "unexpected" not in outcome.printed
    if outcome.exit_code:
        assert results_in(tmp_path) == before
    line = row(case, outcome)
    assert line in PAGE.read_text("utf-8").splitlines(), f"python -m tests.bad_input > {PAGE}: {line}"


def test_the_page_has_the_rows_of_the_table_and_no_others():
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    inputs = [line.split(" | ")[0].removeprefix("| ") for line in lines if not line.startswith("| ---")]
    assert [name for name in inputs if name != "input"] == [case.what for case in CASES]


def test_every_case_has_a_name_of_its_own():
    assert len({case.name for case in CASES}) == len(CASES)
