"""Tests of lanes, against a reference that lists everything in memory."""

from __future__ import annotations

import gc
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gtacli.data.spec import find_stream
from gtacli.data.streams import lanes as module
from gtacli.data.streams.lanes import Lane, LanePlace, block_size, count_lanes
from gtacli.data.streams.permutation import Permutation
from gtacli.data.streams.stream import ImageStream
from gtacli.errors import GtaError
from gtacli.images.decode import EncodedImage
from tests.shards import write_parquet, write_tar
from tests.web import Web


def stream_of(spec: str) -> ImageStream:
    found = find_stream(spec)
    assert found is not None
    return found


def write_shards(folder: Path, sizes: list[list[int]], kind: str = "wds") -> str:
    """Write shards whose images are of these sizes in bytes, all different; return the spec."""
    folder.mkdir(exist_ok=True)
    for number, shard in enumerate(sizes):
        images = [
            f"{number}.{place} ".encode().ljust(size, b".") for place, size in enumerate(shard)
        ]
        if kind == "wds":
            write_tar(folder / f"{number}.tar", {f"{i}.jpg": data for i, data in enumerate(images)})
        else:
            write_parquet(folder / f"{number}.parquet", list(images))
    suffix = "tar" if kind == "wds" else "parquet"
    return f"{kind}/{folder}/{{0..{len(sizes) - 1}}}.{suffix}"


