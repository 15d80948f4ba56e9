"""Distillation: where its targets come from, what the student starts as, its loss."""

import dataclasses
import shutil

import pytest
import torch
from micro import MICRO, micro_config

from tocsr.data.images import Batch, PhotoCrops, Place, batches
from tocsr.diffusion import NoiseSchedule, conditioned, ddim_sample
from tocsr.errors import TocsrError
from tocsr.files import read_json, read_json_lines, write_json
from tocsr.models.folders import base_unet, base_vae, load_unet, load_vae
from tocsr.models.local_autoencoder import OutputLayers
from tocsr.models.sr import one_step
from tocsr.models.sr_starts import with_condition, with_prediction
from tocsr.models.vae import pixels_to_latents
from tocsr.plans import plan_phase
from tocsr.runs import Run, silent
from tocsr.train import distill, trajectories
from tocsr.train.conditions import lr_latents
from tocsr.train.distill import distillation_loss, student_loss
from tocsr.train.one_step_losses import Extras
from tocsr.train.trajectories import start_noise, teacher_targets

CPU, SCHEDULE = torch.device("cpu"), NoiseSchedule()
BATCH = Batch(
    torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1,
    [0, 1],
    [Place("a", 0, 0, False), Place("b", 0, 0, False)],
)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return base_vae(str(MICRO), "vae_teacher").requires_grad_(False)


@pytest.fixture
def sr_unet():
    torch.manual_seed(0)
    unet = base_unet(str(MICRO), latent_channels=16)
    return with_condition(unet).eval().requires_grad_(False)


@pytest.fixture
def runs(expanded, sr_unet, tmp_path):
    """A `--runs` folder of a train-sr that has learned nothing, its distill not begun."""
    (tmp_path / "expand-unet").symlink_to(expanded / "expand-unet", target_is_directory=True)
    with_prediction(sr_unet, "clean").save_pretrained(tmp_path / "train-sr" / "unet")
    write_json(tmp_path / "train-sr" / "result.json", {})
    return tmp_path


def zero_targets(batch, lr_latent, noise):
    return torch.zeros_like(noise)


def loss_of(config, student, vae, targets=zero_targets):
    return student_loss(config, student, vae, SCHEDULE, targets, BATCH, Extras.start(config, vae))


def test_a_student_that_says_what_the_teacher_says_has_no_loss():
    latent = torch.randn(2, 16, 8, 8)
    assert distillation_loss(latent, latent) == 0


@pytest.mark.parametrize("where", ["cached", "on-the-fly"])
def test_the_targets_are_what_the_multi_step_teacher_samples(tmp_path, vae, sr_unet, where):
    config = micro_config("distill", tmp_path, f"--targets={where}")
    targets = teacher_targets(config, sr_unet, vae, Run(tmp_path), CPU, silent)
    [batch] = batches(PhotoCrops(config.data, config.seed, 8), 1, [3])
    lr = lr_latents(vae, batch, config.task, config.seed)
    noise = start_noise(lr, config.seed, [3])
    sampled = ddim_sample(conditioned(sr_unet, lr), SCHEDULE, noise, 2, config.clip)
    # float16 on disk, and batches of another size
    tolerance = 2e-3 if where == "cached" else 0.0
    torch.testing.assert_close(targets(batch, lr, noise), sampled, rtol=tolerance, atol=tolerance)


def test_targets_on_the_fly_leave_nothing_on_disk_and_repeat_no_sample(runs, monkeypatch):
    seen = []
    monkeypatch.setattr(
        distill, "student_loss", lambda *args: seen.extend(args[5].indices) or student_loss(*args)
    )
    distill.run(micro_config("distill", runs, "--targets=on-the-fly"))
    assert not (runs / "distill" / "targets").exists()
    assert seen == list(range(16))  # 4 steps of 4, of 8 that would be cached


