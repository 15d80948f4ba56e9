import pytest
import torch
from micro import MICRO, micro_config
from PIL import Image

from tocsr.deploy import profile
from tocsr.deploy.configs import ProfileConfig
from tocsr.errors import TocsrError
from tocsr.models.folders import base_unet
from tocsr.models.library import surrogate_library
from tocsr.models.variants import TEACHER


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return tmp_path_factory.mktemp("figures") / "new" / "u.png"


@pytest.fixture(scope="module")
def result(drawn):
    return profile.run(ProfileConfig(preset=str(MICRO), draw=drawn))


def first_number(row: str) -> int:
    return int(row.split(maxsplit=1)[0].replace(",", ""))


def test_every_variant_of_every_stage_has_a_row(result):
    with torch.device("meta"):
        teacher = base_unet(str(MICRO), latent_channels=16)
    rows = result["library of the expanded U-Net"]
    stages = {stage: list(row) for stage, row in rows.items() if stage != "rest"}
    assert stages == surrogate_library(teacher, local_only=True)  # as calibrate.yaml says


def test_the_budget_is_the_presets_unless_it_is_given(result):
    assert "nearest to 20,000 parameters" in result["architectures"]
    given = profile.run(ProfileConfig(preset=str(MICRO), budget=30_000))["architectures"]
    nearest = first_number(given["nearest to 30,000 parameters"])
    assert first_number(result["architectures"]["nearest to 20,000 parameters"]) < nearest <= 30_000


def test_the_nearest_architecture_is_drawn(result, drawn):
    assert result["drawn"] == str(drawn)
    picture = Image.open(drawn)
    assert picture.width > picture.height > 0
    assert len(picture.getcolors(maxcolors=10**6)) > 4  # ink, paper, blue, grey, and edges of type


def test_a_preset_that_sets_neither_has_the_whole_library_and_no_budget(tmp_path):
    for file in MICRO.iterdir():
        if file.name not in ("calibrate.yaml", "select.yaml"):
            (tmp_path / file.name).write_text(file.read_text())
    result = profile.run(ProfileConfig(preset=str(tmp_path)))
    assert list(result["architectures"]) == ["number", "smallest", "largest"]
    rows = result["library of the expanded U-Net"]
    blocks = [row[TEACHER] for stage, row in rows.items() if stage != "rest"]
    params = sum(first_number(row) for row in (*blocks, rows["rest"]))
    assert params == first_number(result["expanded"]["unet"])


def test_a_finished_model_is_drawn_with_its_own_variants(finished_runs, tmp_path, monkeypatch):
    drawn = {}

    def draw(costs, choice, title):
        drawn.update(choice=choice, stages=costs.stages)
        return Image.new("RGB", (2, 2))

    monkeypatch.setattr(profile, "draw_architecture", draw)
    model = finished_runs / "distill" / "model"
    result = profile.run(ProfileConfig(model=model, draw=tmp_path / "u.webp"))
    assert drawn["choice"] == result["variants"]
    assert all(TEACHER in rows for rows in drawn["stages"].values())
    assert (tmp_path / "u.webp").is_file()


def test_a_budget_below_every_architecture_cannot_be_drawn(tmp_path):
    with pytest.raises(TocsrError, match="none has 10 parameters or fewer: the smallest has"):
        profile.run(ProfileConfig(preset=str(MICRO), budget=10, draw=tmp_path / "u.png"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budget": 0}, "budget must be above 0, got 0"),
        ({"draw": "u.svg"}, "draw must name a .png or .webp file, got u.svg"),
    ],
)
def test_what_a_profile_cannot_do_is_refused(values, message, tmp_path):
    from tocsr.options import read_config

    with pytest.raises(TocsrError, match=message):
        read_config("profile", [f"--{name}={value}" for name, value in values.items()])


def test_the_plan_of_calibrate_and_the_profile_count_alike(result, tmp_path):
    from tocsr.plans import plan

    planned = plan("calibrate", micro_config("calibrate", tmp_path))
    assert planned["candidates"] == result["architectures"]["number"]
