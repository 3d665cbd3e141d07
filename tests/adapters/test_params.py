"""The command `params` and the architectures it counts on."""

import json

import pytest
import typer
from typer.testing import CliRunner

from adapters import InputFault
from study.backbones.architectures import architecture, denoiser_of
from study.cli.params import command, parse_design


def run(*arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [*arguments])


def test_json_of_the_papers_design():
    design = "method=adapter,input=CA_out,output=FFN_in,width=256"
    result = run("--backbone", "arch:sd15", "--design", design, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    # PAPERS: 0.75 % of Stable Diffusion 1.x
    assert (document["trainable"], document["backbone"]) == (6_406_336, 859_520_964)
    assert document["ratio"] == 6_406_336 / 859_520_964
    assert document["design"]["width"] == 256 and document["design"]["activation"] == "relu"


def test_a_folder_is_counted_by_its_configuration_alone(unet, tmp_path):
    unet.save_config(tmp_path / "unet")
    denoiser = denoiser_of(tmp_path)
    assert sum(p.numel() for p in denoiser.parameters()) == sum(p.numel() for p in unet.parameters())
    assert all(parameter.is_meta for parameter in denoiser.parameters())


def test_text_says_widths_and_missed_budgets(unet, tmp_path, monkeypatch):
    unet.save_config(tmp_path / "unet")
    monkeypatch.setattr("study.cli.params._denoiser", lambda source: denoiser_of(tmp_path))
    result = run("--backbone", "arch:sd15", "--design", "method=adapter,input=SA_in,output=SA_in,budget=2")
    assert result.exit_code == 0 and "width 1" in result.stdout and "missed by more than 3 %" in result.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not key=value"),
        ("method", "not key=value"),
        ("method=adapter,", "not key=value"),
        ("method=,input=SA_in", "not key=value"),
        ("method=full,method=none", "given twice"),
    ],
)
def test_design_text_that_cannot_be_read(text, message):
    with pytest.raises(InputFault, match=message):
        parse_design(text)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [("arch:sd99", "arch:sd15, arch:sd21, arch:sdxl, arch:dit-xl-2"), ("nobody/has-this-model", "never downloads")],
)
def test_unknown_backbones_are_input_faults(backbone, message):
    result = run("--backbone", backbone, "--design", "method=full")
    assert isinstance(result.exception, InputFault) and message in str(result.exception)


@pytest.mark.parametrize(
    "config",
    [
        None,
        "[" * 100_000,
        "[]",
        "{}",
        '{"_class_name": "os.system"}',
        '{"_class_name": "AutoencoderKL"}',
        '{"_class_name": "UNet2DConditionModel", "block_out_channels": [8]}',
        '{"_class_name": "UNet2DConditionModel", "down_block_types": ["Nothing", "b", "c", "d"]}',
        '{"_class_name": "UNet2DConditionModel", "norm_num_groups": 7}',
        '{"_class_name": "UNet2DConditionModel", "block_out_channels": "abcd"}',
    ],
)
def test_folders_without_a_denoisers_configuration_are_refused(tmp_path, config):
    (tmp_path / "unet").mkdir()
    if config is not None:
        (tmp_path / "unet" / "config.json").write_text(config)
    with pytest.raises(InputFault, match="config.json"):
        denoiser_of(tmp_path)


def test_unknown_architecture_lists_the_known():
    with pytest.raises(InputFault, match="arch:sd15"):
        architecture("sd1.5")
