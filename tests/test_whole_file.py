"""Small files, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nsbluesky.whole_file import write_whole


def test_the_former_content_stays_until_all_of_the_new_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "told.json"
    write_whole(path, "first")
    write = Path.write_text

    def dies_in_the_middle(self: Path, text: str) -> int:
        write(self, text[:3])
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", dies_in_the_middle)
        with pytest.raises(OSError, match="no space"):
            write_whole(path, "second")
    assert path.read_text() == "first"
    write_whole(path, "third")
    assert path.read_text() == "third" and list(tmp_path.iterdir()) == [path]


def test_two_that_write_at_once_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As services of two sessions that share a folder of results: the last one counts, and none fails."""
    path = tmp_path / "told.json"
    write = Path.write_text

    def while_another_writes(self: Path, text: str) -> int:
        count = write(self, text)
        monkeypatch.setattr(Path, "write_text", write)
        write_whole(path, "another's")
        return count

    monkeypatch.setattr(Path, "write_text", while_another_writes)
    write_whole(path, "mine")
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_has_left_goes_with_the_next_file(tmp_path: Path) -> None:
    """Another process may be at a part that is new, and another file's parts are not its own."""
    path = tmp_path / "told.json"
    left, new, others = (tmp_path / f"{name}.part" for name in ("told.json.a", "told.json.b", "told.jsonl.a"))
    for part in (left, new, others):
        part.write_text("ha")
    for part in (left, others):
        os.utime(part, (0, 0))
    write_whole(path, "all")
    assert path.read_text() == "all" and sorted(tmp_path.iterdir()) == sorted([path, new, others])


def test_an_error_names_the_file_that_was_wanted(tmp_path: Path) -> None:
    """And not its part, which nobody knows."""
    in_a_file, is_a_folder, gone = (
        tmp_path / "file" / "told.json",
        tmp_path / "folder",
        tmp_path / "gone" / "told.json",
    )
    (tmp_path / "file").touch()
    is_a_folder.mkdir()
    for path, kind in ((in_a_file, NotADirectoryError), (is_a_folder, IsADirectoryError), (gone, FileNotFoundError)):
        with pytest.raises(kind) as told:
            write_whole(path, "all")
        assert told.value.filename == str(path)
