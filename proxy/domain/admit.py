"""Whether somebody may publish a name in a project: the ownership rules of contract 6.

Whether the caller may publish to the project at all is `access.may`; here it is about the *name*.
"""

from __future__ import annotations

from proxy.domain.access import Action, Caller, may
from proxy.domain.decide import NameFacts
from proxy.domain.names import Name
from proxy.domain.namespaces import ROOT, Namespace, Tree
from proxy.errors import NotPermitted


def admit(project: Namespace, name: Name, caller: Caller, facts: NameFacts, tree: Tree) -> None:
    """Return if `caller` may publish `name` in `project`; judged again inside the transaction that publishes.

    Args:
        facts: what the registry holds of the name, everywhere.

    Raises:
        NotPermitted: another project of the tenant, another tenant's pattern, or the instance owns the name and
            the caller may not publish there. The message names no project that the caller may not know of.
    """
    owner = tree.owner(project.path)
    for owned in facts.owned:
        if owned.project == project.path:
            continue
        holder = tree.get(owned.project) or tree.root
        claimant = tree.owner(owned.project)
        if claimant not in (owner, ROOT) or may(caller, Action.PUBLISH, holder, tree):
            continue
        if claimant == owner and owner != ROOT:
            raise NotPermitted(f"{name} belongs to another project of {owner}")
        raise NotPermitted(f"{name} belongs to the instance")
    for tenant, _ in tree.reserving_tenants(name):
        if tenant != owner:
            raise NotPermitted(f"{name} is reserved by another group of this server")
