"""What many devices say together, from the store that receives from them."""

from dripgate.fleet.account import DeviceAccount, FleetAccount, fleet_account
from dripgate.fleet.together import together

__all__ = ["DeviceAccount", "FleetAccount", "fleet_account", "together"]
