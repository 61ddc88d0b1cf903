"""Options of the test run."""

import signal

import pytest
from hypothesis import settings

signal.signal(signal.SIGINT, signal.default_int_handler)
"""Who starts the run in the background of a script makes it deaf to Ctrl-C, and with it all programs that it starts."""

settings.register_profile("vcloud", deadline=None)
settings.load_profile("vcloud")
"""A shared machine may be slow for a moment; the tests that promise a time measure it themselves."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected outputs; read the difference before you commit it")
