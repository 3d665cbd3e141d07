"""Says after a run of the tests how many faults were injected."""

from tests.faults.injection import INJECTED


def pytest_terminal_summary(terminalreporter):
    if INJECTED:
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(INJECTED.items()))
        terminalreporter.write_line(f"faults injected: {sum(INJECTED.values())} ({told})")
