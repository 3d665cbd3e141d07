"""One file a kind of edit: how a change of the denoiser is realised and undone."""
