"""Names of files, also where they are made of what came from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsbluesky.folders import new_file


def test_a_file_that_is_there_stays_and_the_next_one_is_numbered(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        path = new_file(tmp_path, "0123abcd_clean.v1.cxi")
        path.touch()
        names.append(path.name)
    assert names == ["0123abcd_clean.v1.cxi", "0123abcd_clean.v1_2.cxi", "0123abcd_clean.v1_3.cxi"]


@pytest.mark.parametrize("name", ["../x.h5", "../../ab_primary.h5", "/elsewhere/x.h5", "a/../../x.h5"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="leads out of"):
        new_file(tmp_path / "results", name)
