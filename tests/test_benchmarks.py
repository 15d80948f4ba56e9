"""The benchmarks at micro size: what they print, what they go on from, and their measures."""

import argparse
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from micro import MICRO, micro_config
from PIL import Image
from safetensors.torch import save_file

from tocsr.diffusion import NoiseSchedule
from tocsr.files import read_json, read_json_lines
from tocsr.models.folders import base_unet, base_vae
from tocsr.models.perceptual import ShiftTolerantLPIPS
from tocsr.models.vae import decode, encode

FOLDER = Path(__file__).parents[1] / "benchmarks"
SHORT = ["--preset", str(MICRO), "--num_steps", "2", "--num_threads", "1"]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two photos whose sides are no multiples of 8."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        pixels = rng.integers(0, 256, (100, 131, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The `--runs` folder of a finished pretrain and expand-vae."""
    from tocsr.train import expand_vae, pretrain

    runs = tmp_path_factory.mktemp("bases")
    pretrain.run(micro_config("pretrain", runs))
    expand_vae.run(micro_config("expand-vae", runs))
    return runs


def printed(capsys, script: str, argv: list[str]) -> tuple[list[list[str]], str]:
    """The cells of the tables that a script prints, and what it says of its progress."""
    importlib.import_module(script).main(argv)
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines], err


def number(cell: str) -> float:
    """The figure before a spread in brackets."""
    return float(cell.split(maxsplit=1)[0])


def test_latent_channels_compares_4_with_16_and_goes_on_where_it_was(photos, tmp_path, capsys):
    state = ShiftTolerantLPIPS("alex").state_dict()
    for layer in range(5):
        state[f"lin{layer}.model.1.weight"] = state.pop(f"heads.{layer}")
    save_file(state, tmp_path / "alex.safetensors")
    argv = [*SHORT, "--seeds", "0", "1", "--runs", f"{tmp_path}/runs", "--test", f"noise={photos}"]
    argv += ["--stlpips", f"{tmp_path}/alex.safetensors", "--picture", f"{tmp_path}/sheet.png"]
    rows, progress = printed(capsys, "latent_channels", argv)
    assert [row[1] for row in rows[2:6]] == ["PSNR", "PSNR-Y", "SSIM-Y", "ST-LPIPS"]
    for row in rows[2:6]:
        assert number(row[4]) == pytest.approx(number(row[3]) - number(row[2]), abs=0.011)
    assert number(rows[2][4]) > 0  # 16 numbers hold more of a block of noise than 4
    assert "16 channels, seed 1 2/2" in progress
    assert Image.open(tmp_path / "sheet.png").size == (3 * 288, 2 * (288 + 24))
    assert printed(capsys, "latent_channels", argv) == (rows, "")


def test_autoencoders_measures_each_on_every_folder(bases, photos, tmp_path, capsys):
    pair = [f"{n}={bases / 'pretrain' / n}" for n in ("vae", "vae_teacher")]
    tests = ["--test", f"a={photos}", "--test", f"b={photos}"]
    argv = [*pair, *tests, "--picture", f"{tmp_path}/sheet.png", "--num_threads", "1"]
    rows, _ = printed(capsys, "autoencoders", argv)
    assert [(row[0], row[3]) for row in rows[2:]] == [
        (name, test) for name in ("vae", "vae_teacher") for test in "ab"
    ]
    assert rows[2][4:] == rows[3][4:]  # the same photos
    assert number(rows[4][4]) > number(rows[2][4])  # 16 channels and 4
    assert Image.open(tmp_path / "sheet.png").size[0] == 3 * 288


