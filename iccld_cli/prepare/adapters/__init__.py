"""One file a raw data set.

To add one: write a file with a subclass of `base.Adapter`, and add its class to `ADAPTERS`. It then is an
option of `iccld prepare` by its name.
"""

from __future__ import annotations

from iccld_cli.prepare.adapters.adverse import Acdc, DarkZurich
from iccld_cli.prepare.adapters.base import Adapter
from iccld_cli.prepare.adapters.bdd100k import Bdd100k
from iccld_cli.prepare.adapters.camvid import CamVid
from iccld_cli.prepare.adapters.carla import Carla
from iccld_cli.prepare.adapters.cityscapes import Cityscapes
from iccld_cli.prepare.adapters.gta5 import Gta5
from iccld_cli.prepare.adapters.idd import Idd
from iccld_cli.prepare.adapters.kitti import Kitti
from iccld_cli.prepare.adapters.mapillary import Mapillary
from iccld_cli.prepare.adapters.synthia import Synthia
from iccld_cli.prepare.adapters.urbansyn import UrbanSyn

ADAPTERS: dict[str, type[Adapter]] = {
    adapter.name: adapter
    for adapter in (
        Gta5,
        Synthia,
        UrbanSyn,
        Carla,
        Cityscapes,
        CamVid,
        DarkZurich,
        Acdc,
        Bdd100k,
        Mapillary,
        Idd,
        Kitti,
    )
}
"""Raw data sets by name, sources first.

`iccld prepare` gets one option for each, `--<name> DIR` with the class's `help`: `cli.prepare._with_adapters` adds them
to the command's signature. `choices` of a class are its `--set <name>.<option>=<value>`.
"""
