"""Which line of code made the first NaN or Inf: a pass once more, with a look at every operation.

Two of PyTorch's modes watch it: the dispatch mode sees every operation of PyTorch's core, forward and backward, also
those within others; the function mode knows what the code calls them. Non-finite values are followed from the
operation that made them, so one whose values are masked later (attention masks, ``torch.where``) is not blamed.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path, PurePath
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from yolo_gradsafe.forensics.bad_operation import BadOperation, Fact
from yolo_gradsafe.forensics.operand_facts import operand_facts
from yolo_gradsafe.forensics.source_line import CodeRoots, Frame, responsible_line

__all__ = ["OperationSearch", "find_first_bad_operation"]

_TORCH = str(Path(torch.__file__).parent) + os.sep
_MACHINERY = tuple(_TORCH + name for name in ("_compile.py", "_dynamo", "overrides.py", "utils/_python_dispatch.py"))
_EMPTY = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted", "resize"}
)
_OVERWRITES = frozenset({"copy", "fill", "zero", "normal", "uniform", "bernoulli", "exponential", "random"})
_MOVES = frozenset({
    "add", "sub", "where", "masked_fill", "cat", "stack", "copy", "clone", "to_copy", "index", "index_put",
    "index_select", "gather", "scatter", "minimum", "maximum", "repeat", "masked_scatter",
})  # fmt: skip
_OF_NOTHING = frozenset({"logsumexp", "min", "max", "amin", "amax"})
_OPERATORS = {
    "truediv": "/", "div": "/", "floordiv": "//", "mod": "%", "mul": "*", "add": "+", "sub": "-",
    "rsub": "-", "neg": "-", "pow": "**", "matmul": "@", "getitem": "[...]", "setitem": "[...] =",
}  # fmt: skip


@dataclass(frozen=True)
class OperationSearch:
    """What came of the search."""

    operation: BadOperation | None
    """The first bad operation; None when all is finite, or with a reason."""
    reason: str = ""
    """Why nothing can be said; empty when an operation was found, and when the pass is finite from end to end."""


def find_first_bad_operation(
    run: Callable[[], Any],
    parameters: Iterable[Tensor] = (),
    *,
    scale: float = 1.0,
    rewound: Callable[[], AbstractContextManager[object]] = nullcontext,
    seconds: float = 30.0,
    roots: CodeRoots | None = None,
) -> OperationSearch:
    """Find the first operation that makes NaN or Inf of finite values, among those that reach the loss or a gradient.

    Synchronises at every operation; a pass takes several times as long as usual. Where several operations could be to
    blame, the pass is repeated with the values of all but one repaired. ``.grad`` of the parameters stays untouched,
    and no mode, hook or setting is left behind. Compiled models run uncompiled.

    Args:
        run: Runs the forward pass and returns the loss, or a tuple that starts with it. It does the same each time.
        parameters: What to look at the gradients of, when the loss is finite; none: the backward pass is left out.
        scale: What the gradient of the loss starts with: the loss scale of AMP.
        rewound: Makes a context that puts back what a pass changes, such as batch-norm statistics; entered for each
            pass, forward and backward. PyTorch's random states are rewound for repeated passes in any case.
        seconds: What all of it may take.
        roots: Whose files are whose; those of the installed packages by default.

    Returns:
        The operation; or None, with the reason where it could not be found out. Never raises an ``Exception``.
    """
    search = _Search(run, [p for p in parameters if p.requires_grad], scale, rewound, time.monotonic() + seconds)
    roots = roots or CodeRoots.installed()
    try:
        with _uncompiled():
            origin = search.first()
            return OperationSearch(None if origin is None else _told(origin, roots))
    except _GiveUp as stop:
        return OperationSearch(None, str(stop))
    except Exception as error:
        return OperationSearch(None, _why(error, roots))


class _GiveUp(BaseException):
    """Ends the search; no ``except Exception`` of the user's code holds it up."""


@dataclass(frozen=True)
class _Site:
    """Where an operation was called. Names and numbers only: it keeps no tensor alive."""

    frames: tuple[Frame, ...]
    called: Callable[..., Any] | None
    """The function of PyTorch that the code called."""
    kernel: str


@dataclass(frozen=True)
class _Origin:
    """An operation that made non-finite values out of finite ones."""

    index: int
    site: _Site
    facts: tuple[Fact, ...]
    bad: int
    outputs: int
    nan: bool
    backward: bool = False
    written: bool = False
    given: bool = False
    meant: bool = False
    """Whether its infinite values were asked for (an attention mask) or came from outside: harmless so far."""


