import dataclasses
import weakref
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from tocsr.config import OptimConfig
from tocsr.models.compact import CompactUNet
from tocsr.models.local_autoencoder import LocalAutoencoder
from tocsr.models.memory import LiveBytes, step_memory, training_memory
from tocsr.models.vae import decode, encode, reconstruct

BASE = {
    "sample_size": 16,
    "block_out_channels": [8, 12, 16, 16],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 6,
    "norm_num_groups": 4,
}
SURROGATES = {
    "E1": "r1-full-teacher-full",
    "E2": "r1-full-self-full",
    "E3": "r1-separable-separable",
    "B": "r2-full-full",
    "D2": "r2-bottleneck-separable",
    "D1": "r1-full-teacher-full",
}
OPTIM = OptimConfig(batch_size=2, ema_decay=0.9)
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
LATENTS = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def unet(**variants: str) -> CompactUNet:
    return CompactUNet(base=BASE, variants=variants, num_context_tokens=3)


def local_vae() -> LocalAutoencoder:
    return LocalAutoencoder(4, widths=(8, 16))


def kl_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )


NETWORKS = {
    "teacher's stages": unet,
    "surrogates": lambda: unet(**SURROGATES),
    "local autoencoder": local_vae,
    "SD's autoencoder": kl_vae,
}
each_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


def result(network: nn.Module, images: Tensor) -> Tensor:
    if isinstance(network, CompactUNet):
        return network(LATENTS, 3)
    return reconstruct(network, images)[1]


def made(make: Callable[[], nn.Module], checkpointing: bool = False) -> nn.Module:
    torch.manual_seed(0)
    network = make().train()
    for parameter in network.parameters():  # what starts at zero hides what lies before it
        nn.init.normal_(parameter, std=0.1)
    if checkpointing:
        network.enable_gradient_checkpointing()
    return network


def saved_bytes(network: nn.Module, forward: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """A forward pass's result, and the bytes that autograd keeps of it: PyTorch's own account."""
    held: dict[int, weakref.ref] = {}  # weak, since parts of the graph are let go on the way

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = weakref.ref(storage)
        return tensor.detach()  # a result that held its own graph would keep itself alive

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        value = forward()
    for there_before in (*network.parameters(), IMAGES, LATENTS):
        held.pop(there_before.untyped_storage().data_ptr(), None)
    alive = [storage for reference in held.values() if (storage := reference()) is not None]
    return value, sum(storage.nbytes() for storage in alive)


@each_network
def test_checkpointing_keeps_less_and_gives_the_same_gradients_bitwise(make):
    kept, losses, gradients = [], [], []
    for checkpointing in (False, True):
        network = made(make, checkpointing)
        value, saved = saved_bytes(network, lambda network=network: result(network, IMAGES))
        loss = value.square().mean()
        loss.backward()
        kept.append(saved)
        losses.append(loss)
        gradients.append([p.grad for p in network.parameters()])
    assert torch.equal(*losses)
    assert all(map(torch.equal, *gradients))
    assert kept[1] < 0.6 * kept[0]


def test_each_residual_block_and_each_attention_is_recomputed_by_itself():
    recomputed: list[str] = []

    def note(part: nn.Module, *args: Tensor) -> Tensor:
        recomputed.append(type(part).__name__)
        return part(*args)

    network = unet(**SURROGATES)
    network.enable_gradient_checkpointing(note)
    network(LATENTS, 3)
    # D3, the teacher's own, has two residual blocks and transformers; E1 and D1 one transformer
    assert Counter(recomputed) == {
        "ResnetBlock2D": 2,
        "BasicTransformerBlock": 4,
        "ResidualBlock": 8,
        "Shortcut": 1,
        "SelfAttention": 1,
    }


def test_without_gradients_nothing_is_recomputed():
    network = unet(**SURROGATES)
    network.enable_gradient_checkpointing(lambda part, *args: pytest.fail("recomputed"))
    with torch.no_grad():
        network(LATENTS, 3)


def test_a_tensor_counts_once_and_until_its_last_reference():
    before = torch.zeros(1000)
    with LiveBytes() as live:
        first = torch.zeros(100)
        view = first.view(10, 10)
        second = first + before[:100]
        assert live.live == 2 * 400
        del first, second
        assert live.live == 400  # the view's
        del view
    assert (live.live, live.peak) == (0, 800)


@each_network
def test_what_is_kept_is_what_autograd_saves_and_the_result(make):
    network = made(make)
    value, saved = saved_bytes(network, lambda: result(network, IMAGES))
    with LiveBytes() as live:
        value = result(network, IMAGES)
        assert live.live == saved + 4 * value.numel()


@pytest.mark.parametrize(
    ("name", "checkpointing", "precision"),
    [
        ("surrogates", True, "fp32"),
        ("local autoencoder", True, "bf16"),
        ("SD's autoencoder", False, "bf16"),
    ],
)
def test_the_count_without_data_is_the_count_with_data(name, checkpointing, precision):
    optim = dataclasses.replace(OPTIM, gradient_checkpointing=checkpointing, precision=precision)
    with torch.device("meta"):
        networks = {"net": NETWORKS[name]()}
    counted = training_memory(
        networks, ["net"], lambda nets, images: result(nets["net"], images).sum(), optim, 64
    ).step
    real = made(NETWORKS[name], checkpointing)
    halves = {f"net {half}": getattr(real, half, real) for half in ("encoder", "decoder")}

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return result(real, IMAGES).sum()

    held = step_memory({"net": real} if isinstance(real, CompactUNet) else halves, loss)
    # bf16: without data PyTorch takes other types around group normalisation than its kernel does
    assert counted.kept == pytest.approx(held.kept, rel=1e-3 if precision == "bf16" else 0, abs=0)
    assert counted.peak == pytest.approx(held.peak, rel=2e-2 if precision == "bf16" else 0, abs=0)


def test_a_frozen_networks_pass_is_told_apart():
    with torch.device("meta"):
        networks = {"vae": local_vae(), "vae_teacher": local_vae()}

    def loss(nets, images):
        with torch.no_grad():
            target = encode(nets["vae_teacher"], images)
        return (decode(nets["vae"], target) - images).abs().mean()

    step = training_memory(networks, ["vae"], loss, OPTIM, 64).step
    assert list(step.kept) == ["vae decoder"]
    assert list(step.passing) == ["vae_teacher encoder"]
    # the widest are 2 x 8 channels at 1/4 of 64 pixels; its result is 16 channels at 1/8
    assert step.passing["vae_teacher encoder"] >= 4 * 2 * 8 * 16 * 16


def test_the_sum_has_each_copy_of_the_weights_once():
    def memory(**changes):
        optim = dataclasses.replace(OPTIM, **changes)
        with torch.device("meta"):
            networks = {"vae": local_vae()}
        return training_memory(networks, ["vae"], lambda n, x: n["vae"](x).sum(), optim, 64)

    own = 4 * sum(p.numel() for p in local_vae().parameters())
    one = memory()
    assert (one.weights, one.gradients, one.moments, one.average) == (
        {"vae": own},
        own,
        2 * own,
        own,
    )
    assert one.peak == 4 * own + one.images + one.step.peak
    assert memory(ema_decay=0.0).peak == one.peak - own
    # with more micro-batches than one, the gradients are there while the second is computed
    split = memory(batch_size=4, accumulation=2)
    assert split.step.kept == one.step.kept
    assert split.images == 2 * one.images == 4 * 4 * 3 * 64 * 64
    assert split.step.peak >= own + max(one.step.kept.values())
