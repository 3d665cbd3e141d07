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


@pytest.mark.parametrize(
    ("backbone", "design", "trainable"),
    [
        # 12 layers, query, key, value and output of 768 × 768 each: 48 · 4 · (768 + 768) beside the U-Net's 797,184
        ("sd15", "method=lora,rank=4,text_encoder=true", 797_184 + 48 * 4 * 1536),
        # the same 48 matrices as 4 × 64 and 192 × 12 beside the U-Net's 398,048
        ("sd15", "method=krona,a1=4,a2=64,text_encoder=true", 398_048 + 48 * (256 + 192 * 12)),
        # PAPERS §5: Σ in of the attention matrices is 99,456; blocks of 32 rotate by 31 / 2 parameters an input
        ("sd15", "method=oft,block_size=32", 99_456 * 31 // 2),
        # PAPERS §5: keys and values of 16 cross-attentions, 2 · 768 · Σ widths of 12,480
        ("sd15", "method=full,part=cross_attention_kv", 2 * 768 * 12_480),
        # biases, 28 class tables of 1001 × 1152, γ of two branches in 28 blocks
        ("dit-xl-2", "method=difffit", 551_840 + 28 * 1001 * 1152 + 28 * 2 * 1152),
    ],
)
def test_counts_of_the_methods_page(backbone, design, trainable):
    result = run("--backbone", f"arch:{backbone}", "--design", design, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["trainable"] == trainable


def test_a_backbone_without_one_text_encoder_cannot_tune_it():
    result = run("--backbone", "arch:sdxl", "--design", "method=lora,rank=4,text_encoder=true")
    assert isinstance(result.exception, InputFault) and "no text encoder" in str(result.exception)


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
