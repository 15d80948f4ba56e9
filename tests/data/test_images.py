import hashlib
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from tocsr.config import DataConfig, Source
from tocsr.data.images import Batch, PhotoCrops, Place, batches, to_tensor, to_uint8
from tocsr.errors import TocsrError


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = rng.integers(0, 255, (80, 100, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return tmp_path


def crops(folder, seed=0, num=64, **settings) -> PhotoCrops:
    return PhotoCrops(
        DataConfig(sources=[Source(path=str(folder))], crop=64, **settings), seed, num
    )


def test_uint8_pixels_survive_the_range_of_training():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    tensor = to_tensor(pixels)
    assert tensor.min() == -1
    assert tensor.max() == 1
    assert np.array_equal(to_uint8(tensor), pixels)


def test_a_sample_is_the_same_in_any_batch(photos):
    one = next(batches(crops(photos), 8, [2]))
    other = next(batches(crops(photos), 4, [5]))
    assert one.indices[4:] == other.indices
    assert torch.equal(one.images[4:], other.images)


def test_a_sample_is_the_same_with_workers(photos):
    alone = list(batches(crops(photos), 4, range(6)))
    workers = list(batches(crops(photos), 4, range(6), num_workers=2))
    assert [batch.places for batch in alone] == [batch.places for batch in workers]
    assert all(torch.equal(a.images, w.images) for a, w in zip(alone, workers, strict=True))


def test_samples_are_those_of_the_first_version(tmp_path):
    for i in range(4):
        levels = np.arange(80 * 100 * 3, dtype=np.uint32) * (i + 7) * 2654435761 >> 13
        pixels = (levels % 251).astype(np.uint8).reshape(80, 100, 3)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    data = crops(tmp_path, num=32)
    digest = hashlib.sha256(b"".join(data[i][0].numpy().tobytes() for i in range(32)))
    assert digest.hexdigest() == "7bf8ea966eb44536c6936dfdb35c460c3ef53f07b20d28f11f67f96d19700c19"


@pytest.mark.parametrize("align", [1, 8])
def test_a_place_says_which_pixels_a_sample_is(photos, align):
    data = crops(photos, align=align)
    for i in range(64):
        sample, _, place, _ = data[i]
        pixels = np.asarray(Image.open(place.file))
        crop = pixels[place.top : place.top + 64, place.left : place.left + 64]
        assert np.array_equal(to_uint8(sample), crop[:, ::-1] if place.mirrored else crop)


def test_aligned_crops_begin_at_every_multiple_that_fits(photos):
    data = crops(photos, num=400, align=8)
    places = [data[i][2] for i in range(400)]
    # photos are 80 x 100, crops 64 x 64
    assert {place.top for place in places} == {0, 8, 16}
    assert {place.left for place in places} == {0, 8, 16, 24, 32}
    assert {place.mirrored for place in places} == {False, True}


def test_a_batch_keeps_places_through_its_parts():
    places = [Place(f"{i}.png", i, 0, False) for i in range(4)]
    batch = Batch(torch.zeros(4, 3, 8, 8), [0, 1, 2, 3], places).to(torch.device("cpu"))
    assert batch.files == ["0.png", "1.png", "2.png", "3.png"]
    assert [part.places for part in batch.split(2)] == [places[:2], places[2:]]


def test_processes_share_a_step_without_overlap(photos):
    shares = [next(batches(crops(photos), 8, [3], rank=rank, world=2)).indices for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == list(range(24, 32))


def test_distinct_samples_repeat(photos):
    data = PhotoCrops(DataConfig(sources=[Source(path=str(photos))], crop=64), 0, 100, 5)
    assert torch.equal(data[3][0], data[13][0])
    assert data[13][1] == 3


def test_seeds_make_different_crops(photos):
    assert not torch.equal(crops(photos, seed=0)[0][0], crops(photos, seed=1)[0][0])


def test_weights_are_shares_of_the_samples(photos, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    Image.new("RGB", (64, 64)).save(other / "x.png")
    sources = [Source(path=str(photos), weight=3.0), Source(path=str(other))]
    data = PhotoCrops(DataConfig(sources=sources, crop=64), 0, 400)
    share = sum(str(other) in data[i][2].file for i in range(400)) / 400
    # 4 standard errors of a quarter in 400 draws
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 400) ** 0.5


def test_all_photos_smaller_than_the_crop_are_named_before_the_first_sample(photos):
    for i, size in enumerate([(40, 90), (90, 40), (63, 63), (64, 64), (8, 8), (1, 900)]):
        Image.new("RGB", size).save(photos / f"a{i}.png")
    line = (
        r"^photos must be readable and at least 64 x 64, 5 of the 10 in data source '\S*' are not: "
        r"\S*a0\.png is 40 x 90, \S*a1\.png is 90 x 40, \S*a2\.png is 63 x 63 and 2 more; "
        r"leave them out, or set a smaller data\.crop$"
    )
    with pytest.raises(TocsrError, match=line):
        crops(photos)


def test_a_file_without_the_header_of_a_photo_is_named_before_the_first_sample(photos):
    (photos / "9.png").write_bytes(b"no photo")
    with pytest.raises(TocsrError, match=r"1 of the 5 .* \S*9\.png is not a readable image; leave"):
        crops(photos)


@pytest.mark.parametrize("size", [(64, 200), (200, 64), (64, 64)])
def test_a_side_as_long_as_the_crop_is_enough(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "x.png")
    assert crops(tmp_path)[0].image.shape == (3, 64, 64)


def test_a_photo_is_mirrored_left_to_right_and_in_no_other_way(tmp_path):
    rows, columns = np.mgrid[:64, :64].astype(np.uint8)
    Image.fromarray(np.dstack([rows, columns, rows])).save(tmp_path / "ramp.png")
    data = crops(tmp_path)
    seen = {tuple(to_uint8(data[i].image)[[0, 0, -1], [0, -1, 0], :2].ravel()) for i in range(32)}
    upright, mirrored = (0, 0, 0, 63, 63, 0), (0, 63, 0, 0, 63, 63)
    assert seen == {upright, mirrored}


@pytest.mark.parametrize("stopped", [1, 4, 9])
def test_two_workers_neither_repeat_nor_drop_a_sample_across_a_resume(photos, stopped):
    whole = list(batches(crops(photos), 4, range(10)))
    first = islice(batches(crops(photos), 4, range(10), num_workers=2), stopped)
    then = batches(crops(photos), 4, range(stopped, 10), num_workers=2)
    got = [*first, *then]
    assert [i for batch in got for i in batch.indices] == list(range(40))
    assert [batch.places for batch in got] == [batch.places for batch in whole]
    assert all(torch.equal(a.images, b.images) for a, b in zip(got, whole, strict=True))


def test_the_cache_keeps_at_least_the_photo_in_use(photos):
    data = crops(photos, cache_mb=0)
    for i in range(20):
        data[i]
    assert len(data.cache) == 1


def test_the_cache_counts_the_bytes_it_holds(tmp_path):
    for i in range(6):
        Image.new("RGB", (512, 512), (i, i, i)).save(tmp_path / f"{i}.png")
    data = crops(tmp_path, cache_mb=2)
    for i in range(40):
        data[i]
        assert data.cached_bytes == sum(pixels.nbytes for pixels in data.cache.values())
    # a photo takes 3/4 MiB
    assert len(data.cache) == 2
