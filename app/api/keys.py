"""Who may call: keys that clients send as `Authorization: Bearer KEY`."""

import hashlib
import hmac
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from app.api.problems import Forbidden, Unauthorized
from model.errors import ConfigError

Access = Literal["everybody", "users", "administrators"]
#: What a key may be (RFC 6750, 2.1), and how long so that nobody guesses it.
KEY = re.compile(r"[A-Za-z0-9._~+/-]{16,512}=*")


class Keys:
    """Those that were given out; of each, only a digest is kept.

    Args:
        users: may use the model; without any, everybody may.
        administrators: may do that, and read metrics; without any of either kind, everybody may.
    """

    def __init__(self, users: Iterable[str] = (), administrators: Iterable[str] = ()) -> None:
        self._users = [_digest(key) for key in users]
        self._administrators = [_digest(key) for key in administrators]

    def guards(self, access: Access) -> bool:
        """Whether a key is needed for this."""
        return access != "everybody" and bool(self._users or (access == "administrators" and self._administrators))

    def check(self, access: Access, authorization: str) -> None:
        """Let a request pass, or not.

        Args:
            access: who may have what it asks for.
            authorization: its header of that name.

        Raises:
            Unauthorized: it has no key that was given out.
            Forbidden: its key is one of a user, who may not have this.
        """
        if not self.guards(access):
            return
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized("this needs a key; send the header 'Authorization: Bearer KEY'")
        given = _digest(key.strip())
        administrator, user = _among(self._administrators, given), _among(self._users, given)
        if not administrator and not user:
            raise Unauthorized("this key was not given out, or is no longer valid; ask whoever runs the service")
        if access == "administrators" and not administrator:
            raise Forbidden("this is for administrators; send one of their keys, which VAE_ADMIN_KEYS sets")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _among(known: list[bytes], given: bytes) -> bool:
    """In a time that does not tell how much of a key is right, nor which comes near."""
    return sum(hmac.compare_digest(one, given) for one in known) > 0


def read_keys(name: str) -> list[str]:
    """Keys from the environment: from the variable of this name, commas between them, or from the file that NAME_FILE
    names, one a line; blank lines and those that begin with # do not count.

    Raises:
        ConfigError: a file that cannot be read or is empty, or something that is no key. No message shows a key.
    """
    found, file = os.environ.get(name, ""), os.environ.get(f"{name}_FILE")
    keys, where = [key.strip() for key in found.split(",") if key.strip()], name
    if file is not None:
        if keys:
            raise ConfigError(f"{name} and {name}_FILE are both set; set one of them")
        where = file
        try:
            lines = [line.strip() for line in Path(file).read_text().splitlines()]
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"{name}_FILE: {file} cannot be read ({error}); give the name of a text file") from error
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise ConfigError(f"{name}_FILE: {file} holds no key; write one a line, or unset the variable")
    for index, key in enumerate(keys):
        if not KEY.fullmatch(key):
            raise ConfigError(
                f"{where}: key {index + 1} is none; a key is 16 to 512 letters, digits and . _ ~ + / -, as made by "
                "`openssl rand -hex 32`"
            )
    return keys
