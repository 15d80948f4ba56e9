from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from safetensors.torch import save_file

import tocsr
from tocsr.data.images import to_tensor
from tocsr.errors import ExitCode, TocsrError
from tocsr.models.local_autoencoder import LocalAutoencoder
from tocsr.models.perceptual import MIN_SIDE, EncoderDistance, ShiftTolerantLPIPS
from tocsr.models.taesd import TinyAutoencoder

TRUNKS = ["alex", "vgg"]
PHOTO = Path(tocsr.__file__).parent / "assets" / "photos" / "p000_1.webp"
WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"

# Distances by the authors' package stlpips-pytorch 0.0.2, with the weights made below and with its
# own.
PACKAGE_RANDOM = {"alex": (0.1053662, 0.0945875), "vgg": (0.0927437, 0.0939024)}
PACKAGE_TRAINED = {"alex": 0.1800116, "vgg": 0.4075194}


def random_weights(trunk: str) -> dict[str, np.ndarray]:
    """Weights under the package's names; the features keep their size from layer to layer."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, tensor in sorted(ShiftTolerantLPIPS(trunk).state_dict().items()):
        if name.startswith("heads."):
            theirs = f"lin{name.removeprefix('heads.')}.model.1.weight"
            values = rng.random(tensor.shape)
        else:
            theirs = name
            size = np.sqrt(2 / tensor[0].numel()) if tensor.ndim == 4 else 0.1
            values = size * rng.standard_normal(tensor.shape)
        weights[theirs] = values.astype(np.float32)
    return weights


def image_pair(height: int = 33, width: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (2, 3, height, width))
    y = np.clip(x + rng.normal(0, 0.3, x.shape), -1, 1)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


def photo_and_blocks() -> tuple[torch.Tensor, torch.Tensor]:
    """The corner of a photo, and the same in blocks of 4 x 4 pixels."""
    photo = to_tensor(np.asarray(Image.open(PHOTO))[:96, :96])[None]
    return photo, photo[:, :, ::4, ::4].repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of random weights for each trunk."""
    folder = tmp_path_factory.mktemp("perceptual")
    for trunk in TRUNKS:
        tensors = {name: torch.tensor(array) for name, array in random_weights(trunk).items()}
        save_file(tensors, folder / f"{trunk}.safetensors")
    return folder


@pytest.fixture(params=TRUNKS)
def metric(files, request):
    return ShiftTolerantLPIPS.from_file(files / f"{request.param}.safetensors")


def plain_convolution(h, weight, bias, padding):
    h = np.pad(h, ((0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(h, weight.shape[2:], axis=(1, 2))  # (C, h, w, k, k)
    return np.tensordot(weight, windows, axes=((1, 2, 3), (0, 3, 4))) + bias[:, None, None]


def plain_pool(h, side):
    """The greatest of each window, then a [1 2 1] blur at every second pixel."""
    return plain_blur(sliding_window_view(h, (side, side), axis=(1, 2)).max(axis=(3, 4)))


def plain_blur(h):
    h = np.pad(h, ((0, 0), (2, 2), (2, 2)), mode="reflect")
    h = (h[:, :-2] + 2 * h[:, 1:-1] + h[:, 2:]) / 4
    return ((h[:, :, :-2] + 2 * h[:, :, 1:-1] + h[:, :, 2:]) / 4)[:, ::2, ::2]


def plain_features(trunk, image, weights):
    """The five features by the article: the trunk layer by layer, in float64."""

    def conv(h, where, padding=1):
        part = {k: weights[f"net.{where}.{k}"].astype(np.float64) for k in ("weight", "bias")}
        return plain_convolution(h, part["weight"], part["bias"], padding)

    def relu(h):
        return np.maximum(h, 0)

    h = (image - np.array([-0.030, -0.088, -0.188])[:, None, None]) / np.array(
        [0.458, 0.448, 0.450]
    )[:, None, None]
    if trunk == "alex":
        h1 = relu(plain_blur(conv(h, "slice1.0", 2)))
        h2 = relu(conv(plain_pool(h1, 3), "slice2.5", 2))
        h3 = relu(conv(plain_pool(h2, 3), "slice3.9"))
        h4 = relu(conv(h3, "slice4.11"))
        return [h1, h2, h3, h4, relu(conv(h4, "slice5.13"))]
    found = []
    for part, numbers in enumerate([(0, 2), (6, 8), (12, 14, 16), (20, 22, 24), (28, 30, 32)], 1):
        h = plain_pool(h, 2) if found else h
        for number in numbers:
            h = relu(conv(h, f"slice{part}.{number}"))
        found.append(h)
    return found


def plain_distance(trunk, x, y, weights):
    total = 0.0
    pairs = zip(plain_features(trunk, x, weights), plain_features(trunk, y, weights), strict=True)
    for layer, (one, other) in enumerate(pairs):
        unit = [h / (np.sqrt((h**2).sum(axis=0)) + 1e-10) for h in (one, other)]
        head = weights[f"lin{layer}.model.1.weight"].reshape(-1)
        total += np.tensordot(head, (unit[0] - unit[1]) ** 2, axes=1).mean()
    return total


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_metric_is_what_the_article_says_layer_by_layer(files, trunk):
    x, y = image_pair()
    metric = ShiftTolerantLPIPS.from_file(files / f"{trunk}.safetensors")
    expected = plain_distance(
        trunk, x[0].double().numpy(), y[0].double().numpy(), random_weights(trunk)
    )
    assert metric(x, y)[0].item() == pytest.approx(expected, rel=1e-5)  # float32 sums


def test_the_metric_equals_the_authors_package(metric):
    distances = metric(*image_pair())
    assert distances.tolist() == pytest.approx(PACKAGE_RANDOM[metric.trunk], rel=1e-5)


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="needs the trained weights in ../shared/weights")
def test_with_trained_weights_too(trunk):
    metric = ShiftTolerantLPIPS.from_file(WEIGHTS / f"stlpips_{trunk}.safetensors")
    photo, blocks = photo_and_blocks()
    # the file holds the package's weights in half precision
    assert metric(blocks, photo).item() == pytest.approx(PACKAGE_TRAINED[trunk], rel=1e-3)


def test_each_image_has_its_own_distance(metric):
    x, y = image_pair()
    alone = torch.cat([metric(x[i : i + 1], y[i : i + 1]) for i in range(2)])
    assert torch.allclose(metric(x, y), alone, rtol=1e-5)  # sums in another order


def test_the_metric_is_symmetric_and_zero_for_equal_images(metric):
    x, y = image_pair()
    assert torch.equal(metric(x, y), metric(y, x))
    assert metric(x, x).tolist() == [0, 0]


def test_the_gradient_is_that_of_central_differences(metric):
    metric = metric.double()
    x, y = (image.double() for image in image_pair(MIN_SIDE, MIN_SIDE))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(metric(x, y).sum(), x)
    direction = torch.tensor(np.random.default_rng(2).standard_normal(x.shape))
    step = 1e-6 * direction
    with torch.no_grad():
        slope = (metric(x + step, y).sum() - metric(x - step, y).sum()) / 2e-6
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-4)


def test_the_weights_are_not_trained(metric):
    assert not any(p.requires_grad for p in metric.parameters())


def test_where_no_feature_answers_the_gradient_is_zero_and_not_nan(metric):
    for name, weight in metric.named_parameters():
        if name.endswith("bias"):
            weight.fill_(-1e4)
    x, y = image_pair()
    x.requires_grad_()
    distance = metric(x, y)
    distance.sum().backward()
    assert distance.tolist() == [0, 0]
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((1, 3, 31, 40), (1, 3, 31, 40)),
        ((1, 3, 32, 32), (1, 3, 32, 33)),
        ((3, 32, 32), (3, 32, 32)),
    ],
)
def test_images_that_are_no_pair_are_named(x, y):
    message = rf"H and W at least 32, got \({', '.join(map(str, x))}\) and "
    with pytest.raises(TocsrError, match=message):
        ShiftTolerantLPIPS("alex")(torch.zeros(x), torch.zeros(y))


