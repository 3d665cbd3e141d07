"""The report: one self-contained HTML page from what it is given. Names are offered by ``analysis``."""
