import json
import subprocess
import sys

import numpy as np
import pytest
from onnx import helper
from PIL import Image

import tocsr
from tocsr.deploy.model_facts import ModelFacts
from tocsr.deploy.tiling import Span, Tile, mirrored, position_noise, round_up, tiles
from tocsr.deploy.upscaler import Upscaler, upsampled
from tocsr.errors import ExitCode, TocsrError

MULTIPLE = 4  # of the toy model, in pixels of the photo


@pytest.fixture
def toy(toy_model):
    return Upscaler.from_pretrained(toy_model, num_threads=1)


def padded_to(photo: np.ndarray, multiple: int) -> np.ndarray:
    """The photo mirrored beyond its right and bottom border up to multiples."""
    rows, cols = (mirrored(0, round_up(side, multiple), side) for side in photo.shape[:2])
    return photo[rows][:, cols]


def untiled(toy: Upscaler, photo: np.ndarray, seed: int) -> np.ndarray:
    """The graph on the whole padded image, without any of our tiling."""
    padded = padded_to(photo, MULTIPLE)
    height, width, _ = padded.shape
    planes = [
        Image.fromarray(plane).resize((width * 4, height * 4), Image.Resampling.BICUBIC)
        for plane in (padded.astype(np.float32) / np.float32(127.5) - 1).transpose(2, 0, 1)
    ]
    noise = position_noise(seed, 0, 0, height // 2, width // 2, 2)
    (result,) = toy._graph(np.stack(planes)[None], noise[None])
    levels = np.clip(np.rint((result + 1) * 127.5), 0, 255).astype(np.uint8)
    return levels.transpose(1, 2, 0)[: photo.shape[0] * 4, : photo.shape[1] * 4]


def test_one_tile_is_bitwise_the_untiled_result(toy, photo):
    assert np.array_equal(toy(photo, seed=5, tile=256), untiled(toy, photo, 5))


@pytest.mark.parametrize("tile", [1, 16, 20, 33])
def test_many_tiles_are_the_untiled_result(toy, photo, tile):
    difference = toy(photo, seed=5, tile=tile).astype(int) - untiled(toy, photo, 5)
    assert np.abs(difference).max() <= 1  # blending rounds twice where tiles overlap
    assert (difference != 0).mean() < 1e-3


class Scant:
    """A graph that runs out of memory on more than so many pixels."""

    engine = "scant"

    def __init__(self, graph, most):
        self.graph, self.most = graph, most

    def __call__(self, image, noise):
        if image[0, 0].size > self.most:
            raise MemoryError
        return self.graph(image, noise)


def test_where_the_memory_runs_out_tiles_are_halved(toy, photo):
    wide = np.tile(photo, (8, 8, 1))[:200, :200]  # halves of it are more than the memory holds
    scant = Upscaler(toy.facts, Scant(toy._graph, (4 * 100) ** 2))
    assert np.array_equal(scant(wide), toy(wide, tile=64))


def test_a_tile_that_was_asked_for_is_not_halved(toy, photo):
    scant = Upscaler(toy.facts, Scant(toy._graph, 10))
    with pytest.raises(TocsrError, match="a tile of 16 px") as raised:
        scant(photo, tile=16)
    assert raised.value.code is ExitCode.RESOURCES


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 2), (17, 5), (64, 64)])
def test_any_size_comes_out_four_times_larger(toy, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    result = toy(image, tile=16)
    assert (result.shape, result.dtype) == ((shape[0] * 4, shape[1] * 4, 3), np.uint8)


def test_the_result_is_a_function_of_image_and_seed(toy, photo):
    assert np.array_equal(toy(photo, seed=1), toy(photo, seed=1))
    assert not np.array_equal(toy(photo, seed=1), toy(photo, seed=2))


def test_the_image_is_left_as_it_was(toy, photo):
    before = photo.copy()
    toy(photo)
    assert np.array_equal(photo, before)


def test_a_view_with_negative_strides_is_an_image_too(toy, photo):
    mirrored = photo[:, ::-1]
    assert np.array_equal(toy(mirrored), toy(mirrored.copy()))


def test_every_tile_is_reported(toy, photo):
    calls = []
    toy(photo, tile=32, report=lambda *call: calls.append(call), label="photo")
    assert calls == [("photo", done, 6, {}) for done in range(1, 7)]  # 2 x 3 cores of up to 32 px


def test_upsampled_tiles_are_crops_of_the_upsampled_whole(photo):
    height, width = (round_up(side, 16) for side in photo.shape[:2])
    whole = upsampled(photo, Tile(Span(0, height, 0, height), Span(0, width, 0, width)), 4, 16)
    padded = np.pad(
        photo, [(0, height - photo.shape[0]), (0, width - photo.shape[1]), (0, 0)], "reflect"
    )
    assert np.array_equal(
        upsampled(padded, Tile(Span(0, height, 0, height), Span(0, width, 0, width)), 4, 1), whole
    )
    for tile in tiles(*photo.shape[:2], core=16, halo=16, multiple=16):
        rows, cols = (slice(s.start * 4, s.stop * 4) for s in (tile.rows, tile.cols))
        assert np.array_equal(upsampled(photo, tile, 4, 16), whole[:, rows, cols])


def test_a_result_can_go_into_an_array_in_a_file(toy, photo, tmp_path):
    shape = (photo.shape[0] * 4, photo.shape[1] * 4, 3)
    out = np.memmap(tmp_path / "result", np.uint8, "w+", shape=shape)
    assert toy(photo, seed=2, tile=16, out=out) is out
    assert np.array_equal(out, toy(photo, seed=2, tile=16))


def test_upsampling_equals_torchs_antialiased_bicubic(photo):
    torch = pytest.importorskip("torch")
    height, width, _ = photo.shape
    ours = upsampled(photo, Tile(Span(0, height, 0, height), Span(0, width, 0, width)), 4, 1)
    pixels = torch.from_numpy(photo.transpose(2, 0, 1)[None] / np.float32(127.5) - 1)
    theirs = torch.nn.functional.interpolate(
        pixels.float(), scale_factor=4, mode="bicubic", antialias=True
    )
    assert np.abs(ours - theirs[0].numpy()).max() < 2e-6  # a few float32 roundings of values near 1


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
)
def test_what_is_no_rgb_image_is_refused(toy, image):
    with pytest.raises(TocsrError, match=r"must be uint8 or uint16 \(H, W, 3\)"):
        toy(image)


