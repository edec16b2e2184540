"""`appliance verify-...`: the programs of `appliance.verification`, which read their arguments themselves."""

# ruff: noqa: PLC0415 -- the table asks for this file's help lines alone

import click


class PassThrough(click.Command):
    """A command that hands on every argument as it came, `--help` and `--` included."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return ctx.args


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


verify = PassThrough("verify", callback=_run_verify)
smoke_test = PassThrough("smoke-test", callback=_run_smoke_test)
verify_images = PassThrough("verify-images", callback=_run_verify_images)
eval_command = PassThrough("eval", callback=_run_evals)
