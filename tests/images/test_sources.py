from pathlib import Path

from gtacli.images.decode import EncodedImage
from gtacli.images.sources import ImageList


def test_a_list_gives_what_can_be_decoded() -> None:
    packed = EncodedImage("packed", b"")
    images = ImageList(["a/b.png", Path("c.png"), packed])
    assert [*images] == [Path("a/b.png"), Path("c.png"), packed]
    assert [*images[1:]] == [Path("c.png"), packed]
    assert images[-1] is packed
    assert len(images[:2]) == 2
    assert [*ImageList(images)] == [*images]
