"""Where packs run: every executor offers submit, poll and cancel."""