@dataclass(frozen=True)
class _Operator:
    """What the schema of an operation of PyTorch's core says."""

    name: str
    """Without ``aten::``, leading and trailing underscores and the overload."""
    arguments: tuple[str, ...]
    written: tuple[str, ...]
    """The arguments that it changes in place."""
    overwritten: tuple[str, ...]
    """Those of them whose old values it does not read."""
    view: bool
    """Whether it only makes a view."""


class _Trace:
    """One watched pass: its operations by number, and the origins of the non-finite values in each storage."""

    def __init__(self, deadline: float, repaired: frozenset[int] = frozenset()) -> None:
        self.origins: dict[int, _Origin] = {}
        self.sites: dict[int, _Site] = {}
        self.called: list[Callable[..., Any]] = []
        self.backward = False
        self.stopped: frozenset[int] = frozenset()
        self._deadline = deadline
        self._repaired = repaired
        self._repairing = bool(repaired)
        self._index = 0
        self._watching = True
        self._taints: dict[int, tuple[StorageWeakRef, frozenset[int]]] = {}

    def start_backward(self) -> None:
        """Forget what is not finite by now: the loss does not come from it."""
        self.backward = True
        self._taints.clear()

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Let operations pass: those of the look itself."""
        self._watching = False
        try:
            yield
        finally:
            self._watching = True

    def count(self) -> int:
        """Number the operation that runs now."""
        if time.monotonic() > self._deadline:
            raise _GiveUp("it took too long to check every operation")
        self._index += 1
        return self._index

    def taint(self, tensor: Tensor) -> frozenset[int]:
        """Return the origins of the values in a tensor's storage that are not finite."""
        known = self._taints.get(_storage(tensor).cdata)
        return known[1] if known else frozenset()

    def mark(self, tensor: Tensor, origins: frozenset[int]) -> None:
        """Note the origins of a tensor's values; of those beside it in the same storage nothing changes."""
        ref = _storage(tensor)
        if not _covers(tensor):
            origins |= self.taint(tensor)
        if origins:
            self._taints[ref.cdata] = (ref, origins)
        else:
            self._taints.pop(ref.cdata, None)

    def operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation of PyTorch's core, and look at what it makes."""
        if not self._watching:
            return func(*args, **kwargs)
        index, operator = self.count(), _operator(func)
        if not self.backward:
            self._note_site(operator)
        if not self._repairing and (operator.view or operator.name in _EMPTY):
            return func(*args, **kwargs)
        operands = {**dict(zip(operator.arguments, args, strict=False)), **kwargs}
        written = [t for name in operator.written for t in _floats(operands.get(name))]
        if self._repairing:
            result = func(*args, **kwargs)
            if index in self._repaired:
                _repair([*_floats(result), *written])
            return result
        operands = {name: value for name, value in operands.items() if name not in operator.overwritten}
        # What is written in place is copied first: what the operation was fed is asked for only afterwards.
        pairs = [(t, t.clone() if any(t is w for w in written) else t) for t in _floats(list(operands.values()))]
        try:
            result = func(*args, **kwargs)
        except Exception:
            if not self.backward:
                self.stopped = self._sources(pairs)[0]
            raise
        outputs = [*_floats(result), *written]
        bad = [output for output in outputs if not _finite(output)]
        origins: frozenset[int] = frozenset()
        if bad:
            before = {id(now): then for now, then in pairs}
            operands = {name: _then(value, before) for name, value in operands.items()}
            origins = self._blame(index, operator, operands, pairs, bad)
        for output in outputs:
            self.mark(output, origins if any(output is b for b in bad) else frozenset())
        return result

    def gradient_of_python(self, forward_class: Any, incoming: Sequence[Any], outgoing: Sequence[Any]) -> None:
        """Look at what a user's ``backward`` made: numpy and other code that PyTorch does not see included."""
        index = self.count()
        with self.unwatched():
            bad = [t for t in _floats(outgoing) if not _finite(t)]
            if self._repairing:
                if index in self._repaired:
                    _repair(bad)
            elif bad and all(map(_finite, _floats(incoming))) and not any(map(self.taint, bad)):
                code = forward_class.backward.__code__
                site = _Site((_frame(code, code.co_firstlineno),), None, "")
                self.origins[index] = _Origin(index, site, (), *_extent(bad), backward=True, written=True)
                for t in bad:
                    self.mark(t, frozenset({index}))

    def _note_site(self, operator: _Operator) -> None:
        """Note where the latest autograd node was made: nodes are numbered, and made just before the operation runs."""
        number: int = torch.autograd._get_sequence_nr() - 1  # type: ignore[attr-defined]
        if number not in self.sites:
            self.sites[number] = self._here(operator)

    def _here(self, operator: _Operator) -> _Site:
        called = self.called[-1] if self.called and not self.backward else None
        return _Site(_stack(self.backward), called, operator.name)

    def _sources(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[frozenset[int], list[Tensor]]:
        """Return the origins of an operation's non-finite inputs, and those inputs."""
        bad = [(now, then) for now, then in pairs if not _finite(then)]
        return frozenset().union(*(self.taint(now) for now, _ in bad)), [then for _, then in bad]

    def _blame(
        self,
        index: int,
        operator: _Operator,
        operands: dict[str, Any],
        pairs: Sequence[tuple[Tensor, Tensor]],
        bad: list[Tensor],
    ) -> frozenset[int]:
        """Return the origins of an operation's bad outputs: those of its inputs, or the operation itself."""
        sources, inputs = self._sources(pairs)
        new_nan = any(t.isnan().any() for t in bad) and not any(t.isnan().any() for t in inputs)
        meant = all(self.origins[source].meant for source in sources)
        if sources and not (meant and (new_nan or operator.name in _OF_NOTHING)):
            return sources
        self.origins[index] = self._origin(index, operator, operands, bad, given=bool(inputs) and not sources)
        return frozenset({index})

    def _origin(
        self, index: int, operator: _Operator, operands: dict[str, Any], bad: list[Tensor], given: bool
    ) -> _Origin:
        site, dtype = self._here(operator), _dtype(bad[0])
        extent = _extent(bad)
        if not self.backward:
            asked = any(isinstance(value, float) and not math.isfinite(value) for value in operands.values())
            meant = (asked or (given and operator.name in _MOVES)) and not extent[2]
            facts = operand_facts(operator.name, operands, dtype=dtype)
            return _Origin(index, site, facts, *extent, given=given, meant=meant)
        if site.frames:
            facts = operand_facts(operator.name, operands, dtype=dtype)
            return _Origin(index, site, facts, *extent, backward=True, written=True)
        node = torch._C._current_autograd_node()
        # What an autograd function of the user's makes has frames: this is where gradients are added up after it.
        made = None if node is None or hasattr(node, "_forward_cls") else self.sites.get(_number(node))
        if made is None:
            raise _GiveUp("a gradient is not finite, but its operation is not known")
        facts = _gradient_facts(made.kernel, _saved(node), operator.name, operands, dtype)
        return _Origin(index, made, facts, *extent, backward=True)


class _Kernels(TorchDispatchMode):
    """Shows a trace every operation of PyTorch's core."""

    def __init__(self, trace: _Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._trace = trace

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            return self._trace.operation(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Tells a trace what the code calls."""

    def __init__(self, trace: _Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._trace.called.append(func)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._trace.called.pop()


@dataclass
class _Search:
    run: Callable[[], Any]
    parameters: list[Tensor]
    scale: float
    rewound: Callable[[], AbstractContextManager[object]]
    deadline: float

    def first(self) -> _Origin | None:
        """Return the origin to blame; None when all is finite."""
        states = _random_states()
        trace = _Trace(self.deadline)
        try:
            bad, origins = self.watched(trace)
        except Exception as error:
            # An operation was fed NaN or Inf and refused it? Then the pass works without them.
            bad, origins = True, trace.stopped
            if not origins or _out_of_memory(error) or self.repaired(origins, states, trace.backward) is None:
                raise
        if not bad:
            return None
        if not origins:
            raise _GiveUp(
                "it comes from code in which PyTorch's operations cannot be seen, such as compiled code or numpy"
            )
        found = sorted((trace.origins[i] for i in origins), key=lambda origin: (origin.meant, origin.index))
        return self.only_cause(found, states, trace)

    def only_cause(self, found: list[_Origin], states: list[Tensor], trace: _Trace) -> _Origin:
        """Return the first origin whose line alone, with what the other lines make repaired, gives a bad result."""
        firsts = list({origin.site: origin for origin in reversed(found)}.values())[::-1]
        if len(firsts) == 1:
            return firsts[0]
        for origin in firsts:
            others = frozenset(other.index for other in found if other.site != origin.site)
            good = self.repaired(others, states, trace.backward)
            if good is False or (good is None and trace.stopped):
                return origin
        raise _GiveUp("several operations together caused it")

    def repaired(self, indices: frozenset[int], states: list[Tensor], backward: bool) -> bool | None:
        """Return whether the pass is finite with what some operations make repaired; None where it fails."""
        with _random(states):
            try:
                return not self.watched(_Trace(self.deadline, indices), backward)[0]
            except Exception as error:
                if _out_of_memory(error):
                    raise
                return None

    def watched(self, trace: _Trace, backward: bool = True) -> tuple[bool, frozenset[int]]:
        """Do one pass; return whether its loss or a gradient is not finite, and the origins of that."""
        with self.rewound(), _Kernels(trace):
            with torch.set_grad_enabled(bool(self.parameters)), _Calls(trace):
                loss = _loss(self.run)
            with trace.unwatched():
                loss_finite = _finite(loss)
            looked_at = [loss]
            if backward and loss.requires_grad and self.parameters and loss_finite:
                trace.start_backward()
                looked_at = self.gradients(loss, trace)
        bad = [t for t in looked_at if not _finite(t)]
        return bool(bad), frozenset().union(*map(trace.taint, bad))

    def gradients(self, loss: Tensor, trace: _Trace) -> list[Tensor]:
        """Return the parameters' gradients; ``.grad`` stays as it is."""
        start = torch.full_like(loss, self.scale)
        with ExitStack() as hooks:
            for node in _python_nodes(loss):
                look = partial(trace.gradient_of_python, type(node)._forward_cls)
                hooks.callback(node.register_hook(lambda made, given, look=look: look(given, made)).remove)
            grads = torch.autograd.grad(loss, self.parameters, start, allow_unused=True)
        return [g for g in grads if g is not None]


def _loss(run: Callable[[], Any]) -> Tensor:
    """Run the forward pass. Python stacks are of interest down to here."""
    result = run()
    loss = result[0] if isinstance(result, (tuple, list)) else result
    if not isinstance(loss, Tensor):
        raise _GiveUp(f"the pass returned no loss but {type(loss).__name__}")
    return loss


def _told(origin: _Origin, roots: CodeRoots) -> BadOperation:
    line, within = responsible_line(origin.site.frames, roots)
    if line is None:
        raise _GiveUp(f"the line that called {origin.site.kernel} is not known")
    return BadOperation(
        operation=_name(origin.site, line.source),
        kernel=f"aten.{origin.site.kernel}" if origin.site.kernel else "",
        direction="backward" if origin.backward else "forward",
        line=line,
        within=within,
        facts=origin.facts,
        bad=origin.bad,
        outputs=origin.outputs,
        nan=origin.nan,
        written_backward=origin.written,
        given=origin.given,
    )


def _gradient_facts(
    kernel: str, saved: dict[str, Any], step: str, operands: dict[str, Any], dtype: str
) -> tuple[Fact, ...]:
    """Say what an operation was fed whose gradient is not finite; what its gradient was, where that says nothing.

    Args:
        kernel: The operation that ran forward.
        saved: What it keeps for its backward pass.
        step: The operation of its backward pass that went wrong.
        operands: What that was fed.
        dtype: The type of the gradient.
    """
    facts = operand_facts(kernel, saved, backward=True, dtype=dtype)
    if facts and facts[0].kind not in ("largest", "smallest"):
        return facts
    divisors = tuple(fact for fact in facts if fact.kind == "smallest")
    gradient = [fact for fact in operand_facts(step, operands, dtype=dtype) if fact.kind != "smallest" or not divisors]
    nouns = ("values" if fact.noun == "inputs" else fact.noun for fact in gradient)
    return (*divisors, *(replace(f, noun=f"{n} of its gradient") for f, n in zip(gradient, nouns, strict=True)))


def _name(site: _Site, source: str) -> str:
    """Return what the code calls an operation; an operator where the line does not spell the function out."""
    if not site.kernel:
        return site.frames[0].function
    full = (resolve_name(site.called) if site.called else None) or f"torch.{site.kernel}"
    short = full.rpartition(".")[2]
    plain = short.strip("_")
    if short.startswith("__") and plain not in _OPERATORS:
        plain = plain[1:]  # __rtruediv__, __iadd__
    if plain in _OPERATORS and (short.startswith("__") or f"{short}(" not in source):
        return _OPERATORS[plain]
    return full.removeprefix("torch.") if full.startswith("torch.Tensor.") else full


def _why(error: Exception, roots: CodeRoots) -> str:
    """Say what ended the pass, and where."""
    if _out_of_memory(error):
        return "there was not enough memory to check every operation"
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(_frame(trace.tb_frame.f_code, trace.tb_lineno))
        trace = trace.tb_next
    line, _ = responsible_line([f for f in reversed(frames) if f.file != __file__], roots)
    place = f" at {PurePath(line.file).name}:{line.line}" if line else ""
    return f"the pass ended with {type(error).__name__}{place}: {str(error).partition(chr(10))[0]}"


def _out_of_memory(error: Exception) -> bool:
    known = isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
    return known or "out of memory" in str(error) or "can't allocate memory" in str(error)


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Run compiled and scripted code operation by operation, where this PyTorch can."""
    dynamo = sys.modules.get("torch._dynamo") is not None and hasattr(torch.compiler, "set_stance")
    with (
        torch.compiler.set_stance("force_eager") if dynamo else nullcontext(),
        torch.jit.optimized_execution(False),  # type: ignore[attr-defined]
    ):
        yield


@lru_cache(maxsize=4096)
def _operator(func: Any) -> _Operator:
    schema = func._schema
    name = schema.name.rpartition("::")[2].strip("_")
    aliases = {argument.name: argument.alias_info for argument in schema.arguments}
    written = tuple(a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write)
    outs = {a.name for a in schema.arguments if a.is_out}
    return _Operator(
        name=name,
        arguments=tuple(aliases),
        written=written,
        overwritten=tuple(a for a in written if a in outs or name in _OVERWRITES),
        view=not written and any(alias is not None for alias in aliases.values()),
    )


def _floats(value: Any) -> list[Tensor]:
    """Return the float tensors in a nest of lists, tuples and dicts."""
    if isinstance(value, Tensor):
        usable = value.is_floating_point() or value.is_complex()
        return [value] if usable and value.layout == torch.strided and not value.is_meta else []
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for item in value for tensor in _floats(item)] if isinstance(value, (list, tuple)) else []


def _finite(tensor: Tensor) -> bool:
    """Return whether all of a float tensor is finite. Synchronises."""
    tensor = tensor.detach()
    if tensor.element_size() == 1:
        tensor = tensor.float()
    # A sum is finite only if all summands are, and costs a fraction of looking at each; it can overflow itself.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _repair(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        tensor.detach().nan_to_num_(nan=1.0, posinf=1.0, neginf=-1.0)


def _extent(bad: Sequence[Tensor]) -> tuple[int, int, bool]:
    """Return how many values of the first bad output are not finite, of how many, and whether any is NaN."""
    first = bad[0].detach()
    first = first.float() if first.element_size() == 1 else first
    return int((~first.isfinite()).sum()), first.numel(), any(bool(t.isnan().any()) for t in bad)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _storage(tensor: Tensor) -> StorageWeakRef:
    """Return a mark of a tensor's storage: while it is kept, no other storage gets the same number."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _covers(tensor: Tensor) -> bool:
    """Return whether a tensor is all of its storage."""
    return tensor.numel() * tensor.element_size() >= tensor.untyped_storage().nbytes()


def _then(value: Any, before: dict[int, Tensor]) -> Any:
    """Return an operand as it was before the operation."""
    if isinstance(value, (list, tuple)):
        return [_then(item, before) for item in value]
    return before.get(id(value), value)


def _saved(node: Any) -> dict[str, Any]:
    """Return what an autograd node keeps of its operation, by the names of the operation's arguments."""
    found = {}
    for name in dir(node):
        if name.startswith("_saved_"):
            with suppress(Exception):  # freed, or changed in place since
                found[name.removeprefix("_saved_")] = getattr(node, name)
    return found


def _number(node: Any) -> int:
    """Return the number of an autograd node; of an in-place operation on a view, that of the operation's own node."""
    number: int = node._sequence_nr()
    return number - 1 if node.name().endswith("CopySlices") else number


def _python_nodes(loss: Tensor) -> list[Any]:
    """Return the autograd nodes whose ``backward`` is written in Python."""
    found, seen, waiting = [], set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        if hasattr(node, "_forward_cls"):
            found.append(node)
    return found


def _stack(backward: bool) -> tuple[Frame, ...]:
    """Return the Python stack within the pass, innermost first, without what this look at it adds.

    Of a backward pass without PyTorch's own files: what is left runs in the backward pass on purpose.
    """
    frames = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not _loss.__code__ and frame.f_code is not _Search.gradients.__code__:
        file = frame.f_code.co_filename
        if file != __file__ and not file.startswith(_TORCH if backward else _MACHINERY):
            frames.append(_frame(frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return tuple(frames)


def _frame(code: CodeType, line: int) -> Frame:
    return Frame(code.co_filename, line, getattr(code, "co_qualname", code.co_name))


def _random_states() -> list[Tensor]:
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if used else []
    return [torch.get_rng_state(), *cuda]


@contextmanager
def _random(states: list[Tensor]) -> Iterator[None]:
    """Use earlier random states of PyTorch, and put today's back."""
    now = _random_states()
    try:
        _set_random(states)
        yield
    finally:
        _set_random(now)


def _set_random(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if states[1:]:
        torch.cuda.set_rng_state_all(states[1:])
