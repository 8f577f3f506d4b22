"""The Training Phase: everything that needs torch (the ``train`` extra)."""
