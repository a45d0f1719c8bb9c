"""The ``py`` policy: an object of anyone's, by where it is imported from."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dfplan.errors import unknown_name

if TYPE_CHECKING:
    from dfplan_policies.registry import PolicyRequest


def import_policy(request: PolicyRequest) -> Any:
    """Build the policy that ``"py:MODULE:ATTRIBUTE"`` names.

    The module is one that can be imported, or a file that ends in ``.py``. The attribute is a policy, a
    `dfplan_policies.PolicyEntry`, or a class or function that makes one: it is called with those of its parameters
    that are fields of `PolicyRequest` (``seed``, ``act_dim``, ``goal``, ``device``, ``planner`` ...) or given options.

    Args:
        request: With ``argument`` "MODULE:ATTRIBUTE".

    Raises:
        ValueError: If the argument is written otherwise, a name is unknown or an option is not taken.
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If there is no such module.
        TypeError: If what is found is no policy.
    """
    from dfplan_policies.registry import PolicyEntry

    where, colon, path = request.argument.rpartition(":")
    if not (colon and where and path):
        raise ValueError(
            f"the policy 'py' is written py:MODULE:ATTRIBUTE or py:FILE.py:ATTRIBUTE, got {request.argument!r}"
        )
    found: Any = _load(where)
    for name in path.split("."):
        if not hasattr(found, name):
            raise unknown_name(f"attribute of {where}", name, [n for n in vars(found) if not n.startswith("_")])
        found = getattr(found, name)
    if isinstance(found, PolicyEntry):
        return found.build(request)
    if inspect.isclass(found) or not hasattr(found, "predict"):
        if not callable(found):
            raise TypeError(f"py:{request.argument} must be a policy or make one, got {type(found).__name__}")
        found = found(**_arguments(found, request))
    elif request.options:
        raise ValueError(
            f"py:{request.argument} is made already and takes no {', '.join(request.options)}; leave it out"
        )
    if not hasattr(found, "predict"):
        raise TypeError(
            f"py:{request.argument} must be a policy or make one, got {type(found).__name__} without predict; "
            "see dfplan_policies.check_policy"
        )
    return found


def _load(where: str) -> ModuleType:
    """Import a module by its name, or from a file."""
    if not where.endswith(".py"):
        try:
            return importlib.import_module(where)
        except ModuleNotFoundError as error:
            if error.name is None or not where.startswith(error.name):
                raise
            raise ModuleNotFoundError(
                f"no module {where!r}; install it, or name its file: py:./{where.replace('.', '/')}.py:...",
                name=error.name,
            ) from error
    file = Path(where).resolve()
    if not file.is_file():
        raise FileNotFoundError(f"no file {where} for --policy py:...; pass py:FILE.py:ATTRIBUTE")
    if file.stem in sys.modules and getattr(sys.modules[file.stem], "__file__", None) == str(file):
        return sys.modules[file.stem]
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"cannot import {where}; is it a Python file?")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(file.stem, module)  # so that what it holds can be pickled
    spec.loader.exec_module(module)
    return module


def _arguments(factory: Any, request: PolicyRequest) -> dict[str, Any]:
    """Choose what a factory is called with.

    Raises:
        ValueError: If an option is given that it does not take.
    """
    parameters = inspect.signature(factory).parameters
    every = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for option in request.options:
        if option not in parameters and not every:
            raise unknown_name(f"option of the policy 'py:{request.argument}'", option, parameters)
    fields = {name: getattr(request, name) for name in parameters if name in type(request).__dataclass_fields__}
    given = {k: v for k, v in fields.items() if v is not None and k not in ("options", "argument")}
    return {**({"request": request} if "request" in parameters else {}), **given, **request.options}
