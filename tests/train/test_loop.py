import dataclasses
import json
import sys

import pytest
import torch
from micro import MICRO
from PIL import Image
from torch import nn

from tocsr.config import DataConfig, OptimConfig, Source
from tocsr.errors import TocsrError
from tocsr.models.folders import base_unet
from tocsr.runs import Run, silent
from tocsr.train import state
from tocsr.train.loop import fit, learning_rate

OPTIM = OptimConfig(
    lr=1e-2,
    num_steps=6,
    batch_size=4,
    warmup_steps=2,
    ema_decay=0.9,
    checkpoint_every=2,
    log_every=1,
)
DATA = DataConfig(sources=[Source(path="builtin", limit=2)], crop=64)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1))


def train(folder, net=None, optim=OPTIM, report=silent, loss=None, data=DATA):
    net = net or network()
    loss = loss or (lambda batch: {"loss": (net(batch.images) - batch.images).square().mean()})
    torch.set_num_threads(1)
    figures = fit(
        Run(folder),
        "test",
        {"net": net},
        loss,
        data=data,
        optim=optim,
        seed=0,
        device=torch.device("cpu"),
        report=report,
    )
    return net, figures


def weights(net: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in net.parameters()]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("killed_after", [1, 2, 3, 5])
def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, killed_after):
    def kill(label, done, total, figures):
        if done == killed_after:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path / "killed", report=kill)
    resumed, _ = train(tmp_path / "killed")
    whole, _ = train(tmp_path / "whole")
    assert all(map(torch.equal, weights(resumed), weights(whole)))


