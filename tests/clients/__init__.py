"""
AtScale's own public client, AI-Link, against the local engine: what we did not write must accept it, too.

Each version has an environment of its own under ``.venvs/``, made with uv from the pinned versions in
``requirements/``. ``make clients`` runs the suite; it is no part of ``make test``.
"""