def test_a_negative_tile_is_refused(toy, photo):
    with pytest.raises(TocsrError, match="tile must be at least 0"):
        toy(photo, tile=-1)


@pytest.mark.parametrize("name", ["upscaler.json", "upscaler.onnx", "unet/weights.safetensors"])
def test_a_missing_model_file_is_named(toy_model, name):
    (toy_model / name).unlink()
    with pytest.raises(TocsrError) as raised:
        Upscaler.from_pretrained(toy_model)
    assert raised.value.code is ExitCode.MODEL
    assert str(toy_model / name) in raised.value.message
    assert "--model" in raised.value.hint


@pytest.mark.parametrize("name", ["upscaler.json", "upscaler.onnx", "unet/weights.safetensors"])
def test_a_model_file_cut_short_is_one_clear_line(toy_model, name):
    path = toy_model / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(TocsrError) as raised:
        Upscaler.from_pretrained(toy_model)
    assert raised.value.code is ExitCode.MODEL
    assert str(toy_model) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_model_folder_is_named(tmp_path):
    with pytest.raises(TocsrError, match="nowhere is none") as raised:
        Upscaler.from_pretrained(tmp_path / "nowhere")
    assert raised.value.code is ExitCode.MODEL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "must have schema 1, got 2"),
        ({"upscale": None}, "must give upscale as a positive integer, got None"),
        ({"latent_stride": 0}, "must give latent_stride as a positive integer, got 0"),
        ({"pixel_multiple": 12}, "pixel_multiple must be a multiple of latent_stride"),
    ],
)
def test_facts_that_do_not_hold_are_refused(toy_model, change, message):
    path = toy_model / "upscaler.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(TocsrError, match=message) as raised:
        ModelFacts.read(path)
    assert raised.value.code is ExitCode.MODEL


def with_prediction(folder, prediction: str):
    path = folder / "upscaler.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction": prediction}))
    return Upscaler.from_pretrained(folder, num_threads=1)


def test_full_fidelity_starts_from_no_noise(toy_model, photo):
    upscaler = with_prediction(toy_model, "clean")
    assert np.array_equal(upscaler(photo, seed=1, fidelity=1), upscaler(photo, seed=2, fidelity=1))
    assert np.array_equal(upscaler(photo, seed=1, fidelity=0), upscaler(photo, seed=1))


def test_fidelity_scales_the_noise_that_the_graph_is_given(toy_model, photo):
    upscaler = with_prediction(toy_model, "clean")
    graph, given = upscaler._graph, []

    def watched(image, noise):
        given.append(noise)
        return graph(image, noise)

    upscaler._graph = watched
    upscaler(photo)
    upscaler(photo, fidelity=0.75)
    assert np.allclose(given[1], given[0] / 4, rtol=1e-6)  # a float32 rounding


def test_a_model_that_predicts_the_noise_refuses_the_dial(toy_model, photo):
    upscaler = with_prediction(toy_model, "noise")
    upscaler(photo)
    with pytest.raises(TocsrError, match="must be 0 for a model that predicts the noise"):
        upscaler(photo, fidelity=0.5)


