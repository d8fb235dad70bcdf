"""Pictures as files."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from gtacli.errors import RunError, UsageError
from gtacli.rendering.files import SUFFIXES, check_picture_suffix, write_picture


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_pictures_give_equal_files_of_their_format(tmp_path: Path, suffix: str) -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    starts = {".png": b"\x89PNG", ".svg": b"<svg", ".pdf": b"%PDF"}
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        assert write_picture(picture, path) == str(path)
    one, other = (path.read_bytes() for path in paths)
    assert one == other
    assert one.startswith(starts.get(suffix, b"\xff\xd8"))
    if suffix in (".png", ".jpg"):
        assert Image.open(paths[0]).size == picture.size


def test_other_suffixes_and_unwritable_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must end in"):
        check_picture_suffix(Path("a.tiff"), "out")
    (tmp_path / "file").touch()
    with pytest.raises(RunError):
        write_picture(Image.new("RGB", (2, 2)), tmp_path / "file" / "a.png")
