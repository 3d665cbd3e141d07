"""What ``method=peft`` can run: kinds of peft 0.21 with the fields a design may set, and why not the others. No torch.

Only what is listed here reaches peft, since designs come from strangers too: no field names a module, a file or a
function. Fields that would train or skip other layers than the targets, and dropouts, which draw at every step from no
stream of the trial's seed, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters import levels
from adapters.faults import InputFault

Value = bool | int | float | str


@dataclass(frozen=True)
class Field:
    """A field of a peft configuration.

    Attributes
    ----------
    default
        peft's; it also says the type. None is a whole number that is not given.
    allowed
        The values of a field that takes few.
    least, most
        Bounds of a whole number. What no tensor's shape shows must not cost without bounds.
    """

    default: Value | None
    allowed: tuple[Value, ...] = ()
    least: int = 1
    most: int | None = None

    def parse(self, key: str, value: Any) -> Value:
        """Accept a value, also as text, in its one spelling.

        Raises
        ------
        InputFault
            For anything else.
        """
        if self.allowed:
            for known in self.allowed:
                if isinstance(value, bool | str) and str(value).strip().lower() == str(known).lower():
                    return known
            raise InputFault(f"{key}={value!r} is no level of {key}; allowed are {', '.join(map(str, self.allowed))}")
        if isinstance(self.default, bool):
            return levels.boolean(key, value)
        if isinstance(self.default, str):
            if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.]{1,40}", value.strip()):
                return value.strip()
            raise InputFault(f"{key}={value!r} is no name such as {self.default!r}")
        number = levels.non_negative_number(key, value)
        if isinstance(self.default, float):
            return number
        if not isinstance(number, int) or number < self.least or (self.most is not None and number > self.most):
            above = "" if self.most is None else f" and at most {self.most}"
            raise InputFault(f"{key}={value!r} is no whole number of at least {self.least}{above}")
        return number


@dataclass(frozen=True)
class Kind:
    """A kind of adapter.

    Attributes
    ----------
    fields
        What a design may set.
    shared
        Whether layers share tensors, so that all are made together.
    """

    fields: Mapping[str, Field]
    shared: bool = False


_START = Field(True)
_R8, _R32 = Field(8), Field(32)
_SEED0, _SEED777 = Field(0, least=0), Field(777, least=0)

KINDS: dict[str, Kind] = {
    "beft": Kind({"init_weights": _START}),
    "c3a": Kind(
        {
            "block_size": Field(256),
            "init_weights": Field("xavier_uniform", ("xavier_uniform", "kaiming_uniform", "gaussian", True)),
        }
    ),
    "deft": Kind(
        {
            "r": _R8,
            "decomposition_method": Field("relu", ("relu", "qr")),
            "init_scale": Field(1.0),
            "alpha": Field(None),
            "para": Field(False),
            "init_weights": _START,
        }
    ),
    "delora": Kind({"r": _R8, "delora_lambda": Field(15), "init_weights": _START}),
    "fourierft": Kind(
        {
            "n_frequency": Field(1000),
            "scaling": Field(150.0),
            "random_loc_seed": _SEED777,
            "init_weights": Field(False),
        }
    ),
    "glora": Kind(
        {
            "r": _R8,
            "config_A_B": Field("lora", ("lora", "vector", "constant", "none")),
            "config_C": Field("lora", ("lora", "vector", "none")),
            "config_D_E": Field("constant", ("constant", "vector", "none")),
            "init_weights": _START,
        }
    ),
    "gralora": Kind(
        {"r": _R32, "hybrid_r": Field(0, least=0), "alpha": Field(64), "gralora_k": Field(2), "init_weights": _START}
    ),
    "lily": Kind(
        {"r": _R32, "stride_A": Field(1), "num_B": Field(2), "scaling": Field(1.0), "init_weights": _START}, shared=True
    ),
    "miss": Kind(
        {"r": Field(64), "mini_r": Field(1), "init_weights": Field(True, (True, "bat", "mini", False))},
    ),
    "peanut": Kind(
        {
            "r": _R32,
            "depth": Field(0, least=0, most=64),
            "act_fn": Field("relu"),
            "scaling": Field(1.0),
            "init_weights": _START,
        }
    ),
    "randlora": Kind(
        {
            "r": _R32,
            "projection_prng_key": _SEED0,
            "sparse": Field(False),
            "very_sparse": Field(False),
            "randlora_alpha": Field(640),
            "init_weights": _START,
        },
        shared=True,
    ),
    "road": Kind(
        {
            "variant": Field("road_1", ("road_1", "road_2", "road_4")),
            "group_size": Field(64),
            "init_weights": _START,
        }
    ),
    # peft draws the mask from no seed by default
    "shira": Kind({"r": _R32, "random_seed": _SEED0, "init_weights": _START}),
    "vblora": Kind(
        {
            "r": Field(4),
            "num_vectors": Field(256),
            "vector_length": Field(256),
            "topk": Field(2),
            "init_vector_bank_bound": Field(0.02),
            "init_logits_std": Field(0.1),
        },
        shared=True,
    ),
    "vera": Kind(
        {"r": Field(256), "projection_prng_key": _SEED0, "d_initial": Field(0.1), "init_weights": _START}, shared=True
    ),
    "waveft": Kind(
        {
            "n_frequency": Field(2592),
            "scaling": Field(25.0),
            "wavelet_family": Field("db1"),
            "use_idwt": Field(True),
            "random_loc_seed": _SEED777,
            "proportional_parameters": Field(False),
            "init_weights": _START,
        }
    ),
}

_PROMPTS = "it changes what a language model reads, and no layer of a denoiser"
_FROM_WEIGHTS = (
    "it freezes tensors that it computes from the values of the weights, so that a saved adapter would be another one "
    "on weights of another type or device"
)
_LANGUAGE = "it needs a language model"

REFUSED: dict[str, str] = {
    **{kind: f"give method={kind}" for kind in ("lora", "loha", "lokr", "oft", "boft", "hra", "hira", "ia3")},
    **dict.fromkeys(
        ("prompt_tuning", "multitask_prompt_tuning", "p_tuning", "prefix_tuning", "cpt", "cartridge"), _PROMPTS
    ),
    **dict.fromkeys(("adaption_prompt", "trainable_tokens"), _PROMPTS),
    **dict.fromkeys(("osf", "psoft", "supertuning", "tinylora", "frod", "adamss"), _FROM_WEIGHTS),
    "adalora": "it moves rank between layers by a call after every step, which training here does not make",
    "pvera": "it draws noise in training mode only, and training here is in evaluation mode",
    "ln_tuning": "it trains copies of whole layers; give method=full or method=bitfit",
    "unilora": "peft cannot count it without drawing an index for every parameter of a LoRA",
    "poly": "it needs a task for every row of the batch",
    "xlora": "it mixes adapters that were trained before",
    "shadow": _LANGUAGE,
}


def kind_of(value: Any) -> tuple[str, Kind]:
    """Look up a kind.

    Raises
    ------
    InputFault
        For a kind that cannot be run; says why, and lists those that can.
    """
    if isinstance(value, str) and value in KINDS:
        return value, KINDS[value]
    reason = REFUSED.get(value, "peft 0.21 has no such adapter") if isinstance(value, str) else "a name is needed"
    raise InputFault(f"method=peft cannot run kind={value!r}: {reason}; the kinds are {', '.join(KINDS)}")