def test_adapters_measures_every_variant_and_the_base(bases, photos, tmp_path, capsys):
    argv = [*SHORT, "--seeds", "3", "--runs", str(bases), "--out", str(tmp_path)]
    argv += ["--test", str(photos), "--num_crops", "4", "--num_draws", "1"]
    rows, _ = printed(capsys, "adapters", argv)
    found = {row[0][:2]: row for row in rows[2:]}
    assert list(found) == ["v1", "v2", "v3", "4-"]
    params = {name: int(row[1].replace(",", "")) for name, row in found.items()}
    # 12 channels more into and out of 8, 3 x 3, and the biases of those out
    assert params["v2"] - params["4-"] == 2 * 12 * 8 * 9 + 12
    assert all(0 < number(row[3]) < 3 for row in found.values())
    assert found["v2"][5:] == ["859.46", "0.084"]


def test_latent_smoothness_measures_each_autoencoder(bases, photos, tmp_path, capsys):
    folders = {"four": bases / "pretrain" / "vae", "sixteen": bases / "expand-vae" / "vae"}
    argv = [*(f"{name}={folder}" for name, folder in folders.items()), *SHORT, "--seeds", "0"]
    argv += ["--runs", str(tmp_path), "--test", str(photos), "--num_crops", "4", "--num_draws", "1"]
    rows, _ = printed(capsys, "latent_smoothness", argv)
    errors = [row for row in rows if row[0] in folders and row[1] in ("4", "16")]
    assert [row[:2] for row in errors] == [["four", "4"], ["sixteen", "16"]]
    for row in errors:
        moved = [float(cell) for cell in row[4:]]
        assert moved == sorted(moved, reverse=True)  # more noise, less PSNR
    losses = [row for row in rows if row[0] in folders and row[1] in ("U-Net", "linear")]
    assert len(losses) == 4
    for row in losses:
        bands = [number(cell) for cell in row[2:6]]
        assert number(row[6]) == pytest.approx(np.mean(bands), abs=2e-4)
    assert printed(capsys, "latent_smoothness", argv) == (rows, "")


def test_channels_and_size_trains_and_measures_four_cells(bases, photos, tmp_path, capsys):
    argv = [*SHORT, "--seeds", "0", "--runs", str(bases), "--out", f"{tmp_path}/cells"]
    argv += ["--budgets", "1", "1000000", "--hr", str(photos)]
    rows, progress = printed(capsys, "channels_and_size", argv)
    assert rows[0][:5] == ["channels", "autoencoder alone", "U-Net", "GMACs", "PSNR-Y"]
    assert [row[0] for row in rows[2:]] == ["4", "4", "16", "16"]
    for small, large in (rows[2:4], rows[4:]):
        assert small[1] == large[1]  # one autoencoder for both sizes
        params = [int(row[2].replace(",", "")) for row in (small, large)]
        assert params[0] < params[1]
    assert "4-1-0 distill 2/2" in progress
    assert printed(capsys, "channels_and_size", argv) == (rows, "")


def test_a_u_net_that_predicts_zero_has_loss_1_in_every_band():
    common = importlib.import_module("common")
    unet = base_unet(str(MICRO))
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    latents = torch.zeros(40, 4, 8, 8)
    # the mean of 40 * 256 squares of normal numbers, whose standard error is 0.014
    assert common.band_losses(unet, latents, 1) == pytest.approx([1] * 4, abs=0.05)


def test_the_linear_predictor_of_unit_variance_has_loss_abar():
    common = importlib.import_module("common")
    latents = torch.tensor([-1.0, 1.0]).repeat(500).view(1, 1, 1, -1).expand(4, 2, 1, -1)
    expected = NoiseSchedule().alphas_cumprod.view(4, -1).mean(dim=1).tolist()
    assert common.linear_losses(latents) == pytest.approx(expected, rel=1e-3)  # var over n - 1


def test_the_loss_of_the_linear_predictor_is_that_of_least_squares():
    common = importlib.import_module("common")
    generator = torch.Generator().manual_seed(0)
    latents = 3 * torch.randn(2000, 1, 4, 4, generator=generator) + 2
    noise = torch.randn(latents.shape, generator=generator)
    losses = []
    for abar in NoiseSchedule().alphas_cumprod[::10].tolist():
        noisy = abar**0.5 * latents + (1 - abar) ** 0.5 * noise
        correlation = torch.corrcoef(torch.stack([noisy.flatten(), noise.flatten()]))[0, 1]
        losses.append(float(1 - correlation**2))
    bands = np.mean(np.reshape(losses, (4, -1)), axis=1)
    assert common.linear_losses(latents) == pytest.approx(bands, abs=0.02)  # every 10th timestep


