"""What each training phase leaves in its run folder, and what it makes of it."""

import dataclasses
import json

import pytest
import torch
import yaml
from micro import MICRO, micro_config

from tocsr.data.images import PhotoCrops, batches
from tocsr.errors import ExitCode, TocsrError
from tocsr.models.folders import load_unet, load_vae
from tocsr.models.sr import OneStepGenerator
from tocsr.models.vae import pixels_to_latents
from tocsr.runs import Run, read_result
from tocsr.seeding import derive_seed
from tocsr.train import expand_vae, finetune

RUN = {".lock", "config.yaml", "metrics.jsonl", "result.json"}
MODEL = {"config.json", "diffusion_pytorch_model.safetensors"}
PLAIN = {".lock", "config.yaml", "result.json"}
FILES = {
    "pretrain": {
        ".lock",
        "config.yaml",
        "result.json",
        *(
            f"{net}/{file}"
            for net in ("vae", "vae_teacher", "unet")
            for file in (*MODEL, "metrics.jsonl", "result.json")
        ),
    },
    "expand-vae": {*RUN, *(f"vae/{file}" for file in MODEL)},
    "expand-unet": {*RUN, *(f"{net}/{file}" for net in ("vae", "unet") for file in MODEL)},
    "select": {*PLAIN, "front.png", *(f"unet/{file}" for file in MODEL)},
    "search": {*PLAIN, "ledger.jsonl", "front.json", "front.png", "table.md"},
    "finetune": {*RUN, *(f"unet/{file}" for file in MODEL)},
    "train-sr": {*RUN, *(f"unet/{file}" for file in MODEL)},
    "distill": {
        *RUN,
        "targets/000000.safetensors",
        "targets/000001.safetensors",
        "model/upscaler.json",
        *(f"model/{net}/{file}" for net in ("vae", "unet") for file in MODEL),
    },
}


@pytest.mark.parametrize("verb", FILES)
def test_a_finished_phase_holds_exactly_these_files(finished_runs, verb):
    folder = finished_runs / verb
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert found == FILES[verb]


def test_calibrate_holds_a_file_for_every_surrogate_of_the_library(finished_runs):
    result = read_result(finished_runs / "calibrate")
    files = (finished_runs / "calibrate" / "surrogates").rglob("*.safetensors")
    found = {f"{path.parent.name}/{path.stem}" for path in files}
    assert found == result["surrogates"].keys()
    assert {name.split("/")[0] for name in found} == set(result["library"])


def test_every_surrogate_reports_its_held_out_error(finished_runs):
    rows = read_result(finished_runs / "calibrate")["surrogates"].values()
    assert all(row["heldout_loss"] > 0 and row["params"] > 0 for row in rows)


def test_expansion_takes_the_latent_from_4_to_16_channels(finished_runs):
    assert load_vae(finished_runs / "pretrain" / "vae").config.latent_channels == 4
    assert load_vae(finished_runs / "expand-unet" / "vae").config.latent_channels == 16
    assert load_unet(finished_runs / "expand-unet" / "unet").latent_channels == 16


def test_pretrained_latents_have_mean_0_and_variance_1(finished_runs):
    config = micro_config("pretrain", finished_runs)
    crops = PhotoCrops(config.data, derive_seed(config.seed, "scale"), 100)
    images = next(batches(crops, config.num_scale_crops, [0])).images
    vae = load_vae(finished_runs / "pretrain" / "vae_teacher")
    with torch.no_grad():
        latents = pixels_to_latents(vae, images)
    assert latents.mean().item() == pytest.approx(0, abs=1e-4)
    assert latents.std().item() == pytest.approx(1, abs=1e-4)


def test_the_selected_network_is_the_searchs_winner(finished_runs):
    winners = read_result(finished_runs / "search")["winners"]
    selected = load_unet(finished_runs / "select" / "unet").variants
    assert selected in [winner["candidate"] for winner in winners]


def test_the_finished_model_runs(finished_runs):
    generator = OneStepGenerator.from_pretrained(finished_runs / "distill" / "model").eval()
    with torch.no_grad():
        result = generator(torch.zeros(1, 3, 64, 64), torch.randn(1, 16, 8, 8))
    assert result.shape == (1, 3, 64, 64)
    assert result.isfinite().all()


def test_the_result_says_what_was_local(finished_runs):
    facts = json.loads((finished_runs / "distill" / "model" / "upscaler.json").read_text())
    assert facts["local"] is True
    assert facts["pixel_multiple"] == 64


def test_a_finished_phase_gives_its_result_again_without_work(finished_runs):
    before = (finished_runs / "finetune" / "result.json").stat().st_mtime_ns
    result = finetune.run(micro_config("finetune", finished_runs))
    assert result == read_result(finished_runs / "finetune")
    assert (finished_runs / "finetune" / "result.json").stat().st_mtime_ns == before


def test_a_phase_without_its_forerunner_says_what_to_run(tmp_path):
    with pytest.raises(
        TocsrError, match=r"starts from a finished pretrain.*run: tocsr pretrain"
    ) as e:
        expand_vae.run(micro_config("expand-vae", tmp_path))
    assert e.value.code == ExitCode.MODEL


def test_a_run_folder_of_other_settings_is_refused(finished_runs):
    with pytest.raises(TocsrError, match=r"begun with other settings: optim\.lr \(was 0\.001"):
        finetune.run(micro_config("finetune", finished_runs, "--optim.lr=0.5"))


def older_run(tmp_path, *lacks):
    """A run folder whose settings were written before some options existed."""
    config = micro_config("finetune", tmp_path)
    Run.open(config).close()
    path = config.folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    for name in lacks:
        part, _, key = name.rpartition(".")
        del (settings[part] if part else settings)[key]
    path.write_text(yaml.safe_dump(settings))
    return tmp_path


def test_an_option_that_a_run_folder_is_too_old_for_counts_as_its_default(tmp_path):
    runs = older_run(tmp_path, "data.align", "optim.precision")
    Run.open(micro_config("finetune", runs)).close()
    with pytest.raises(TocsrError, match=r"data\.align \(was 1, now 8\)"):
        Run.open(micro_config("finetune", runs, "--data.align=8"))


def test_an_option_of_a_source_that_a_run_folder_is_too_old_for_counts_as_its_default(tmp_path):
    config = micro_config("train-sr", tmp_path)
    Run.open(config).close()
    path = config.folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["task"] = {"upscale": 4, "degradation": "bicubic"}
    del settings["data"]["sources"][0]["lr"]
    path.write_text(yaml.safe_dump(settings))
    Run.open(config).close()
    source = dataclasses.replace(config.data.sources[0], lr="elsewhere")
    data = dataclasses.replace(config.data, sources=[source])
    with pytest.raises(TocsrError, match=r"data\.sources \(was"):
        Run.open(dataclasses.replace(config, data=data))


def test_a_run_folder_of_another_preset_is_refused(finished_runs):
    from tocsr.options import read_config

    other = read_config("finetune", ["--preset=tiny", f"--runs={finished_runs}"])[0]
    with pytest.raises(TocsrError, match=f"preset \\(was {MICRO}, now tiny\\)"):
        finetune.run(other)


def test_where_a_run_is_computed_may_change(finished_runs):
    finetune.run(micro_config("finetune", finished_runs, "--num_threads=2"))