def test_a_model_that_does_not_say_what_it_predicts_refuses_the_dial(toy, photo):
    with pytest.raises(TocsrError, match=r"upscaler\.json says no prediction, got 0\.5"):
        toy(photo, fidelity=0.5)


@pytest.mark.parametrize("fidelity", [-0.1, 1.1, float("nan")])
def test_a_fidelity_out_of_range_is_refused(toy_model, photo, fidelity):
    with pytest.raises(TocsrError, match="fidelity must be from 0 to 1"):
        with_prediction(toy_model, "clean")(photo, fidelity=fidelity)


@pytest.mark.parametrize("prediction", ["clean", "noise"])
@pytest.mark.parametrize("fidelity", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_the_dial_follows_the_rule_of_the_model_in_pytorch(toy_model, prediction, fidelity):
    pytest.importorskip("torch")
    from tocsr.models.sr import check_fidelity

    def said(check, *args) -> str:
        try:
            check(*args)
        except TocsrError as error:
            return str(error)
        return ""

    ours = said(with_prediction(toy_model, prediction).check_fidelity, fidelity)
    assert ours == said(check_fidelity, fidelity, prediction)


def test_sixteen_bits_give_the_result_of_eight_more_finely(toy, photo):
    eight, sixteen = toy(photo), toy(photo.astype(np.uint16) * 257)
    assert sixteen.dtype == np.uint16
    assert np.abs(sixteen / 257 - eight).max() <= 0.51  # half a level of rounding
    assert len(np.unique(sixteen)) > 1000


def test_facts_that_only_others_read_are_left_alone(toy_model):
    path = toy_model / "upscaler.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "timestep": 999}))
    assert ModelFacts.read(path).upscale == 4


def test_a_graph_with_other_outputs_is_refused(make_model):
    folder = make_model([helper.make_node("Neg", ["image"], ["other"])], {})
    with pytest.raises(TocsrError) as raised:
        Upscaler.from_pretrained(folder)
    assert raised.value.code is ExitCode.MODEL


def test_a_graph_that_takes_too_much_memory_is_said_so(make_model, photo):
    huge = [1, 3, 2**24, 2**24]  # 3 PiB
    nodes = [
        helper.make_node("Constant", [], ["size"], value_ints=huge),
        helper.make_node("ReduceMean", ["image"], ["mean"]),
        helper.make_node("ReduceMean", ["noise"], ["noise_mean"]),
        helper.make_node("Add", ["mean", "noise_mean"], ["scalar"]),
        helper.make_node("Expand", ["scalar", "size"], ["upscaled"]),
    ]
    upscaler = Upscaler.from_pretrained(make_model(nodes, {}))
    with pytest.raises(TocsrError, match="memory must hold a tile of 32 px") as raised:
        upscaler(photo, tile=32)
    assert raised.value.code is ExitCode.RESOURCES


def test_upscaling_imports_no_torch():
    code = (
        "import sys, tocsr.deploy.upscale; print({'torch', 'onnx', 'diffusers'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_package_itself_has_the_upscaler():
    assert tocsr.Upscaler is Upscaler


def test_a_pillow_image_gives_a_pillow_image(toy, photo):
    result = toy(Image.fromarray(photo), seed=3)
    assert isinstance(result, Image.Image)
    assert np.array_equal(np.asarray(result), toy(photo, seed=3))


def test_a_gray_and_a_transparent_image_stay_so(toy, photo):
    assert toy(Image.fromarray(photo).convert("L")).mode == "L"
    image = Image.fromarray(photo).convert("RGBA")
    alpha = Image.linear_gradient("L").resize(image.size)
    image.putalpha(alpha)
    result = toy(image)
    assert result.mode == "RGBA"
    assert result.getchannel("A") == alpha.resize(result.size, Image.Resampling.BICUBIC)


def test_a_tensor_gives_a_tensor(toy, photo):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(photo.transpose(2, 0, 1).copy()).float() / 255
    result = toy(tensor, seed=3)
    assert (result.dtype, tuple(result.shape)) == (
        torch.float32,
        (3, *(4 * s for s in photo.shape[:2])),
    )
    levels = (255 * result).round().numpy().astype(int).transpose(1, 2, 0)
    assert np.abs(levels - toy(photo, seed=3)).max() <= 1  # rounded to 16 bits before, to 8 here
    batch = toy(torch.stack([tensor, tensor.flip(2)]), seed=3)
    assert torch.equal(batch[0], result)


@pytest.mark.parametrize("image", ["photo.jpg", [[1, 2], [3, 4]]])
def test_another_kind_of_image_is_refused(toy, image):
    with pytest.raises(TocsrError, match="must be a NumPy array, a Pillow image or a torch tensor"):
        toy(image)
