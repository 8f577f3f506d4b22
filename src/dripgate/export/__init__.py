"""What a store holds, as files for other tools. Whole, or not at all under its name."""

from dripgate.export.folder import Exported
from dripgate.export.imagefolder import imagefolder

__all__ = ["Exported", "imagefolder"]