def test_a_resumed_log_has_every_step_once(tmp_path):
    def kill(label, done, total, figures):
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path, report=kill)
    train(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_a_kill_inside_the_writing_of_a_checkpoint_leaves_the_one_before(tmp_path, monkeypatch):
    def half_written(tensors, path, metadata):
        path.write_bytes(b"half")
        if metadata["step"] == "4":
            raise Killed
        original(tensors, path, metadata)

    original = state.save_file
    monkeypatch.setattr(state, "save_file", half_written)
    with pytest.raises(Killed):
        train(tmp_path / "killed")
    monkeypatch.undo()
    resumed, _ = train(tmp_path / "killed")
    whole, _ = train(tmp_path / "whole")
    assert all(map(torch.equal, weights(resumed), weights(whole)))


def test_training_lowers_the_loss(tmp_path):
    optim = dataclasses.replace(OPTIM, num_steps=40, log_every=1, ema_decay=0.0)
    train(tmp_path, optim=optim)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").open()]
    assert losses[-1] < 0.5 * losses[0]


def test_micro_batches_sum_to_the_gradient_of_the_whole_batch(tmp_path):
    whole, _ = train(tmp_path / "whole")
    optim = dataclasses.replace(OPTIM, accumulation=2)
    split, _ = train(tmp_path / "split", optim=optim)
    # 1e-5: float32 sums in another order, through Adam's division
    for a, b in zip(weights(whole), weights(split), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_the_saved_weights_are_the_moving_average(tmp_path):
    averaged, _ = train(tmp_path / "averaged")
    last, _ = train(tmp_path / "last", optim=dataclasses.replace(OPTIM, ema_decay=0.0))
    assert not torch.equal(weights(averaged)[0], weights(last)[0])


def test_a_loss_that_is_not_finite_stops_and_names_the_photos(tmp_path):
    net = network()
    loss = lambda batch: {"loss": net(batch.images).mean() * float("nan")}  # noqa: E731
    with pytest.raises(TocsrError, match=r"must be finite and is nan; its photos: .*\.webp"):
        train(tmp_path, net, loss=loss)


def test_a_broken_photo_in_the_training_data_is_named(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (80, 80)).save(tmp_path / "photos" / "good.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    data = DataConfig(sources=[Source(path=str(tmp_path / "photos"))], crop=64)
    with pytest.raises(TocsrError, match=r"broken\.png is not a readable image"):
        train(tmp_path / "run", data=data)


def denoiser() -> nn.Module:
    torch.manual_seed(0)
    return base_unet(str(MICRO))


def train_denoiser(folder, unet, optim=OPTIM):
    """Three steps of a micro U-Net on what are no latents, but have their channels and a size."""

    def loss(batch):
        grid = batch.images.repeat(1, 2, 1, 1)[:, :4, ::4, ::4]
        return {"loss": (unet(grid, 10) - grid).square().mean()}

    return train(folder, unet, dataclasses.replace(optim, num_steps=3), loss=loss)


def test_gradient_checkpointing_computes_blocks_twice_and_the_same_weights(tmp_path):
    trained, calls = {}, {}
    for twice in (False, True):
        unet, counted = denoiser(), []
        block = unet.stages["E2"].get_submodule("blocks.0.resnets.0")
        block.register_forward_pre_hook(lambda *_, counted=counted: counted.append(1))
        optim = dataclasses.replace(OPTIM, gradient_checkpointing=twice)
        _, figures = train_denoiser(tmp_path / str(twice), unet, optim)
        trained[twice], calls[twice] = (figures["loss"], weights(unet)), len(counted)
    assert calls == {False: 3, True: 6}
    assert trained[True][0] == trained[False][0]
    assert all(map(torch.equal, trained[True][1], trained[False][1]))


def test_a_module_that_cannot_checkpoint_gradients_is_named(tmp_path):
    optim = dataclasses.replace(OPTIM, gradient_checkpointing=True)
    with pytest.raises(
        TocsrError, match="gradient_checkpointing must be off here: net, a Sequential"
    ):
        train(tmp_path, optim=optim)


def test_tensorboard_gets_the_logged_losses_once_when_a_training_goes_on(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def kill(label, done, total, figures):
        if done == 5:
            raise Killed

    optim = dataclasses.replace(OPTIM, tensorboard=True)
    with pytest.raises(Killed):
        train(tmp_path, optim=optim, report=kill)
    train(tmp_path, optim=optim)
    log = EventAccumulator(str(tmp_path / "tensorboard"))
    log.Reload()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert log.Tags()["scalars"] == ["loss"]
    scalars = [(scalar.step, scalar.value) for scalar in log.Scalars("loss")]
    assert scalars == [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in lines]


def test_without_the_package_tensorboard_the_option_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    optim = dataclasses.replace(OPTIM, tensorboard=True)
    with pytest.raises(TocsrError, match=r"needs the package tensorboard.*tocsr\[tensorboard\]"):
        train(tmp_path, optim=optim)


@pytest.mark.parametrize(
    ("step", "expected"),
    # warm-up to 1 in two steps, then half a cosine over four
    [(0, 0.5), (1, 1.0), (2, 1.0), (4, 0.5), (6, 0.0)],
)
def test_the_learning_rate_warms_up_and_falls_along_a_cosine(step, expected):
    optim = dataclasses.replace(OPTIM, lr=1.0)
    assert learning_rate(optim, step) == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_module_may_have_a_learning_rate_of_its_own(tmp_path, optimizer):
    def moves(factors):
        nets = {"slow": network(), "fast": network()}
        before = {name: weights(net) for name, net in nets.items()}
        fit(
            Run(tmp_path / str(len(factors))),
            "test",
            nets,
            lambda batch: {"loss": sum(net(batch.images).square().mean() for net in nets.values())},
            data=DATA,
            optim=dataclasses.replace(
                OPTIM, optimizer=optimizer, num_steps=1, ema_decay=0.0, max_grad_norm=0.0
            ),
            seed=0,
            device=torch.device("cpu"),
            report=silent,
            lr_factors=factors,
        )
        return {
            name: [
                (a - b).abs().mean().item() for a, b in zip(weights(net), before[name], strict=True)
            ]
            for name, net in nets.items()
        }

    plain, own = moves({}), moves({"fast": 5.0})
    assert own["slow"] == plain["slow"]
    assert own["fast"] == pytest.approx([5 * size for size in plain["fast"]], rel=1e-3)
