"""Where secrets may stand in a vApp file, and where they come from."""

from __future__ import annotations

import re
from typing import Final

from vcloud.documents.field import FieldError, parse_content
from vcloud.spec.surroundings import Beside
from vcloud.spec.types import parse_local_path

_PLACE: Final = re.compile(r'vms\.[A-Za-z0-9_-]+\.files\["[^"\n]*"\](?:\.content)?')
"""The content of a file, in its long and its short form. All else that a file says becomes part of
names, records, messages or lists of processes.
"""


_COMMAND: Final = re.compile(r'vms\.[A-Za-z0-9_-]+\.(?:run(?:\[[0-9]+\])?|files\["[^"\n]*"\]\.run)')


class VappSecrets:
    """The secrets of a vApp file. `needed` is as in `vcloud.documents.secrets.Secrets`."""

    def __init__(self, beside: Beside, *, needed: bool) -> None:
        self._beside = beside
        self._needed = needed

    @property
    def needed(self) -> bool:
        return self._needed

    def may_stand(self, path: str) -> bool:
        return _PLACE.fullmatch(path) is not None

    def is_recorded(self, path: str) -> bool:
        """Contents and commands are recorded as digests (`vcloud.plan.manifest.redacted`)."""
        return not (self.may_stand(path) or _COMMAND.fullmatch(path))

    def variable(self, name: str) -> str:
        return _text(self._beside.variable(name), f"the environment variable {name}")

    def file(self, path: str) -> str:
        written = parse_local_path(path)
        try:
            text = self._beside.secret(written).decode()
        except UnicodeDecodeError:
            raise FieldError(f"'{written}' is not UTF-8 text", "A secret is text.") from None
        return _text(text.removesuffix("\n"), f"'{written}'")


def _text(value: str, where: str) -> str:
    """A secret, checked without showing anything of it. Raises FieldError."""
    if not value:
        raise FieldError(f"{where} is empty", "Write the secret there.")
    try:
        return parse_content(value)
    except FieldError as error:
        raise FieldError(f"{where} cannot be used: {error.what}") from None
