"""The columns of a store's rows and their types: what the store writes, and what no factor may be called."""

HIGHER, LOWER = "higher", "lower"
SCORES = {
    "clip_i": HIGHER,
    "dino_i": HIGHER,
    "dinov2_i": HIGHER,
    "clip_t": HIGHER,
    "colour": HIGHER,
    "diversity": HIGHER,
    "loss_heldout": LOWER,
    "noise_difference": HIGHER,
    "fid": LOWER,
    "kid": LOWER,
    "precision": HIGHER,
    "recall": HIGHER,
    "mean_iou": HIGHER,
    "pixel_accuracy": HIGHER,
    "edge_error": LOWER,
    "landmark_error": LOWER,
}
"""Scores of a trial, and what is better; a row has every one of them, NaN where it was not computed."""


def higher_is_better(score: str) -> bool:
    """Say whether a score is the better the higher it is; a column that is no score is taken so."""
    return SCORES.get(score, HIGHER) == HIGHER


MEASURED = {
    "final_loss": "double",
    "steps_done": "int64",
    "intermediate_json": "string",
    "pruned_by": "string",
    "parameters": "int64",
    "beside_parameters": "int64",
    "ratio": "double",
    "log_parameters": "double",
    "width_resolved": "string",
    "budget_met": "bool",
    "start_change": "double",
    "kid_sd": "double",
    "fid_n": "int64",
    "pack_size": "int64",
    "pack_asked": "int64",
    "slot": "int64",
    "pack_seconds": "double",
    "train_seconds": "double",
    "resumed_step": "int64",
    "eval_seconds": "double",
    "peak_bytes": "int64",
    "versions_json": "string",
    "commit": "string",
    "scorer_hashes_json": "string",
    "device": "string",
    "log": "string",
}
"""Columns that `run_pack` fills through `TrialResult.columns`, and `log`, the worker's, from the store's folder.

`intermediate_json` has the score that a trial was judged by on its way, of how many pictures, and its values by percent
of the steps; `pruned_by`, of a pruned trial, is `study.pruning.Pruning.by`.
"""

IDENTITY = {
    "id": "string",
    "attempt": "int64",
    "study": "string",
    "role": "string",
    "plan": "string",
    "status": "string",
    "error": "string",
    "design_json": "string",
    "task": "string",
    "task_hash": "string",
    "seed": "int64",
    "backbone": "string",
    "backbone_hash": "string",
    "protocol_json": "string",
}
"""Columns that the store fills from the trial."""

ROW = {**IDENTITY, **dict.fromkeys(SCORES, "double"), **MEASURED}
"""Every column but the factors, which are text."""

IMAGE = {
    "id": "string",
    "attempt": "int64",
    "index": "int64",
    "prompt": "string",
    "prompt_index": "int64",
    "picture_seed": "int64",
    "clip_i": "double",
    "dino_i": "double",
    "dinov2_i": "double",
    "clip_t": "double",
    "colour": "double",
    "mean_iou": "double",
    "pixel_accuracy": "double",
    "edge_error": "double",
    "landmark_error": "double",
    "file": "string",
}
"""Columns of a picture's row; `file` is relative to the store."""

CURVE = {"id": "string", "attempt": "int64"}
"""Columns of a recorded step's row, besides what was recorded."""

TABLES = {"trials": ROW, "images": IMAGE, "curves": CURVE}
"""The tables of a store, each a folder of files."""
