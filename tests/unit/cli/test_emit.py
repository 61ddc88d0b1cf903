"""Data on stdout is the same in JSON and in YAML."""

from __future__ import annotations

import json

import pytest
import yaml

from vcloud.cli.options import Format
from vcloud.cli.output import emit
from vcloud.values import App


def test_yaml_holds_what_json_holds(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"app": App.HTTP, "none": None, "port": 80, "ä": ["b", True]}
    emit(data, Format.JSON)
    as_json = json.loads(capsys.readouterr().out)
    emit(data, Format.YAML)
    assert yaml.safe_load(capsys.readouterr().out) == as_json == {**data, "app": "http"}