@pytest.mark.parametrize("targets", ["cached", "on-the-fly"])
def test_the_teacher_is_copied_only_where_it_still_samples(tmp_path, sr_unet, targets):
    config = micro_config("distill", tmp_path, f"--targets={targets}")
    student = distill.starting_student(config, sr_unet)
    assert (student is sr_unet) == (targets == "cached")
    assert all(p.requires_grad for p in student.parameters())


@pytest.mark.parametrize(("taught", "chosen", "learnt"), [
    ("clean", "teacher", "clean"),
    ("velocity", "teacher", "velocity"),
    ("clean", "noise", "noise"),
    ("noise", "clean", "clean"),
])  # fmt: skip
def test_the_student_predicts_what_it_is_told_to(tmp_path, sr_unet, taught, chosen, learnt):
    config = micro_config("distill", tmp_path, f"--prediction={chosen}")
    teacher = with_prediction(sr_unet, taught)
    head = teacher.conv_out.weight.clone()
    student = distill.starting_student(config, teacher)
    assert student.config.prediction == learnt
    kept = head if chosen == "teacher" else torch.zeros_like(head)
    assert torch.equal(student.conv_out.weight, kept)


def test_the_clean_student_that_adds_nothing_is_as_far_as_the_condition(tmp_path, vae, sr_unet):
    config = dataclasses.replace(micro_config("distill", tmp_path), pixel_weight=0.0)
    targets = torch.randn(2, 16, 8, 8)
    loss = loss_of(config, with_prediction(sr_unet, "clean"), vae, lambda *_: targets)["loss"]
    lr = lr_latents(vae, BATCH, config.task, config.seed)
    torch.testing.assert_close(loss, (lr - targets).square().mean())


def test_the_student_hears_as_much_of_the_noise_as_it_is_told_to(tmp_path, sr_unet):
    weight = sr_unet.conv_in.weight.clone()
    student = distill.starting_student(
        micro_config("distill", tmp_path, "--noise_share=0.25"), sr_unet
    )
    assert torch.equal(student.conv_in.weight[:, :16], 0.25 * weight[:, :16])
    assert torch.equal(student.conv_in.weight[:, 16:], weight[:, 16:])


def test_the_papers_loss_has_a_weight_as_well(tmp_path, vae, sr_unet):
    config = micro_config("distill", tmp_path)
    whole, half = (
        loss_of(dataclasses.replace(config, distill_weight=weight), sr_unet, vae)
        for weight in (1.0, 0.5)
    )
    expected = whole["loss"] - 0.5 * whole["distill"]
    torch.testing.assert_close(half["loss"], expected)


def test_without_the_papers_loss_the_teacher_is_not_sampled(tmp_path, vae, sr_unet, monkeypatch):
    config = micro_config("distill", tmp_path, "--distill_weight=0")
    monkeypatch.setattr(trajectories, "teacher_latent", None)
    targets = teacher_targets(config, sr_unet, vae, Run(tmp_path), CPU, silent)
    terms = loss_of(config, sr_unet, vae, targets)
    assert "distill" not in terms
    assert not (tmp_path / "targets").exists()


def test_without_extra_losses_the_loss_is_equation_23_alone(tmp_path, vae, sr_unet):
    config = dataclasses.replace(micro_config("distill", tmp_path), pixel_weight=0.0)
    lr = lr_latents(vae, BATCH, config.task, config.seed)
    predicted = one_step(sr_unet, SCHEDULE, start_noise(lr, config.seed, [0, 1]), lr)
    terms = loss_of(config, sr_unet, vae)
    assert terms.keys() == {"loss"}
    assert torch.equal(terms["loss"], distillation_loss(predicted, torch.zeros_like(predicted)))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--num_targets=6", "num_targets must be a multiple of optim.batch_size, got 6 and 4"),
        ("--num_denoise_steps=0", "num_denoise_steps must be at least 1, got 0"),
        ("--distill_weight=-1", "distill_weight must be at least 0, got -1"),
        ("--distill_weight=0 --pixel_weight=0", "one of the losses must have a weight above 0"),
        ("--sharpen_share=2", r"sharpen_share must be in \[0, 1\], got 2"),
        ("--noise_share=-1", "noise_share must be at least 0, got -1"),
        ("--latent_weight=-1", "latent_weight must be at least 0, got -1"),
        ("--perceptual_crop=24", "from 32 to data.crop, got 24 and 64"),
        ("--perceptual_crop=36", "a multiple of 8 from 32 to data.crop, got 36 and 64"),
        ("--perceptual_crop=128", "from 32 to data.crop, got 128 and 64"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, option, message):
    with pytest.raises(TocsrError, match=message):
        micro_config("distill", tmp_path, *option.split())


