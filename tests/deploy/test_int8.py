"""8 bits: made from photos, measured on others, kept or refused in one line."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nncf")

from tocsr.deploy import export, int8
from tocsr.deploy.configs import ExportConfig
from tocsr.deploy.int8 import MIN_PHOTOS, psnr, write_int8
from tocsr.deploy.upscaler import Upscaler
from tocsr.errors import ExitCode, TocsrError


@pytest.fixture
def photos(tmp_path, photo):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(MIN_PHOTOS):
        rolled = np.roll(photo, 7 * number, axis=1)
        Image.fromarray(rolled).resize((90, 80)).save(folder / f"{number}.png")
    return folder


def forms(folder):
    return sorted(path.name for path in folder.glob("upscaler_int8.*"))


def test_8_bits_that_are_faithful_are_kept_and_computed_with(toy_model, photos, photo, capfd):
    found = write_int8(toy_model, photos)
    assert found >= int8.MIN_PSNR
    assert forms(toy_model) == ["upscaler_int8.bin", "upscaler_int8.xml"]
    eight = Upscaler.from_pretrained(toy_model, 1, "openvino-int8")
    assert "int8" in eight.engine
    difference = eight(photo).astype(int) - Upscaler.from_pretrained(toy_model, 1)(photo)
    assert 0 < np.abs(difference).mean() < 3  # 40 dB are 2.55 levels
    assert capfd.readouterr().out == ""


def test_8_bits_that_are_not_are_refused_with_the_figure(toy_model, photos, monkeypatch):
    monkeypatch.setattr(int8, "MIN_PSNR", 200)
    with pytest.raises(TocsrError, match=r"keep 200 dB .*, they keep \d+\.\d dB on 2 photos"):
        write_int8(toy_model, photos)
    assert forms(toy_model) == []


def test_photos_held_out_are_not_quantised_with(toy_model, photos, monkeypatch):
    used, measured = [], []
    quantised = int8.quantised

    def watched(graph, inputs):
        used.extend(inputs)
        return quantised(graph, inputs)

    monkeypatch.setattr(int8, "quantised", watched)
    monkeypatch.setattr(int8, "psnr", lambda _, __, inputs: measured.extend(inputs) or 50.0)
    write_int8(toy_model, photos)
    assert (len(used), len(measured)) == (6, 2)
    assert not {id(given) for given in used} & {id(given) for given in measured}


def test_too_few_photos_are_counted(toy_model, photos):
    Image.new("RGB", (20, 20)).save(photos / "0.png")  # smaller than a crop
    with pytest.raises(TocsrError, match=r"at least 8 photos of 64 x 64 pixels .* it has 7"):
        write_int8(toy_model, photos)


def test_a_model_without_8_bits_says_so(toy_model):
    with pytest.raises(TocsrError, match=r"must hold upscaler_int8\.xml") as raised:
        Upscaler.from_pretrained(toy_model, 1, "openvino-int8")
    assert raised.value.code is ExitCode.MODEL


def test_psnr_is_that_of_8_bit_levels():
    def flat(level):
        return lambda image, noise: np.full((1, 3, 2, 2), level / 127.5 - 1, np.float32)

    inputs = [{"image": np.zeros(1), "noise": np.zeros(1)}]
    assert psnr(flat(100), flat(110), inputs) == pytest.approx(20 * np.log10(25.5))
    assert psnr(flat(100), flat(100.4), inputs) == float("inf")


def test_an_export_whose_8_bits_are_refused_is_whole_without_them(
    finished_runs, tmp_path, photos, monkeypatch
):
    def refuse(folder, photos):
        raise TocsrError("8 bits must keep 40 dB", code=ExitCode.MODEL)

    monkeypatch.setattr(int8, "write_int8", refuse)
    model, output = finished_runs / "distill" / "model", tmp_path / "exported"
    result = export.run(ExportConfig(model=model, output=output, int8=photos))
    assert result["failed"] == {str(output / "upscaler_int8.xml"): "8 bits must keep 40 dB"}
    assert (output / "manifest.json").is_file()


def test_an_export_leaves_nothing_of_the_model_before(tmp_path):
    old = ["upscaler.onnx", "upscaler.xml", "upscaler.bin", "upscaler_int8.xml", "manifest.json"]
    for name in [*old, "README.md"]:
        (tmp_path / name).touch()
    export.remove_graphs(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
