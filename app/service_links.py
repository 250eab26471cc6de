"""Variables that Kubernetes sets in every container for the Services of its namespace.

A Service named `vae-server` whose port 8000 is named `http` sets

    VAE_SERVER_SERVICE_HOST=10.0.0.1
    VAE_SERVER_SERVICE_PORT=8000                and one for each named port: VAE_SERVER_SERVICE_PORT_HTTP=8000
    VAE_SERVER_PORT=tcp://10.0.0.1:8000         for the first port
    VAE_SERVER_PORT_8000_TCP=tcp://10.0.0.1:8000, and with the endings _PROTO=tcp, _PORT=8000 and _ADDR=10.0.0.1

and a Service named `vae` sets `VAE_PORT`, which is also the name of a setting. These are the forms that the kubelet
writes (pkg/kubelet/envvars).
"""

import re
from collections.abc import Mapping

NUMBER, PROTOCOL, ADDRESS = r"\d{1,5}", "(tcp|udp|sctp)", r"([\d.]+|[\da-fA-F.]*:[\da-fA-F:.]+)"
URL = rf"{PROTOCOL}://({ADDRESS}|\[{ADDRESS}\]):{NUMBER}"
ONE_PORT = r"_PORT_\d{1,5}_(TCP|UDP|SCTP)"
#: Patterns of the end of a variable's name, after the name of the Service, and of the values that it then has.
FORMS = {
    "_SERVICE_HOST": ADDRESS,
    "_SERVICE_PORT(_[A-Z0-9_]+)?": NUMBER,
    "_PORT": URL,
    ONE_PORT: URL,
    f"{ONE_PORT}_PROTO": PROTOCOL,
    f"{ONE_PORT}_PORT": NUMBER,
    f"{ONE_PORT}_ADDR": ADDRESS,
}
LINK = re.compile("|".join(f"([A-Z0-9_]+{ending}={value})" for ending, value in FORMS.items()))


def is_service_link(name: str, value: str | None) -> bool:
    """True if Kubernetes sets a variable of this name to a value of this form.

    >>> is_service_link("VAE_PORT", "tcp://10.0.0.1:8000"), is_service_link("VAE_PORT", "8000")
    (True, False)
    """
    return LINK.fullmatch(f"{name}={value}") is not None


def service_links(environ: Mapping[str, str], prefix: str) -> set[str]:
    """Names of the variables with this prefix that Kubernetes sets for Services."""
    return {name for name, value in environ.items() if name.startswith(prefix) and is_service_link(name, value)}