def test_a_decoder_cannot_be_trained_by_losses_that_see_latents_alone(tmp_path):
    with pytest.raises(TocsrError, match="decoder must be frozen where no loss sees pixels"):
        micro_config("distill", tmp_path, "--decoder=trained", "--pixel_weight=0")


def test_on_the_fly_no_number_of_kept_targets_need_fit(tmp_path):
    micro_config("distill", tmp_path, "--targets=on-the-fly", "--num_targets=6")


def test_weights_that_are_missing_are_named_before_the_teacher_samples(runs):
    options = ("--perceptual_weight=1", "--perceptual=none.safetensors")
    with pytest.raises(TocsrError, match=r"no weights of the metric at none\.safetensors"):
        distill.run(micro_config("distill", runs, *options))
    assert not (runs / "distill" / "targets").exists()


def test_a_trained_decoder_leaves_the_encoder_as_it_was(runs):
    def vae_of(*options):
        shutil.rmtree(runs / "distill", ignore_errors=True)
        distill.run(micro_config("distill", runs, *options))
        return load_vae(runs / "distill" / "model" / "vae").state_dict()

    before = load_vae(runs / "expand-unet" / "vae").state_dict()
    frozen, trained = vae_of(), vae_of("--decoder=trained")
    assert [name for name in before if not torch.equal(frozen[name], before[name])] == []
    changed = {name for name in before if not torch.equal(trained[name], before[name])}
    assert changed
    assert {name.split(".")[0] for name in changed} <= {"conv_in", "decoder", "post_quant_conv"}


EVERY_TERM = ("pixel", "perceptual", "latent", "grid", "adversarial")


def test_every_term_has_its_curve_and_none_is_in_the_model(runs):
    weights = [f"--{name}_weight=0.1" for name in EVERY_TERM]
    distill.run(micro_config("distill", runs, *weights, "--perceptual_crop=32"))
    lines = read_json_lines(runs / "distill" / "metrics.jsonl")
    assert len(lines) == 4
    for line in lines:
        terms = [line[name] for name in (*EVERY_TERM, "discriminator")]
        assert line["loss"] == pytest.approx(line["distill"] + 0.1 * sum(terms), rel=1e-5)
    folder = runs / "distill" / "model"
    assert sorted(p.name for p in folder.iterdir()) == ["unet", "upscaler.json", "vae"]
    assert read_json(folder / "upscaler.json")["prediction"] == "clean"


class StoppedError(Exception):
    pass


def stopped_at(step, of=4):
    """A report that ends a training of so many steps in the step, before its checkpoint."""

    def report(label, done, total, figures):
        if label == "distill" and (done, total) == (step, of):
            raise StoppedError

    return report


