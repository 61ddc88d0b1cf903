"""vApps as users write them, resolved with the shipped images' recipes."""

from __future__ import annotations

from pathlib import Path

from vcloud.data import templates_dir
from vcloud.design.model import Design
from vcloud.files import Folder
from vcloud.pipeline import design_of
from vcloud.spec.load import parse_vapp
from vcloud.spec.model import Vapp

SHOP = templates_dir() / "vapps" / "shop.yaml"

SMALL = """\
vcloud: 1
name: small
zones: {dmz: {}}
vms:
  web: {image: nginx, zone: dmz}
"""

TWO_HOMES = """\
vcloud: 1
name: relay
zones: {front: {}, back: {}, lab: {open: true}}
vms:
  gate: {image: nginx, zone: [front, back], count: 2}
  store: {image: postgres, zone: [back, lab], disks: {data: 1G, extra: {size: 64M, mount: /srv}}}
  bench: {image: nginx, zone: lab}
flows:
  - {id: visits, from: internet, to: gate, service: [tcp/80, tcp/9000-9002], publish: [8080, 9100-9102]}
  - {id: reads, from: zone:front, to: zone:back, service: tcp/5432}
  - {id: trials, from: bench, to: vm:store, service: [udp/53, icmp]}
  - {id: fetches, from: store, to: internet, service: tcp/443}
protection:
  dlp: [{detect: card-number, leaving: back}]
"""


def vapp_of(text: str, folder: Path = Path(), **parameters: str) -> Vapp:
    """The vApp of a text, as if it were a file in the folder. Raises SpecError."""
    return parse_vapp(text.encode(errors="surrogatepass"), Folder(folder), "vapp.yaml", parameters)


def design_of_text(text: str, **parameters: str) -> Design:
    return design_of(vapp_of(text, **parameters))


def shop(**parameters: str) -> Design:
    """The shipped template, as a user's own file."""
    return design_of_text(SHOP.read_text(), **parameters)
