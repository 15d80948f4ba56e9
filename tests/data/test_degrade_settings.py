"""The shipped degradations hold what was published, and a file of one's own is checked."""

import pytest

from tocsr.data.degradation.settings import FAMILIES, Degradation, load_degradation
from tocsr.errors import TocsrError
from tocsr.restoration import TaskConfig

# Real-ESRGAN, options/train_realesrgan_x4plus.yml: without and with a 2 at the end of the key
HARD = {
    "resize_prob": ([0.2, 0.7, 0.1], [0.3, 0.4, 0.3]),
    "resize_range": ([0.15, 1.5], [0.3, 1.2]),
    "gaussian_noise_prob": (0.5, 0.5),
    "noise_range": ([1, 30], [1, 25]),
    "poisson_scale_range": ([0.05, 3], [0.05, 2.5]),
    "gray_noise_prob": (0.4, 0.4),
    "jpeg_range": ([30, 95], [30, 95]),
    "kernel_prob": ([0.45, 0.25, 0.12, 0.03, 0.12, 0.03],) * 2,
    "sinc_prob": (0.1, 0.1),
    "blur_sigma": ([0.2, 3], [0.2, 1.5]),
    "betag_range": ([0.5, 4], [0.5, 4]),
    "betap_range": ([1, 2], [1, 2]),
    "blur_prob": (1, 0.8),  # of the second: second_blur_prob
}
# StableSR, configs/stableSRNew/v2-finetune_text_T_512.yaml
MILD = HARD | {
    "resize_range": ([0.3, 1.5], [0.6, 1.2]),
    "noise_range": ([1, 15], [1, 12]),
    "poisson_scale_range": ([0.05, 2], [0.05, 1]),
    "jpeg_range": ([60, 95], [60, 100]),
    "blur_sigma": ([0.2, 1.5], [0.2, 1]),
    "betag_range": ([0.5, 2], [0.5, 2]),
    "betap_range": ([1, 1.5], [1, 1.5]),
    "blur_prob": (1, 0.5),
}


def plain(value: object) -> object:
    return list(value.values()) if isinstance(value, dict) else value


@pytest.mark.parametrize(
    ("name", "published", "untouched"), [("hard", HARD, 0), ("mild", MILD, 0.01)]
)
def test_a_shipped_degradation_has_the_published_values(name, published, untouched):
    shipped = load_degradation(name)
    for key, (first, second) in published.items():
        for order, value in ((shipped.first, first), (shipped.second, second)):
            ours = plain(getattr(order, key))
            assert ours == (value if not isinstance(ours, tuple) else tuple(value)), key
    assert vars(shipped.first).keys() == published.keys()
    assert list(shipped.first.kernel_prob) == list(FAMILIES)
    assert list(shipped.second.resize_prob) == ["up", "down", "keep"]
    assert shipped.kernel_size == (7, 21)
    assert (shipped.final_sinc_prob, shipped.no_degradation_prob) == (0.8, untouched)


def written(tmp_path, text: str) -> Degradation:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return load_degradation(str(file))


def test_a_file_says_what_differs_from_its_base(tmp_path):
    mine = written(tmp_path, "base: mild\nsecond: {jpeg_range: [80, 90]}\nfinal_sinc_prob: 0.0")
    mild = load_degradation("mild")
    assert mine.name == "mine"
    assert mine.first == mild.first
    assert mine.second.jpeg_range == (80, 90)
    assert mine.second.noise_range == mild.second.noise_range
    assert mine.final_sinc_prob == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: mild\nfirst: {jpeg: [1, 2]}", r"unknown option 'first\.jpeg'.*'jpeg_range'"),
        ("base: wild", "no base 'wild'; did you mean 'mild'"),
        (
            "kernel_size: [7, 21]",
            "must say first, second, final_sinc_prob, no_degradation_prob; or",
        ),
        ("base: mild\nfirst: 3", "first must hold a mapping"),
        ("base: mild\nkernel_size: [8, 21]", "kernel_size must be odd, got 8 to 21"),
        ("base: mild\nfinal_sinc_prob: 2", r"final_sinc_prob must be a number in 0\.\.1, got 2"),
        ("base: mild\nfirst: {blur_prob: yes}", "blur_prob must be a number"),
        (
            "base: mild\nfirst: {noise_range: [9, 3]}",
            r"mine\.yaml: first: noise_range must rise, got 9 to 3",
        ),
        ("base: mild\nfirst: {noise_range: 9}", "noise_range must be two numbers"),
        ("base: mild\nfirst: {blur_sigma: [0, 3]}", "blur_sigma must be a number at least 0.01"),
        (
            "base: mild\nfirst: {jpeg_range: [0, 95]}",
            r"jpeg_range must be a whole number in 1\.\.100",
        ),
        ("base: mild\nfirst: {jpeg_range: [9.5, 95]}", "jpeg_range must be a whole number"),
        ("base: mild\nfirst: {resize_range: [1.1, 2]}", r"resize_range must hold 1, got 1\.1 to 2"),
        (
            "base: mild\nfirst: {resize_prob: {up: 0.5}}",
            r"shares of resize_prob must sum to 1, got 1\.3",
        ),
        ("base: mild\nfirst: {kernel_prob: {box: 0.5}}", "kernel_prob: unknown option 'box'"),
        ("base: mild\nfirst: {kernel_prob: 1}", "kernel_prob must map each of iso"),
    ],
)
def test_a_file_that_does_not_fit_is_one_clear_line(tmp_path, text, message):
    with pytest.raises(TocsrError, match=message) as raised:
        written(tmp_path, text)
    assert "\n" not in str(raised.value)


def test_a_task_takes_what_ships_and_files(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: hard")
    names = {"bicubic": "bicubic", "hard": "hard", "mild": "mild", str(file): "mine"}
    for degradation, name in names.items():
        assert TaskConfig(degradation=degradation).degradation_name == name


@pytest.mark.parametrize("name", ["milde", "none.yaml"])
def test_a_task_refuses_a_degradation_that_is_not_there(name):
    line = f"task.degradation: no degradation and no YAML file is called '{name}'"
    with pytest.raises(TocsrError, match=line):
        TaskConfig(degradation=name)
