"""A signed gate that a device tries, watches and keeps, or rolls back."""
