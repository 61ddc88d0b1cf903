"""A vApp with card data that fits every version of pci-dss, and what profiles make of it."""

from __future__ import annotations

from datetime import date

from tests.vapps import vapp_of
from vcloud.design.model import Design
from vcloud.pipeline import design_of, secured
from vcloud.profiles.harden import Hardened

DAY = date(2026, 3, 1)
VERSIONS = ("3.2.1", "4.0", "4.0.1")
CARDS = """\
vcloud: 1
name: cards
zones:
  front: {}
  app: {}
  vault: {holds: [cardholder-data]}
vms:
  web: {image: nginx, zone: front}
  api: {image: nginx, zone: app}
  db: {image: postgres, zone: vault}
flows:
  - {id: visits, from: internet, to: web, service: tcp/8000, app: http, publish: 8080, why: customers}
  - {id: orders, from: web, to: api, service: tcp/8000, app: http, why: the order API}
  - {id: store, from: api, to: db, service: tcp/5432, carries: [cardholder-data], why: the store}
  - {id: acquirer, from: api, to: internet, service: tcp/443, carries: [cardholder-data], why: the card processor}
protection:
  profiles: [pci-dss@4.0.1]
"""


def cards(version: str = "4.0.1", *changes: tuple[str, str], more: str = "") -> str:
    """The text of the vApp under a version of pci-dss. Each change replaces a part of the text, and
    `more` is added to the section `protection`.
    """
    text = CARDS.replace("pci-dss@4.0.1", f"pci-dss@{version}" if version else "pci-dss")
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    return text + more


def hardened(text: str, day: date = DAY) -> Hardened:
    found = secured(vapp_of(text), day)
    assert found
    return found


def said(text: str, day: date = DAY) -> list[str]:
    """What breaks a control: its field and its sentence."""
    return [f"{problem.field} {problem.what}" for problem in hardened(text, day).problems]


def design(text: str, day: date = DAY) -> Design:
    return design_of(vapp_of(text), day=day)
