"""API keys: who may call, by `Authorization: Bearer KEY`."""

import hashlib
import hmac
import os
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal

from fastapi import Depends
from fastapi.params import Depends as Dependency
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.api.errors import Forbidden, Unauthorized
from model.errors import ConfigError

Access = Literal["public", "user", "admin"]
#: The form of a key (RFC 6750, 2.1), long enough not to be guessed.
KEY = re.compile(r"[A-Za-z0-9._~+/-]{16,512}=*")
BEARER = HTTPBearer(auto_error=False, scheme_name="key", description="A key from the operator of the service.")


class Keys:
    """The valid keys; only a digest of each is kept.

    Args:
        users: keys that may use the model; without any, everybody may.
        administrators: keys that may also reload the model and read metrics; without any key of either kind,
            everybody may.
    """

    def __init__(self, users: Iterable[str] = (), administrators: Iterable[str] = ()) -> None:
        self._users = [_digest(key) for key in users]
        self._administrators = [_digest(key) for key in administrators]

    def requires_key(self, access: Access) -> bool:
        """True if a call with this access needs a key."""
        return access != "public" and bool(self._users or (access == "admin" and self._administrators))

    def dependencies(self, access: Access) -> list[Dependency]:
        """The FastAPI dependencies that guard a router with this access; none where no key is needed."""
        return [Depends(self._guard(access))] if self.requires_key(access) else []

    def _guard(self, access: Access) -> Callable[[HTTPAuthorizationCredentials | None], Awaitable[None]]:
        async def require_key(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> None:
            self.check(access, credentials.credentials if credentials else "")

        return require_key

    def check(self, access: Access, key: str) -> None:
        """Hold a key against the valid ones.

        Args:
            access: what the call needs.
            key: the key of the request; empty where it has none.

        Raises:
            Unauthorized: the key is missing or not valid.
            Forbidden: the key is a user's, and the call is for administrators.
        """
        if not self.requires_key(access):
            return
        if not key.strip():
            raise Unauthorized("this call needs a key; send the header 'Authorization: Bearer KEY'")
        digest = _digest(key.strip())
        is_admin, is_user = _contains_digest(self._administrators, digest), _contains_digest(self._users, digest)
        if not is_admin and not is_user:
            raise Unauthorized("the key is not valid, or no longer; ask the operator of the service for one")
        if access == "admin" and not is_admin:
            raise Forbidden("this call is for administrators; send one of the keys that VAE_ADMIN_KEYS sets")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _contains_digest(digests: list[bytes], digest: bytes) -> bool:
    """Constant-time membership test: the response time reveals nothing about a key."""
    return sum(hmac.compare_digest(known, digest) for known in digests) > 0


def read_keys(name: str) -> list[str]:
    """Read keys from the environment.

    The variable of this name holds them separated by commas; or the file that NAME_FILE names holds one a line, where
    blank lines and lines that begin with # do not count.

    Raises:
        ConfigError: a file cannot be read, a variable or file is set but holds no keys, or a key is malformed. No
            message shows a key.
    """
    value, file = os.environ.get(name), os.environ.get(f"{name}_FILE")
    keys, source = [key.strip() for key in (value or "").split(",") if key.strip()], name
    if value is not None and not keys:
        # An empty variable is often a secret that was not filled in, and without keys everybody would be served.
        raise ConfigError(f"{name}: is set, but holds no keys; give some, separated by commas, or unset it")
    if file is not None:
        if keys:
            raise ConfigError(f"{name} and {name}_FILE are both set; set one of them")
        source = file
        try:
            lines = [line.strip() for line in Path(file).read_text().splitlines()]
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"{name}_FILE: {file} cannot be read ({error}); name a text file") from error
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise ConfigError(f"{name}_FILE: {file} holds no keys; write one a line, or unset the variable")
    for index, key in enumerate(keys):
        if not KEY.fullmatch(key):
            raise ConfigError(
                f"{source}: key {index + 1} is malformed; a key is 16 to 512 letters, digits and . _ ~ + / -, as made "
                "by `openssl rand -hex 32`"
            )
    return keys