def test_a_file_that_is_missing_or_of_another_network_is_named(files, tmp_path):
    with pytest.raises(
        TocsrError, match=r"no weights of the metric at .*none\.safetensors"
    ) as missing:
        ShiftTolerantLPIPS.from_file(tmp_path / "none.safetensors")
    save_file({"net.slice1.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "part.safetensors")
    with pytest.raises(TocsrError, match=r"part\.safetensors does not hold whole weights") as part:
        ShiftTolerantLPIPS.from_file(tmp_path / "part.safetensors")
    assert {missing.value.code, part.value.code} == {ExitCode.MODEL}


VAES = {
    "local": lambda: LocalAutoencoder(4, (8, 12), 1, 1),
    "taesd": lambda: TinyAutoencoder(4, 8),
    "tiny": lambda: AutoencoderTiny(
        encoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        decoder_block_out_channels=(8, 8), num_decoder_blocks=(1, 1),
    ),
    "kl": lambda: AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8], norm_num_groups=4,
    ),
}  # fmt: skip


@pytest.fixture(params=VAES)
def encoder_distance(request):
    torch.manual_seed(0)
    return EncoderDistance(VAES[request.param]().requires_grad_(False))


def test_the_encoders_distance_is_zero_for_equal_images_and_each_has_its_own(encoder_distance):
    x, y = image_pair(32, 40)
    assert encoder_distance(x, x).tolist() == [0, 0]
    distances = encoder_distance(x, y)
    assert (distances > 1e-4).all()
    alone = torch.cat([encoder_distance(x[i : i + 1], y[i : i + 1]) for i in range(2)])
    # 1e-4: convolutions of another batch size may sum in another order
    torch.testing.assert_close(distances, alone, rtol=1e-4, atol=0)


def test_the_encoders_distance_trains_the_first_image_alone(encoder_distance):
    x, y = (image.requires_grad_() for image in image_pair(32, 40))
    encoder_distance(x, y).sum().backward()
    assert x.grad.any()
    assert y.grad is None
    assert all(p.grad is None for p in encoder_distance.vae.parameters())


def test_the_encoders_distance_of_opposite_features_is_4():
    vae = LocalAutoencoder(4, (8, 12), 1, 1).requires_grad_(False)
    for name, p in vae.encoder.named_parameters():
        if name.endswith("bias"):
            p.zero_()
        elif "conv2" not in name:
            p.fill_(1.0)
    x = torch.rand(1, 3, 32, 32) + 0.1
    # linear layers of ones, residual blocks that add nothing: f(-x) = -f(x)
    assert EncoderDistance(vae)(x, -x).item() == pytest.approx(4, rel=1e-5)
