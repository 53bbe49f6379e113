"""The certificate that https is spoken with: read where serving begins, and again with every new configuration."""

from __future__ import annotations

import os
import ssl

from proxy.domain.snapshot import Snapshot
from proxy.errors import ConfigError, Problem


def tls_context(snapshot: Snapshot) -> ssl.SSLContext | None:
    """What https is spoken with, or None.

    Raises:
        ConfigError: the certificate or its key cannot be used.
    """
    settings = snapshot.server.tls
    if settings is None:
        return None
    unreadable = []
    for key, path in (("certificate", settings.certificate), ("key", settings.key)):
        try:
            os.close(os.open(path, os.O_RDONLY))
        except OSError as error:
            message = f"cannot be read ({os.strerror(error.errno or 0).lower()})"
            unreadable.append(Problem(snapshot.source, 0, f"server.tls.{key}", message))
    if unreadable:
        raise ConfigError(unreadable)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_chain(context, snapshot)
    return context


def load_chain(context: ssl.SSLContext, snapshot: Snapshot) -> None:
    """Have a context use the certificate of a configuration that names one.

    Raises:
        ConfigError: the certificate or its key cannot be used.
    """
    settings = snapshot.server.tls
    assert settings is not None  # noqa: S101 - the caller's condition
    try:
        # Without a password of ours OpenSSL would ask for that of an encrypted key, at the terminal.
        context.load_cert_chain(settings.certificate, settings.key, password="")
    except (OSError, ssl.SSLError) as error:
        why = f"{error.strerror or error}: expected PEM files of a certificate chain and of its key, unencrypted"
        message = f"the certificate and the key cannot be used: {why}"
        raise ConfigError([Problem(snapshot.source, 0, "server.tls", message)]) from error
