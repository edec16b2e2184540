"""`appliance verify-...`: the programs of `appliance.verification`, which read their arguments themselves."""

# ruff: noqa: PLC0415 -- the table asks for this file's help lines alone

import click

from appliance.cli.passing import PassThrough


@click.pass_context
def _run_verify_images(ctx: click.Context) -> int:
    from appliance.verification import images

    return images.main(ctx.args)


@click.pass_context
def _run_verify(ctx: click.Context) -> int:
    from appliance.verification import gateway

    return gateway.main(ctx.args)


@click.pass_context
def _run_smoke_test(ctx: click.Context) -> int:
    from appliance.verification import gateway

    return gateway.smoke_test(ctx.args)


verify = PassThrough("verify", callback=_run_verify)
smoke_test = PassThrough("smoke-test", callback=_run_smoke_test)
verify_images = PassThrough("verify-images", callback=_run_verify_images)
