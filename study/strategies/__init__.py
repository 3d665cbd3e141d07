"""Which of the valid designs of a space a study runs; each strategy is a file."""
