"""`explain` says what an index answers, and why."""

from __future__ import annotations

import click

from proxy.cli import output
from proxy.cli.opening import run
from proxy.cli.options import NAMESPACE, Invocation, Leaf, pass_invocation
from proxy.cli.output import Item
from proxy.domain.access import OPERATOR, sight
from proxy.domain.namespaces import NamespacePath
from proxy.errors import NotPermitted
from proxy.index.explain import Explanation
from proxy.index.explain import explain as explain_name
from proxy.index.instance import Instance
from proxy.web.plain import caller_named


@click.command(cls=Leaf)
@click.argument("index", type=NAMESPACE)
@click.argument("name")
@click.option("--version", metavar="V", help="Show only the files of this version.")
@click.option("--file", "filename", metavar="FILENAME", help="Show only this file.")
@click.option(
    "--as", "wanted", metavar="USER", help="As this user, or `anonymous`, would be answered. [the owner]"
)
@pass_invocation
def explain(
    invocation: Invocation,
    index: NamespacePath,
    name: str,
    version: str | None,
    filename: str | None,
    wanted: str | None,
) -> None:
    """Say what INDEX answers for NAME, and which rule at which line decided it.

    Asks the upstreams as a request would; the trail shows every step of the decision.

    \b
    pypi-overlay explain / requests
    pypi-overlay explain /acme widgets --as alice
    pypi-overlay explain acme/widgets widgets --version 1.0 --as anonymous
    """  # noqa: D301

    async def act(instance: Instance) -> Explanation:
        tree = instance.snapshot.tree
        namespace = tree.find(index)
        caller = OPERATOR if wanted is None else caller_named(wanted, instance)
        seen = sight(caller, tree)
        if namespace.path not in seen.askable:
            status = "401" if seen.anonymous else "404"
            raise NotPermitted(
                f"{caller.label} may not ask {namespace.title}", hint=f"it answers {status} for every name"
            )
        return await explain_name(
            instance.index, namespace, name, caller, seen, version=version, filename=filename
        )

    explanation = run(invocation, act)
    if invocation.json:
        output.print_json(explanation.shape)
    else:
        _print(explanation)


def _print(explanation: Explanation) -> None:
    shape = explanation.shape
    fields: dict[str, object] = {
        "Index": shape["index"],
        "Name": shape["name"],
        "Caller": shape["caller"],
        "Decision": shape["decision"],
        "Reason": shape["reason"],
        "Rule": shape["rule"],
        "Upstream": shape["upstream"],
        "Tenant": shape["tenant"],
    }
    if explanation.decision.challenge:
        fields["Answer"] = "401, so that clients send the credentials they have"
    output.print_fields({heading: value for heading, value in fields.items() if value is not None})
    click.echo()
    output.print_table(
        _items(shape["trail"]),
        {"Step": "step", "Outcome": "outcome", "Because": "because", "Origin": _origin},
    )
    files = _items(shape["files"])
    if files:
        click.echo()
        output.print_table(
            files,
            {
                "Filename": "filename",
                "Version": "version",
                "Source": "source",
                "Served": "served",
                "Rule": "rule",
                "Until": "until",
                "Reason": "reason",
            },
        )


def _items(value: object) -> list[Item]:
    assert isinstance(value, list)  # noqa: S101 - the shape of contract 12
    return value


def _origin(step: Item) -> str | None:
    match step["origin"]:
        case {"file": file, "line": line, "path": path}:
            return f"{file}:{line} {path}"
        case {"package": package, "project": project}:
            return f"{package} in {project}"
        case _:
            return None
