"""Pairs of photos and their low-resolution images."""

import numpy as np
import pytest
import torch
from PIL import Image

from tocsr.config import DataConfig, Source
from tocsr.data.images import Batch, PhotoCrops, batches, to_tensor, to_uint8
from tocsr.data.sources import list_photos
from tocsr.errors import TocsrError

FACTOR = 4


def write_pair(folder, name, size=(100, 80), factor=FACTOR, lr_size=None):
    """A photo whose pixel (row, column) is (row, column, 7), and a low-resolution one likewise.

    The low-resolution pixel says in which rows and columns of the photo it begins.
    """
    for half, step, (width, height) in (
        ("hr", 1, size),
        ("lr", factor, lr_size or [side // factor for side in size]),
    ):
        path = folder / half / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows, columns = step * np.mgrid[:height, :width]
        pixels = np.dstack([rows, columns, np.full_like(rows, 7)]).astype(np.uint8)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def pairs(tmp_path):
    for i in range(4):
        write_pair(tmp_path, f"sub/{i}.png")
    return tmp_path


def dataset(*sources, num=64, **settings) -> PhotoCrops:
    return PhotoCrops(DataConfig(sources=list(sources), crop=64, **settings), 0, num)


@pytest.mark.parametrize("named", [False, True])
def test_a_folder_with_hr_and_lr_and_two_named_folders_are_the_same_pairs(pairs, named):
    source = Source(path=str(pairs))
    if named:
        source = Source(path=str(pairs / "hr"), lr=str(pairs / "lr"))
    photos = list_photos(source)
    assert [photo.path for photo in photos] == [pairs / f"hr/sub/{i}.png" for i in range(4)]
    assert [photo.lr for photo in photos] == [pairs / f"lr/sub/{i}.png" for i in range(4)]


def test_pairs_match_whatever_their_suffixes(pairs):
    Image.open(pairs / "lr/sub/0.png").save(pairs / "lr/sub/0.webp", lossless=True)
    (pairs / "lr/sub/0.png").unlink()
    assert list_photos(Source(path=str(pairs)))[0].lr == pairs / "lr/sub/0.webp"


def test_a_limit_and_a_fraction_take_pairs(pairs):
    photos = list_photos(Source(path=str(pairs), limit=2), 0.5)
    assert [(photo.path.name, photo.lr.name) for photo in photos] == [("0.png", "0.png")]


@pytest.mark.parametrize("align", [1, 6])
def test_both_halves_of_a_sample_show_the_same(pairs, align):
    data = dataset(Source(path=str(pairs)), align=align)
    places = set()
    for i in range(64):
        image, _, place, lr = data[i]
        places.add((place.top, place.left, place.mirrored))
        assert lr.shape == (3, 16, 16)
        # the pixel of the photo where each low-resolution pixel begins; mirrored it is the last
        first = FACTOR - 1 if place.mirrored else 0
        assert torch.equal(image[:, ::FACTOR, first::FACTOR], lr)
    assert len({mirrored for *_, mirrored in places}) == 2
    assert len({top for top, *_ in places}) > 1


def test_crops_of_pairs_begin_at_every_multiple_of_the_factor_that_fits(pairs):
    data = dataset(Source(path=str(pairs)), num=400)
    places = [data[i].place for i in range(400)]
    # photos are 80 x 100, crops 64 x 64
    assert {place.top for place in places} == set(range(0, 17, FACTOR))
    assert {place.left for place in places} == set(range(0, 37, FACTOR))


def test_photos_alone_are_cut_as_ever_beside_pairs_and_have_no_low_resolution(pairs, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    Image.open(pairs / "hr/sub/0.png").save(alone / "0.png")
    data = dataset(Source(path=str(pairs)), Source(path=str(alone)), num=200)
    samples = [data[i] for i in range(200)]
    lacking = [s for s in samples if str(alone) in s.place.file]
    assert 0 < len(lacking) < 200
    assert any(s.place.left % FACTOR for s in lacking)
    for sample in samples:
        assert sample.lr.isnan().all() == (str(alone) in sample.place.file)


def test_without_pairs_a_batch_has_no_low_resolution(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    assert next(batches(dataset(Source(path=str(tmp_path))), 4, [0])).lr is None


def test_a_batch_keeps_low_resolution_through_workers_and_parts(pairs):
    data = dataset(Source(path=str(pairs)))
    batch = next(batches(data, 4, [1], num_workers=1)).to(torch.device("cpu"))
    assert torch.equal(batch.lr, torch.stack([data[i].lr for i in range(4, 8)]))
    first, second = batch.split(2)
    assert torch.equal(torch.cat([first.lr, second.lr]), batch.lr)
    assert isinstance(second, Batch)
    assert second.indices == [6, 7]


def test_images_without_another_half_are_listed(pairs):
    for name in ("x", "y", "z", "zz"):
        (pairs / f"hr/{name}.png").touch()
    (pairs / "lr/w.png").touch()
    line = (
        r"^pairs must have the same names, 4 in '\S*hr' have none in '\S*lr': x, y, z and 1 more "
        r"and 1 in '\S*lr' have none in '\S*hr': w; remove or rename them$"
    )
    with pytest.raises(TocsrError, match=line):
        list_photos(Source(path=str(pairs)))


def test_two_images_of_one_name_are_refused(pairs):
    (pairs / "lr/sub/2.webp").touch()
    line = r"the only one of its name, \S*lr/sub/2\.png and \S*lr/sub/2\.webp are two; move one"
    with pytest.raises(TocsrError, match=line):
        list_photos(Source(path=str(pairs)))


def test_a_missing_half_is_named(pairs):
    with pytest.raises(TocsrError, match=r"must lie in two folders, and '\S*/no' is none; set pa"):
        list_photos(Source(path=str(pairs / "hr"), lr=str(pairs / "no")))


def test_all_pairs_of_another_factor_are_named(pairs):
    write_pair(pairs, "a.png", factor=2)
    write_pair(pairs, "b.png", lr_size=(25, 19))
    line = (
        r"same ratio 1:n, here 1:4, and 2 of 6 pairs are not: \S*a\.png is 100 x 80, its "
        r"low-resolution image 50 x 40, \S*b\.png is 100 x 80, its low-resolution image 25 x 19; "
    )
    with pytest.raises(TocsrError, match=line):
        dataset(Source(path=str(pairs)))


def test_pairs_of_a_factor_that_does_not_divide_the_crop_are_refused(tmp_path):
    write_pair(tmp_path, "a.png", size=(99, 81), factor=3)
    with pytest.raises(TocsrError, match=r"data\.crop must be a multiple .* got 64 and 3$"):
        dataset(Source(path=str(tmp_path)))


def test_a_broken_low_resolution_image_is_named(pairs):
    (pairs / "lr/sub/1.png").write_bytes(b"no photo")
    with pytest.raises(TocsrError, match=r"^\S*lr/sub/1\.png is not a readable image"):
        dataset(Source(path=str(pairs)))


def test_the_bytes_of_both_halves_count_in_the_cache(pairs):
    data = dataset(Source(path=str(pairs), limit=1))
    data[0]
    assert data.cached_bytes == 3 * (100 * 80 + 25 * 20)


def test_pairs_that_degrade_wrote_are_read(tmp_path):
    from tocsr.deploy.configs import DegradeConfig
    from tocsr.deploy.degrade import run

    Image.new("RGB", (131, 90), (9, 8, 7)).save(tmp_path / "x.png")
    run(DegradeConfig(inputs=[tmp_path / "x.png"], output=tmp_path / "out", factor=2))
    sample = dataset(Source(path=str(tmp_path / "out")))[0]
    assert torch.equal(sample.lr, to_tensor(np.full((32, 32, 3), [9, 8, 7], np.uint8)))
    assert np.array_equal(to_uint8(sample.image), np.full((64, 64, 3), [9, 8, 7]))
