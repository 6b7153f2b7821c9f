"""A procedural town that is driven through with one camera and labelled exactly.

The same world can be seen in several looks: "game" is a clean sunny render, "camera" a dashboard camera in a greyer
town with weather, noise and blur, "night" the same after dark.
"""

from iccld_cli.town.looks import LOOKS
from iccld_cli.town.render import render_drive, render_frame

__all__ = ["LOOKS", "render_drive", "render_frame"]
