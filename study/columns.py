"""The columns of a store's rows and their types: what the store writes, and what no factor may be called."""

SCORES = ("clip_i", "dino_i", "clip_t", "colour", "diversity", "loss_heldout", "noise_difference")
"""Scores of a trial; a row has every one of them, NaN where it was not computed."""

MEASURED = {
    "final_loss": "double",
    "parameters": "int64",
    "ratio": "double",
    "log_parameters": "double",
    "width_resolved": "string",
    "budget_met": "bool",
    "start_change": "double",
    "pack_size": "int64",
    "pack_asked": "int64",
    "slot": "int64",
    "pack_seconds": "double",
    "train_seconds": "double",
    "eval_seconds": "double",
    "peak_bytes": "int64",
    "versions_json": "string",
    "commit": "string",
    "scorer_hashes_json": "string",
    "device": "string",
}
"""Columns that `run_pack` fills through `TrialResult.columns`."""

IDENTITY = {
    "id": "string",
    "attempt": "int64",
    "study": "string",
    "role": "string",
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
    "clip_t": "double",
    "colour": "double",
    "file": "string",
}
"""Columns of a picture's row; `file` is relative to the store."""
