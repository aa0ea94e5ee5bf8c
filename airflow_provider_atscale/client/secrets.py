"""Keep secrets out of texts: replace them, and decide which tokens Airflow is told to mask."""

from __future__ import annotations

import itertools
import json
import re
from collections import deque
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable

#: How many tokens of a process are masked by Airflow. It keeps each one for ever in one regular expression:
#: a triggerer that renews a token every few minutes would run out of memory within days.
MAX_MASKED_TOKENS = 32
#: How many tokens a client replaces in texts; older ones have expired.
MAX_KNOWN_TOKENS = 8
#: Shorter values are parts of many words.
MIN_LENGTH = 4

_tokens_of_process = itertools.count()
_CREDENTIALS_IN_URL = re.compile(r"(?<=://)[^/\s]+@")


class Redactor:
    """Replace known secrets in texts."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = {secret for secret in secrets if len(secret) >= MIN_LENGTH}
        self._tokens: deque[str] = deque(maxlen=MAX_KNOWN_TOKENS)

    def add(self, secret: str) -> None:
        """Redact one more secret of the connection."""
        if len(secret) >= MIN_LENGTH:
            self._secrets.add(secret)

    def add_token(self, token: str) -> bool:
        """Redact a token that was received; return whether Airflow must mask it too."""
        self._tokens.append(token)
        return next(_tokens_of_process) < MAX_MASKED_TOKENS

    def redact(self, text: str) -> str:
        """Replace secrets, also as servers that send them back write them in JSON and in URLs."""
        for secret in sorted(self._secrets.union(self._tokens), key=len, reverse=True):
            encodings = {secret, json.dumps(secret)[1:-1], quote(secret), quote(secret, safe="")}
            for encoded in {*encodings, quote_plus(secret)}:
                text = text.replace(encoded, "***")
        return text

    def redact_error(self, error: Exception) -> str:
        """Return the text of a library's error, without secrets and without credentials in URLs."""
        return self.redact(_CREDENTIALS_IN_URL.sub("***@", str(error)))
