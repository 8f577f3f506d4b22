"""The demos, small, with everything, random and margin beside dripgate.

``device``: a device's days over a classifier that ships, without torch. ``loop``: the whole loop
with training, on any data set.
"""