def test_a_killed_game_of_two_networks_goes_on_bitwise(runs, tmp_path_factory):
    from safetensors.torch import load_file

    states = []
    for kills in ([4], [2, 4]):
        folder = tmp_path_factory.mktemp("game")
        for verb in ("expand-unet", "train-sr"):
            (folder / verb).symlink_to((runs / verb).resolve(), target_is_directory=True)
        for step in kills:
            every = 1 if step == 2 else 3
            options = ("--adversarial_weight=0.1", f"--optim.checkpoint_every={every}")
            with pytest.raises(StoppedError):
                distill.run(micro_config("distill", folder, *options), stopped_at(step))
        states.append(load_file(folder / "distill" / "checkpoint.safetensors"))
    whole, resumed = states
    assert whole.keys() == resumed.keys()
    assert {name.split(".")[1] for name in whole if name[:6] == "model."} == {
        "unet",
        "discriminator",
    }
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_photo_latents_are_those_of_the_frozen_encoder(tmp_path, vae, sr_unet):
    config = dataclasses.replace(
        micro_config("distill", tmp_path), pixel_weight=0.0, latent_weight=2.0
    )
    lr = lr_latents(vae, BATCH, config.task, config.seed)
    predicted = one_step(sr_unet, SCHEDULE, start_noise(lr, config.seed, [0, 1]), lr)
    terms = loss_of(config, sr_unet, vae)
    expected = (predicted - pixels_to_latents(vae, BATCH.images)).square().mean()
    torch.testing.assert_close(terms["latent"], expected)
    torch.testing.assert_close(terms["loss"], terms["distill"] + 2 * expected)


@pytest.fixture
def finished(runs):
    """Folder of a finished one-step model."""
    distill.run(micro_config("distill", runs))
    return runs / "distill" / "model"


WITHOUT_TEACHER = ("--distill_weight=0", "--pixel_weight=1", "--optim.lr=1e-12")


def test_training_goes_on_from_a_finished_model_without_any_earlier_phase(finished, tmp_path):
    alone = tmp_path / "alone"
    distill.run(micro_config("distill", alone, f"--start={finished}", *WITHOUT_TEACHER))
    for part, load in (("unet", load_unet), ("vae", load_vae)):
        first, last = (
            load(folder / part).state_dict() for folder in (finished, alone / "distill" / "model")
        )
        torch.testing.assert_close(last, first)
    assert not (alone / "distill" / "targets").exists()


def test_a_start_of_another_factor_is_refused(finished, tmp_path):
    options = (f"--start={finished}", "--task.upscale=2", *WITHOUT_TEACHER)
    with pytest.raises(TocsrError, match=r"must be of the task's factor 2, .* is of 4"):
        distill.run(micro_config("distill", tmp_path / "alone", *options))


def test_a_start_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TocsrError, match="nowhere"):
        distill.run(micro_config("distill", tmp_path, "--start=nowhere", *WITHOUT_TEACHER))


def test_a_start_has_no_teacher(tmp_path):
    with pytest.raises(TocsrError, match="distill_weight must be 0 where a finished model is"):
        micro_config("distill", tmp_path, "--start=shipped")


def test_the_plan_of_a_start_counts_the_finished_model(tmp_path):
    options = ("--start=shipped", "--distill_weight=0", "--pixel_weight=1")
    told = plan_phase(micro_config("distill", tmp_path, *options))
    assert told["networks"]["unet"].startswith("5,1")
    assert "note" not in told


SHARPEN = ("--sharpen=true", "--sharpen_optim.num_steps=2", "--sharpen_optim.batch_size=4")
SHARP = ("--perceptual_weight=0.1", "--grid_weight=1", "--adversarial_weight=0.1")


def test_sharpening_is_a_second_training_with_the_losses_that_waited(runs):
    distill.run(micro_config("distill", runs, *SHARPEN, *SHARP))
    folder = runs / "distill"
    both = (folder / "faithful", folder)
    first, second = (read_json_lines(path / "metrics.jsonl") for path in both)
    assert len(first) == 4
    assert not {"perceptual", "grid", "adversarial", "discriminator"} & first[-1].keys()
    assert {"pixel", "perceptual", "grid", "adversarial", "discriminator"} <= second[-1].keys()
    before, after = (load_unet(path / "model" / "unet") for path in both)
    assert not torch.equal(before.conv_out.weight, after.conv_out.weight)


