"""One file a raw data set.

To add one: write a file with a subclass of `base.Adapter`, and add its class to `ADAPTERS`. It then is an
    option
of `iccld prepare` by its name.
"""

from __future__ import annotations

from iccld_cli.data.adapters.base import Adapter
from iccld_cli.data.adapters.camvid import CamVid
from iccld_cli.data.adapters.carla import Carla

ADAPTERS: dict[str, type[Adapter]] = {
    adapter.name: adapter
    for adapter in (
        CamVid,
        Carla,
    )
}
"""Raw data sets by the name of their option."""
