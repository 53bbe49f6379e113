"""`token`: make, list and revoke. Who runs a command on the machine acts as the instance's owner."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import timedelta
from functools import partial

import click

from proxy.cli import output
from proxy.cli.opening import find_project, run
from proxy.cli.options import DURATION, NAMESPACE, Branch, Invocation, may_ask, pass_invocation
from proxy.domain.access import OPERATOR, Scope
from proxy.domain.namespaces import Namespace, NamespacePath, Tree
from proxy.identity import management
from proxy.identity.management import Wanted
from proxy.identity.tokens import TokenKind, TokenRow, list_tokens, shape
from proxy.index.instance import Instance
from proxy.storage.audit import By


@click.group(cls=Branch)
def tokens() -> None:
    """Make, list and revoke tokens."""


@tokens.command("create", short_help="Make a token and print its text.")
@click.option("--user", metavar="USER", help="Personal token: acts as this user, with the user's roles.")
@click.option(
    "--deploy", type=NAMESPACE, metavar="NAMESPACE", help="Deploy token: acts in this group or project."
)
@click.option("--job", type=NAMESPACE, metavar="PROJECT", help="Job token: publishes to this project.")
@click.option("--owner", is_flag=True, help="Owner token: may do everything.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([str(scope) for scope in Scope]),
    help="Personal: api, read_api; deploy: the other two, also both.",
)
@click.option("--name", default="", metavar="N", help="What people call it.")
@click.option("--username", metavar="U", help="User name of a deploy token. [pyo+deploy-N]")
@click.option("--expires", type=DURATION, metavar="DURATION", help="How long it lives: 12h, 30d. [job: 1h]")
@pass_invocation
def create(
    invocation: Invocation,
    user: str | None,
    deploy: NamespacePath | None,
    job: NamespacePath | None,
    owner: bool,
    scopes: tuple[str, ...],
    name: str,
    username: str | None,
    expires: timedelta | None,
) -> None:
    """Make a token and print its text, which is kept nowhere and shown only now.

    Exactly one of --user, --deploy, --job and --owner says what it is. Clients take it as a password, with
    any user name; a deploy token with its own or `__token__`.

    \b
    pypi-overlay token create --user alice --scope api --name laptop --expires 90d
    pypi-overlay token create --deploy acme --name ci --scope read_package_registry
    TOKEN=$(pypi-overlay token create --job acme/widgets --expires 15m)
    """  # noqa: D301
    kind = _kind({"--user": user, "--deploy": deploy, "--job": job, "--owner": owner or None})
    _check_options(kind, scopes, name, username)

    async def act(instance: Instance) -> tuple[str, TokenRow]:
        snapshot, now = instance.snapshot, instance.now()
        wanted = Wanted(
            kind=kind,
            user=user,
            namespace=_home(snapshot.tree, deploy, job),
            name=name,
            username=username,
            scopes=scopes,
            expires_at=None if expires is None else now + expires,
        )
        make = partial(
            management.create,
            wanted=wanted,
            tree=snapshot.tree,
            users=snapshot.users,
            by=By(OPERATOR, now),
        )
        return await instance.registry.change(make)

    text, row = run(invocation, act)
    if invocation.json:
        output.print_json({**shape(row), "token": text})
        return
    click.echo(text)
    described = shape(row)
    until = described["expires_at"] or "it is revoked"
    as_user = f", user name {described['username']}" if described["username"] else ""
    output.tell(f"{row.kind} token {row.id}{as_user}, good until {until}. It is shown only now.")


def _kind(given: Mapping[str, object]) -> TokenKind:
    chosen = [option for option, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise click.UsageError(
            f"expected exactly one of {', '.join(given)}, got {' and '.join(chosen) or 'none'}"
        )
    return {
        "--user": TokenKind.PERSONAL,
        "--deploy": TokenKind.DEPLOY,
        "--job": TokenKind.JOB,
        "--owner": TokenKind.OWNER,
    }[chosen[0]]


def _check_options(kind: TokenKind, scopes: tuple[str, ...], name: str, username: str | None) -> None:
    """Whether this kind takes the options given, and has those it needs."""
    choice = {
        TokenKind.PERSONAL: {Scope.API, Scope.READ_API},
        TokenKind.DEPLOY: {Scope.READ_PACKAGES, Scope.WRITE_PACKAGES},
    }.get(kind, set())
    words = " or ".join(scope for scope in Scope if scope in choice)
    if choice and not scopes:
        raise click.UsageError(f"--scope is missing: {words}")
    wrong = [scope for scope in scopes if scope not in choice]
    if wrong:
        instead = f"choose {words}" if choice else "their rights are fixed"
        raise click.UsageError(f"--scope {wrong[0]} is not for {kind} tokens: {instead}")
    if kind is TokenKind.DEPLOY and not name:
        raise click.UsageError("--name is missing: it says what a deploy token is for")
    if kind is not TokenKind.DEPLOY and username is not None:
        raise click.UsageError(f"--username is not for {kind} tokens: they take any user name")


def _home(tree: Tree, deploy: NamespacePath | None, job: NamespacePath | None) -> Namespace | None:
    if deploy is not None:
        return tree.find(deploy)
    return None if job is None else find_project(tree, job)


@tokens.command("list", short_help="List all tokens.")
@pass_invocation
def list_all(invocation: Invocation) -> None:
    """List every token ever made, revoked and expired ones included; never their texts."""
    rows = run(invocation, lambda instance: instance.registry.read(list_tokens))
    output.print_items(
        invocation,
        [shape(row) for row in rows],
        {
            "Id": "id",
            "Kind": "kind",
            "For": lambda item: item["user"] or item["namespace"],
            "Name": "name",
            "User name": "username",
            "Scopes": "scopes",
            "Created": "created_at",
            "Expires": "expires_at",
            "Last used": "last_used_at",
            "Revoked": "revoked_at",
        },
        empty="there are no tokens",
    )


@tokens.command("revoke", short_help="End a token for good.")
@click.argument("token_id", metavar="ID", type=click.IntRange(1, (1 << 63) - 1))
@may_ask
@pass_invocation
def revoke_one(invocation: Invocation, token_id: int, yes: bool) -> None:
    """End the token with the number ID for good; `token list` shows the numbers.

    On a terminal it asks first. Elsewhere it does not: a script that ends a leaked token must not stop to ask.
    """
    output.confirm(f"Revoke token {token_id} for good?", yes=yes or not sys.stdin.isatty())

    async def act(instance: Instance) -> TokenRow:
        end = partial(
            management.revoke,
            token_id=token_id,
            tree=instance.snapshot.tree,
            by=By(OPERATOR, instance.now()),
        )
        return await instance.registry.change(end)

    row = run(invocation, act)
    if invocation.json:
        output.print_json(shape(row))
    else:
        output.tell(f"token {row.id} is revoked since {shape(row)['revoked_at']}")
