"""`appliance verify-...`: the programs of `appliance.verification`, which read their arguments themselves."""

# ruff: noqa: PLC0415 -- the table asks for this file's help lines alone

import argparse

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


@click.pass_context
def _run_evals(ctx: click.Context) -> int:
    from appliance.verification import evals

    return evals.main(ctx.args)


def _gateway_parser() -> argparse.ArgumentParser:
    from appliance.verification.gateway import make_parser

    return make_parser()


def _images_parser() -> argparse.ArgumentParser:
    from appliance.verification.images import make_parser

    return make_parser()


def _evals_parser() -> argparse.ArgumentParser:
    from appliance.verification.evals_options import make_parser

    return make_parser()


verify = PassThrough("verify", load_parser=_gateway_parser, callback=_run_verify)
smoke_test = PassThrough("smoke-test", load_parser=_gateway_parser, callback=_run_smoke_test)
verify_images = PassThrough("verify-images", load_parser=_images_parser, callback=_run_verify_images)
eval_command = PassThrough("eval", load_parser=_evals_parser, callback=_run_evals)
