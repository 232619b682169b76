"""The page of what can be brought: its table is the script's, and every row names a test that exists."""

from benchmarks import input_kinds


def test_the_page_holds_the_table_as_the_script_prints_it():
    page = input_kinds.PAGE.read_text(encoding="utf-8")
    assert page == input_kinds.page_with(page, input_kinds.table())


def test_there_are_at_least_thirty_kinds_each_once():
    kinds = [row[0] for row in input_kinds.ROWS]
    assert len(kinds) == len(set(kinds)) >= 30
