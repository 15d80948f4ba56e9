import pytest

from tocsr.files import append_json_line, read_json_lines, whole_file


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    with whole_file(path) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"


def test_a_failure_leaves_what_was_there_and_no_part(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    error = OSError(28, "no space left")

    def fails() -> None:
        with whole_file(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(OSError, match="no space left"):
        fails()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_line_cut_short_by_a_kill_is_left_out_and_written_over(tmp_path):
    path = tmp_path / "log.jsonl"
    append_json_line(path, {"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2, "x"')
    assert read_json_lines(path) == [{"n": 1}]
    append_json_line(path, {"n": 3})
    assert read_json_lines(path) == [{"n": 1}, {"n": 3}]
