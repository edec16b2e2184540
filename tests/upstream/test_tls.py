"""TLS towards backends: whom the client believes, and whom it says it is."""

import ssl

import pytest
import trustme

from appliance.config.settings import Settings
from appliance.protocol.errors import UpstreamFailed
from appliance.upstream.client import UpstreamCall, open_upstream
from tests.fakes.http import open_server


def call(url):
    return UpstreamCall(backend_class="gpu", method="POST", url=url, first_byte_s=10, idle_s=10)


def _tls_server(authority, tmp_path, *, wants_client=False):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    if wants_client:
        context.verify_mode = ssl.CERT_REQUIRED
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    return context, bundle


async def _answer_ok(request):
    await request.respond(200, b"{}")


async def test_certificate_is_checked_against_the_bundle(loopback_clock, tmp_path):
    context, bundle = _tls_server(trustme.CA(), tmp_path)
    async with open_server(_answer_ok, ssl_context=context) as server:
        async with open_upstream(Settings(backend_ca_bundle=bundle)) as upstream:
            assert (await upstream.exchange(call(server.base_url))).status == 200
        async with open_upstream(Settings()) as upstream:
            with pytest.raises(UpstreamFailed, match="gpu failed the TLS handshake"):
                await upstream.exchange(call(server.base_url))
        async with open_upstream(Settings(backend_verify_tls=False)) as upstream:
            assert (await upstream.exchange(call(server.base_url))).status == 200


@pytest.mark.parametrize("as_pair", [True, False])
async def test_client_certificate_is_shown(loopback_clock, tmp_path, as_pair):
    authority = trustme.CA()
    context, bundle = _tls_server(authority, tmp_path, wants_client=True)
    certificate = authority.issue_cert("gateway")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(chain))
    certificate.private_key_pem.write_to_path(str(key))
    named = f"{chain},{key}" if as_pair else str(chain)
    settings = Settings(backend_ca_bundle=bundle, backend_client_cert=named)
    async with open_server(_answer_ok, ssl_context=context) as server:
        async with open_upstream(settings) as upstream:
            assert (await upstream.exchange(call(server.base_url))).status == 200
        async with open_upstream(Settings(backend_ca_bundle=bundle)) as upstream:
            with pytest.raises(UpstreamFailed):
                await upstream.exchange(call(server.base_url))


@pytest.mark.parametrize("name", ["backend_ca_bundle", "backend_client_cert"])
async def test_file_that_cannot_be_used_is_named_by_its_setting(tmp_path, name):
    with pytest.raises(ValueError, match=name.upper()):
        async with open_upstream(Settings(**{name: str(tmp_path / "none.pem")})):
            pass


async def test_a_client_for_no_https_backend_believes_nobody(loopback_clock, tmp_path):
    context, _ = _tls_server(trustme.CA(), tmp_path)
    async with open_server(_answer_ok, ssl_context=context) as server:
        async with open_upstream(Settings(), https=False) as upstream:
            with pytest.raises(UpstreamFailed, match="gpu failed the TLS handshake"):
                await upstream.exchange(call(server.base_url))
