"""Options of the test run."""

import pytest
from hypothesis import settings

settings.register_profile("vcloud", deadline=None)
settings.load_profile("vcloud")
"""A shared machine may be slow for a moment; the tests that promise a time measure it themselves."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected outputs; read the difference before you commit it")
