import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from tocsr.config import DataConfig, Source
from tocsr.data import shards
from tocsr.data.images import PhotoCrops, batches
from tocsr.data.shards import expand_braces, shard_members
from tocsr.data.sources import list_photos
from tocsr.errors import TocsrError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tocsr" / "shards"


def encoded(number: int, form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def write_shard(path, files):
    """A tar in WebDataset's layout from names and bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def names(path, **settings) -> list[str]:
    return [photo.member for photo in list_photos(Source(path=str(path), **settings))]


@pytest.fixture
def pair(tmp_path):
    """Two shards of three photos each."""
    for shard in range(2):
        numbers = range(3 * shard, 3 * shard + 3)
        files = {f"{n:04}.{ext}": encoded(n) if ext == "png" else b"3" for n in numbers
                 for ext in ("png", "cls")}  # fmt: skip
        write_shard(tmp_path / "set" / f"photos-{shard:06}.tar", files)
    return tmp_path / "set"


BRACES = [
    "a.tar",
    "a-{000008..000011}.tar",
    "a-{0..11}.tar",
    "a-{08..11}.tar",
    "a-{3..1}.tar",
    "{train,val}-{0..1}.tar",
    "{b,a,}{00..02}/x",
]


@pytest.mark.parametrize("pattern", BRACES)
def test_braces_mean_what_webdataset_takes_them_for(pattern):
    from webdataset.shardlists import expand_urls

    assert expand_braces(pattern) == expand_urls(pattern)


@pytest.mark.parametrize("pattern", ["a-{0..8..2}.tar", "a-{x}.tar", "{a,{b,c}}.tar"])
def test_other_braces_are_refused(pattern):
    with pytest.raises(TocsrError, match="braces must hold a range such as"):
        expand_braces(pattern)


def test_shards_that_webdataset_wrote_are_read(tmp_path):
    import webdataset

    with webdataset.ShardWriter(f"{tmp_path}/x-%06d.tar", maxcount=2, verbose=0) as writer:
        for number, (ext, form) in enumerate([("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")]):
            sample = {"__key__": f"{number:04}", ext: encoded(number, form), "cls": 3}
            writer.write({**sample, "json": {"caption": "a photo"}, "txt": "a photo"})
    source = Source(path=f"{tmp_path}/x-{{000000..000001}}.tar")
    photos = list_photos(source)
    assert [photo.member for photo in photos] == ["0000.jpg", "0001.png", "0002.webp"]
    assert [photo.path.name for photo in photos] == ["x-000000.tar"] * 2 + ["x-000001.tar"]
    assert photos[1].read() == encoded(1)


def test_a_folder_of_shards_is_the_shards_in_order(pair):
    both = names(f"{pair}/photos-{{000000..000001}}.tar")
    assert both == [f"{n:04}.png" for n in range(6)]
    assert names(pair) == both
    assert names(pair / "photos-000001.tar") == both[3:]


def test_samples_from_shards_are_those_from_the_same_photos_in_a_folder(pair, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number:04}.png").write_bytes(encoded(number))
    config = [DataConfig(sources=[Source(path=str(path))], crop=64) for path in (pair, folder)]
    ours, theirs = (next(batches(PhotoCrops(c, 0, 16), 16, [0])) for c in config)
    assert ours.images.equal(theirs.images)
    shard_of = {
        f"{folder}/{n:04}.png": f"{pair}/photos-{n // 3:06}.tar/{n:04}.png" for n in range(6)
    }
    assert ours.files == [shard_of[file] for file in theirs.files]
    assert set(ours.files) == set(shard_of.values())


def test_samples_from_shards_are_the_same_with_two_workers(pair):
    config = DataConfig(sources=[Source(path=str(pair))], crop=64, cache_mb=0)
    alone = list(batches(PhotoCrops(config, 0, 64), 4, range(16)))
    shared = list(batches(PhotoCrops(config, 0, 64), 4, range(16), num_workers=2))
    assert [batch.places for batch in alone] == [batch.places for batch in shared]
    assert all(a.images.equal(b.images) for a, b in zip(alone, shared, strict=True))


def test_a_limit_takes_photos_in_the_order_of_shards_and_of_members(pair):
    assert names(pair, limit=4) == ["0000.png", "0001.png", "0002.png", "0003.png"]


def test_a_limit_leaves_later_shards_unopened(pair):
    (pair / "photos-000001.tar").write_bytes(b"no tar" * 1000)
    assert len(names(pair, limit=3)) == 3


def test_an_extension_begins_at_the_first_dot(tmp_path):
    files = ["a/1.jpg", "1.seg.png", "2.JPEG", "._2.jpg", "3.json", "x.y/4.tiff"]
    shard = write_shard(tmp_path / "x.tar", dict.fromkeys(files, b"-"))
    assert names(shard) == ["a/1.jpg", "2.JPEG", "x.y/4.tiff"]


def test_the_index_finds_every_byte_of_long_names_too(tmp_path):
    files = {f"{'long' * 60}/{n}.png": encoded(n) for n in range(3)}
    shard = write_shard(tmp_path / "x.tar", files)
    photos = list_photos(Source(path=str(shard)))
    assert {photo.member: photo.read() for photo in photos} == files


def test_headers_are_read_once(pair, monkeypatch):
    first = names(pair)
    assert (pair / "photos-000000.tar.tocsr-index.json").is_file()
    monkeypatch.delattr(shards, "_read_headers")
    assert names(pair) == first


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_changed_shard_is_indexed_anew(pair, change):
    shard = pair / "photos-000000.tar"
    before = shard.stat()
    shard_members(shard)
    files = {"new.png": encoded(7)} if change == "size" else {f"{n}.png": b"" for n in range(3)}
    write_shard(shard, files)
    if change == "time":
        shard.write_bytes(shard.read_bytes().ljust(before.st_size, b"\0"))
        assert shard.stat().st_size == before.st_size
        os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
    else:
        os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [member.name for member in shard_members(shard)] == list(files)


def test_an_index_cut_short_is_made_again(pair):
    shard = pair / "photos-000000.tar"
    members = shard_members(shard)
    index = pair / f"{shard.name}.tocsr-index.json"
    index.write_text(index.read_text()[:40])
    assert shard_members(shard) == members
    assert len(json.loads(index.read_text())["members"]) == 6


def test_where_the_folder_cannot_be_written_the_index_lies_in_the_cache(pair, cache):
    (
        pair / "photos-000000.tar.tocsr-index.json"
    ).mkdir()  # cannot be replaced by a file, root's too
    members = shard_members(pair / "photos-000000.tar")
    assert len(list(cache.iterdir())) == 1
    assert sorted(path.suffix for path in pair.iterdir()) == [".json", ".tar", ".tar"]
    assert shard_members(pair / "photos-000000.tar") == members


def test_where_nothing_can_be_written_shards_are_read_all_the_same(pair, cache):
    (pair / "photos-000000.tar.tocsr-index.json").mkdir()
    cache.parent.mkdir(parents=True)
    cache.write_text("in the way")
    assert len(shard_members(pair / "photos-000000.tar")) == 6


def test_a_missing_shard_is_named(pair):
    with pytest.raises(TocsrError, match=r"lacks 2 of its 4 shards, first .*photos-000002\.tar"):
        list_photos(Source(path=f"{pair}/photos-{{000000..000003}}.tar"))


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.zst"])
def test_compressed_shards_are_refused(tmp_path, name):
    (tmp_path / name).touch()
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(TocsrError, match=rf"must be plain \.tar files, .* got .*{name}"):
            list_photos(Source(path=str(path)))


def test_photos_beside_shards_are_refused(pair):
    (pair / "1.png").write_bytes(encoded(1))
    with pytest.raises(TocsrError, match=r"holds both, 1\.png and photos-000000\.tar"):
        list_photos(Source(path=str(pair)))


def test_a_shard_cut_short_is_refused(pair):
    shard = pair / "photos-000000.tar"
    shard.write_bytes(shard.read_bytes()[:40000])
    with pytest.raises(TocsrError, match=r"photos-000000\.tar is not a readable plain tar file"):
        list_photos(Source(path=str(shard)))


def test_a_header_broken_in_the_middle_does_not_shorten_a_shard(pair):
    shard = pair / "photos-000000.tar"
    offset = shard_members(shard)[2].offset - tarfile.BLOCKSIZE
    data = bytearray(shard.read_bytes())
    data[offset + 150] ^= 1
    shard.write_bytes(data)
    with pytest.raises(TocsrError, match=f"broken header at byte {offset}"):
        shard_members(shard)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_member_smaller_than_the_crop_is_named_when_it_is_first_used(tmp_path, num_workers):
    file = io.BytesIO()
    Image.new("RGB", (40, 90)).save(file, "PNG")
    shard = write_shard(tmp_path / "x.tar", {"small.png": file.getvalue()})
    data = PhotoCrops(DataConfig(sources=[Source(path=str(shard))], crop=64), 0, 4)
    line = r"^photos must be at least 64 x 64, \S*x\.tar/small\.png is 40 x 90; leave .*data\.crop$"
    with pytest.raises(TocsrError, match=line):
        next(batches(data, 4, [0], num_workers))


def test_a_broken_member_names_itself(tmp_path):
    shard = write_shard(tmp_path / "x.tar", {"a.png": encoded(0)[:500]})
    data = PhotoCrops(DataConfig(sources=[Source(path=str(shard))], crop=64), 0, 1)
    with pytest.raises(TocsrError, match=r"x\.tar/a\.png is not a readable image"):
        data[0]
