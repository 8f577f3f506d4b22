"""Look and label: a page on loopback for whoever labels what a device kept.

``serve`` needs the ``review`` extra (starlette, uvicorn); the page fetches nothing from elsewhere.
docs/review.md says how it is used and what is promised.
"""

from dripgate.review.server import Address, serve

__all__ = ["Address", "serve"]
