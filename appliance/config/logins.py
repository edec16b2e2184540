"""Logins: who we are to backends that have users. A base_url holds no password."""

from collections.abc import Mapping
from dataclasses import replace

from appliance.config.classes import BackendClass, Login, Provider
from appliance.config.errors import Findings
from appliance.config.reading import Given

# The settings that hold user and password, for every class of the provider.
_SETTINGS: Mapping[Provider, tuple[str, str]] = {
    "a1111": ("images_a1111_user", "images_a1111_password"),
    "invokeai": ("images_invokeai_user", "images_invokeai_password"),
}
_BY_HTTP_BASIC: frozenset[Provider] = frozenset({"a1111"})


def add_logins(given: Given, classes: dict[str, BackendClass], findings: Findings) -> None:
    """Give each class the login of its provider, where there is one; half a login is a mistake."""
    for provider, fields in _SETTINGS.items():
        login = _read(given, findings, *fields)
        if login is not None and provider in _BY_HTTP_BASIC and ":" in login.user:
            findings.refuse(given.where(fields[0]), "holds a colon, which HTTP Basic cannot send")
            continue
        for name, one in classes.items():
            if login is not None and one.provider == provider:
                classes[name] = replace(one, login=replace(login, by_basic=provider in _BY_HTTP_BASIC))


def _read(given: Given, findings: Findings, user_field: str, password_field: str) -> Login | None:
    user, password = getattr(given.settings, user_field), getattr(given.settings, password_field)
    if not user and not password.get_secret_value():
        return None
    if not user or not password.get_secret_value():
        missing = password_field if user else user_field
        findings.refuse(missing.upper(), "is missing: user and password are set together, or neither")
        return None
    return Login(user, password)