@pytest.mark.parametrize("size", [(64, 48), (61, 43)])
def test_a_photo_of_any_size_is_restored_at_its_size(size):
    common = importlib.import_module("common")
    torch.manual_seed(0)
    vae = base_vae(str(MICRO), "vae")
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    padded = np.pad(photo, ((0, 64 - size[0]), (0, 48 - size[1]), (0, 0)), mode="reflect")
    with torch.no_grad():
        whole = common.to_uint8(decode(vae, encode(vae, common.to_tensor(padded)[None]))[0])
    assert np.array_equal(common.restored(vae, photo), whole[: size[0], : size[1]])


@pytest.mark.parametrize(("wave", "correlation"), [([0.0, 1, 2, 3], 1), ([-1.0, 1, -1, 1], -1)])
def test_correlation_of_neighbours_is_1_on_a_ramp_and_minus_1_on_a_zigzag(wave, correlation):
    smoothness = importlib.import_module("latent_smoothness")
    latents = torch.tensor(wave).expand(2, 3, 5, 4)
    found = smoothness.neighbour_correlation(latents).tolist()
    assert found == pytest.approx([correlation] * 3, abs=1e-6)


def test_the_picture_shows_the_busiest_window_of_the_original():
    common = importlib.import_module("common")
    photo = np.full((200, 200, 3), 128, np.uint8)
    photo[48:144, 96:192] = np.random.default_rng(0).integers(0, 256, (96, 96, 3))
    assert common.busiest(photo) == (slice(48, 144), slice(96, 192))


@pytest.mark.parametrize("text", ["folder", "=folder", "name="])
def test_a_folder_without_a_name_is_refused(text):
    common = importlib.import_module("common")
    with pytest.raises(argparse.ArgumentTypeError, match=f"expected NAME=FOLDER, got '{text}'"):
        common.named_folder(text)


def test_the_truth_holds_the_gaps_that_the_search_observed(finished_runs, tmp_path, capsys):
    argv = ["--preset", str(MICRO), "--runs", str(finished_runs), "--rows", "2"]
    printed(capsys, "search_truth", [*argv, "--out", f"{tmp_path}/truth.json", "--num_threads=1"])
    table = read_json(tmp_path / "truth.json")
    names = table["library"]
    found = {tuple(map(int, key.split(","))): gap for key, gap in table["gaps"].items()}
    assert len(found) == np.prod([len(row) for row in names.values()])
    observed = 0
    for record in read_json_lines(finished_runs / "search" / "ledger.jsonl"):
        choice = record["candidate"]
        if all(choice[stage] in row for stage, row in names.items()):
            place = tuple(row.index(choice[stage]) for stage, row in names.items())
            assert found[place] == pytest.approx(record["gap"], rel=1e-6)
            observed += 1
    assert observed  # both ends of the space at least


def test_fine_tuning_is_held_against_the_teacher_and_against_new_weights(
    finished_runs, photos, tmp_path, capsys
):
    argv = [*SHORT, "--seeds", "0", "--runs", str(finished_runs), "--out", str(tmp_path)]
    argv += ["--test", str(photos), "--crop", "64", "--num_crops", "4", "--num_draws", "1"]
    rows, _ = printed(capsys, "finetune", argv)
    found = {row[0]: row for row in rows[2:]}
    assert list(found) == ["teacher", "assembled, as selected", "fine-tuned", "from scratch"]
    assert number(found["teacher"][2]) == 0
    assert found["fine-tuned"][1] == found["from scratch"][1]  # the same architecture
    assert number(found["fine-tuned"][2]) < number(found["from scratch"][2])
    assert printed(capsys, "finetune", argv) == (rows, "")
