"""What many devices say together, from the store that receives from them."""

from dripgate.fleet.account import DeviceAccount, FleetAccount, GateAccount, fleet_account
from dripgate.fleet.scenes import Scenes
from dripgate.fleet.together import together

__all__ = [
    "DeviceAccount", "FleetAccount", "GateAccount", "Scenes", "fleet_account", "together"
]  # fmt: skip