def reference(sizes: list[list[int]], seed: int, lane: int, lanes: int, kind: str) -> Iterator[str]:
    """Yield the images of a lane as SHARD.PLACE, from a list of a whole pass."""
    count, (most, most_bytes) = len(sizes), block_size(lanes)
    starts = []
    for shard in sizes:  # a sample has two headers, its image and its label
        begins = np.cumsum([0, *(1536 + -(-size // 512) * 512 for size in shard)]).tolist()
        starts.append(begins if kind == "wds" else list(range(len(shard))))
    dealt = lane
    while True:
        turn, own = dealt // count, list[tuple[int, int, int, int]]()
        while dealt // count == turn:
            shard = Permutation(count, seed, turn)[dealt % count]
            own += [(dealt, shard, place, size) for place, size in enumerate(sizes[shard])]
            dealt += lanes
        while own:
            block, total = [own[0]], own[0][3]
            for one in own[1:]:
                if len(block) == most or total >= most_bytes or total + one[3] > most_bytes:
                    break
                block.append(one)
                total += one[3]
            own = own[len(block) :]
            begin, shard, place, _ = block[0]
            rng = np.random.default_rng((seed, lane, begin, starts[shard][place]))
            for chosen in rng.permutation(len(block)):
                yield "{1}.{2}".format(*block[chosen])


def take(lane: Lane, count: int) -> list[str]:
    return [lane.take().data.split()[0].decode() for _ in range(count)]


SIZES = st.lists(st.lists(st.integers(8, 900), max_size=9), min_size=1, max_size=7)


@settings(max_examples=50, deadline=None)
@given(
    SIZES.filter(lambda sizes: any(sizes)), st.data(), st.sampled_from(["wds", "parquet"]),
    st.integers(1, 40), st.sampled_from([500, 3000, 1 << 20]),
)  # fmt: skip
def test_lanes_are_those_of_the_reference(
    sizes: list[list[int]], data: Any, kind: str, shuffled: int, most_bytes: int
) -> None:
    """Also where a lane is left at any image and another one goes on from its place."""
    lanes = data.draw(st.integers(1, len(sizes)))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHUFFLED", shuffled)
        patch.setattr(module, "SHUFFLED_BYTES", most_bytes)
        patch.setattr(module, "_PASSES", 200)
        stream = stream_of(write_shards(Path(folder), sizes, kind))
        for number in range(lanes):
            wanted = reference(sizes, 5, number, lanes, kind)
            place = None
            for _ in range(data.draw(st.integers(1, 3))):
                lane = Lane(stream, 5, number, lanes, place)
                count = data.draw(st.integers(0, 25))
                assert take(lane, count) == [next(wanted) for _ in range(count)]
                assert lane.unreadable == []
                place = lane.place
                lane.close()


@settings(max_examples=20, deadline=None)
@given(SIZES.filter(lambda sizes: all(sizes)), st.data())
def test_every_image_comes_once_a_pass(sizes: list[list[int]], data: Any) -> None:
    """Over as many passes as there are lanes, every lane has had the same number of shards."""
    lanes = data.draw(st.integers(1, len(sizes)))
    with tempfile.TemporaryDirectory() as folder:
        stream = stream_of(write_shards(Path(folder), sizes))
        counts = Counter[str]()
        for number in range(lanes):
            lane = Lane(stream, 0, number, lanes)
            while True:
                image = lane.take()
                if lane.place.shard >= lanes * len(sizes):
                    break
                counts[image.data.split()[0].decode()] += 1
            lane.close()
    images = [f"{shard}.{place}" for shard, one in enumerate(sizes) for place in range(len(one))]
    assert counts == dict.fromkeys(images, lanes)


@pytest.mark.parametrize(
    ("images", "shards", "lanes"),
    [
        (64, 100_000, 64), (64, 1024, 64), (64, 1000, 32), (64, 64, 64), (64, 20, 4), (64, 7, 1),
        (64, 1, 1), (5, 10, 5), (1, 10, 1), (4096, 10**9, 64), (61, 10**5, 61), (67, 10**5, 1),
        (96, 10**5, 48),
    ],
)  # fmt: skip
def test_number_of_lanes(images: int, shards: int, lanes: int) -> None:
    assert count_lanes(images, shards) == lanes


def test_an_order_of_another_seed_or_pass_is_another(tmp_path: Path) -> None:
    stream = stream_of(write_shards(tmp_path / "s", [[20] * 9] * 4))
    orders = [take(Lane(stream, seed, 0, 1), 72) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0][:36]) == sorted(orders[0][36:])
    assert orders[0][:36] != orders[0][36:]


def test_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    spec = write_shards(tmp_path / "s", [[20] * 3] * 5)
    (tmp_path / "s/1.tar").unlink()
    whole = (tmp_path / "s/3.tar").read_bytes()
    (tmp_path / "s/3.tar").write_bytes(whole[:3000])
    lane = Lane(stream_of(spec), 0, 0, 1)
    assert {one.partition(".")[0] for one in take(lane, 200)} == {"0", "2", "3", "4"}
    assert {one.error.partition("shard ")[2] for one in lane.unreadable} == {
        f"{tmp_path}/s/1.tar: there is no such file", f"{tmp_path}/s/3.tar: it ends early",
    }  # fmt: skip


def test_shards_for_validation_are_passed_over(tmp_path: Path) -> None:
    write_shards(tmp_path / "s", [[20] * 3] * 4)
    for number, name in enumerate(("train-0", "val-0", "test-0", "train-1")):
        (tmp_path / f"s/{number}.tar").rename(tmp_path / f"s/{name}.tar")
    lane = Lane(stream_of(f"wds/{tmp_path}/s"), 0, 0, 1)
    assert {one.partition(".")[0] for one in take(lane, 100)} == {"0", "3"}
    lane = Lane(stream_of(f"wds/{tmp_path}/s/{{val,test}}-*.tar"), 0, 0, 1)
    with pytest.raises(GtaError, match="named for validation or test are passed over"):
        lane.take()


@pytest.mark.parametrize("sizes", [[[], [], []], [[]]])
def test_shards_without_images_are_no_endless_loop(tmp_path: Path, sizes: list[list[int]]) -> None:
    lane = Lane(stream_of(write_shards(tmp_path / "s", sizes)), 0, 0, 1)
    with pytest.raises(GtaError, match="shards in a row have no image"):
        lane.take()


def test_a_remote_server_that_has_gone_is_no_endless_loop(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_EMPTY", 50)
    lane = Lane(stream_of("wds/https://example.org/{00000..99999}.tar"), 0, 0, 64)
    with pytest.raises(GtaError, match=r"50 shards in a row .*the server answers 404"):
        lane.take()


def left_at(stream: ImageStream, count: int) -> LanePlace:
    lane = Lane(stream, 0, 0, 1)
    take(lane, count)
    lane.close()
    return lane.place


@pytest.mark.parametrize("change", ["time", "shorter", "gone", "later"])
def test_a_changed_shard_is_refused(tmp_path: Path, change: str) -> None:
    """The one in which the block begins, and any other one of the block."""
    stream = stream_of(write_shards(tmp_path / "s", [[20] * 3] * 3))
    place = left_at(stream, 4)
    order = Permutation(3, 0, 0)
    first, later = (tmp_path / f"s/{order[i]}.tar" for i in (0, 2))
    if change == "time":
        os.utime(first, ns=(1, 1))
    elif change == "shorter":
        write_tar(first, {"0.jpg": b"x"})
    elif change == "gone":
        first.unlink()
    else:
        write_tar(later, {"0.jpg": b"x"})
    with pytest.raises(GtaError, match="no longer what it was when the run was stopped") as error:
        take(Lane(stream, 0, 0, 1, place), 1)
    assert error.value.option == "resume"


@pytest.mark.parametrize("kind", ["wds", "parquet"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_remote_lane_goes_on_where_it_was(
    tmp_path: Path, web: Web, kind: str, ranges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "parquet" and not ranges:
        pytest.skip("needs ranges")
    monkeypatch.setattr(module, "SHUFFLED", 4)
    local = write_shards(tmp_path / "s", [[700] * 9] * 3, kind)
    suffix = local.rpartition(".")[2]
    for number in range(3):
        url = f"https://example.org/{number}.{suffix}?key=secret"
        web.files[url] = (tmp_path / f"s/{number}.{suffix}").read_bytes()
        web.tags[url] = f'"{number}"'
    web.sends_ranges = ranges
    far = stream_of(f"{kind}/https://example.org/{{0..2}}.{suffix}?key=secret")
    wanted = take(Lane(stream_of(local), 3, 0, 1), 60)
    place: LanePlace | None = None
    found: list[str] = []
    for count in (1, 6, 0, 20, 33):
        lane = Lane(far, 3, 0, 1, place)
        found += take(lane, count)
        place = lane.place
        lane.close()
    assert found == wanted
    if kind == "wds":
        assert bool(web.ranges) == ranges


def test_a_lane_keeps_few_images_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHUFFLED_BYTES", 100_000)
    stream = stream_of(write_shards(tmp_path / "s", [[10_000] * 50] * 3))
    lane = Lane(stream, 0, 0, 1)
    take(lane, 60)
    images = [one for one in gc.get_objects() if isinstance(one, EncodedImage)]
    alive = sum(str(tmp_path) in one.name for one in images)
    assert alive <= 10 + 10 + 3


class Everywhere(dict[str, bytes]):
    """The same file at every URL."""

    def __contains__(self, url: object) -> bool:
        return True

    def __getitem__(self, url: str) -> bytes:
        return super().__getitem__("file")


def test_a_billion_shards_begin_as_few_do(tmp_path: Path, web: Web) -> None:
    """Only those are asked for whose images are taken or read ahead."""
    write_tar(tmp_path / "0.tar", {f"{i}.jpg": b"x" * 99 for i in range(20)})
    web.files = Everywhere(file=(tmp_path / "0.tar").read_bytes())
    stream = stream_of("wds/https://example.org/{000000000..999999999}.tar")
    lanes = [Lane(stream, 0, number, 64) for number in range(8)]
    for lane in lanes:
        lane.take()
    for lane in lanes:
        lane.close()
    assert len(stream) == 10**9
    # A block has 32 images, as many are read ahead, and a shard has 20.
    assert 8 * 2 <= len(web.asked) <= 8 * 6
    assert len(set(web.asked)) == len(web.asked)