def test_a_share_of_the_sharpening_lies_between_the_two_trainings(runs):
    weights = {}
    for share in ("1", "0.25"):
        shutil.rmtree(runs / "distill", ignore_errors=True)
        distill.run(micro_config("distill", runs, *SHARPEN, *SHARP, f"--sharpen_share={share}"))
        weights[share] = load_unet(runs / "distill" / "model" / "unet").conv_out.weight
    first = load_unet(runs / "distill" / "faithful" / "model" / "unet").conv_out.weight
    torch.testing.assert_close(weights["0.25"], torch.lerp(first, weights["1"], 0.25))


@pytest.mark.parametrize(
    ("of_decoder", "changes"),
    [("same", {"conv_in", "decoder", "output"}), ("frozen", set()), ("output", {"output"})],
)
def test_what_of_the_decoder_the_second_training_changes(runs, of_decoder, changes):
    options = (*SHARPEN, *SHARP, "--pixel_weight=1", "--decoder=trained", "--output_width=4")
    distill.run(micro_config("distill", runs, *options, f"--sharpen_decoder={of_decoder}"))
    folders = (runs / "distill" / "faithful" / "model", runs / "distill" / "model")
    first, last = (load_vae(folder / "vae").state_dict() for folder in folders)
    changed = {name for name in first if not torch.equal(first[name], last[name])}
    assert {name.split(".")[0] for name in changed} == changes


def test_output_layers_can_be_all_of_the_decoder_that_learns(runs):
    options = ("--pixel_weight=1", "--decoder=output", "--output_width=4")
    distill.run(micro_config("distill", runs, *options))
    given = load_vae(runs / "expand-unet" / "vae").state_dict()
    made = load_vae(runs / "distill" / "model" / "vae").state_dict()
    assert all(torch.equal(given[name], made[name]) for name in given)
    assert made["output.conv_out.weight"].any()
    assert read_json(runs / "distill" / "model" / "vae" / "config.json")["output_width"] == 4


def test_output_layers_that_are_not_there_cannot_be_trained(runs, tmp_path):
    with pytest.raises(TocsrError, match="output_width must be above 0"):
        micro_config("distill", runs, "--pixel_weight=1", "--decoder=output")
    distill.run(micro_config("distill", runs))
    start = f"--start={runs / 'distill' / 'model'}"
    config = micro_config(
        "distill", tmp_path / "alone", start, *WITHOUT_TEACHER, "--decoder=output"
    )
    with pytest.raises(TocsrError, match="the decoder has no output layers to train"):
        distill.run(config)


def test_the_plan_counts_output_layers(tmp_path):
    plain, more = (
        plan_phase(micro_config("distill", tmp_path, "--pixel_weight=1", *options))["networks"]
        for options in ((), ("--decoder=output", "--output_width=4"))
    )
    count = [int(row["vae"].split(" ")[0].replace(",", "")) for row in (plain, more)]
    assert count[1] - count[0] == sum(p.numel() for p in OutputLayers(4).parameters())


def test_a_killed_sharpening_does_not_begin_again_with_the_first_training(runs):
    with pytest.raises(StoppedError):
        distill.run(micro_config("distill", runs, *SHARPEN, *SHARP), stopped_at(2, of=2))
    faithful = runs / "distill" / "faithful"
    written = (faithful / "result.json").stat().st_mtime_ns
    distill.run(micro_config("distill", runs, *SHARPEN, *SHARP))
    assert (faithful / "result.json").stat().st_mtime_ns == written
    assert (runs / "distill" / "model" / "upscaler.json").exists()


def test_both_trainings_take_whole_batches_of_the_kept_targets(tmp_path):
    with pytest.raises(TocsrError, match=r"multiple of sharpen_optim\.batch_size, got 8 and 3"):
        micro_config("distill", tmp_path, *SHARPEN, "--sharpen_optim.batch_size=3")
