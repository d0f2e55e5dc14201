"""A backend for realms of Arm CCA: the contract's `tee-backend` in Python.

    describe -> cca/describe.py              what the backend is and may have at most
    check    -> cca/facts.py, cca/check.py   can this host do it, and what is to mend
    plan     -> cca/facts.py, cca/plan.py    a request and the facts become a launch plan
                cca/settings.py              the settings, announced and read in one place

Only cca/facts.py asks the host. Everything else turns values into values.
"""

from wit_world import exports
from wit_world.imports import types

from cca import check, describe, facts, plan


class Backend(exports.Backend):
    """What the component exports."""

    def describe(self) -> types.BackendInfo:
        return describe.describe()

    def check(self, host: types.HostContext) -> list[types.Finding]:
        return check.check(host, facts.gather(plan.DEFAULT_MACHINE))

    def plan(self, request: types.LaunchRequest) -> types.LaunchPlan:
        machine = plan.wanted(request.machine, plan.DEFAULT_MACHINE)
        return plan.plan(request, facts.gather(machine))
