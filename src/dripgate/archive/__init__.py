"""Archives that outgrow one machine: every sample of a bucket, a folder or a table decided once.

The engine is Daft, on this machine or on a Ray cluster. ``listing`` finds what there is, ``sift``
has it decided and keeps what is done, ``choose`` picks from all of it, ``copy`` puts the chosen
ones into a store. A worker imports ``decide`` alone.
"""
