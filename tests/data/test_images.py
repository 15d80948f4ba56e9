import numpy as np
import pytest
import torch
from PIL import Image

from tocsr.config import DataConfig, Source
from tocsr.data.images import PhotoCrops, batches, list_photos, to_tensor, to_uint8
from tocsr.errors import TocsrError


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = rng.integers(0, 255, (80, 100, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return tmp_path


def crops(folder, seed=0, num=64, **settings) -> PhotoCrops:
    source = Source(path=str(folder), limit=settings.pop("limit", 0))
    return PhotoCrops(DataConfig(sources=[source], crop=64, **settings), seed, num)


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
    alone = next(batches(crops(photos), 4, [1]))
    worker = next(batches(crops(photos), 4, [1], num_workers=1))
    assert torch.equal(alone.images, worker.images)


def test_processes_share_a_step_without_overlap(photos):
    shares = [next(batches(crops(photos), 8, [3], rank=rank, world=2)).indices for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == list(range(24, 32))


def test_distinct_samples_repeat(photos):
    data = PhotoCrops(DataConfig(sources=[Source(path=str(photos))], crop=64), 0, 100, 5)
    assert torch.equal(data[3][0], data[13][0])
    assert data[13][1] == 3


def test_seeds_make_different_crops(photos):
    assert not torch.equal(crops(photos, seed=0)[0][0], crops(photos, seed=1)[0][0])


def test_a_limit_takes_the_first_photos_by_name(photos):
    found = list_photos(Source(path=str(photos), limit=2))
    assert [path.name for path in found] == ["0.png", "1.png"]


def test_a_fraction_takes_an_evenly_spread_share(photos):
    found = list_photos(Source(path=str(photos)), fraction=0.5)
    assert [path.name for path in found] == ["0.png", "2.png"]


def test_weights_are_shares_of_the_samples(photos, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    Image.new("RGB", (64, 64)).save(other / "x.png")
    sources = [Source(path=str(photos), weight=3.0), Source(path=str(other))]
    data = PhotoCrops(DataConfig(sources=sources, crop=64), 0, 400)
    share = sum(str(other) in data[i][2] for i in range(400)) / 400
    # 4 standard errors of a quarter in 400 draws
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 400) ** 0.5


def test_a_photo_smaller_than_the_crop_is_named(tmp_path):
    Image.new("RGB", (40, 90)).save(tmp_path / "small.png")
    with pytest.raises(TocsrError, match=r"at least 64 x 64, .*small\.png is 40 x 90"):
        crops(tmp_path)[0]


def test_a_missing_folder_says_what_to_set(tmp_path):
    with pytest.raises(TocsrError, match=r"must be a folder of photos and is none; set data"):
        list_photos(Source(path=str(tmp_path / "no")))


def test_a_folder_without_photos_is_refused(tmp_path):
    with pytest.raises(TocsrError, match="holds no photo"):
        list_photos(Source(path=str(tmp_path)))


def test_the_cache_holds_no_more_than_it_may(photos):
    data = crops(photos, cache_mb=0)
    for i in range(20):
        data[i]
    assert len(data.cache) == 1
